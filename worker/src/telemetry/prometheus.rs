//! The metrics in Prometheus' text format. There is no listener of its own: the
//! command's web server shows what [`Scrape::render`] returns.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::metrics::{self, Kind};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use shared::ports::Clock;

/// How often the samples of histograms are put into their buckets, so that they
/// do not pile up while nobody asks.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Renders the metrics of this process.
#[derive(Clone)]
pub struct Scrape(PrometheusHandle);

impl Scrape {
    /// Counts from now on, and keeps the memory for it bounded until the runtime
    /// ends.
    ///
    /// # Errors
    /// When the process counts already.
    pub fn start(clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let mut builder = PrometheusBuilder::new();
        for metric in metrics::ALL.iter().filter(|metric| metric.kind == Kind::Histogram) {
            let name = Matcher::Full(metric.name.to_owned());
            builder = builder.set_buckets_for_metric(name, metric.buckets())?;
        }
        let scrape = Self(builder.install_recorder()?);
        metrics::describe();
        let handle = scrape.0.clone();
        tokio::spawn(async move {
            loop {
                clock.sleep(UPKEEP_EVERY).await;
                handle.run_upkeep();
            }
        });
        Ok(scrape)
    }

    /// Everything counted so far, in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape").finish_non_exhaustive()
    }
}

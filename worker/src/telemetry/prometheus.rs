//! The metrics in Prometheus' text format, version 0.0.4. There is no listener of its own:
//! the command's web server shows what [`Scrape::render`] returns.

use std::time::Duration;

use anyhow::Context as _;
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use shared::adapters::SystemClock;
use shared::ports::Clock;

use crate::metrics::{ALL, Kind, REQUEST_BUCKETS, describe};

/// How often samples of histograms are added to their buckets. Until then the recorder
/// keeps each one, so this bounds its memory where nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Renders the metrics of this process.
#[derive(Debug, Clone)]
pub struct Scrape(PrometheusHandle);

impl Scrape {
    /// Records metrics from now on, and looks after the recorder on the present runtime
    /// for as long as that runs.
    ///
    /// # Errors
    /// When a metrics recorder is already installed.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn start() -> anyhow::Result<Self> {
        let recorder = recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).context("metrics cannot be recorded")?;
        describe();
        tokio::spawn(keep_up(handle.clone(), SystemClock::default()));
        Ok(Self(handle))
    }

    /// Everything recorded so far.
    pub fn render(&self) -> String {
        self.0.render()
    }
}

/// A recorder that knows our histograms' buckets and is not installed yet.
pub(crate) fn recorder() -> PrometheusRecorder {
    let buckets = "a list of buckets is not empty";
    let mut builder = PrometheusBuilder::new().set_buckets(&REQUEST_BUCKETS).expect(buckets);
    for metric in ALL.iter().filter(|metric| metric.kind == Kind::Histogram) {
        let name = Matcher::Full(metric.name.to_owned());
        builder = builder.set_buckets_for_metric(name, metric.buckets()).expect(buckets);
    }
    builder.build_recorder()
}

/// Never returns.
async fn keep_up(handle: PrometheusHandle, clock: impl Clock) {
    loop {
        clock.sleep(UPKEEP).await;
        handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics::{counter, histogram, with_local_recorder};

    fn recorded(record: impl FnOnce()) -> String {
        let recorder = recorder();
        with_local_recorder(&recorder, record);
        recorder.handle().render()
    }

    #[test]
    fn no_label_breaks_its_line() {
        let text = recorded(|| counter!("jobs_total", "kind" => "a\"\nb").increment(2));
        assert!(text.contains("jobs_total{kind=\"a\\\"\\nb\"} 2\n"), "{text}");
    }

    #[test]
    fn every_histogram_has_the_buckets_of_the_list() {
        for metric in ALL.iter().filter(|metric| metric.kind == Kind::Histogram) {
            let text = recorded(|| histogram!(metric.name).record(metric.buckets()[1]));
            let counts: Vec<(&str, &str)> = text
                .lines()
                .filter_map(|line| line.split_once("_bucket{le=\"")?.1.split_once("\"} "))
                .collect();
            let bounds = metric.buckets().iter().map(ToString::to_string);
            let bounds: Vec<String> = bounds.chain(["+Inf".to_owned()]).collect();
            assert!(counts.iter().map(|(bound, _)| *bound).eq(&bounds), "{text}");
            assert_eq!((counts[0].1, counts[1].1), ("0", "1"), "{text}");
        }
    }

    /// Time passes as soon as everything waits.
    #[tokio::test(start_paused = true)]
    async fn samples_that_nobody_scrapes_do_not_pile_up() {
        let recorder = recorder();
        let keeping = tokio::spawn(keep_up(recorder.handle(), SystemClock::default()));
        with_local_recorder(&recorder, || histogram!("x").record(0.5));
        let is_in_buckets = || format!("{recorder:?}").contains("Histogram(Histogram");
        assert!(!is_in_buckets(), "{recorder:?}");
        SystemClock::default().sleep(2 * UPKEEP).await;
        assert!(is_in_buckets(), "{recorder:?}");
        keeping.abort();
    }
}

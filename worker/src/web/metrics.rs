//! Totals in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use shared::Counts;

/// What the pages count.
#[derive(Debug, Default)]
pub(super) struct Metrics(Mutex<BTreeMap<(&'static str, &'static str), u64>>);

impl Metrics {
    /// One more `event` that ended in `outcome`; both names are ours.
    pub(super) fn count(&self, event: &'static str, outcome: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((event, outcome)).or_default() += 1;
    }

    pub(super) fn render(&self, store: &Counts) -> String {
        let mut out = String::from(
            "# HELP fleet_web_events_total What people did on the consent pages.\n\
             # TYPE fleet_web_events_total counter\n",
        );
        for ((event, outcome), n) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            writeln!(out, "fleet_web_events_total{{event=\"{event}\",outcome=\"{outcome}\"}} {n}")
                .expect("writing to a String cannot fail");
        }
        for (name, n) in [
            ("endpoint_requests", store.endpoint_requests),
            ("refreshed", store.refreshed),
            ("needs_consent", store.needs_consent),
            ("unavailable", store.unavailable),
        ] {
            writeln!(out, "# TYPE fleet_store_{name}_total counter\nfleet_store_{name}_total {n}")
                .expect("writing to a String cannot fail");
        }
        out
    }
}

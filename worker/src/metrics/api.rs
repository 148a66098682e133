//! Requests to APIs by host and code: few series whatever jobs ask for, each looked up
//! once.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};

use super::{API, API_SECONDS};

static HOSTS: Hosts = Hosts::new();

/// The most hosts that have a label value of their own.
pub const MAX_HOSTS: usize = 64;
/// Stands for every other host.
pub const OTHER: &str = "other";

/// A publisher may name endless hosts below `googleapis.com`, and each new label
/// value costs memory for as long as the replica lives.
#[derive(Debug, Default)]
struct Hosts(Mutex<BTreeSet<String>>);

impl Hosts {
    const fn new() -> Self {
        Self(Mutex::new(BTreeSet::new()))
    }

    /// The label value of a host that answered with `status`, or did not. A host
    /// gets its own with the first answer that is not 404: made-up names lead to
    /// front ends that know nothing of them, and must not use up the places.
    fn label(&self, host: &str, status: Option<u16>) -> String {
        // A panic leaves a valid set.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(host) {
            return host.to_owned();
        }
        let serves = status.is_some_and(|status| status != 404);
        if serves && known.len() < MAX_HOSTS {
            known.insert(host.to_owned());
            return host.to_owned();
        }
        OTHER.to_owned()
    }
}

/// The series of one caller, of the recorder that was installed when it first asked for
/// them. Another caller has the same series, and looks them up itself.
#[derive(Default)]
pub(crate) struct ApiSeries(Mutex<HashMap<String, OfHost>>);

/// What one host did.
struct OfHost {
    label: String,
    by_status: Vec<(Option<u16>, Counter)>,
    seconds: Histogram,
}

impl ApiSeries {
    /// An API answered, or did not. `host` was allowed by the operator's rules.
    pub(crate) fn note(&self, host: &str, status: Option<u16>, took: Duration) {
        // A panic leaves a valid map.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get_mut(host) {
            return series.note(status, took);
        }
        // One that shares a label is not remembered by its name, and may get its own later.
        let label = HOSTS.label(host, status);
        known.entry(label).or_insert_with_key(|label| OfHost::new(label)).note(status, took);
    }
}

impl OfHost {
    fn new(label: &str) -> Self {
        let seconds = histogram!(API_SECONDS, "host" => label.to_owned());
        Self { label: label.to_owned(), by_status: Vec::new(), seconds }
    }

    fn note(&mut self, status: Option<u16>, took: Duration) {
        self.seconds.record(took);
        if let Some((_, counter)) = self.by_status.iter().find(|(known, _)| *known == status) {
            return counter.increment(1);
        }
        let code = status.map_or_else(|| "error".to_owned(), |status| status.to_string());
        let counter = counter!(API, "host" => self.label.clone(), "code" => code);
        counter.increment(1);
        self.by_status.push((status, counter));
    }
}

impl std::fmt::Debug for ApiSeries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiSeries").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_hosts_share_one_label() {
        let hosts = Hosts::default();
        let labels: BTreeSet<String> =
            (0..10_000).map(|n| hosts.label(&format!("h{n}.googleapis.com"), Some(200))).collect();
        assert_eq!(labels.len(), MAX_HOSTS + 1);
        assert!(labels.contains(OTHER));
        assert_eq!(
            hosts.label("h0.googleapis.com", None),
            "h0.googleapis.com",
            "known stays known"
        );
    }

    #[test]
    fn made_up_hosts_take_no_place() {
        let hosts = Hosts::default();
        for n in 0..1000 {
            assert_eq!(hosts.label(&format!("h{n}.googleapis.com"), Some(404)), OTHER);
            assert_eq!(hosts.label(&format!("i{n}.googleapis.com"), None), OTHER);
        }
        assert_eq!(hosts.label("www.googleapis.com", Some(503)), "www.googleapis.com");
    }
}

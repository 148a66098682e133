//! Requests to APIs by host and code: few series whatever jobs ask for.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{counter, histogram};

use super::{API, API_SECONDS, NO_ANSWER, OTHER};

static HOSTS: Hosts = Hosts::new();

/// The most hosts that have a label value of their own.
pub const MAX_HOSTS: usize = 64;

/// A publisher may name endless hosts below `googleapis.com`, and each new label
/// value costs memory for as long as the replica lives.
#[derive(Debug, Default)]
struct Hosts(Mutex<BTreeSet<String>>);

impl Hosts {
    const fn new() -> Self {
        Self(Mutex::new(BTreeSet::new()))
    }

    /// The label value of a host that answered with `status`, or did not answer. A host
    /// gets its own with the first answer that is not 404: front ends answer 404 for
    /// made-up names, which must not use up the label values.
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

/// Counts requests to APIs.
#[derive(Debug)]
pub(crate) struct ApiSeries(&'static Hosts);

/// All count under the same labels.
impl Default for ApiSeries {
    fn default() -> Self {
        Self(&HOSTS)
    }
}

impl ApiSeries {
    /// Counts a request that an API answered with `status`, or did not answer. `host` was
    /// allowed by the operator's rules.
    pub(crate) fn note(&self, host: &str, status: Option<u16>, took: Duration) {
        let host = self.0.label(host, status);
        let code = status.map_or_else(|| NO_ANSWER.to_owned(), |status| status.to_string());
        counter!(API, "host" => host.clone(), "code" => code).increment(1);
        histogram!(API_SECONDS, "host" => host).record(took);
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

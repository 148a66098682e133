//! The `host` label of API requests, with few values whatever jobs ask for.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The most hosts that have a label value of their own.
pub const MAX_HOSTS: usize = 64;
/// Stands for every other host.
pub const OTHER: &str = "other";

/// A publisher may name endless hosts below `googleapis.com`, and each new label
/// value costs memory for as long as the replica lives.
#[derive(Debug, Default)]
pub(super) struct Hosts(Mutex<BTreeSet<String>>);

impl Hosts {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeSet::new()))
    }

    /// The label value of a host that answered with `status`, or did not. A host
    /// gets its own with the first answer that is not 404: made-up names lead to
    /// front ends that know nothing of them, and must not use up the places.
    pub(super) fn label(&self, host: &str, status: Option<u16>) -> String {
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

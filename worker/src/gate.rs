//! Troubles that concern every job: while there is one, a replica receives nothing new.
//!
//! What it holds it keeps and extends; nothing is given back for it, so that an outage
//! burns no delivery attempts. Some troubles stop the jobs that it has received as well:
//! those in which the end of a job could not be written.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use tracing::{error, info};

use crate::metrics;

/// What is in trouble.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// This topic takes nothing, so ends of jobs cannot be written.
    Topic(String),
    /// The bucket takes nothing, so ends of jobs cannot be written.
    Bucket,
    /// The bucket does not say which ends it remembers. Each job asks before it runs, so
    /// nothing but the intake waits for that.
    Recall,
    /// No stored credential can be used.
    Records,
    /// Credentials of many users cannot be had.
    Credentials,
    /// So many messages wait for credentials that half of what may be held is taken up.
    Held,
}

impl Trouble {
    /// Its name in metrics, one of [`metrics::TROUBLES`].
    fn name(&self) -> &'static str {
        match self {
            Self::Topic(_) => "topic",
            Self::Bucket => "bucket",
            Self::Recall => "recall",
            Self::Records => "records",
            Self::Credentials => "credentials",
            Self::Held => "held",
        }
    }

    /// Whether jobs that were received wait as well.
    fn stops_jobs(&self) -> bool {
        matches!(self, Self::Topic(_) | Self::Bucket)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(topic) => write!(f, "{topic} takes no messages"),
            Self::Bucket => f.write_str("the bucket takes no objects"),
            Self::Recall => f.write_str("the ends that the bucket remembers cannot be read"),
            Self::Records => f.write_str("no stored credential can be used"),
            Self::Credentials => f.write_str("the credentials of many users cannot be had"),
            Self::Held => f.write_str("too many jobs wait for their users' credentials"),
        }
    }
}

/// What a replica may do at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Open {
    /// New messages are received.
    pub(crate) intake: bool,
    /// Received jobs begin.
    pub(crate) jobs: bool,
}

/// The troubles that there are.
#[derive(Debug)]
pub(crate) struct Gate {
    troubles: Mutex<BTreeMap<Trouble, String>>,
    open: watch::Sender<Open>,
}

impl Default for Gate {
    fn default() -> Self {
        let open = watch::Sender::new(Open { intake: true, jobs: true });
        Self { troubles: Mutex::default(), open }
    }
}

impl Gate {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<Trouble, String>) -> bool) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        if !change(&mut troubles) {
            return;
        }
        let open =
            Open { intake: troubles.is_empty(), jobs: !troubles.keys().any(Trouble::stops_jobs) };
        let was = self.open.send_replace(open);
        metrics::set(metrics::PAUSED, f64::from(u8::from(!open.intake)));
        for name in metrics::TROUBLES {
            metrics::trouble(name, troubles.keys().any(|trouble| trouble.name() == *name));
        }
        if open.intake && !was.intake {
            info!("intake resumed");
        }
    }

    /// There is this trouble, because of `why`. Said once.
    pub(crate) fn close(&self, trouble: Trouble, why: &dyn fmt::Display) {
        self.change(|troubles| {
            let news = !troubles.contains_key(&trouble);
            if news {
                error!("intake paused: {trouble}: {why}");
                troubles.insert(trouble, why.to_string());
            }
            news
        });
    }

    /// It is over.
    pub(crate) fn open(&self, trouble: &Trouble) {
        self.change(|troubles| troubles.remove(trouble).is_some());
    }

    /// Nothing tells any more whether ends can be written, so jobs begin again: the next end
    /// tells.
    pub(crate) fn let_jobs_begin(&self) {
        self.change(|troubles| {
            let before = troubles.len();
            troubles.retain(|trouble, _| !trouble.stops_jobs());
            troubles.len() < before
        });
    }

    /// Whether there is no trouble.
    pub(crate) fn is_open(&self) -> bool {
        self.open.borrow().intake
    }

    /// Whether received jobs wait.
    pub(crate) fn stops_jobs(&self) -> bool {
        !self.open.borrow().jobs
    }

    /// Whether there is this trouble.
    pub(crate) fn has(&self, trouble: &Trouble) -> bool {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).contains_key(trouble)
    }

    /// What may be done, and changes of it.
    pub(crate) fn watch(&self) -> watch::Receiver<Open> {
        self.open.subscribe()
    }

    /// Waits until received jobs may begin. Dropping it is harmless.
    pub(crate) async fn jobs_may_begin(&self) {
        let mut open = self.open.subscribe();
        // The sender lives as long as `self`.
        drop(open.wait_for(|open| open.jobs).await);
    }

    /// Every trouble and its reason, for people.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.iter().map(|(trouble, why)| format!("{trouble}: {why}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_when_the_last_trouble_is_over() {
        let gate = Gate::default();
        let open = gate.watch();
        let now = || (open.borrow().intake, open.borrow().jobs);
        assert_eq!(now(), (true, true));
        gate.close(Trouble::Credentials, &"the endpoint does not answer");
        assert_eq!(now(), (false, true), "jobs with a usable token go on");
        gate.close(Trouble::Topic("outcomes".into()), &"permission denied");
        assert_eq!(now(), (false, false));
        gate.open(&Trouble::Credentials);
        assert_eq!(now(), (false, false));
        assert_eq!(gate.reasons(), ["outcomes takes no messages: permission denied"]);
        gate.open(&Trouble::Topic("another".into()));
        assert_eq!(now(), (false, false));
        gate.open(&Trouble::Topic("outcomes".into()));
        assert_eq!(now(), (true, true));
    }

    #[test]
    fn every_trouble_is_a_metric_for_as_long_as_it_lasts() {
        let recorder = crate::telemetry::prometheus::recorder();
        ::metrics::with_local_recorder(&recorder, || {
            let gate = Gate::default();
            let all = [
                Trouble::Topic("outcomes".into()),
                Trouble::Bucket,
                Trouble::Recall,
                Trouble::Records,
                Trouble::Credentials,
                Trouble::Held,
            ];
            for trouble in &all {
                gate.close(trouble.clone(), &"a reason");
            }
            assert_eq!(all.each_ref().map(Trouble::name), metrics::TROUBLES);
            let shows = |name: &str, value: &str| {
                let line = format!("fleet_trouble{{trouble=\"{name}\"}} {value}\n");
                assert!(recorder.handle().render().contains(&line), "{line}");
            };
            for trouble in &all {
                shows(trouble.name(), "1");
                gate.open(trouble);
                shows(trouble.name(), "0");
            }
        });
    }

    #[test]
    fn jobs_begin_again_where_nothing_tells_whether_ends_can_be_written() {
        let gate = Gate::default();
        gate.close(Trouble::Topic("outcomes".into()), &"permission denied");
        gate.close(Trouble::Bucket, &"no answer");
        gate.close(Trouble::Credentials, &"the endpoint does not answer");
        gate.let_jobs_begin();
        assert!(!gate.stops_jobs() && !gate.is_open(), "credentials are another trouble");
        gate.open(&Trouble::Credentials);
        assert!(gate.is_open());
    }
}

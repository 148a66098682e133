//! What a replica counts for its jobs.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::outcome::Status;

use super::{
    CREDENTIALS, HELD, Had, IN_FLIGHT, JOB_SECONDS, JOB_WAIT, JOBS, LEASE_WAIT, OUTSTANDING,
    PAUSED_HOSTS, QUEUE_WAIT, QUEUED_USERS, SLOWED_USERS, UNKNOWN, level,
};

const STATUSES: [Status; 4] = [Status::Done, Status::Retry, Status::Parked, Status::Rejected];

/// The metrics of a replica, kept by the recorder that was installed when it began.
pub(crate) struct Meters {
    /// Counts jobs of kinds that the replica does not do, and messages that are no jobs.
    pub(crate) unknown: Ended,
    in_flight: Gauge,
    job_wait: Histogram,
    queue_wait: Histogram,
    queued_users: Gauge,
    slowed_users: Gauge,
    paused_hosts: Gauge,
    outstanding: Gauge,
    held: Gauge,
    hit: Counter,
    wait: Counter,
    error: Counter,
    lease_wait: Histogram,
}

/// How the jobs of a kind ended.
pub(crate) struct Ended {
    by_status: [Counter; STATUSES.len()],
    seconds: Histogram,
}

impl Ended {
    /// The metrics of the jobs of `kind`.
    pub(crate) fn of(kind: &str) -> Self {
        let by_status = STATUSES
            .map(|status| counter!(JOBS, "kind" => kind.to_owned(), "outcome" => status.as_str()));
        Self { by_status, seconds: histogram!(JOB_SECONDS, "kind" => kind.to_owned()) }
    }

    /// Counts a delivery that took so long.
    pub(crate) fn note(&self, status: Status, took: Duration) {
        let at = STATUSES.iter().position(|known| *known == status);
        self.by_status[at.expect("all of them are listed")].increment(1);
        self.seconds.record(took);
    }
}

impl Default for Meters {
    fn default() -> Self {
        let credentials = |had: Had| counter!(CREDENTIALS, "result" => had.as_str());
        Self {
            unknown: Ended::of(UNKNOWN),
            in_flight: gauge!(IN_FLIGHT),
            job_wait: histogram!(JOB_WAIT),
            queue_wait: histogram!(QUEUE_WAIT),
            queued_users: gauge!(QUEUED_USERS),
            slowed_users: gauge!(SLOWED_USERS),
            paused_hosts: gauge!(PAUSED_HOSTS),
            outstanding: gauge!(OUTSTANDING),
            held: gauge!(HELD),
            hit: credentials(Had::Hit),
            wait: credentials(Had::Wait),
            error: credentials(Had::Error),
            lease_wait: histogram!(LEASE_WAIT),
        }
    }
}

impl Meters {
    /// Tells how many users have jobs here, and how many an API slowed down lately.
    pub(crate) fn set_users(&self, queued: usize, slowed: usize) {
        self.queued_users.set(level(queued));
        self.slowed_users.set(level(slowed));
    }

    /// Tells how many hosts are left alone because they refuse many users.
    pub(crate) fn set_paused_hosts(&self, paused: usize) {
        self.paused_hosts.set(level(paused));
    }

    /// Tells how many messages are received and not settled, and how many of them are
    /// held: they wait for something other than a slot.
    pub(crate) fn set_jobs(&self, outstanding: usize, held: usize) {
        self.outstanding.set(level(outstanding));
        self.held.set(level(held));
    }

    /// Counts a job whose turn came so long after its receipt.
    pub(crate) fn turn(&self, waited: Duration) {
        self.queue_wait.record(waited);
    }

    /// Counts a job whose first turn came so long after it was published.
    pub(crate) fn first_turn(&self, waited: Duration) {
        self.job_wait.record(waited);
    }

    /// Counts a handler as running until what is returned is dropped.
    pub(crate) fn run(&self) -> Running<'_> {
        self.in_flight.increment(1.0);
        Running(&self.in_flight)
    }

    /// Counts a credential that a job asked for.
    pub(crate) fn credential(&self, had: Had, waited: Duration) {
        match had {
            Had::Hit => &self.hit,
            Had::Wait => &self.wait,
            Had::Error => &self.error,
        }
        .increment(1);
        if !matches!(had, Had::Hit) {
            self.lease_wait.record(waited);
        }
    }
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meters").finish_non_exhaustive()
    }
}

/// Counts a running handler until it is dropped, so that a panic or a cut counts as an end.
pub(crate) struct Running<'a>(&'a Gauge);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

//! What happened so far.

/// Counts of one subscription, or of all of them.
///
/// `outstanding`, `backlog` and `consumers` are levels, everything else only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages that entered the subscription. In the totals: messages that
    /// publishers sent, however many subscriptions their topic had.
    pub published: u64,
    /// Messages handed to a subscriber, every time counted.
    pub deliveries: u64,
    /// Deliveries beyond a message's first.
    pub redeliveries: u64,
    /// Acknowledgements that took effect. Ordered redelivery can void one, and
    /// then the message is acknowledged again.
    pub acknowledged: u64,
    /// Negative acknowledgements that took effect.
    pub nacked: u64,
    /// Deliveries whose deadline passed.
    pub expired: u64,
    /// Messages forwarded to the dead-letter topic.
    pub dead_lettered: u64,
    /// Deliveries under lease now: not acknowledged, given back or expired.
    pub outstanding: u64,
    /// Messages that are not acknowledged now, the outstanding ones included.
    pub backlog: u64,
    /// Open streams and waiting pulls.
    pub consumers: u64,
}

impl Stats {
    /// Adds a subscription's counts to a total, which counts publishing itself.
    pub(super) fn add(&mut self, subscription: &Self) {
        self.deliveries += subscription.deliveries;
        self.redeliveries += subscription.redeliveries;
        self.acknowledged += subscription.acknowledged;
        self.nacked += subscription.nacked;
        self.expired += subscription.expired;
        self.dead_lettered += subscription.dead_lettered;
        self.outstanding += subscription.outstanding;
        self.backlog += subscription.backlog;
        self.consumers += subscription.consumers;
    }
}

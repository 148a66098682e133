//! All topics and subscriptions, and the way from one to the other.
//!
//! A plain state machine like [`Subscription`]: the time is passed in, and
//! whoever changes something hands [`take_woken`](Broker::take_woken) to the
//! consumers named there and calls [`advance`](Broker::advance) at
//! [`next_wakeup`](Broker::next_wakeup).

mod access;
mod dead_letter;
mod kept;
mod seek;
mod settlement;
mod subscriptions;
mod topics;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use tokio::time::Instant;

use crate::access::Access;
use crate::data::Changes;

use super::consumer::{ConsumerId, Delivery, Limits};
use super::error::Error;
use super::fault::{Faults, Operation};
use super::lane::DeliveryId;
use super::message::Message;
use super::names::{self, Kind};
use super::settings::Settings;
use super::stats::Stats;
use super::subscription::Subscription;

use seek::Held;
pub(super) use settlement::Settlement;

/// Names a subscription for as long as it lives; a later one of the same name
/// has another.
pub(super) type SubscriptionId = u64;

/// Names and settings of the subscriptions that are pushed.
pub(super) type Pushes = HashMap<SubscriptionId, (String, proto::PushConfig)>;

/// Names a consumer among all subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Attachment {
    pub(super) subscription: SubscriptionId,
    pub(super) consumer: ConsumerId,
}

/// Names a delivery among all subscriptions; its text is the ack ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AckId {
    subscription: SubscriptionId,
    delivery: DeliveryId,
}

impl AckId {
    fn parse(text: &str) -> Option<Self> {
        let (subscription, delivery) = text.split_once('-')?;
        Some(Self { subscription: subscription.parse().ok()?, delivery: delivery.parse().ok()? })
    }
}

/// The ack ID of a delivery, as subscribers see it.
pub(super) fn ack_id(subscription: SubscriptionId, delivery: DeliveryId) -> String {
    format!("{subscription}-{delivery}")
}

#[derive(Debug)]
struct Topic {
    resource: proto::Topic,
    subscriptions: BTreeSet<SubscriptionId>,
    /// What was published while something could seek to it.
    log: Vec<Arc<Message>>,
}

#[derive(Debug)]
struct Attached {
    resource: proto::Subscription,
    state: Subscription,
    /// The wakeup that is on record for it.
    wakeup: Option<Instant>,
    /// The first message that was published after it was made.
    since: u64,
}

/// See the module page.
#[derive(Debug)]
pub(super) struct Broker {
    /// One moment on both clocks: from it the publish times are derived.
    started: (Instant, SystemTime),
    topics: BTreeMap<String, Topic>,
    names: BTreeMap<String, SubscriptionId>,
    subscriptions: HashMap<SubscriptionId, Attached>,
    wakeups: BTreeSet<(Instant, SubscriptionId)>,
    woken: Vec<Attachment>,
    /// Who may do what, by full name; whatever is not here was never changed.
    access: HashMap<String, Access>,
    snapshots: BTreeMap<String, Held>,
    /// Whether what is pushed where may have changed.
    pushes_changed: bool,
    next_subscription: SubscriptionId,
    next_message: u64,
    /// How often it has taken over what was kept.
    run: u64,
    published: u64,
    /// Counts of deleted subscriptions.
    retired: Stats,
    faults: Faults,
    /// What is to be kept of the present step.
    changes: Changes,
}

impl Broker {
    pub(super) fn new(now: Instant, wall: SystemTime, faults: Faults) -> Self {
        Self {
            started: (now, wall),
            topics: BTreeMap::new(),
            names: BTreeMap::new(),
            subscriptions: HashMap::new(),
            wakeups: BTreeSet::new(),
            woken: Vec::new(),
            access: HashMap::new(),
            snapshots: BTreeMap::new(),
            pushes_changed: false,
            next_subscription: 1,
            next_message: 1,
            run: 0,
            published: 0,
            retired: Stats::default(),
            faults,
            changes: Changes::default(),
        }
    }

    /// Adds a consumer to a subscription.
    pub(super) fn open(
        &mut self,
        subscription: &str,
        limits: impl FnOnce(&Settings) -> Limits,
        now: Instant,
    ) -> Result<Attachment, Error> {
        let id = self.find(subscription)?;
        let attached = self
            .subscriptions
            .get_mut(&id)
            .ok_or_else(|| Error::NotFound(subscription.to_owned()))?;
        if attached.resource.detached {
            return Err(Error::Precondition(format!("{subscription} is detached from its topic")));
        }
        let limits = limits(&attached.state.settings);
        let consumer = attached.state.open(limits);
        self.settle(id, now);
        Ok(Attachment { subscription: id, consumer })
    }

    /// Removes a consumer; see [`Subscription::close`].
    pub(super) fn close(&mut self, attachment: Attachment, now: Instant) {
        if let Some(attached) = self.subscriptions.get_mut(&attachment.subscription) {
            attached.state.close(attachment.consumer);
        }
        self.settle(attachment.subscription, now);
    }

    /// Changes the ack deadline of what a consumer gets from now on.
    pub(super) fn set_ack_deadline(&mut self, attachment: Attachment, ack_deadline: Duration) {
        if let Some(attached) = self.subscriptions.get_mut(&attachment.subscription) {
            attached.state.set_ack_deadline(attachment.consumer, ack_deadline);
        }
    }

    /// What is ready for a consumer; see [`Subscription::take`]. `None` if its
    /// subscription was deleted.
    pub(super) fn take(
        &mut self,
        attachment: Attachment,
        messages: usize,
        bytes: u64,
        now: Instant,
    ) -> Option<Vec<Delivery>> {
        let attached = self.subscriptions.get_mut(&attachment.subscription)?;
        let taken = attached.state.take(attachment.consumer, messages, bytes)?;
        self.settle(attachment.subscription, now);
        Some(taken)
    }

    /// Acknowledges. If one ID is malformed nothing happens.
    pub(super) fn acknowledge(
        &mut self,
        subscription: &str,
        ack_ids: &[String],
        now: Instant,
    ) -> Result<Settlement, Error> {
        let id = self.find(subscription)?;
        let deliveries = deliveries(id, ack_ids)?;
        let settlement = self.subscriptions.get_mut(&id).map(|attached| {
            let faults = &self.faults;
            let verdicts = attached.state.acknowledge(&deliveries, |message| {
                faults.strikes(Operation::Acknowledge, subscription, message)
            });
            Settlement::new(attached.state.settings.exactly_once, ack_ids, verdicts)
        });
        self.settle(id, now);
        Ok(settlement.unwrap_or_default())
    }

    /// Changes deadlines; zero gives back. If one ID is malformed nothing happens.
    pub(super) fn modify(
        &mut self,
        subscription: &str,
        ack_ids: &[String],
        extension: Duration,
        now: Instant,
    ) -> Result<Settlement, Error> {
        let id = self.find(subscription)?;
        let deliveries = deliveries(id, ack_ids)?;
        let settlement = self.subscriptions.get_mut(&id).map(|attached| {
            let verdicts = attached.state.modify(&deliveries, extension, now);
            Settlement::new(attached.state.settings.exactly_once, ack_ids, verdicts)
        });
        self.settle(id, now);
        Ok(settlement.unwrap_or_default())
    }

    /// The consumers that a subscription has now.
    pub(super) fn consumers(&self, subscription: &str) -> Result<Vec<Attachment>, Error> {
        let id = self.find(subscription)?;
        let attached = self.subscriptions.get(&id).into_iter();
        Ok(attached
            .flat_map(|attached| attached.state.consumers())
            .map(|consumer| Attachment { subscription: id, consumer })
            .collect())
    }

    /// Ends the leases of a subscription; see [`Subscription::expire`].
    pub(super) fn expire(&mut self, subscription: &str, now: Instant) -> Result<(), Error> {
        let id = self.find(subscription)?;
        if let Some(attached) = self.subscriptions.get_mut(&id) {
            attached.state.expire(now);
        }
        self.settle(id, now);
        Ok(())
    }

    /// The settings of a consumer's subscription, unless that was deleted.
    pub(super) fn settings(&self, attachment: Attachment) -> Option<&Settings> {
        let attached = self.subscriptions.get(&attachment.subscription)?;
        Some(&attached.state.settings)
    }

    /// When [`advance`](Self::advance) has something to do next.
    pub(super) fn next_wakeup(&self) -> Option<Instant> {
        self.wakeups.first().map(|(at, _)| *at)
    }

    /// Does what is due.
    pub(super) fn advance(&mut self, now: Instant) {
        while let Some((at, id)) = self.wakeups.first().copied() {
            if at > now {
                break;
            }
            self.wakeups.remove(&(at, id));
            if let Some(attached) = self.subscriptions.get_mut(&id) {
                attached.wakeup = None;
                attached.state.advance(now);
            }
            self.settle(id, now);
        }
    }

    /// Which subscriptions are pushed, and where; `None` if that is as when last asked.
    pub(super) fn take_pushes(&mut self) -> Option<Pushes> {
        if !std::mem::take(&mut self.pushes_changed) {
            return None;
        }
        let pushed = |(id, attached): (&SubscriptionId, &Attached)| {
            let resource = &attached.resource;
            let config = resource.push_config.clone()?;
            let pushed = !config.push_endpoint.is_empty() && !resource.detached;
            pushed.then(|| (*id, (resource.name.clone(), config)))
        };
        Some(self.subscriptions.iter().filter_map(pushed).collect())
    }

    /// Consumers that have something to take or whose subscription is gone.
    pub(super) fn take_woken(&mut self) -> Vec<Attachment> {
        std::mem::take(&mut self.woken)
    }

    /// The counts of one subscription.
    pub(super) fn subscription_stats(&self, name: &str) -> Option<Stats> {
        let id = self.names.get(name)?;
        Some(self.subscriptions.get(id)?.state.stats())
    }

    /// How many messages of a subscription are not acknowledged, and the age of the oldest of
    /// them in seconds.
    pub(super) fn backlog(&self, name: &str, now: Instant) -> Option<(u64, u64)> {
        let state = &self.subscriptions.get(self.names.get(name)?)?.state;
        let published = |message: &Arc<Message>| Some(message.content.publish_time?.seconds);
        let oldest = state.unacknowledged().filter_map(published).min();
        let age = oldest.map_or(0, |oldest| self.wall(now).seconds - oldest);
        Some((state.stats().backlog, u64::try_from(age).unwrap_or_default()))
    }

    /// The counts of everything.
    pub(super) fn stats(&self) -> Stats {
        let mut total = Stats { published: self.published, ..self.retired };
        for attached in self.subscriptions.values() {
            total.add(&attached.state.stats());
        }
        total
    }

    /// Carries out what a change of a subscription led to.
    fn settle(&mut self, id: SubscriptionId, now: Instant) {
        let Some(attached) = self.subscriptions.get_mut(&id) else {
            return;
        };
        attached.state.dispatch(now);
        for consumer in attached.state.take_woken() {
            self.woken.push(Attachment { subscription: id, consumer });
        }
        let wakeup = attached.state.next_wakeup();
        if wakeup != attached.wakeup {
            if let Some(old) = attached.wakeup {
                self.wakeups.remove(&(old, id));
            }
            if let Some(new) = wakeup {
                self.wakeups.insert((new, id));
            }
            attached.wakeup = wakeup;
        }
        kept::take(&mut self.changes, id, &mut attached.state);
        let dead = attached.state.take_dead();
        if !dead.is_empty()
            && let Some(policy) = attached.state.settings.dead_letter.clone()
        {
            let source = attached.resource.name.clone();
            let forwarded = dead.iter().map(|dead| dead_letter::forwarded(dead, &source)).collect();
            self.distribute(&policy.topic, forwarded, now);
        }
    }

    fn find(&self, name: &str) -> Result<SubscriptionId, Error> {
        names::parse(Kind::Subscription, name)?;
        self.names.get(name).copied().ok_or_else(|| Error::NotFound(name.to_owned()))
    }
}

/// Parses ack IDs, which must all be of this subscription.
fn deliveries(id: SubscriptionId, ack_ids: &[String]) -> Result<Vec<DeliveryId>, Error> {
    if ack_ids.is_empty() {
        return Err(Error::Invalid("no ack IDs given".to_owned()));
    }
    let parse = |text: &String| match AckId::parse(text) {
        Some(ack_id) if ack_id.subscription == id => Ok(ack_id.delivery),
        _ => Err(Error::Invalid(format!("{text:?} is not an ack ID of this subscription"))),
    };
    ack_ids.iter().map(parse).collect()
}

/// The entries whose names have the prefix and come after `after`.
fn under<'a, T>(
    map: &'a BTreeMap<String, T>,
    prefix: String,
    after: &str,
) -> impl Iterator<Item = &'a T> + use<'a, T> {
    let start = if after > prefix.as_str() {
        Bound::Excluded(after.to_owned())
    } else {
        Bound::Included(prefix.clone())
    };
    map.range((start, Bound::Unbounded))
        .take_while(move |(name, _)| name.starts_with(&prefix))
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests;

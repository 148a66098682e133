//! All topics and subscriptions, and the way from one to the other.
//!
//! A plain state machine like `subscription.rs`: the time is passed in, and
//! whoever changes something hands [`take_woken`](Broker::take_woken) to the
//! consumers named there and calls [`advance`](Broker::advance) at
//! [`next_wakeup`](Broker::next_wakeup).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use prost_types::Timestamp;
use tokio::time::Instant;

use super::consumer::{ConsumerId, Delivery, Limits};
use super::error::Error;
use super::lane::DeliveryId;
use super::message::{self, Message};
use super::names::{self, Kind};
use super::settings::{self, Settings};
use super::stats::Stats;
use super::subscription::{DeadLetter, Subscription};

/// Names a subscription for as long as it lives; a later one of the same name
/// has another.
pub(super) type SubscriptionId = u64;

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
        Some(Self {
            subscription: subscription.parse().ok()?,
            delivery: delivery.parse().ok()?,
        })
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
}

#[derive(Debug)]
struct Attached {
    resource: proto::Subscription,
    state: Subscription,
    /// The wakeup that is on record for it.
    wakeup: Option<Instant>,
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
    next_subscription: SubscriptionId,
    next_message: u64,
    published: u64,
    /// Counts of deleted subscriptions.
    retired: Stats,
}

impl Broker {
    pub(super) fn new(now: Instant, wall: SystemTime) -> Self {
        Self {
            started: (now, wall),
            topics: BTreeMap::new(),
            names: BTreeMap::new(),
            subscriptions: HashMap::new(),
            wakeups: BTreeSet::new(),
            woken: Vec::new(),
            next_subscription: 1,
            next_message: 1,
            published: 0,
            retired: Stats::default(),
        }
    }

    // Topics.

    pub(super) fn create_topic(&mut self, resource: proto::Topic) -> Result<proto::Topic, Error> {
        names::parse(Kind::Topic, &resource.name)?;
        for (asked, what) in [
            (resource.schema_settings.is_some(), "schemas"),
            (
                resource.ingestion_data_source_settings.is_some(),
                "ingestion from other services",
            ),
            (
                !resource.message_transforms.is_empty(),
                "message transforms",
            ),
        ] {
            if asked {
                return Err(Error::Unimplemented(what));
            }
        }
        if self.topics.contains_key(&resource.name) {
            return Err(Error::AlreadyExists(resource.name));
        }
        let resource = proto::Topic {
            state: proto::topic::State::Active.into(),
            ..resource
        };
        self.topics.insert(
            resource.name.clone(),
            Topic {
                resource: resource.clone(),
                subscriptions: BTreeSet::new(),
            },
        );
        self.refresh_dead_letters(&resource.name);
        Ok(resource)
    }

    pub(super) fn topic(&self, name: &str) -> Result<&proto::Topic, Error> {
        self.find_topic(name).map(|topic| &topic.resource)
    }

    /// Replaces labels and retention, as far as the mask names them.
    pub(super) fn update_topic(
        &mut self,
        request: proto::UpdateTopicRequest,
    ) -> Result<proto::Topic, Error> {
        let new = request.topic.unwrap_or_default();
        let mut updated = self.topic(&new.name)?.clone();
        let paths = request.update_mask.unwrap_or_default().paths;
        if paths.is_empty() {
            return Err(Error::Invalid(
                "update_mask must name at least one field".to_owned(),
            ));
        }
        for path in &paths {
            match path.as_str() {
                "labels" => updated.labels.clone_from(&new.labels),
                "message_retention_duration" => {
                    updated.message_retention_duration = new.message_retention_duration;
                }
                _ => {
                    return Err(Error::Unimplemented(
                        "updates of topics, except of labels and message_retention_duration",
                    ));
                }
            }
        }
        if let Some(topic) = self.topics.get_mut(&new.name) {
            topic.resource = updated.clone();
        }
        Ok(updated)
    }

    /// Topics of a project in the order of their names, after the given one.
    pub(super) fn topics<'a>(
        &'a self,
        project: &str,
        after: &'a str,
    ) -> Result<impl Iterator<Item = &'a proto::Topic> + use<'a>, Error> {
        let prefix = format!("projects/{}/topics/", names::parse_project(project)?);
        Ok(under(&self.topics, prefix, after).map(|topic| &topic.resource))
    }

    /// Names of a topic's subscriptions, in order, after the given one.
    pub(super) fn topic_subscriptions(
        &self,
        topic: &str,
        after: &str,
    ) -> Result<BTreeSet<String>, Error> {
        let ids = &self.find_topic(topic)?.subscriptions;
        let attached = ids.iter().filter_map(|id| self.subscriptions.get(id));
        Ok(attached
            .map(|attached| attached.resource.name.clone())
            .filter(|name| name.as_str() > after)
            .collect())
    }

    /// Deletes a topic. Its subscriptions keep their messages, without a topic.
    pub(super) fn delete_topic(&mut self, name: &str) -> Result<(), Error> {
        self.find_topic(name)?;
        let topic = self.topics.remove(name);
        for id in topic.into_iter().flat_map(|topic| topic.subscriptions) {
            if let Some(attached) = self.subscriptions.get_mut(&id) {
                names::DELETED_TOPIC.clone_into(&mut attached.resource.topic);
            }
        }
        self.refresh_dead_letters(name);
        Ok(())
    }

    /// Publishes and returns the message IDs.
    pub(super) fn publish(
        &mut self,
        topic: &str,
        messages: Vec<proto::PubsubMessage>,
        now: Instant,
    ) -> Result<Vec<String>, Error> {
        self.find_topic(topic)?;
        message::check_batch(&messages)?;
        self.published += messages.len() as u64;
        Ok(self.distribute(topic, messages, now))
    }

    /// Gives messages their IDs and passes them to the topic's subscriptions.
    fn distribute(
        &mut self,
        topic: &str,
        messages: Vec<proto::PubsubMessage>,
        now: Instant,
    ) -> Vec<String> {
        let publish_time = self.wall(now);
        let mut ids = Vec::with_capacity(messages.len());
        let mut shared = Vec::with_capacity(messages.len());
        for content in messages {
            let id = self.next_message.to_string();
            self.next_message += 1;
            shared.push(Arc::new(Message::new(proto::PubsubMessage {
                message_id: id.clone(),
                publish_time: Some(publish_time),
                ..content
            })));
            ids.push(id);
        }
        let topic = self.topics.get(topic);
        let subscriptions: Vec<SubscriptionId> = topic
            .map(|topic| topic.subscriptions.iter().copied().collect())
            .unwrap_or_default();
        for id in subscriptions {
            if let Some(attached) = self.subscriptions.get_mut(&id) {
                for message in &shared {
                    attached.state.enqueue(Arc::clone(message));
                }
            }
            self.settle(id, now);
        }
        ids
    }

    // Subscriptions.

    pub(super) fn create_subscription(
        &mut self,
        resource: proto::Subscription,
    ) -> Result<proto::Subscription, Error> {
        let resource = settings::complete(resource)?;
        if self.names.contains_key(&resource.name) {
            return Err(Error::AlreadyExists(resource.name));
        }
        let settings = self.read_settings(&resource)?;
        let id = self.next_subscription;
        self.topics
            .get_mut(&resource.topic)
            .ok_or_else(|| Error::NotFound(resource.topic.clone()))?
            .subscriptions
            .insert(id);
        self.next_subscription += 1;
        self.names.insert(resource.name.clone(), id);
        self.subscriptions.insert(
            id,
            Attached {
                resource: resource.clone(),
                state: Subscription::new(settings),
                wakeup: None,
            },
        );
        Ok(resource)
    }

    pub(super) fn subscription(&self, name: &str) -> Result<&proto::Subscription, Error> {
        let id = self.find(name)?;
        let attached = self.subscriptions.get(&id);
        attached
            .map(|attached| &attached.resource)
            .ok_or_else(|| Error::NotFound(name.to_owned()))
    }

    pub(super) fn update_subscription(
        &mut self,
        request: proto::UpdateSubscriptionRequest,
    ) -> Result<proto::Subscription, Error> {
        let name = request
            .subscription
            .as_ref()
            .map(|new| new.name.clone())
            .unwrap_or_default();
        let updated = settings::update(self.subscription(&name)?, request)?;
        let settings = self.read_settings(&updated)?;
        let id = self.find(&name)?;
        if let Some(attached) = self.subscriptions.get_mut(&id) {
            attached.resource = updated.clone();
            attached.state.settings = settings;
            attached.state.dead_letter_open = true;
        }
        Ok(updated)
    }

    /// Subscriptions of a project in the order of their names, after the given one.
    pub(super) fn subscriptions<'a>(
        &'a self,
        project: &str,
        after: &'a str,
    ) -> Result<impl Iterator<Item = &'a proto::Subscription> + use<'a>, Error> {
        let prefix = format!("projects/{}/subscriptions/", names::parse_project(project)?);
        Ok(under(&self.names, prefix, after)
            .filter_map(|id| self.subscriptions.get(id))
            .map(|attached| &attached.resource))
    }

    /// Deletes a subscription, wakes its consumers and forgets them.
    pub(super) fn delete_subscription(&mut self, name: &str) -> Result<(), Error> {
        let id = self.find(name)?;
        self.names.remove(name);
        let Some(attached) = self.subscriptions.remove(&id) else {
            return Ok(());
        };
        if let Some(wakeup) = attached.wakeup {
            self.wakeups.remove(&(wakeup, id));
        }
        if let Some(topic) = self.topics.get_mut(&attached.resource.topic) {
            topic.subscriptions.remove(&id);
        }
        self.woken
            .extend(attached.state.consumers().map(|consumer| Attachment {
                subscription: id,
                consumer,
            }));
        self.retired.add(&Stats {
            outstanding: 0,
            backlog: 0,
            ..attached.state.stats()
        });
        Ok(())
    }

    // Delivery.

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
        let limits = limits(&attached.state.settings);
        let consumer = attached.state.open(limits);
        self.settle(id, now);
        Ok(Attachment {
            subscription: id,
            consumer,
        })
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
            attached
                .state
                .set_ack_deadline(attachment.consumer, ack_deadline);
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
    ) -> Result<(), Error> {
        let id = self.find(subscription)?;
        let deliveries = deliveries(id, ack_ids)?;
        if let Some(attached) = self.subscriptions.get_mut(&id) {
            attached.state.acknowledge(&deliveries);
        }
        self.settle(id, now);
        Ok(())
    }

    /// Changes deadlines; zero gives back. If one ID is malformed nothing happens.
    pub(super) fn modify(
        &mut self,
        subscription: &str,
        ack_ids: &[String],
        extension: Duration,
        now: Instant,
    ) -> Result<(), Error> {
        let id = self.find(subscription)?;
        let mut deliveries = deliveries(id, ack_ids)?;
        if let Some(attached) = self.subscriptions.get_mut(&id) {
            attached.state.modify(&mut deliveries, extension, now);
        }
        self.settle(id, now);
        Ok(())
    }

    // Time and signals.

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

    /// Consumers that have something to take or whose subscription is gone.
    pub(super) fn take_woken(&mut self) -> Vec<Attachment> {
        std::mem::take(&mut self.woken)
    }

    /// The counts of one subscription.
    pub(super) fn subscription_stats(&self, name: &str) -> Option<Stats> {
        let id = self.names.get(name)?;
        Some(self.subscriptions.get(id)?.state.stats())
    }

    /// The counts of everything.
    pub(super) fn stats(&self) -> Stats {
        let mut total = Stats {
            published: self.published,
            ..self.retired
        };
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
            self.woken.push(Attachment {
                subscription: id,
                consumer,
            });
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
        let dead = attached.state.take_dead();
        if !dead.is_empty()
            && let Some(policy) = attached.state.settings.dead_letter.clone()
        {
            let source = attached.resource.name.clone();
            let forwarded = dead.iter().map(|dead| forwarded(dead, &source)).collect();
            self.distribute(&policy.topic, forwarded, now);
        }
    }

    fn wall(&self, now: Instant) -> Timestamp {
        let (then, wall) = self.started;
        (wall + now.saturating_duration_since(then)).into()
    }

    fn find_topic(&self, name: &str) -> Result<&Topic, Error> {
        names::parse(Kind::Topic, name)?;
        self.topics
            .get(name)
            .ok_or_else(|| Error::NotFound(name.to_owned()))
    }

    fn find(&self, name: &str) -> Result<SubscriptionId, Error> {
        names::parse(Kind::Subscription, name)?;
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| Error::NotFound(name.to_owned()))
    }

    /// Reads the settings and checks that the dead-letter topic exists.
    fn read_settings(&self, resource: &proto::Subscription) -> Result<Settings, Error> {
        let settings = settings::read(resource)?;
        if let Some(policy) = &settings.dead_letter {
            self.find_topic(&policy.topic)?;
        }
        Ok(settings)
    }

    /// Tells the subscriptions whether their dead-letter topic exists now.
    fn refresh_dead_letters(&mut self, topic: &str) {
        let exists = self.topics.contains_key(topic);
        for attached in self.subscriptions.values_mut() {
            let policy = attached.state.settings.dead_letter.as_ref();
            if policy.is_some_and(|policy| policy.topic == topic) {
                attached.state.dead_letter_open = exists;
            }
        }
    }
}

/// Parses ack IDs, which must all be of this subscription.
fn deliveries(id: SubscriptionId, ack_ids: &[String]) -> Result<Vec<DeliveryId>, Error> {
    if ack_ids.is_empty() {
        return Err(Error::Invalid("no ack IDs given".to_owned()));
    }
    let parse = |text: &String| match AckId::parse(text) {
        Some(ack_id) if ack_id.subscription == id => Ok(ack_id.delivery),
        _ => Err(Error::Invalid(format!(
            "{text:?} is not an ack ID of this subscription"
        ))),
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

/// The message as it arrives at the dead-letter topic.
fn forwarded(dead: &DeadLetter, source: &str) -> proto::PubsubMessage {
    let mut message = dead.message.content.clone();
    let name = names::parse(Kind::Subscription, source).ok();
    let published = message.publish_time.map(|time| time.to_string());
    for (attribute, value) in [
        ("Subscription", name.map(|name| name.id.to_owned())),
        (
            "SubscriptionProject",
            name.map(|name| name.project.to_owned()),
        ),
        ("DeliveryCount", Some(dead.attempts.to_string())),
        ("TopicPublishTime", published),
    ] {
        let attribute = format!("CloudPubSubDeadLetterSource{attribute}");
        message
            .attributes
            .insert(attribute, value.unwrap_or_default());
    }
    message
}

#[cfg(test)]
#[path = "broker_tests.rs"]
mod tests;

//! Snapshots, seeking, and detaching: what a subscription has to deliver, set anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use prost_types::Timestamp;
use proto::seek_request::Target;
use tokio::time::Instant;

use super::{Attached, Broker, under};
use crate::pubsub::error::Error;
use crate::pubsub::message::Message;
use crate::pubsub::names::{self, Kind};

/// How long a snapshot lives, as in production; nothing is deleted when it ends.
const LIFETIME: Duration = Duration::from_hours(7 * 24);

/// A snapshot, and what it holds.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) resource: proto::Snapshot,
    pub(super) unacknowledged: Vec<Arc<Message>>,
    /// The first message that was published after it was made.
    pub(super) since: u64,
}

impl Broker {
    pub(in crate::pubsub) fn create_snapshot(
        &mut self,
        request: proto::CreateSnapshotRequest,
        now: Instant,
    ) -> Result<proto::Snapshot, Error> {
        names::parse(Kind::Snapshot, &request.name)?;
        if self.snapshots.contains_key(&request.name) {
            return Err(Error::AlreadyExists(request.name));
        }
        let attached = self.attached(&request.subscription)?;
        let unacknowledged = attached.state.unacknowledged().cloned().collect();
        let resource = proto::Snapshot {
            name: request.name,
            topic: attached.resource.topic.clone(),
            expire_time: Some(self.wall(now + LIFETIME)),
            labels: request.labels,
        };
        let held = Held { resource: resource.clone(), unacknowledged, since: self.next_message };
        self.snapshots.insert(resource.name.clone(), held);
        self.snapshot_changed(&resource.name);
        self.snapshot_taken(&resource.name);
        Ok(resource)
    }

    pub(in crate::pubsub) fn snapshot(&self, name: &str) -> Result<&proto::Snapshot, Error> {
        self.held(name).map(|held| &held.resource)
    }

    /// Snapshots of a project in the order of their names, after the given one.
    pub(in crate::pubsub) fn snapshots<'a>(
        &'a self,
        project: &str,
        after: &'a str,
    ) -> Result<impl Iterator<Item = &'a proto::Snapshot> + use<'a>, Error> {
        let prefix = format!("projects/{}/snapshots/", names::parse_project(project)?);
        Ok(under(&self.snapshots, prefix, after).map(|held| &held.resource))
    }

    /// Names of a topic's snapshots, in order, after the given one.
    pub(in crate::pubsub) fn topic_snapshots(
        &self,
        topic: &str,
        after: &str,
    ) -> Result<Vec<String>, Error> {
        self.find_topic(topic)?;
        let of_topic = self.snapshots.values().filter(|held| held.resource.topic == topic);
        Ok(of_topic
            .map(|held| held.resource.name.clone())
            .filter(|name| name.as_str() > after)
            .collect())
    }

    pub(in crate::pubsub) fn update_snapshot(
        &mut self,
        request: proto::UpdateSnapshotRequest,
    ) -> Result<proto::Snapshot, Error> {
        let new = request.snapshot.unwrap_or_default();
        let mut updated = self.snapshot(&new.name)?.clone();
        for path in request.update_mask.unwrap_or_default().paths {
            match path.as_str() {
                "labels" => updated.labels.clone_from(&new.labels),
                "expire_time" => updated.expire_time = new.expire_time,
                _ => {
                    return Err(Error::Invalid(format!(
                        "update_mask names {path:?}, which cannot be changed"
                    )));
                }
            }
        }
        if let Some(held) = self.snapshots.get_mut(&new.name) {
            held.resource = updated.clone();
        }
        self.snapshot_changed(&new.name);
        Ok(updated)
    }

    pub(in crate::pubsub) fn delete_snapshot(&mut self, name: &str) -> Result<(), Error> {
        self.held(name)?;
        self.snapshots.remove(name);
        self.snapshot_changed(name);
        Ok(())
    }

    /// Has a subscription deliver what a snapshot held and what came after it, or what was
    /// published since a time. Acknowledged messages come again as far as they were kept.
    pub(in crate::pubsub) fn seek(
        &mut self,
        request: proto::SeekRequest,
        now: Instant,
    ) -> Result<(), Error> {
        let id = self.find(&request.subscription)?;
        let attached = self.attached(&request.subscription)?;
        if attached.resource.detached {
            return Err(Error::Precondition(format!(
                "{} is detached from its topic",
                request.subscription
            )));
        }
        let wanted = match request.target {
            None => return Err(Error::Invalid("a seek needs a time or a snapshot".to_owned())),
            Some(Target::Time(time)) => {
                let mut known = self.known(attached, false);
                let from = (time.seconds, time.nanos);
                known.retain(|_, message| {
                    let Timestamp { seconds, nanos } =
                        message.content.publish_time.unwrap_or_default();
                    (seconds, nanos) >= from
                });
                known
            }
            Some(Target::Snapshot(name)) => {
                let held = self.held(&name)?;
                if held.resource.topic != attached.resource.topic {
                    return Err(Error::Precondition(format!(
                        "{name} is of another topic than {}",
                        request.subscription
                    )));
                }
                let mut known = self.known(attached, true);
                known.retain(|number, _| *number >= held.since);
                // The subscription that it was made of may have taken in more.
                let settings = &attached.state.settings;
                let held = held.unacknowledged.iter().filter(|message| settings.takes(message));
                known.extend(held.map(|message| (message.number(), Arc::clone(message))));
                known
            }
        };
        if let Some(attached) = self.subscriptions.get_mut(&id) {
            attached.state.replace(wanted.into_values());
        }
        self.settle(id, now);
        Ok(())
    }

    /// Takes a subscription off its topic, for good; its messages are gone.
    pub(in crate::pubsub) fn detach(&mut self, name: &str, now: Instant) -> Result<(), Error> {
        let id = self.find(name)?;
        if let Some(attached) = self.subscriptions.get_mut(&id) {
            attached.resource.detached = true;
            attached.state.replace([]);
            if let Some(topic) = self.topics.get_mut(&attached.resource.topic) {
                topic.subscriptions.remove(&id);
            }
        }
        self.pushes_changed = true;
        self.subscription_changed(id);
        self.settle(id, now);
        Ok(())
    }

    /// Changes where a subscription is pushed, or with an empty endpoint that it is.
    pub(in crate::pubsub) fn modify_push_config(
        &mut self,
        request: proto::ModifyPushConfigRequest,
    ) -> Result<(), Error> {
        let subscription = proto::Subscription {
            name: request.subscription,
            push_config: request.push_config,
            ..proto::Subscription::default()
        };
        let update_mask = Some(prost_types::FieldMask { paths: vec!["push_config".to_owned()] });
        let request =
            proto::UpdateSubscriptionRequest { subscription: Some(subscription), update_mask };
        self.update_subscription(request).map(drop)
    }

    /// Whether messages of a topic are kept for those that may seek to them.
    pub(super) fn keeps_log(&self, name: &str) -> bool {
        let Some(topic) = self.topics.get(name) else {
            return false;
        };
        let retains = |id| {
            let attached: Option<&Attached> = self.subscriptions.get(id);
            attached.is_some_and(|attached| attached.resource.retain_acked_messages)
        };
        topic.resource.message_retention_duration.is_some()
            || topic.subscriptions.iter().any(retains)
            || self.snapshots.values().any(|held| held.resource.topic == name)
    }

    /// What a subscription may be set back to, by number: what is not acknowledged, and
    /// what is kept for it.
    fn known(&self, attached: &Attached, for_snapshot: bool) -> BTreeMap<u64, Arc<Message>> {
        let left = attached.state.unacknowledged();
        let mut known: BTreeMap<u64, Arc<Message>> =
            left.map(|message| (message.number(), Arc::clone(message))).collect();
        let Some(topic) = self.topics.get(&attached.resource.topic) else {
            return known;
        };
        let by_topic = topic.resource.message_retention_duration.is_some();
        if !(by_topic || for_snapshot || attached.resource.retain_acked_messages) {
            return known;
        }
        let kept = topic.log.iter().filter(|message| {
            (by_topic || message.number() >= attached.since)
                && attached.state.settings.takes(message)
        });
        known.extend(kept.map(|message| (message.number(), Arc::clone(message))));
        known
    }

    fn attached(&self, name: &str) -> Result<&Attached, Error> {
        let id = self.find(name)?;
        self.subscriptions.get(&id).ok_or_else(|| Error::NotFound(name.to_owned()))
    }

    fn held(&self, name: &str) -> Result<&Held, Error> {
        names::parse(Kind::Snapshot, name)?;
        self.snapshots.get(name).ok_or_else(|| Error::NotFound(name.to_owned()))
    }
}

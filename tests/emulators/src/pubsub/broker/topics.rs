//! Topics: create, look up, change, delete, publish.

use std::collections::BTreeSet;
use std::sync::Arc;

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use prost_types::Timestamp;
use tokio::time::Instant;

use super::{Broker, SubscriptionId, Topic, under};
use crate::pubsub::error::Error;
use crate::pubsub::fault::Operation;
use crate::pubsub::message::{self, Message};
use crate::pubsub::names::{self, Kind};
use crate::pubsub::settings;

impl Broker {
    pub(in crate::pubsub) fn create_topic(
        &mut self,
        resource: proto::Topic,
    ) -> Result<proto::Topic, Error> {
        names::parse(Kind::Topic, &resource.name)?;
        for (asked, what) in [
            (resource.schema_settings.is_some(), "schemas"),
            (resource.ingestion_data_source_settings.is_some(), "ingestion from other services"),
            (!resource.message_transforms.is_empty(), "message transforms"),
        ] {
            if asked {
                return Err(Error::Unimplemented(what.into()));
            }
        }
        settings::check_retention(resource.message_retention_duration)?;
        if self.topics.contains_key(&resource.name) {
            return Err(Error::AlreadyExists(resource.name));
        }
        let resource = proto::Topic { state: proto::topic::State::Active.into(), ..resource };
        self.topics.insert(
            resource.name.clone(),
            Topic { resource: resource.clone(), subscriptions: BTreeSet::new(), log: Vec::new() },
        );
        self.refresh_dead_letters(&resource.name);
        self.topic_changed(&resource.name);
        Ok(resource)
    }

    pub(in crate::pubsub) fn topic(&self, name: &str) -> Result<&proto::Topic, Error> {
        self.find_topic(name).map(|topic| &topic.resource)
    }

    /// Replaces labels and retention, as far as the mask names them.
    pub(in crate::pubsub) fn update_topic(
        &mut self,
        request: proto::UpdateTopicRequest,
    ) -> Result<proto::Topic, Error> {
        let new = request.topic.unwrap_or_default();
        let mut updated = self.topic(&new.name)?.clone();
        let paths = request.update_mask.unwrap_or_default().paths;
        if paths.is_empty() {
            return Err(Error::Invalid("update_mask must name at least one field".to_owned()));
        }
        for path in &paths {
            match path.as_str() {
                "labels" => updated.labels.clone_from(&new.labels),
                "message_storage_policy" => {
                    updated.message_storage_policy.clone_from(&new.message_storage_policy);
                }
                "kms_key_name" => updated.kms_key_name.clone_from(&new.kms_key_name),
                "message_retention_duration" => {
                    settings::check_retention(new.message_retention_duration)?;
                    updated.message_retention_duration = new.message_retention_duration;
                }
                _ => {
                    return Err(Error::Unimplemented(format!("UpdateTopic of {path}").into()));
                }
            }
        }
        if let Some(topic) = self.topics.get_mut(&new.name) {
            topic.resource = updated.clone();
        }
        self.topic_changed(&new.name);
        Ok(updated)
    }

    /// Topics of a project in the order of their names, after the given one.
    pub(in crate::pubsub) fn topics<'a>(
        &'a self,
        project: &str,
        after: &'a str,
    ) -> Result<impl Iterator<Item = &'a proto::Topic> + use<'a>, Error> {
        let prefix = format!("projects/{}/topics/", names::parse_project(project)?);
        Ok(under(&self.topics, prefix, after).map(|topic| &topic.resource))
    }

    /// Names of a topic's subscriptions, in order, after the given one.
    pub(in crate::pubsub) fn topic_subscriptions(
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
    pub(in crate::pubsub) fn delete_topic(&mut self, name: &str) -> Result<(), Error> {
        self.find_topic(name)?;
        self.access.remove(name);
        self.access_changed(name);
        let topic = self.topics.remove(name);
        self.topic_changed(name);
        for id in topic.into_iter().flat_map(|topic| topic.subscriptions) {
            if let Some(attached) = self.subscriptions.get_mut(&id) {
                names::DELETED_TOPIC.clone_into(&mut attached.resource.topic);
            }
            self.subscription_changed(id);
        }
        self.refresh_dead_letters(name);
        Ok(())
    }

    /// Publishes and returns the message IDs.
    pub(in crate::pubsub) fn publish(
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
    pub(super) fn distribute(
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
        self.counters_changed();
        if self.keeps_log(topic)
            && let Some(logged) = self.topics.get_mut(topic)
        {
            logged.log.extend(shared.iter().cloned());
            self.messages_logged(topic, &shared);
        }
        let topic = self.topics.get(topic);
        let subscriptions: Vec<SubscriptionId> =
            topic.map(|topic| topic.subscriptions.iter().copied().collect()).unwrap_or_default();
        for id in subscriptions {
            if let Some(attached) = self.subscriptions.get_mut(&id) {
                let name = &attached.resource.name;
                for message in &shared {
                    if !attached.state.settings.takes(message) {
                        continue;
                    }
                    if self.faults.strikes(Operation::Deliver, name, &message.content) {
                        attached.state.enqueue(Arc::clone(message));
                    }
                    attached.state.enqueue(Arc::clone(message));
                }
            }
            self.settle(id, now);
        }
        ids
    }

    pub(super) fn find_topic(&self, name: &str) -> Result<&Topic, Error> {
        names::parse(Kind::Topic, name)?;
        self.topics.get(name).ok_or_else(|| Error::NotFound(name.to_owned()))
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

    pub(super) fn wall(&self, now: Instant) -> Timestamp {
        let (then, wall) = self.started;
        (wall + now.saturating_duration_since(then)).into()
    }
}

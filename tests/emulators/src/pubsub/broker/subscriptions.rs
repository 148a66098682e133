//! Subscriptions: create, look up, change, delete.

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;

use super::{Attached, Attachment, Broker, under};
use crate::pubsub::error::Error;
use crate::pubsub::names;
use crate::pubsub::settings::{self, Settings};
use crate::pubsub::stats::Stats;
use crate::pubsub::subscription::Subscription;

impl Broker {
    pub(in crate::pubsub) fn create_subscription(
        &mut self,
        resource: proto::Subscription,
    ) -> Result<proto::Subscription, Error> {
        let resource = settings::complete(resource)?;
        if self.names.contains_key(&resource.name) {
            return Err(Error::AlreadyExists(resource.name));
        }
        let settings = self.read_settings(&resource)?;
        let mut state = Subscription::new(settings);
        if self.changes.are_collected() {
            state.note_changes();
        }
        let id = self.next_subscription;
        self.topics
            .get_mut(&resource.topic)
            .ok_or_else(|| Error::NotFound(resource.topic.clone()))?
            .subscriptions
            .insert(id);
        self.next_subscription += 1;
        self.pushes_changed = true;
        self.names.insert(resource.name.clone(), id);
        self.subscriptions.insert(
            id,
            Attached { resource: resource.clone(), state, wakeup: None, since: self.next_message },
        );
        self.subscription_changed(id);
        self.counters_changed();
        Ok(resource)
    }

    pub(in crate::pubsub) fn subscription(
        &self,
        name: &str,
    ) -> Result<&proto::Subscription, Error> {
        let id = self.find(name)?;
        let attached = self.subscriptions.get(&id);
        attached.map(|attached| &attached.resource).ok_or_else(|| Error::NotFound(name.to_owned()))
    }

    pub(in crate::pubsub) fn update_subscription(
        &mut self,
        request: proto::UpdateSubscriptionRequest,
    ) -> Result<proto::Subscription, Error> {
        let name = request.subscription.as_ref().map(|new| new.name.clone()).unwrap_or_default();
        let current = self.subscription(&name)?;
        let updated = settings::update(current, request)?;
        // A dead-letter topic that was deleted meanwhile must not be in the way
        // of other changes.
        let redirected = updated.dead_letter_policy != current.dead_letter_policy;
        let settings =
            if redirected { self.read_settings(&updated)? } else { settings::read(&updated)? };
        let id = self.find(&name)?;
        if let Some(attached) = self.subscriptions.get_mut(&id) {
            self.pushes_changed |= attached.resource.push_config != updated.push_config;
            attached.resource = updated.clone();
            attached.state.settings = settings;
            attached.state.dead_letter_open |= redirected;
        }
        self.subscription_changed(id);
        Ok(updated)
    }

    /// Subscriptions of a project in the order of their names, after the given one.
    pub(in crate::pubsub) fn subscriptions<'a>(
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
    pub(in crate::pubsub) fn delete_subscription(&mut self, name: &str) -> Result<(), Error> {
        let id = self.find(name)?;
        self.names.remove(name);
        self.access.remove(name);
        self.access_changed(name);
        self.pushes_changed = true;
        let Some(attached) = self.subscriptions.remove(&id) else {
            return Ok(());
        };
        self.subscription_changed(id);
        if let Some(wakeup) = attached.wakeup {
            self.wakeups.remove(&(wakeup, id));
        }
        if let Some(topic) = self.topics.get_mut(&attached.resource.topic) {
            topic.subscriptions.remove(&id);
        }
        self.woken.extend(
            attached.state.consumers().map(|consumer| Attachment { subscription: id, consumer }),
        );
        self.retired.add(&Stats {
            outstanding: 0,
            backlog: 0,
            consumers: 0,
            ..attached.state.stats()
        });
        Ok(())
    }

    /// Reads the settings and checks that the dead-letter topic exists.
    fn read_settings(&self, resource: &proto::Subscription) -> Result<Settings, Error> {
        let settings = settings::read(resource)?;
        if let Some(policy) = &settings.dead_letter {
            self.find_topic(&policy.topic)?;
        }
        Ok(settings)
    }
}

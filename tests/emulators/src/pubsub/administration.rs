//! What an operator changes beside the running fleet.

use std::ops::RangeInclusive;
use std::time::Duration;

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;

use super::{PubSub, Refused};

impl PubSub {
    /// Creates a topic, by its full name, as an operator beside the running fleet would.
    /// Subscriptions of a deleted topic of that name stay without one, as in production;
    /// as a dead-letter topic it serves again.
    ///
    /// # Errors
    ///
    /// The name is malformed or taken.
    pub fn create_topic(&self, topic: &str) -> Result<(), Refused> {
        let topic = proto::Topic { name: topic.to_owned(), ..proto::Topic::default() };
        Ok(self.engine.run(|broker, _| broker.create_topic(topic)).map(drop)?)
    }

    /// Deletes a topic, by its full name. Publishing to it is refused from now on with
    /// `NOT_FOUND`.
    ///
    /// # Errors
    ///
    /// There is no such topic.
    pub fn delete_topic(&self, topic: &str) -> Result<(), Refused> {
        Ok(self.engine.run(|broker, _| broker.delete_topic(topic))?)
    }

    /// Sets or, with `None`, removes the retry policy of a subscription, by its full name:
    /// minimum and maximum backoff. Without one, what is given back comes again at once.
    ///
    /// # Errors
    ///
    /// There is no such subscription, or the backoff is out of range.
    pub fn set_retry_policy(
        &self,
        subscription: &str,
        backoff: Option<RangeInclusive<Duration>>,
    ) -> Result<(), Refused> {
        let seconds = |duration: &Duration| prost_types::Duration::try_from(*duration).ok();
        let retry_policy = backoff.map(|backoff| proto::RetryPolicy {
            minimum_backoff: seconds(backoff.start()),
            maximum_backoff: seconds(backoff.end()),
        });
        let new = proto::Subscription { retry_policy, ..proto::Subscription::default() };
        self.change_subscription(subscription, "retry_policy", new)
    }

    /// Sets or, with `None`, removes the dead-letter policy of a subscription, by its full
    /// name: the topic's full name and the permitted attempts. Without one, deliveries
    /// carry no attempt.
    ///
    /// # Errors
    ///
    /// There is no such subscription or topic, or the attempts are out of range.
    pub fn set_dead_letter_policy(
        &self,
        subscription: &str,
        policy: Option<(&str, i32)>,
    ) -> Result<(), Refused> {
        let dead_letter_policy = policy.map(|(topic, attempts)| proto::DeadLetterPolicy {
            dead_letter_topic: topic.to_owned(),
            max_delivery_attempts: attempts,
        });
        let new = proto::Subscription { dead_letter_policy, ..proto::Subscription::default() };
        self.change_subscription(subscription, "dead_letter_policy", new)
    }

    fn change_subscription(
        &self,
        name: &str,
        field: &str,
        new: proto::Subscription,
    ) -> Result<(), Refused> {
        let request = proto::UpdateSubscriptionRequest {
            subscription: Some(proto::Subscription { name: name.to_owned(), ..new }),
            update_mask: Some(prost_types::FieldMask { paths: vec![field.to_owned()] }),
        };
        Ok(self.engine.run(|broker, _| broker.update_subscription(request)).map(drop)?)
    }
}

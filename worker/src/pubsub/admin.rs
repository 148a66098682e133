//! Creates what is missing: for emulators and first tries; production uses
//! Terraform.

use std::fmt;
use std::time::Duration;

use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::client::{SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::model::{DeadLetterPolicy, ExpirationPolicy, RetryPolicy, Subscription};

use super::Connection;

/// A subscription as it should be.
#[derive(Debug, Clone)]
pub struct SubscriptionPlan {
    /// Full name.
    pub name: String,
    /// Full name of its topic.
    pub topic: String,
    /// Full name of the topic for messages that were delivered too often.
    pub dead_topic: Option<String>,
    /// Whether messages of one key are delivered in order.
    pub ordering: bool,
    /// The first pause before a message that was given back comes again.
    pub min_backoff: Duration,
}

const ACK_DEADLINE_SECONDS: i32 = 60;
const REVIEW_ACK_DEADLINE_SECONDS: i32 = 10;
const MAX_BACKOFF: Duration = Duration::from_secs(600);
const MAX_DELIVERY_ATTEMPTS: i32 = 100;
/// How long a dead letter is kept: the most that Pub/Sub allows, and its emulator.
const REVIEW_RETENTION: Duration = Duration::from_secs(31 * 24 * 60 * 60);
const EMULATED_RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Topics and subscriptions.
pub struct Admin {
    topics: TopicAdmin,
    subscriptions: SubscriptionAdmin,
    review_retention: Duration,
}

impl Admin {
    /// Connects.
    ///
    /// # Errors
    /// A text that says what is wrong.
    pub async fn connect(connection: &Connection) -> Result<Self, String> {
        let topics = connection.of_here(TopicAdmin::builder());
        let subscriptions = connection.of_here(SubscriptionAdmin::builder());
        let text = |e| format!("the Pub/Sub client cannot be built: {e}");
        Ok(Self {
            topics: topics.build().await.map_err(text)?,
            subscriptions: subscriptions.build().await.map_err(text)?,
            review_retention: match connection.endpoint() {
                Some(_) => EMULATED_RETENTION,
                None => REVIEW_RETENTION,
            },
        })
    }

    /// Creates a topic unless it exists; whether it was created.
    ///
    /// # Errors
    /// A text that names the topic.
    pub async fn create_topic(&self, name: &str) -> Result<bool, String> {
        created(name, self.topics.create_topic().set_name(name).send().await)
    }

    /// Creates the subscription that keeps what is published to a dead topic,
    /// unless it exists; whether it was created.
    ///
    /// It has no retry policy, and the shortest deadline: what was looked at and
    /// given back, or held by a process that died, can soon be looked at again.
    ///
    /// # Errors
    /// A text that names the subscription.
    pub async fn create_review(&self, name: &str, topic: &str) -> Result<bool, String> {
        let wanted = Subscription::new()
            .set_name(name)
            .set_topic(topic)
            .set_ack_deadline_seconds(REVIEW_ACK_DEADLINE_SECONDS)
            .set_expiration_policy(ExpirationPolicy::new())
            .set_message_retention_duration(wkt(self.review_retention));
        created(name, self.subscriptions.create_subscription().with_request(wanted).send().await)
    }

    /// Creates a subscription unless one of its name exists; whether it was
    /// created. An existing one is left as it is.
    ///
    /// # Errors
    /// A text that names the subscription.
    pub async fn create_subscription(&self, plan: &SubscriptionPlan) -> Result<bool, String> {
        let mut wanted = Subscription::new()
            .set_name(&plan.name)
            .set_topic(&plan.topic)
            .set_ack_deadline_seconds(ACK_DEADLINE_SECONDS)
            .set_enable_message_ordering(plan.ordering)
            // Never expires: an idle weekend must not lose the subscription.
            .set_expiration_policy(ExpirationPolicy::new())
            .set_retry_policy(
                RetryPolicy::new()
                    .set_minimum_backoff(wkt(plan.min_backoff))
                    .set_maximum_backoff(wkt(MAX_BACKOFF)),
            );
        if let Some(topic) = &plan.dead_topic {
            wanted = wanted.set_dead_letter_policy(
                DeadLetterPolicy::new()
                    .set_dead_letter_topic(topic)
                    .set_max_delivery_attempts(MAX_DELIVERY_ATTEMPTS),
            );
        }
        created(
            &plan.name,
            self.subscriptions.create_subscription().with_request(wanted).send().await,
        )
    }
}

fn wkt(duration: Duration) -> google_cloud_wkt::Duration {
    google_cloud_wkt::Duration::try_from(duration).unwrap_or_default()
}

fn created<T>(name: &str, result: google_cloud_pubsub::Result<T>) -> Result<bool, String> {
    match result {
        Ok(_) => Ok(true),
        Err(e) if e.status().is_some_and(|s| s.code == Code::AlreadyExists) => Ok(false),
        Err(e) => Err(match e.status() {
            Some(status) => {
                format!("{name} cannot be created: {}: {}", status.code, status.message)
            }
            None => format!("{name} cannot be created: Pub/Sub cannot be reached: {e}"),
        }),
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admin")
    }
}

//! The subscription as people make it.

use std::time::Duration;

use google_cloud_auth::credentials::anonymous;
use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::client::{SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::model::{DeadLetterPolicy, RetryPolicy, Subscription};

use super::Error;
use super::error::innermost;

/// After so many deliveries a message is dead-lettered: what Pub/Sub gives a
/// subscription whose owner does not ask for more.
pub const MAX_DELIVERY_ATTEMPTS: i32 = 5;

/// Makes a topic with a subscription, and a topic for its dead letters: full names, on
/// the emulator at `pubsub` (`host:port`). What is given back comes again after a second.
/// There are no ordering keys.
///
/// # Errors
/// [`Error::Client`] or [`Error::PubSub`].
pub async fn create_subscription(
    pubsub: &str,
    topic: &str,
    subscription: &str,
    dead_topic: &str,
) -> Result<(), Error> {
    let endpoint = format!("http://{pubsub}");
    let anonymous = || anonymous::Builder::new().build();
    let built =
        |e: google_cloud_gax::client_builder::Error| Error::Client("Pub/Sub", innermost(&e));
    let topics = TopicAdmin::builder()
        .with_endpoint(&endpoint)
        .with_credentials(anonymous())
        .build()
        .await
        .map_err(built)?;
    let subscriptions = SubscriptionAdmin::builder()
        .with_endpoint(&endpoint)
        .with_credentials(anonymous())
        .build()
        .await
        .map_err(built)?;
    for name in [topic, dead_topic] {
        made(topics.create_topic().set_name(name).send().await)?;
    }
    let second = google_cloud_wkt::Duration::try_from(Duration::from_secs(1)).unwrap_or_default();
    let wanted = Subscription::new()
        .set_name(subscription)
        .set_topic(topic)
        .set_ack_deadline_seconds(10)
        .set_retry_policy(
            RetryPolicy::new().set_minimum_backoff(second).set_maximum_backoff(second),
        )
        .set_dead_letter_policy(
            DeadLetterPolicy::new()
                .set_dead_letter_topic(dead_topic)
                .set_max_delivery_attempts(MAX_DELIVERY_ATTEMPTS),
        );
    made(subscriptions.create_subscription().with_request(wanted).send().await)
}

fn made<T>(result: google_cloud_pubsub::Result<T>) -> Result<(), Error> {
    match result {
        Ok(_) => Ok(()),
        Err(e) if e.status().is_some_and(|s| s.code == Code::AlreadyExists) => Ok(()),
        Err(e) => Err(Error::PubSub(innermost(&e))),
    }
}

//! What a message looks like when it arrives at the dead-letter topic.

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::PubsubMessage;

use crate::pubsub::names::{self, Kind};
use crate::pubsub::subscription::DeadLetter;

/// A copy of the message that says where it comes from: `source` is the full name
/// of the subscription that gave it up. Its ordering key stays.
pub(super) fn forwarded(dead: &DeadLetter, source: &str) -> PubsubMessage {
    let mut message = dead.message.content.clone();
    let name = names::parse(Kind::Subscription, source).ok();
    let published = message.publish_time.map(|time| time.to_string());
    for (attribute, value) in [
        ("Subscription", name.map(|name| name.id.to_owned())),
        ("SubscriptionProject", name.map(|name| name.project.to_owned())),
        ("DeliveryCount", Some(dead.attempts.to_string())),
        ("TopicPublishTime", published),
    ] {
        let attribute = format!("CloudPubSubDeadLetterSource{attribute}");
        message.attributes.insert(attribute, value.unwrap_or_default());
    }
    message
}

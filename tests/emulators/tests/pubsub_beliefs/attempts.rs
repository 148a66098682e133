//! Delivery attempts and dead letters.
//! <https://cloud.google.com/pubsub/docs/handling-failures>

use std::sync::Arc;

use anyhow::Result;
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use tonic::Code;

use crate::scene::{Plan, Scene, Server, Stream, brief, message};

const PREFIX: &str = "CloudPubSubDeadLetterSource";

fn five_attempts() -> Plan {
    Plan { attempts: Some(5), ..Plan::default() }
}

pub(crate) async fn attempts_are_told_only_with_a_dead_letter_policy(
    server: Arc<Server>,
) -> Result<()> {
    for (attempts, told) in [(None, [0, 0]), (Some(5), [1, 2])] {
        let scene = Scene::set(&server, Plan { attempts, ..Plan::default() }).await?;
        scene.publish("", &["x"]).await?;
        let mut stream = scene.stream().await?;
        for attempt in told {
            let received = stream.next().await?;
            assert_eq!(received.attempt, attempt);
            stream.nack(&[&received]).await?;
        }
    }
    Ok(())
}

pub(crate) async fn without_a_policy_a_message_comes_for_ever(server: Arc<Server>) -> Result<()> {
    let scene = Scene::set(&server, Plan::default()).await?;
    scene.publish("", &["x"]).await?;
    nack_times(&mut scene.stream().await?, 20).await
}

/// Nacks the only message of a stream so many times.
async fn nack_times(stream: &mut Stream, times: usize) -> Result<()> {
    for _ in 0..times {
        let received = stream.next().await?;
        stream.nack(&[&received]).await?;
    }
    Ok(())
}

pub(crate) async fn the_last_permitted_attempt_is_followed_by_a_dead_letter(
    server: Arc<Server>,
) -> Result<()> {
    let scene = Scene::set(&server, five_attempts()).await?;
    let attributes = [("mine".to_owned(), "kept".to_owned())].into();
    let ids = scene.send(vec![proto::PubsubMessage { attributes, ..message("k", "x") }]).await?;
    let mut stream = scene.stream().await?;
    for attempt in 1..=5 {
        let received = stream.next().await?;
        assert_eq!((received.attempt, &received.message.message_id), (attempt, &ids[0]));
        stream.nack(&[&received]).await?;
    }
    let mut dead = scene.stream_of(&scene.dead_subscription, 0).await?;
    let dead = dead.next().await?.message;
    assert_eq!((dead.data.as_slice(), dead.ordering_key.as_str()), (b"x".as_slice(), "k"));
    assert_ne!(dead.message_id, ids[0], "a message of its own");
    let attribute = |name: &str| dead.attributes.get(name).cloned().unwrap_or_default();
    assert_eq!(attribute("mine"), "kept");
    let name = scene.subscription.rsplit('/').next().unwrap_or_default();
    assert_eq!(attribute(&format!("{PREFIX}Subscription")), name);
    assert_eq!(attribute(&format!("{PREFIX}SubscriptionProject")), "p");
    assert_eq!(attribute(&format!("{PREFIX}DeliveryCount")), "5");
    let published = attribute(&format!("{PREFIX}TopicPublishTime"));
    assert!(published.contains('T') && published.ends_with('Z'), "{published}");
    assert_eq!(dead.attributes.len(), 5);
    Ok(())
}

/// A message that cannot be forwarded stays in its subscription and is delivered on:
/// "if the dead-letter topic is deleted" on the page above.
pub(crate) async fn a_message_is_kept_while_its_dead_letter_topic_is_gone(
    server: Arc<Server>,
) -> Result<()> {
    let scene = Scene::set(&server, five_attempts()).await?;
    let topic = scene.dead_topic.clone();
    scene.publisher.clone().delete_topic(proto::DeleteTopicRequest { topic }).await?;
    scene.publish("", &["x"]).await?;
    let mut stream = scene.stream().await?;
    nack_times(&mut stream, 6).await?;
    assert!(stream.next().await?.attempt > 5);
    Ok(())
}

/// Each nack counts for its message, also while an earlier one of the key fails: whoever
/// gives a whole key back because its first message failed uses up everybody's attempts.
pub(crate) async fn whoever_is_nacked_beside_a_failing_one_of_its_key_uses_up_an_attempt(
    server: Arc<Server>,
) -> Result<()> {
    let plan = Plan { ordered: true, ..five_attempts() };
    let scene = Scene::set(&server, plan).await?;
    scene.publish("a", &["a1", "a2", "a3", "a4"]).await?;
    let mut stream = scene.stream().await?;
    for attempt in 1..=4 {
        let taken = stream.take(4).await?;
        let expected = ["a1", "a2", "a3", "a4"].map(|text| (text, attempt));
        assert_eq!(brief(&taken), expected);
        let all: Vec<_> = taken.iter().collect();
        stream.nack(&all).await?;
    }
    let last = stream.take(4).await?;
    assert_eq!(last[1].attempt, 5, "a2 never ran, and this is its last attempt");
    Ok(())
}

/// Order is not kept in a dead-letter topic. Google's emulator breaks here: the last failure
/// of a message with a key, in an ordered subscription, ends this stream and every later one
/// with `UNKNOWN`, and nothing arrives in the dead-letter topic.
pub(crate) async fn a_key_that_is_nacked_whole_becomes_dead_letters_together(
    server: Arc<Server>,
) -> Result<()> {
    let plan = Plan { ordered: true, ..five_attempts() };
    let scene = Scene::set(&server, plan).await?;
    scene.publish("a", &["a1", "a2", "a3"]).await?;
    let mut stream = scene.stream().await?;
    for _ in 0..5 {
        let taken = stream.take(3).await?;
        let all: Vec<_> = taken.iter().collect();
        stream.nack(&all).await?;
    }
    if server.is_google() {
        assert_eq!(stream.ended().await?.code(), Code::Unknown);
        return Ok(());
    }
    let mut dead = scene.stream_of(&scene.dead_subscription, 0).await?;
    let mut texts: Vec<String> = dead.take(3).await?.into_iter().map(|dead| dead.text).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["a1", "a2", "a3"], "in whatever order");
    Ok(())
}

/// <https://cloud.google.com/pubsub/docs/handling-failures#exponential_backoff>.
/// Google's emulator redelivers after the first nack at once.
pub(crate) async fn the_retry_policy_delays_what_was_nacked(server: Arc<Server>) -> Result<()> {
    let plan = Plan { attempts: Some(100), backoff: Some((20, 20)), ..Plan::default() };
    let scene = Scene::set(&server, plan).await?;
    scene.publish("", &["x"]).await?;
    let mut stream = scene.stream().await?;
    nack_times(&mut stream, server.expect(1, 2)).await?;
    let early = stream.until(Scene::one_deadline(&server)).await?;
    assert!(early.is_empty(), "after less than 20 s: {early:?}");
    assert_eq!(stream.next().await?.attempt, server.expect(2, 3));

    let policy = proto::RetryPolicy {
        minimum_backoff: Some(prost_types::Duration { seconds: 601, nanos: 0 }),
        ..proto::RetryPolicy::default()
    };
    let wrong = proto::Subscription {
        name: format!("{}-wrong", scene.subscription),
        topic: scene.topic.clone(),
        retry_policy: Some(policy),
        ..proto::Subscription::default()
    };
    let refused = scene.subscriber.clone().create_subscription(wrong).await.err();
    assert_eq!(refused.map(|status| status.code()), Some(Code::InvalidArgument));
    Ok(())
}

//! Delivery without ordering.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::model::{DeadLetterPolicy, Subscription};

use crate::fixture::{Fixture, SUBSCRIPTION, next};

#[tokio::test]
async fn a_published_message_is_received_and_acknowledged() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.publish(&[("", "hello")]).await?;

    let mut stream = fixture.subscribe().await?;
    let (message, handler) = stream.next().await.context("a message")??;
    assert_eq!(message.data, "hello");
    assert!(!message.message_id.is_empty());
    assert!(message.publish_time.is_some());
    assert_eq!(handler.delivery_attempt(), None);
    handler.ack();

    let stats = fixture.pubsub.wait_for(|stats| stats.acknowledged == 1).await;
    assert_eq!((stats.published, stats.deliveries), (1, 1));
    assert_eq!((stats.backlog, stats.outstanding), (0, 0));
    Ok(())
}

#[tokio::test]
async fn a_waiting_stream_gets_what_is_published_later() -> Result<()> {
    let fixture = Fixture::start().await?;
    let mut stream = fixture.subscribe().await?;
    let (received, published) = tokio::join!(next(&mut stream), fixture.publish(&[("", "later")]));
    published?;
    assert_eq!(received?.0, "later");
    Ok(())
}

#[tokio::test]
async fn a_dropped_handler_brings_the_message_back() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.publish(&[("", "again")]).await?;
    let mut stream = fixture.subscribe().await?;
    drop(next(&mut stream).await?);
    let (text, handler) = next(&mut stream).await?;
    assert_eq!(text, "again");
    handler.ack();
    let stats = fixture.pubsub.wait_for(|stats| stats.backlog == 0).await;
    assert_eq!((stats.nacked, stats.redeliveries), (1, 1));
    Ok(())
}

#[tokio::test]
async fn flow_control_lets_no_more_out_than_asked_for() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.publish(&[("", "1"), ("", "2"), ("", "3"), ("", "4"), ("", "5")]).await?;
    let subscriber = fixture.subscriber().await?;
    let mut stream = subscriber.subscribe(SUBSCRIPTION).set_max_outstanding_messages(2).build();
    let mut seen = HashSet::new();
    for (batch, expected) in [(2, 2), (2, 2), (1, 1)] {
        let mut handlers = Vec::new();
        for _ in 0..batch {
            let (text, handler) = next(&mut stream).await?;
            assert!(seen.insert(text));
            handlers.push(handler);
        }
        // The server leases before it sends, so nothing can be on its way.
        assert_eq!(fixture.pubsub.stats().outstanding, expected);
        for handler in handlers {
            handler.ack();
        }
    }
    let stats = fixture.pubsub.wait_for(|stats| stats.backlog == 0).await;
    assert_eq!((stats.deliveries, stats.redeliveries), (5, 0));
    Ok(())
}

#[tokio::test]
async fn two_streams_share_a_subscription() -> Result<()> {
    let fixture = Fixture::start().await?;
    let subscriber = fixture.subscriber().await?;
    let stream = || subscriber.subscribe(SUBSCRIPTION).set_max_outstanding_messages(1).build();
    fixture.publish(&[("", "1"), ("", "2"), ("", "3")]).await?;
    let (mut one, mut two) = (stream(), stream());
    let (first, _hold_first) = next(&mut one).await?;
    let (second, hold_second) = next(&mut two).await?;
    assert_ne!(first, second);
    hold_second.ack();
    let (third, hold_third) = next(&mut two).await?;
    assert_eq!(third, "3");
    hold_third.ack();
    let stats = fixture.pubsub.wait_for(|stats| stats.backlog == 1).await;
    assert_eq!((stats.deliveries, stats.outstanding), (3, 1));
    Ok(())
}

#[tokio::test]
async fn a_subscriber_of_nothing_is_told_so() -> Result<()> {
    let fixture = Fixture::empty().await?;
    let mut stream = fixture.subscribe().await?;
    let error = stream.next().await.context("an error")?;
    let error = error.err().context("not a message")?;
    let status = error.status().context("a gRPC status")?;
    assert_eq!(status.code, Code::NotFound);
    assert!(stream.next().await.is_none());
    Ok(())
}

#[tokio::test]
async fn a_stream_ends_with_its_subscription() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.publish(&[("", "last")]).await?;
    let mut stream = fixture.subscribe().await?;
    let (_, handler) = next(&mut stream).await?;
    handler.ack();
    let admin = fixture.subscriptions().await?;
    let delete = admin.delete_subscription().set_subscription(SUBSCRIPTION);
    let (ended, deleted) = tokio::join!(stream.next(), delete.send());
    deleted?;
    let error = ended.context("an error")?.err().context("not a message")?;
    assert_eq!(error.status().map(|status| status.code), Some(Code::NotFound));
    Ok(())
}

#[tokio::test]
async fn a_failing_message_ends_in_the_dead_letter_topic() -> Result<()> {
    const DEAD_TOPIC: &str = "projects/test/topics/dead";
    const GRAVES: &str = "projects/test/subscriptions/graves";

    let fixture = Fixture::empty().await?;
    let topics = fixture.topics().await?;
    for name in [crate::fixture::TOPIC, DEAD_TOPIC] {
        topics.create_topic().set_name(name).send().await?;
    }
    let admin = fixture.subscriptions().await?;
    let policy =
        DeadLetterPolicy::new().set_dead_letter_topic(DEAD_TOPIC).set_max_delivery_attempts(5);
    for subscription in [
        Subscription::new()
            .set_name(SUBSCRIPTION)
            .set_topic(crate::fixture::TOPIC)
            .set_dead_letter_policy(policy),
        Subscription::new().set_name(GRAVES).set_topic(DEAD_TOPIC),
    ] {
        admin.create_subscription().with_request(subscription).send().await?;
    }
    fixture.publish(&[("", "hopeless")]).await?;

    let mut stream = fixture.subscribe().await?;
    for attempt in 1..=5 {
        let (_, handler) = next(&mut stream).await?;
        assert_eq!(handler.delivery_attempt(), Some(attempt));
        handler.nack();
    }
    let mut graves = fixture.subscriber().await?.subscribe(GRAVES).build();
    let (message, handler) = graves.next().await.context("a message")??;
    handler.ack();
    assert_eq!(message.data, "hopeless");
    let source = message.attributes.get("CloudPubSubDeadLetterSourceSubscription");
    assert_eq!(source.map(String::as_str), Some("workers"));

    let stats =
        fixture.pubsub.wait_for_subscription(SUBSCRIPTION, |stats| stats.backlog == 0).await;
    assert_eq!((stats.dead_lettered, stats.nacked), (1, 5));
    Ok(())
}

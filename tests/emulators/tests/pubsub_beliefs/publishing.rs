//! What a topic takes, and what the official client makes of a refusal.
//! <https://cloud.google.com/pubsub/quotas#resource_limits>

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use google_cloud_auth::credentials::anonymous::Builder as Anonymous;
use google_cloud_pubsub::client::Publisher;
use google_cloud_pubsub::error::PublishError;
use google_cloud_pubsub::model::Message;
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::PubsubMessage;
use tonic::Code;

use crate::scene::{Plan, Scene, Server, brief, message};

fn attribute(name: String, value: String) -> PubsubMessage {
    PubsubMessage { attributes: [(name, value)].into(), ..message("", "x") }
}

fn attributes(count: usize) -> PubsubMessage {
    let attributes = (0..count).map(|n| (format!("name-{n}"), "value".to_owned())).collect();
    PubsubMessage { attributes, ..message("", "x") }
}

/// The service refuses what is beyond its limits, with `INVALID_ARGUMENT`. Google's emulator
/// knows only the number of messages and that an empty one is no message.
pub(crate) async fn limits_of_a_message(server: Arc<Server>) -> Result<()> {
    let scene = Scene::set(&server, Plan::default()).await?;
    let data = |bytes| message("", &"x".repeat(bytes));
    let within: [(&str, Vec<PubsubMessage>); 6] = [
        ("9,999,950 bytes", vec![data(9_999_950)]),
        ("100 attributes", vec![attributes(100)]),
        ("a name of 256 bytes", vec![attribute("n".repeat(256), "v".to_owned())]),
        ("a value of 1,024 bytes", vec![attribute("n".to_owned(), "v".repeat(1_024))]),
        ("an ordering key of 1,024 bytes", vec![message(&"k".repeat(1_024), "x")]),
        ("1,000 messages", vec![message("", "x"); 1_000]),
    ];
    for (what, messages) in within {
        scene.send(messages).await.context(what)?;
    }
    let beyond: [(&str, Vec<PubsubMessage>, bool); 8] = [
        ("10,000,001 bytes", vec![data(10_000_001)], false),
        ("10,000,001 bytes in two", vec![data(5_000_001), data(5_000_000)], false),
        ("101 attributes", vec![attributes(101)], false),
        ("a name of 257 bytes", vec![attribute("n".repeat(257), "v".to_owned())], false),
        ("a value of 1,025 bytes", vec![attribute("n".to_owned(), "v".repeat(1_025))], false),
        ("an ordering key of 1,025 bytes", vec![message(&"k".repeat(1_025), "x")], false),
        ("neither data nor attributes", vec![PubsubMessage::default()], true),
        ("1,001 messages", vec![message("", "x"); 1_001], true),
    ];
    for (what, messages, by_google) in beyond {
        let refused = scene.send(messages).await.err().map(|status| status.code());
        let expected = server.expect(true, by_google).then_some(Code::InvalidArgument);
        assert_eq!(refused, expected, "{what}");
    }
    Ok(())
}

pub(crate) async fn one_bad_message_refuses_its_whole_batch(server: Arc<Server>) -> Result<()> {
    let scene = Scene::set(&server, Plan::default()).await?;
    let batch = vec![message("", "good"), PubsubMessage::default(), message("", "good, too")];
    let refused = scene.send(batch).await.err().context("one is empty")?;
    assert_eq!(refused.code(), Code::InvalidArgument);
    scene.publish("", &["after"]).await?;
    let mut stream = scene.stream().await?;
    let came = stream.until(Scene::one_deadline(&server)).await?;
    assert!(came.iter().all(|received| received.text == "after"), "{:?}", brief(&came));
    assert!(!came.is_empty());
    Ok(())
}

/// The official client, with a batch that is complete with so many messages.
async fn publisher(server: &Server, topic: &str, batch: u32) -> Result<Publisher> {
    Ok(Publisher::builder(topic)
        .with_endpoint(server.endpoint())
        .with_credentials(Anonymous::new().build())
        .set_message_count_threshold(batch)
        .set_delay_threshold(Duration::from_secs(50))
        .build()
        .await?)
}

fn good(text: &str) -> Message {
    Message::new().set_data(text.as_bytes().to_vec())
}

/// The client cannot tell which message was meant: it fails them all. Alone, each is
/// judged for itself.
pub(crate) async fn a_refused_batch_is_told_to_each_of_its_messages(
    server: Arc<Server>,
) -> Result<()> {
    let scene = Scene::set(&server, Plan::default()).await?;
    let together = publisher(&server, &scene.topic, 3).await?;
    let batch = [good("1"), Message::new(), good("3")].map(|message| together.publish(message));
    for published in batch {
        assert!(matches!(published.await, Err(PublishError::Rpc(_))));
    }
    let alone = publisher(&server, &scene.topic, 1).await?;
    let each = [good("1"), Message::new(), good("3")].map(|message| alone.publish(message));
    let mut taken = Vec::new();
    for published in each {
        taken.push(published.await.is_ok());
    }
    assert_eq!(taken, [true, false, true]);
    Ok(())
}

pub(crate) async fn a_missing_topic_takes_nothing(server: Arc<Server>) -> Result<()> {
    let mut scene = Scene::set(&server, Plan::default()).await?;
    scene.topic.push_str("-missing");
    let refused = scene.send(vec![message("", "x")]).await.err().context("no such topic")?;
    assert_eq!(refused.code(), Code::NotFound);
    Ok(())
}

/// <https://cloud.google.com/pubsub/docs/publisher#ordering_keys>: after a failure the client
/// refuses the key by itself, for innocent messages as well, until it is told to resume.
pub(crate) async fn a_failed_publish_pauses_its_ordering_key(server: Arc<Server>) -> Result<()> {
    let mut scene = Scene::set(&server, Plan::default()).await?;
    let topic = format!("{}-later", scene.topic);
    let publisher = publisher(&server, &topic, 1).await?;
    let keyed = |text: &str| publisher.publish(good(text).set_ordering_key("k"));
    assert!(matches!(keyed("1").await, Err(PublishError::Rpc(_))), "no such topic");
    scene.create_topic(&topic).await?;
    assert!(matches!(keyed("2").await, Err(PublishError::OrderingKeyPaused)));
    publisher.publish(good("without a key")).await?;
    publisher.resume_publish("k");
    keyed("3").await?;
    Ok(())
}

//! Servers and connections that misbehave, as the official client sees them.

use anyhow::{Context as _, Result};
use emulators::proxy::{Mode, Proxy};
use emulators::pubsub::{Fault, Operation};
use google_cloud_gax::error::rpc::Code as ClientCode;
use google_cloud_pubsub::error::PublishError;
use google_cloud_pubsub::model::Message;
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use proto::publisher_client::PublisherClient;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::fixture::{Fixture, SUBSCRIPTION, TOPIC, next};

fn code(error: &PublishError) -> Option<ClientCode> {
    match error {
        PublishError::Rpc(error) => error.status().map(|status| status.code),
        _ => None,
    }
}

async fn publish(fixture: &Fixture, text: &str, job: &str) -> Result<String, PublishError> {
    let publisher = fixture.publisher().await.map_err(|_| PublishError::Shutdown)?;
    let message = Message::new().set_data(text.as_bytes().to_vec()).set_attributes([("job", job)]);
    publisher.publish(message).await
}

#[tokio::test]
async fn a_topic_refuses_until_it_is_lifted() -> Result<()> {
    let fixture = Fixture::start().await?;
    let refusal = Fault::refusal(Code::NotFound).on(Operation::Publish).about(TOPIC);
    let refusal = fixture.pubsub.inject(refusal);
    for struck in 1..=2 {
        let error = publish(&fixture, "x", "1").await.err().context("refused")?;
        assert_eq!(code(&error), Some(ClientCode::NotFound));
        assert_eq!(refusal.count(), struck);
    }
    refusal.lift();
    publish(&fixture, "x", "1").await?;
    assert_eq!(fixture.pubsub.stats().published, 1);
    Ok(())
}

#[tokio::test]
async fn one_message_is_refused_for_itself() -> Result<()> {
    let fixture = Fixture::start().await?;
    let poison = Fault::refusal(Code::InvalidArgument).with_attribute("job", "2").times(1);
    let poison = fixture.pubsub.inject(poison);
    publish(&fixture, "x", "1").await?;
    let error = publish(&fixture, "x", "2").await.err().context("refused")?;
    assert_eq!(code(&error), Some(ClientCode::InvalidArgument));
    assert_eq!(poison.count(), 1);
    publish(&fixture, "x", "2").await?;
    let long = Fault::refusal(Code::InvalidArgument).matching(|message| message.data.len() > 3);
    fixture.pubsub.inject(long);
    publish(&fixture, "abc", "3").await?;
    assert!(publish(&fixture, "abcd", "3").await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_lost_reply_leaves_the_message_published() -> Result<()> {
    let fixture = Fixture::start().await?;
    let lost = fixture.pubsub.inject(Fault::lost_reply().on(Operation::Publish).times(1));
    let channel = Endpoint::from_shared(fixture.endpoint())?.connect().await?;
    let request = proto::PublishRequest {
        topic: TOPIC.to_owned(),
        messages: vec![proto::PubsubMessage {
            data: b"x".to_vec(),
            ..proto::PubsubMessage::default()
        }],
    };
    assert!(PublisherClient::new(channel).publish(request).await.is_err());
    lost.hits(1).await;
    assert_eq!(fixture.pubsub.stats().published, 1);
    Ok(())
}

#[tokio::test]
async fn a_forgotten_acknowledgement_brings_the_message_back() -> Result<()> {
    let fixture = Fixture::start().await?;
    let forgotten = fixture.pubsub.inject(Fault::forgotten().about(SUBSCRIPTION).times(1));
    fixture.publish(&[("", "x")]).await?;
    let mut stream = fixture.subscribe().await?;
    next(&mut stream).await?.1.ack();
    forgotten.hits(1).await;
    assert_eq!(fixture.pubsub.stats().acknowledged, 0);
    fixture.pubsub.expire_leases(SUBSCRIPTION)?;
    let (text, handler) = next(&mut stream).await?;
    assert_eq!(text, "x");
    handler.ack();
    fixture.pubsub.wait_for(|stats| stats.acknowledged == 1).await;
    Ok(())
}

#[tokio::test]
async fn a_duplicate_has_the_message_id_and_an_ack_id_of_its_own() -> Result<()> {
    let fixture = Fixture::start().await?;
    let doubled = fixture.pubsub.inject(Fault::duplicated().about(SUBSCRIPTION).times(1));
    fixture.publish(&[("", "1"), ("", "2")]).await?;
    let mut stream = fixture.subscribe().await?;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (message, handler) = stream.next().await.context("a delivery")??;
        ids.push(message.message_id);
        handler.ack();
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), doubled.count()), (2, 1));
    fixture.pubsub.wait_for(|stats| stats.acknowledged == 3).await;
    Ok(())
}

#[tokio::test]
async fn streams_end_with_a_code_and_the_client_opens_another() -> Result<()> {
    let fixture = Fixture::start().await?;
    let mut stream = fixture.subscribe().await?;
    fixture.publish(&[("", "before")]).await?;
    let (_, held) = next(&mut stream).await?;
    fixture.pubsub.end_streams(SUBSCRIPTION, Code::Unavailable)?;
    let (again, published) = tokio::join!(next(&mut stream), fixture.publish(&[("", "after")]));
    published?;
    let (text, handler) = again?;
    assert_eq!(text, "after");
    handler.ack();
    held.ack();
    fixture.pubsub.wait_for(|stats| stats.acknowledged == 2).await;

    let denied =
        fixture.pubsub.inject(Fault::refusal(Code::PermissionDenied).on(Operation::Receive));
    fixture.pubsub.end_streams(SUBSCRIPTION, Code::PermissionDenied)?;
    let error = stream.next().await.context("an error")?.err().context("not a message")?;
    assert_eq!(error.status().map(|status| status.code), Some(ClientCode::PermissionDenied));
    denied.lift();
    Ok(())
}

#[tokio::test]
async fn looks_over_rest_meet_their_faults() -> Result<()> {
    let fixture = Fixture::start().await?;
    let topics = fixture.topics().await?;
    let look = || topics.get_topic().set_topic(TOPIC).send();
    let denied = fixture
        .pubsub
        .inject(Fault::refusal(Code::PermissionDenied).on(Operation::Get).about(TOPIC).times(1));
    assert_eq!(look().await.err().and_then(|error| error.http_status_code()), Some(403));
    assert_eq!(denied.count(), 1);
    assert_eq!(look().await?.name, TOPIC);
    fixture.pubsub.delete_topic(TOPIC)?;
    assert_eq!(look().await.err().and_then(|error| error.http_status_code()), Some(404));
    fixture.pubsub.create_topic(TOPIC)?;
    assert_eq!(look().await?.name, TOPIC);
    assert!(fixture.pubsub.create_topic(TOPIC).is_err(), "the name is taken");
    Ok(())
}

#[tokio::test]
async fn policies_change_beside_the_running_fleet() -> Result<()> {
    use std::time::Duration;
    let fixture = Fixture::start().await?;
    let admin = fixture.subscriptions().await?;
    let get = || admin.get_subscription().set_subscription(SUBSCRIPTION).send();
    let backoff = Duration::from_secs(10)..=Duration::from_mins(10);
    fixture.pubsub.set_retry_policy(SUBSCRIPTION, Some(backoff))?;
    fixture.pubsub.set_dead_letter_policy(SUBSCRIPTION, Some((TOPIC, 7)))?;
    let set = get().await?;
    assert!(set.retry_policy.is_some());
    assert_eq!(set.dead_letter_policy.map(|policy| policy.max_delivery_attempts), Some(7));
    fixture.pubsub.set_retry_policy(SUBSCRIPTION, None)?;
    fixture.pubsub.set_dead_letter_policy(SUBSCRIPTION, None)?;
    let unset = get().await?;
    assert!(unset.retry_policy.is_none() && unset.dead_letter_policy.is_none());
    assert!(fixture.pubsub.set_dead_letter_policy(SUBSCRIPTION, Some((TOPIC, 4))).is_err());
    Ok(())
}

#[tokio::test]
async fn an_address_that_closes_or_swallows_works_again_afterwards() -> Result<()> {
    let fixture = Fixture::start().await?;
    let proxy = Proxy::start(fixture.pubsub.address()).await?;
    let connect = async || {
        let endpoint = Endpoint::from_shared(format!("http://{}", proxy.address()))?;
        anyhow::Ok(PublisherClient::new(endpoint.connect().await?))
    };
    let look = || proto::GetTopicRequest { topic: TOPIC.to_owned() };
    let mut client = connect().await?;
    client.get_topic(look()).await?;

    proxy.set(Mode::Close);
    assert!(client.get_topic(look()).await.is_err());
    let before = proxy.connections();
    assert!(connect().await.is_err() || client.get_topic(look()).await.is_err());
    proxy.accepted(before + 1).await;

    proxy.set(Mode::Pass);
    let mut client = connect().await?;
    client.get_topic(look()).await?;
    proxy.set(Mode::Swallow);
    let silent = client.get_topic(look());
    tokio::pin!(silent);
    // Another connection shows that time has passed while nothing came.
    let mut direct =
        PublisherClient::new(Endpoint::from_shared(fixture.endpoint())?.connect().await?);
    for _ in 0..100 {
        tokio::select! {
            biased;
            answer = &mut silent => anyhow::bail!("it was answered: {answer:?}"),
            looked = direct.get_topic(look()) => drop(looked?),
        }
    }
    proxy.set(Mode::Pass);
    assert!(silent.await.is_err(), "what was swallowed is lost");
    connect().await?.get_topic(look()).await?;
    Ok(())
}

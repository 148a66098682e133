//! Subscriptions that promise exactly-once delivery: every ack ID has a result.

use anyhow::{Context as _, Result};
use google_cloud_pubsub::model::Subscription;
use google_cloud_pubsub::subscriber::handler::{ExactlyOnce, Handler};
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use proto::subscriber_client::SubscriberClient;
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};

use crate::fixture::{Fixture, SUBSCRIPTION, next};

async fn exactly_once(ordered: bool) -> Result<Fixture> {
    let subscription = Subscription::new().set_enable_exactly_once_delivery(true);
    Fixture::with(subscription.set_enable_message_ordering(ordered)).await
}

fn promised(handler: Handler) -> Result<ExactlyOnce> {
    match handler {
        Handler::ExactlyOnce(handler) => Ok(handler),
        _ => anyhow::bail!("delivered without the promise"),
    }
}

async fn generic(fixture: &Fixture) -> Result<SubscriberClient<Channel>> {
    let channel = Endpoint::from_shared(fixture.endpoint())?.connect().await?;
    Ok(SubscriberClient::new(channel))
}

async fn pull(client: &mut SubscriberClient<Channel>) -> Result<Vec<String>> {
    let request = proto::PullRequest {
        subscription: SUBSCRIPTION.to_owned(),
        max_messages: 10,
        ..proto::PullRequest::default()
    };
    let pulled = client.pull(request).await?.into_inner().received_messages;
    Ok(pulled.into_iter().map(|received| received.ack_id).collect())
}

fn acknowledge(ack_ids: &[&String]) -> proto::AcknowledgeRequest {
    proto::AcknowledgeRequest {
        subscription: SUBSCRIPTION.to_owned(),
        ack_ids: ack_ids.iter().map(|&id| id.clone()).collect(),
    }
}

#[tokio::test]
async fn the_official_client_learns_that_its_acknowledgement_took_effect() -> Result<()> {
    let fixture = exactly_once(false).await?;
    let settings = fixture.subscriptions().await?;
    let settings = settings.get_subscription().set_subscription(SUBSCRIPTION).send().await?;
    assert!(settings.enable_exactly_once_delivery);
    fixture.publish(&[("", "once")]).await?;
    let mut stream = fixture.subscribe().await?;
    let (text, handler) = next(&mut stream).await?;
    assert_eq!(text, "once");
    promised(handler)?.confirmed_ack().await?;
    let stats = fixture.pubsub.stats();
    assert_eq!((stats.acknowledged, stats.backlog), (1, 0), "true when it is told");
    Ok(())
}

#[tokio::test]
async fn the_official_client_learns_that_its_acknowledgement_came_too_late() -> Result<()> {
    let fixture = exactly_once(false).await?;
    fixture.publish(&[("", "late")]).await?;
    let mut stream = fixture.subscribe().await?;
    let (_, late) = next(&mut stream).await?;
    fixture.pubsub.expire_leases(SUBSCRIPTION)?;
    let (_, current) = next(&mut stream).await?;
    let refused = promised(late)?.confirmed_ack().await;
    assert!(refused.is_err(), "its lease had ended");
    assert_eq!(fixture.pubsub.stats().acknowledged, 0);
    promised(current)?.confirmed_ack().await?;
    let stats = fixture.pubsub.stats();
    assert_eq!((stats.acknowledged, stats.expired, stats.backlog), (1, 1, 0));
    Ok(())
}

#[tokio::test]
async fn a_unary_request_names_what_failed_and_carries_out_the_rest() -> Result<()> {
    let fixture = exactly_once(false).await?;
    fixture.publish(&[("", "1"), ("", "2")]).await?;
    let mut client = generic(&fixture).await?;
    let old = pull(&mut client).await?;
    fixture.pubsub.expire_leases(SUBSCRIPTION)?;
    let new = pull(&mut client).await?;
    assert_eq!((old.len(), new.len()), (2, 2));

    let mixed = acknowledge(&[&old[0], &new[0]]);
    let refused = client.acknowledge(mixed).await.err().context("one is late")?;
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let details = String::from_utf8_lossy(refused.details()).into_owned();
    assert!(details.contains("type.googleapis.com/google.rpc.ErrorInfo"), "{details}");
    assert!(details.contains("PERMANENT_FAILURE_INVALID_ACK_ID"), "{details}");
    assert!(details.contains(&old[0]) && !details.contains(&new[0]), "{details}");
    assert_eq!(fixture.pubsub.stats().acknowledged, 1, "the other took effect");
    client.acknowledge(acknowledge(&[&new[0]])).await.context("told the same again")?;

    let extend = |id: &String| proto::ModifyAckDeadlineRequest {
        subscription: SUBSCRIPTION.to_owned(),
        ack_ids: vec![id.clone()],
        ack_deadline_seconds: 60,
    };
    client.modify_ack_deadline(extend(&new[1])).await?;
    let refused = client.modify_ack_deadline(extend(&old[1])).await;
    assert_eq!(refused.err().context("late")?.code(), Code::FailedPrecondition);
    Ok(())
}

#[tokio::test]
async fn messages_of_a_key_are_acknowledged_in_order() -> Result<()> {
    let fixture = exactly_once(true).await?;
    fixture.publish(&[("k", "1"), ("k", "2"), ("k", "3")]).await?;
    let mut client = generic(&fixture).await?;
    let ids = pull(&mut client).await?;
    let refused = client.acknowledge(acknowledge(&[&ids[1]])).await.err().context("early")?;
    let details = String::from_utf8_lossy(refused.details()).into_owned();
    assert!(details.contains("TRANSIENT_FAILURE_UNORDERED_ACK_ID"), "{details}");
    client.acknowledge(acknowledge(&[&ids[1], &ids[0]])).await.context("together")?;
    client.acknowledge(acknowledge(&[&ids[2]])).await?;
    assert_eq!(fixture.pubsub.stats().backlog, 0);
    Ok(())
}

async fn stream(
    fixture: &Fixture,
    protocol_version: i64,
) -> Result<(Sender<proto::StreamingPullRequest>, Streaming<proto::StreamingPullResponse>)> {
    let (requests, receiver) = mpsc::channel(8);
    let first = proto::StreamingPullRequest {
        subscription: SUBSCRIPTION.to_owned(),
        stream_ack_deadline_seconds: 10,
        protocol_version,
        ..proto::StreamingPullRequest::default()
    };
    requests.send(first).await?;
    let mut client = generic(fixture).await?;
    let responses = client.streaming_pull(ReceiverStream::new(receiver)).await?;
    Ok((requests, responses.into_inner()))
}

#[tokio::test]
async fn a_stream_confirms_what_was_sent_on_it() -> Result<()> {
    let fixture = exactly_once(false).await?;
    fixture.publish(&[("", "1"), ("", "2")]).await?;
    let (requests, mut responses) = stream(&fixture, 0).await?;
    let mut ids = Vec::new();
    while ids.len() < 2 {
        let response = responses.message().await?.context("a response")?;
        let properties = response.subscription_properties.context("set")?;
        assert!(properties.exactly_once_delivery_enabled);
        ids.extend(response.received_messages.into_iter().map(|received| received.ack_id));
    }
    let send = |request| async { requests.send(request).await };
    send(proto::StreamingPullRequest {
        ack_ids: vec![ids[0].clone()],
        modify_deadline_ack_ids: vec![ids[1].clone()],
        modify_deadline_seconds: vec![30],
        ..proto::StreamingPullRequest::default()
    })
    .await?;
    let response = responses.message().await?.context("a response")?;
    assert!(response.received_messages.is_empty());
    assert_eq!(response.acknowledge_confirmation.context("set")?.ack_ids, ids[..1]);
    assert_eq!(response.modify_ack_deadline_confirmation.context("set")?.ack_ids, ids[1..]);

    fixture.pubsub.expire_leases(SUBSCRIPTION)?;
    let again = responses.message().await?.context("a response")?;
    assert_eq!(again.received_messages.len(), 1);
    send(proto::StreamingPullRequest {
        ack_ids: vec![ids[1].clone()],
        ..proto::StreamingPullRequest::default()
    })
    .await?;
    let response = responses.message().await?.context("the stream goes on")?;
    let confirmation = response.acknowledge_confirmation.context("set")?;
    assert_eq!(confirmation.invalid_ack_ids, ids[1..]);
    assert!(confirmation.ack_ids.is_empty());
    Ok(())
}

#[tokio::test]
async fn the_promise_can_be_made_and_taken_back() -> Result<()> {
    let fixture = Fixture::start().await?;
    let admin = fixture.subscriptions().await?;
    for promised in [true, false] {
        let subscription =
            Subscription::new().set_name(SUBSCRIPTION).set_enable_exactly_once_delivery(promised);
        let mask = google_cloud_wkt::FieldMask::default()
            .set_paths(["enableExactlyOnceDelivery".to_owned()]);
        let update = admin.update_subscription().set_subscription(subscription);
        update.set_update_mask(mask).send().await?;
        fixture.publish(&[("", "x")]).await?;
        let (_requests, mut responses) = stream(&fixture, 0).await?;
        let response = responses.message().await?.context("a response")?;
        let properties = response.subscription_properties.context("set")?;
        assert_eq!(properties.exactly_once_delivery_enabled, promised);
    }
    Ok(())
}

#[tokio::test]
async fn an_idle_stream_of_version_1_has_heartbeats() -> Result<()> {
    let fixture = Fixture::start().await?;
    let (_requests, mut responses) = stream(&fixture, 1).await?;
    fixture.pubsub.wait_for(|stats| stats.consumers == 1).await;
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    for _ in 0..2 {
        let beat = responses.message().await?.context("a heartbeat")?;
        assert!(beat.received_messages.is_empty());
        assert!(beat.subscription_properties.is_some());
    }
    let waited = started.elapsed().as_secs();
    assert!((59..=62).contains(&waited), "{waited} s for two");
    Ok(())
}

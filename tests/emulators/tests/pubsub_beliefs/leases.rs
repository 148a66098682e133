//! Ack deadlines: extended, lapsed, and told about.
//! <https://cloud.google.com/pubsub/docs/lease-management>

use std::sync::Arc;

use anyhow::{Context as _, Result};
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use tonic::Code;

use crate::scene::{Plan, Received, Scene, Server, Stream, brief};

/// A message that was delivered once, with a dead-letter policy that counts.
async fn delivered(server: &Server, plan: Plan) -> Result<(Scene, Stream, Received)> {
    let scene = Scene::set(server, Plan { attempts: Some(100), ..plan }).await?;
    scene.publish("", &["x"]).await?;
    let mut stream = scene.stream().await?;
    let received = stream.next().await?;
    Ok((scene, stream, received))
}

pub(crate) async fn an_extended_lease_outlives_the_deadline(server: Arc<Server>) -> Result<()> {
    let (_scene, mut stream, received) = delivered(&server, Plan::default()).await?;
    stream.extend(&[&received], 60).await?;
    let early = stream.until(Scene::one_deadline(&server)).await?;
    assert!(early.is_empty(), "{early:?}");
    stream.extend(&[&received], 10).await?;
    assert_eq!(stream.next().await?.attempt, 2, "an extension may also shorten");
    Ok(())
}

pub(crate) async fn a_lapsed_lease_brings_the_message_back(server: Arc<Server>) -> Result<()> {
    let (_scene, mut stream, first) = delivered(&server, Plan::default()).await?;
    let again = stream.next().await?;
    assert_eq!((again.text.as_str(), again.attempt), ("x", 2), "an expiry counts like a nack");
    assert_eq!(again.message.message_id, first.message.message_id);
    assert_ne!(again.ack_id, first.ack_id);
    Ok(())
}

/// The service says that such an acknowledgement may succeed
/// (<https://cloud.google.com/pubsub/docs/reference/rpc/google.pubsub.v1#acknowledgerequest>),
/// so nobody may count on either. Both emulators take it and redeliver.
pub(crate) async fn an_acknowledgement_after_the_deadline_has_no_effect_on_the_next_delivery(
    server: Arc<Server>,
) -> Result<()> {
    let (scene, mut stream, first) = delivered(&server, Plan::default()).await?;
    stream.next().await?;
    let late = proto::AcknowledgeRequest {
        subscription: scene.subscription.clone(),
        ack_ids: vec![first.ack_id],
    };
    scene.subscriber.clone().acknowledge(late).await.context("it is not refused")?;
    assert_eq!(stream.next().await?.attempt, 3);
    Ok(())
}

/// <https://cloud.google.com/pubsub/docs/exactly-once-delivery>. The failed ones are named
/// in an `ErrorInfo`; Google's emulator puts it into another code.
pub(crate) async fn exactly_once_tells_which_acknowledgement_failed(
    server: Arc<Server>,
) -> Result<()> {
    let plan = Plan { exactly_once: true, ..Plan::default() };
    let (scene, mut stream, first) = delivered(&server, plan).await?;
    let mut client = scene.subscriber.clone();
    let again = stream.next().await?;
    let request = |received: &Received| proto::AcknowledgeRequest {
        subscription: scene.subscription.clone(),
        ack_ids: vec![received.ack_id.clone()],
    };
    let status = client.acknowledge(request(&first)).await.err().context("its lease lapsed")?;
    assert_eq!(status.code(), server.expect(Code::FailedPrecondition, Code::InvalidArgument));
    let details = String::from_utf8_lossy(status.details());
    assert!(details.contains("PERMANENT_FAILURE_INVALID_ACK_ID"), "{status:?}");
    assert!(details.contains(&first.ack_id), "{status:?}");
    client.acknowledge(request(&again)).await.context("its lease runs")?;
    let after = stream.until(Scene::one_deadline(&server)).await?;
    assert!(after.is_empty(), "{:?}", brief(&after));
    Ok(())
}

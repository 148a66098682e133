//! How a stream ends, and what becomes of what it delivered.
//! <https://cloud.google.com/pubsub/docs/pull#streamingpull_api>

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use emulators::proxy::{Mode, Proxy};
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use tonic::Code;

use crate::scene::{Plan, Received, Scene, Server, Stream, by_key};

const TEXTS: [&str; 4] = ["1", "2", "3", "4"];

fn counted(ordered: bool) -> Plan {
    Plan { ordered, attempts: Some(100), ..Plan::default() }
}

/// A scene with four messages of each key.
async fn published(server: &Server, keys: &[&str]) -> Result<Scene> {
    let scene = Scene::set(server, counted(keys != [""])).await?;
    for key in keys {
        scene.publish(key, &TEXTS).await?;
    }
    Ok(scene)
}

/// Reads everything of a scene through a proxy whose address then closes: the connection
/// is gone without a word, as that of a killed process is.
async fn killed(server: &Server, scene: &Scene, messages: usize) -> Result<()> {
    let proxy = Proxy::start(server.address).await?;
    let mut stream = Stream::open(proxy.address(), &scene.subscription, 0).await?;
    stream.take(messages).await?;
    proxy.set(Mode::Close);
    assert_ne!(stream.ended().await?.code(), Code::Ok);
    Ok(())
}

/// Leases end at their deadline whoever holds them:
/// <https://cloud.google.com/pubsub/docs/lease-management>. Google's emulator goes on
/// serving a stream whose client is gone, in turn with the others, so messages come late.
pub(crate) async fn a_killed_client_s_messages_come_back(server: Arc<Server>) -> Result<()> {
    let scene = published(&server, &[""]).await?;
    killed(&server, &scene, 4).await?;
    let mut second = scene.stream().await?;
    let again = after_a_lost_client(&server, &mut second, 4).await?;
    assert_attempts(&server, &again);
    Ok(())
}

/// In order, too; but Google's emulator keeps some keys for the client that is gone.
pub(crate) async fn a_killed_client_s_ordered_messages_come_back(
    server: Arc<Server>,
) -> Result<()> {
    let keys = ["a", "b", "c"];
    let scene = published(&server, &keys).await?;
    killed(&server, &scene, 12).await?;
    let mut second = scene.stream().await?;
    let again = after_a_lost_client(&server, &mut second, 12).await?;
    assert_attempts(&server, &again);
    if !server.is_google() {
        assert_eq!(by_key(&again), keys.map(|key| (key, TEXTS.to_vec())).into());
    }
    Ok(())
}

/// Everything from the embedded emulator; from Google's whatever comes within two deadlines.
async fn after_a_lost_client(
    server: &Server,
    stream: &mut Stream,
    messages: usize,
) -> Result<Vec<Received>> {
    if !server.is_google() {
        return stream.take(messages).await;
    }
    let two_deadlines = async {
        Scene::one_deadline(server).await?;
        Scene::one_deadline(server).await
    };
    stream.until(two_deadlines).await
}

/// The lease that was lost counts as an attempt, and on Google's emulator every one that
/// it gave to the client that is gone.
fn assert_attempts(server: &Server, again: &[Received]) {
    let attempts: HashMap<&str, i32> =
        again.iter().map(|received| (received.text.as_str(), received.attempt)).collect();
    if server.is_google() {
        assert!(attempts.values().all(|attempt| *attempt >= 2), "{attempts:?}");
    } else {
        assert!(attempts.values().all(|attempt| *attempt == 2), "{attempts:?}");
    }
}

/// The client ends its requests first and waits for the server: both servers serve the
/// stream no more, and what it held comes back after one deadline, in order.
pub(crate) async fn a_half_closed_stream_ends_and_its_messages_come_back(
    server: Arc<Server>,
) -> Result<()> {
    for keys in [&[""][..], &["a", "b"]] {
        let scene = published(&server, keys).await?;
        let mut first = scene.stream().await?;
        let held = first.take(4 * keys.len()).await?;
        first.half_close().await?;
        let mut second = scene.stream().await?;
        let again = second.take(held.len()).await?;
        assert!(again.iter().all(|received| received.attempt == 2), "{again:?}");
        if keys != [""] {
            assert!(by_key(&again).values().all(|texts| *texts == TEXTS), "{again:?}");
        }
    }
    Ok(())
}

/// A cancelled call is over. Google's emulator goes on serving it all the same: messages
/// are delivered to nobody and use up their attempts.
pub(crate) async fn a_cancelled_stream_is_served_no_more(server: Arc<Server>) -> Result<()> {
    let scene = published(&server, &[""]).await?;
    let mut first = scene.stream().await?;
    first.take(4).await?;
    drop(first);
    Scene::one_deadline(&server).await?;
    Scene::one_deadline(&server).await?;
    let mut second = scene.stream().await?;
    let again = after_a_lost_client(&server, &mut second, 4).await?;
    if server.is_google() {
        assert!(again.iter().all(|received| received.attempt > 2), "{again:?}");
    } else {
        assert!(again.iter().all(|received| received.attempt == 2), "{again:?}");
    }
    Ok(())
}

/// Messages on an open stream are delivered whether or not the client reads them, and each
/// deadline that passes is an attempt. Pausing therefore means closing the stream.
pub(crate) async fn an_open_and_unread_stream_burns_attempts(server: Arc<Server>) -> Result<()> {
    let scene = published(&server, &[""]).await?;
    let unread = scene.stream().await?;
    Scene::one_deadline(&server).await?;
    Scene::one_deadline(&server).await?;
    unread.half_close().await?;
    let again = scene.stream().await?.take(4).await?;
    assert!(again.iter().all(|received| received.attempt >= 3), "{again:?}");

    let closed = published(&server, &[""]).await?;
    closed.stream().await?.half_close().await?;
    Scene::one_deadline(&server).await?;
    let fresh = closed.stream().await?.take(4).await?;
    let attempts: Vec<i32> = fresh.iter().map(|received| received.attempt).collect();
    assert!(
        attempts.iter().all(|attempt| *attempt <= 2),
        "without a stream nothing burns: {fresh:?}"
    );
    Ok(())
}

/// <https://cloud.google.com/pubsub/docs/flow-control>. Google's emulator sends everything.
pub(crate) async fn flow_control_holds_back_what_was_not_asked_for(
    server: Arc<Server>,
) -> Result<()> {
    let scene = Scene::set(&server, counted(false)).await?;
    let texts: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    scene.publish("", &texts.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let mut stream = scene.stream_of(&scene.subscription, 2).await?;
    if server.is_google() {
        stream.take(10).await?;
        return Ok(());
    }
    let first = stream.take(2).await?;
    stream.extend(&first.iter().collect::<Vec<_>>(), 60).await?;
    let more = stream.until(Scene::one_deadline(&server)).await?;
    assert!(more.is_empty(), "{more:?}");
    stream.ack(&[&first[0]]).await?;
    stream.next().await?;
    Ok(())
}

pub(crate) async fn a_stream_ends_with_its_subscription(server: Arc<Server>) -> Result<()> {
    let scene = published(&server, &[""]).await?;
    let mut stream = scene.stream().await?;
    stream.take(4).await?;
    let subscription = scene.subscription.clone();
    let delete = proto::DeleteSubscriptionRequest { subscription };
    scene.subscriber.clone().delete_subscription(delete).await?;
    assert_eq!(stream.ended().await?.code(), Code::NotFound);
    let ended = scene.stream().await?.ended().await?.code();
    assert_eq!(ended, Code::NotFound);
    Ok(())
}

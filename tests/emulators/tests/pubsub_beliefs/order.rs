//! Messages of one ordering key. <https://cloud.google.com/pubsub/docs/ordering>

use std::sync::Arc;

use anyhow::Result;

use crate::scene::{Plan, Scene, Server, Stream, brief, by_key};

fn ordered() -> Plan {
    Plan { ordered: true, attempts: Some(100), ..Plan::default() }
}

/// Messages of one key, delivered once and held.
async fn held(scene: &Scene, texts: &[&str]) -> Result<(Stream, Vec<crate::scene::Received>)> {
    scene.publish("a", texts).await?;
    let mut stream = scene.stream().await?;
    let first = stream.take(texts.len()).await?;
    assert!(first.iter().zip(texts).all(|(received, text)| received.text == *text));
    Ok((stream, first))
}

pub(crate) async fn messages_of_a_key_come_in_the_order_of_publishing(
    server: Arc<Server>,
) -> Result<()> {
    let scene = Scene::set(&server, ordered()).await?;
    for n in 0..10 {
        for key in ["a", "b"] {
            scene.publish(key, &[&format!("{key}{n}")]).await?;
        }
    }
    let taken = scene.stream().await?.take(20).await?;
    for (key, texts) in by_key(&taken) {
        let expected: Vec<String> = (0..10).map(|n| format!("{key}{n}")).collect();
        assert_eq!(texts, expected);
    }
    Ok(())
}

/// Nothing in the service serialises a key: who must not run two of its messages at once
/// has to see to that.
pub(crate) async fn the_next_message_of_a_key_does_not_wait_for_the_acknowledgement_of_the_last(
    server: Arc<Server>,
) -> Result<()> {
    let scene = Scene::set(&server, ordered()).await?;
    let (mut stream, _held) = held(&scene, &["a1"]).await?;
    scene.publish("a", &["a2"]).await?;
    assert_eq!(brief(&stream.take(1).await?), [("a2", 1)]);
    Ok(())
}

/// The service redelivers every later message of the key with it ("Redelivery" on the
/// page above). Google's emulator brings back that message alone, at once and out of order.
pub(crate) async fn a_nack_brings_back_the_later_messages_of_its_key(
    server: Arc<Server>,
) -> Result<()> {
    let scene = Scene::set(&server, ordered()).await?;
    let (mut stream, first) = held(&scene, &["a1", "a2", "a3", "a4"]).await?;
    stream.nack(&[&first[0]]).await?;
    if server.is_google() {
        assert_eq!(brief(&stream.take(1).await?), [("a1", 2)]);
        stream.nack(&[&first[2]]).await?;
        assert_eq!(brief(&stream.take(1).await?), [("a3", 2)], "before a2, which is held");
    } else {
        let again = stream.take(4).await?;
        // Attempts are nacks and expiries of the very message:
        // https://cloud.google.com/pubsub/docs/reference/rpc/google.pubsub.v1#deadletterpolicy
        assert_eq!(brief(&again), [("a1", 2), ("a2", 1), ("a3", 1), ("a4", 1)]);
    }
    Ok(())
}

/// "Including acknowledged messages", says the page above. Google's emulator does not.
pub(crate) async fn a_message_that_was_acknowledged_behind_a_nacked_one_comes_again(
    server: Arc<Server>,
) -> Result<()> {
    let scene = Scene::set(&server, ordered()).await?;
    let (mut stream, first) = held(&scene, &["a1", "a2"]).await?;
    stream.ack(&[&first[1]]).await?;
    stream.nack(&[&first[0]]).await?;
    let again = stream.take(1).await?;
    assert_eq!(brief(&again), [("a1", 2)]);
    if server.is_google() {
        stream.ack(&[&again[0]]).await?;
        let after = stream.until(Scene::one_deadline(&server)).await?;
        assert!(after.is_empty(), "{after:?}");
    } else {
        assert_eq!(brief(&stream.take(1).await?), [("a2", 1)]);
    }
    Ok(())
}

/// An expiry brings the rest of the key along on both, what was acknowledged or extended
/// included. Google's emulator counts an attempt for those, too; by the documentation only
/// what was nacked or expired itself is counted.
pub(crate) async fn an_expired_message_brings_back_the_later_ones_of_its_key(
    server: Arc<Server>,
) -> Result<()> {
    let scene = Scene::set(&server, ordered()).await?;
    let (mut stream, first) = held(&scene, &["a1", "a2", "a3"]).await?;
    stream.ack(&[&first[1]]).await?;
    stream.extend(&[&first[2]], 60).await?;
    let again = stream.take(3).await?;
    let beside = server.expect(1, 2);
    assert_eq!(brief(&again), [("a1", 2), ("a2", beside), ("a3", beside)]);
    Ok(())
}

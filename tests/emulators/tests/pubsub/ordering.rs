//! Ordering keys.

use std::collections::HashMap;
use std::sync::Mutex;

use anyhow::Result;
use google_cloud_pubsub::subscriber::MessageStream;
use tokio_util::sync::CancellationToken;

use crate::fixture::{Fixture, SUBSCRIPTION, next};

#[tokio::test]
async fn messages_of_a_key_arrive_in_order_before_any_ack() -> Result<()> {
    let fixture = Fixture::ordered().await?;
    fixture.publish(&[("k", "1"), ("k", "2"), ("k", "3")]).await?;
    let mut stream = fixture.subscribe().await?;
    let mut handlers = Vec::new();
    for expected in ["1", "2", "3"] {
        let (text, handler) = next(&mut stream).await?;
        assert_eq!(text, expected);
        handlers.push(handler);
    }
    assert_eq!(fixture.pubsub.stats().outstanding, 3);
    Ok(())
}

#[tokio::test]
async fn a_nack_brings_back_the_later_messages_of_its_key() -> Result<()> {
    let fixture = Fixture::ordered().await?;
    fixture.publish(&[("k", "1"), ("k", "2"), ("k", "3"), ("other", "x")]).await?;
    let mut stream = fixture.subscribe().await?;
    let mut first = HashMap::new();
    for _ in 0..4 {
        let (text, handler) = next(&mut stream).await?;
        first.insert(text, handler);
    }
    let mut handle = |text| first.remove(text).expect("received");
    handle("3").ack();
    handle("x").ack();
    fixture.pubsub.wait_for(|stats| stats.acknowledged == 2).await;
    handle("2").nack();
    for expected in ["2", "3"] {
        let (text, handler) = next(&mut stream).await?;
        assert_eq!(text, expected);
        handler.ack();
    }
    handle("1").ack();
    let stats = fixture.pubsub.wait_for(|stats| stats.backlog == 0).await;
    assert_eq!((stats.nacked, stats.redeliveries), (1, 2));
    Ok(())
}

/// Nobody gives anything back, so everything arrives once and in order, however
/// the two streams share the keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_streams_receive_many_keys_once_and_in_order() -> Result<()> {
    const KEYS: usize = 50;
    const MESSAGES: usize = 5_000;

    let fixture = Fixture::ordered().await?;
    let keys: Vec<String> = (0..KEYS).map(|key| format!("key-{key}")).collect();
    let messages: Vec<(&str, String)> =
        (0..MESSAGES).map(|number| (keys[number % KEYS].as_str(), number.to_string())).collect();
    let subscriber = fixture.subscriber().await?;
    let open = || subscriber.subscribe(SUBSCRIPTION).set_max_outstanding_messages(200).build();
    let received = Mutex::new(Vec::with_capacity(MESSAGES));
    let done = CancellationToken::new();
    let (published, one, two) = tokio::join!(
        fixture.publish(&messages),
        receive(open(), &received, MESSAGES, &done),
        receive(open(), &received, MESSAGES, &done),
    );
    published?;
    assert_eq!(one? + two?, MESSAGES);

    let stats = fixture.pubsub.wait_for(|stats| stats.backlog == 0).await;
    assert_eq!((stats.deliveries, stats.redeliveries), (MESSAGES as u64, 0));
    let mut next_of_key: HashMap<usize, usize> = (0..KEYS).map(|key| (key, key)).collect();
    for number in received.into_inner().expect("no panic") {
        let next = next_of_key.get_mut(&(number % KEYS)).expect("a known key");
        assert_eq!(number, *next);
        *next += KEYS;
    }
    Ok(())
}

/// Receives and acknowledges until `received` is complete; how many it were here.
async fn receive(
    mut stream: MessageStream,
    received: &Mutex<Vec<usize>>,
    total: usize,
    done: &CancellationToken,
) -> Result<usize> {
    let mut count = 0;
    loop {
        let (text, handler) = tokio::select! {
            message = next(&mut stream) => message?,
            () = done.cancelled() => break,
        };
        count += 1;
        let complete = {
            let mut received = received.lock().expect("no panic");
            received.push(text.parse()?);
            received.len() == total
        };
        handler.ack();
        if complete {
            done.cancel();
        }
    }
    // Dropping the stream would give back what is acknowledged but not yet sent.
    stream.shutdown_token().shutdown().await;
    Ok(count)
}

//! Delivery without ordering.

use anyhow::{Context as _, Result};

use crate::fixture::{Fixture, SUBSCRIPTION, text};

#[tokio::test]
async fn a_published_message_is_received_and_acknowledged() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.publish(&[("", "hello")]).await?;

    let mut stream = fixture.subscriber().await?.subscribe(SUBSCRIPTION).build();
    let (message, handler) = stream.next().await.context("a message")??;
    assert_eq!(text(&message), "hello");
    assert!(!message.message_id.is_empty());
    assert!(message.publish_time.is_some());
    assert_eq!(handler.delivery_attempt(), None);
    handler.ack();

    let stats = fixture
        .pubsub
        .wait_for(|stats| stats.acknowledged == 1)
        .await;
    assert_eq!((stats.published, stats.deliveries), (1, 1));
    assert_eq!((stats.backlog, stats.outstanding), (0, 0));
    Ok(())
}

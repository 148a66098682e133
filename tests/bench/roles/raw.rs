//! A subscriber over plain gRPC that does as little as can be done: what it reaches
//! is what the server can do.

use anyhow::Context as _;
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use proto::subscriber_client::SubscriberClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::ground::Place;

use super::{Stopwatch, say};

/// As many as the server answers at once are acknowledged at once.
pub(super) async fn run(place: Place, jobs: u64, outstanding: usize) -> anyhow::Result<()> {
    let channel = Endpoint::from_shared(format!("http://{}", place.pubsub))?.connect().await?;
    let (requests, receiver) = mpsc::channel(64);
    requests
        .send(proto::StreamingPullRequest {
            subscription: place.subscription,
            stream_ack_deadline_seconds: 60,
            max_outstanding_messages: i64::try_from(outstanding)?,
            ..proto::StreamingPullRequest::default()
        })
        .await?;
    let mut client = SubscriberClient::new(channel).max_decoding_message_size(64 << 20);
    let mut responses = client.streaming_pull(ReceiverStream::new(receiver)).await?.into_inner();
    let (mut watch, mut done) = (None, 0);
    while done < jobs {
        let response = responses.message().await?.context("the stream ended")?;
        watch.get_or_insert_with(Stopwatch::start);
        done += response.received_messages.len() as u64;
        let ack_ids = response.received_messages.into_iter().map(|m| m.ack_id).collect();
        let ack = proto::StreamingPullRequest { ack_ids, ..Default::default() };
        requests.send(ack).await?;
    }
    let work = watch.context("no jobs")?.stop(done);
    drop(requests);
    // The server has read the last acknowledgement when it ends the stream.
    while responses.message().await?.is_some() {}
    say(&work)
}

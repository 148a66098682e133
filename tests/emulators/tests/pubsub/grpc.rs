//! What the official client does not send: requests on an open stream, `Pull`,
//! administration over gRPC.

use anyhow::{Context as _, Result};
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use proto::publisher_client::PublisherClient;
use proto::subscriber_client::SubscriberClient;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};

use crate::fixture::{Fixture, SUBSCRIPTION, TOPIC};

type Responses = Streaming<proto::StreamingPullResponse>;

async fn channel(fixture: &Fixture) -> Result<Channel> {
    Ok(Endpoint::from_shared(fixture.endpoint())?.connect().await?)
}

fn first_request() -> proto::StreamingPullRequest {
    proto::StreamingPullRequest {
        subscription: SUBSCRIPTION.to_owned(),
        stream_ack_deadline_seconds: 10,
        ..proto::StreamingPullRequest::default()
    }
}

async fn open(
    fixture: &Fixture,
    first: proto::StreamingPullRequest,
) -> Result<(Sender<proto::StreamingPullRequest>, Responses)> {
    let (requests, receiver) = mpsc::channel(8);
    requests.send(first).await?;
    let mut client = SubscriberClient::new(channel(fixture).await?);
    let responses = client.streaming_pull(ReceiverStream::new(receiver)).await?;
    Ok((requests, responses.into_inner()))
}

#[tokio::test]
async fn a_stream_takes_acks_and_deadlines() -> Result<()> {
    let fixture = Fixture::ordered().await?;
    fixture.publish(&[("k", "1"), ("k", "2")]).await?;
    let (requests, mut responses) = open(&fixture, first_request()).await?;
    let response = responses.message().await?.context("a response")?;
    let properties = response.subscription_properties.context("set")?;
    assert!(properties.message_ordering_enabled);
    assert!(!properties.exactly_once_delivery_enabled);
    let ids: Vec<String> =
        response.received_messages.into_iter().map(|received| received.ack_id).collect();
    assert_eq!(ids.len(), 2);
    requests
        .send(proto::StreamingPullRequest {
            ack_ids: vec![ids[0].clone()],
            modify_deadline_ack_ids: vec![ids[1].clone()],
            modify_deadline_seconds: vec![0],
            ..proto::StreamingPullRequest::default()
        })
        .await?;
    let again = responses.message().await?.context("a response")?;
    assert_eq!(again.received_messages.len(), 1);
    let stats = fixture.pubsub.stats();
    assert_eq!((stats.acknowledged, stats.nacked), (1, 1));

    drop(requests);
    assert!(responses.message().await?.is_none(), "ended by the client");
    Ok(())
}

#[tokio::test]
async fn a_wrong_request_ends_the_stream() -> Result<()> {
    let fixture = Fixture::start().await?;
    let keepalive = proto::StreamingPullRequest::default();
    for wrong in [
        first_request(),
        proto::StreamingPullRequest { ack_ids: vec!["what".to_owned()], ..keepalive.clone() },
        proto::StreamingPullRequest { modify_deadline_seconds: vec![10], ..keepalive.clone() },
        proto::StreamingPullRequest { max_outstanding_messages: 5, ..keepalive.clone() },
    ] {
        let (requests, mut responses) = open(&fixture, first_request()).await?;
        requests.send(keepalive.clone()).await?;
        requests.send(wrong).await?;
        let status = responses.message().await.err().context("a status")?;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let no_deadline =
        proto::StreamingPullRequest { stream_ack_deadline_seconds: 0, ..first_request() };
    assert!(open(&fixture, no_deadline).await.is_err());
    Ok(())
}

#[tokio::test]
async fn stopping_ends_streams_and_pulls() -> Result<()> {
    let fixture = Fixture::start().await?;
    let (_requests, mut responses) = open(&fixture, first_request()).await?;
    let mut client = SubscriberClient::new(channel(&fixture).await?);
    let pull = client.pull(proto::PullRequest {
        subscription: SUBSCRIPTION.to_owned(),
        max_messages: 1,
        ..proto::PullRequest::default()
    });
    let mut official = fixture.subscribe().await?;
    let address = fixture.pubsub.address();
    let stop = async {
        fixture.pubsub.wait_for(|stats| stats.consumers == 3).await;
        fixture.pubsub.stop().await;
    };
    let stop = async {
        tokio::select! {
            _ = official.next() => panic!("the official client retries until it is dropped"),
            () = stop => {}
        }
    };
    let (streamed, pulled, ()) = tokio::join!(responses.message(), pull, stop);
    assert_eq!(streamed.err().context("a status")?.code(), Code::Unavailable);
    assert_eq!(pulled.err().context("a status")?.code(), Code::Unavailable);
    let connected = TcpStream::connect(address).await;
    assert!(connected.is_err(), "nobody listens any more");
    Ok(())
}

#[tokio::test]
async fn dropping_the_handle_stops_the_server() -> Result<()> {
    let fixture = Fixture::start().await?;
    let (_requests, mut responses) = open(&fixture, first_request()).await?;
    drop(fixture);
    let status = responses.message().await.err().context("a status")?;
    assert_eq!(status.code(), Code::Unavailable);
    Ok(())
}

#[tokio::test]
async fn a_pull_takes_what_is_there_up_to_its_maximum() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.publish(&[("", "1"), ("", "2"), ("", "3")]).await?;
    let mut client = SubscriberClient::new(channel(&fixture).await?);
    let mut request = proto::PullRequest {
        subscription: SUBSCRIPTION.to_owned(),
        max_messages: 2,
        ..proto::PullRequest::default()
    };
    let first = client.pull(request.clone()).await?.into_inner();
    assert_eq!(first.received_messages.len(), 2);
    let second = client.pull(request.clone()).await?.into_inner();
    assert_eq!(second.received_messages.len(), 1);
    let ack_ids = [first, second]
        .into_iter()
        .flat_map(|response| response.received_messages)
        .map(|received| received.ack_id);
    let acknowledge = proto::AcknowledgeRequest {
        subscription: SUBSCRIPTION.to_owned(),
        ack_ids: ack_ids.collect(),
    };
    client.acknowledge(acknowledge).await?;
    assert_eq!(fixture.pubsub.stats().backlog, 0);

    #[expect(deprecated, reason = "clients still send it")]
    {
        request.return_immediately = true;
    }
    let nothing = client.pull(request.clone()).await?.into_inner();
    assert!(nothing.received_messages.is_empty());
    request.max_messages = 0;
    let refused = client.pull(request).await.err().context("a status")?;
    assert_eq!(refused.code(), Code::InvalidArgument);
    Ok(())
}

#[tokio::test]
async fn a_waiting_pull_gets_what_is_published_later() -> Result<()> {
    let fixture = Fixture::start().await?;
    let mut client = SubscriberClient::new(channel(&fixture).await?);
    let pull = client.pull(proto::PullRequest {
        subscription: SUBSCRIPTION.to_owned(),
        max_messages: 10,
        ..proto::PullRequest::default()
    });
    let (pulled, published) = tokio::join!(pull, fixture.publish(&[("", "later")]));
    published?;
    assert_eq!(pulled?.into_inner().received_messages.len(), 1);
    Ok(())
}

#[tokio::test]
async fn administration_works_over_grpc_too() -> Result<()> {
    let fixture = Fixture::start().await?;
    let mut publisher = PublisherClient::new(channel(&fixture).await?);
    let get = proto::GetTopicRequest { topic: TOPIC.to_owned() };
    assert_eq!(publisher.get_topic(get).await?.into_inner().name, TOPIC);
    let again = proto::Topic { name: TOPIC.to_owned(), ..proto::Topic::default() };
    let status = publisher.create_topic(again).await.err().context("taken")?;
    assert_eq!(status.code(), Code::AlreadyExists);
    let empty = proto::PublishRequest {
        topic: TOPIC.to_owned(),
        messages: vec![proto::PubsubMessage::default()],
    };
    let status = publisher.publish(empty).await.err().context("empty")?;
    assert_eq!(status.code(), Code::InvalidArgument);

    let mut subscriber = SubscriberClient::new(channel(&fixture).await?);
    let list = proto::ListSubscriptionsRequest {
        project: "projects/test".to_owned(),
        ..proto::ListSubscriptionsRequest::default()
    };
    let listed = subscriber.list_subscriptions(list).await?.into_inner();
    assert_eq!(listed.subscriptions[0].name, SUBSCRIPTION);
    let seek = proto::SeekRequest { subscription: SUBSCRIPTION.to_owned(), target: None };
    let status = subscriber.seek(seek).await.err().context("refused")?;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("a time or a snapshot"));
    Ok(())
}

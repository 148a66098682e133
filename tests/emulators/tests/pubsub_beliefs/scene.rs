//! One case's own topic and subscription, and a client that sends just what it is told.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use proto::PubsubMessage;
use proto::publisher_client::PublisherClient;
use proto::subscriber_client::SubscriberClient;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

/// No case waits longer than this for one thing: six of the shortest ack deadlines.
const PATIENCE: Duration = Duration::from_mins(1);
/// The shortest ack deadline that the service accepts, in seconds.
const DEADLINE: i32 = 10;

/// Which server a case runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The embedded emulator, which is to agree with the service's documentation.
    Embedded,
    /// Google's emulator.
    Google,
}

/// A server under test.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// What is expected, where the servers differ.
    pub(crate) fn expect<T>(&self, embedded: T, google: T) -> T {
        match self.kind {
            Kind::Embedded => embedded,
            Kind::Google => google,
        }
    }

    pub(crate) fn is_google(&self) -> bool {
        self.kind == Kind::Google
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A connection of its own.
    pub(crate) async fn connect(&self) -> Result<Channel> {
        connect(self.address).await
    }
}

pub(crate) async fn connect(address: SocketAddr) -> Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?.connect().await?)
}

/// How a scene's subscription is set.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) ordered: bool,
    /// Permitted delivery attempts; a dead-letter policy is set with them.
    pub(crate) attempts: Option<i32>,
    /// Minimum and maximum backoff in seconds.
    pub(crate) backoff: Option<(i64, i64)>,
    pub(crate) exactly_once: bool,
    pub(crate) filter: &'static str,
}

/// A topic and a subscription that no other case has.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    address: SocketAddr,
    pub(crate) publisher: PublisherClient<Channel>,
    pub(crate) subscriber: SubscriberClient<Channel>,
    pub(crate) topic: String,
    pub(crate) subscription: String,
    pub(crate) dead_topic: String,
    pub(crate) dead_subscription: String,
}

impl Scene {
    pub(crate) async fn set(server: &Server, plan: Plan) -> Result<Self> {
        static SCENES: AtomicU64 = AtomicU64::new(0);
        let number = SCENES.fetch_add(1, Ordering::Relaxed);
        let full = |collection, name: &str| format!("projects/p/{collection}/{name}-{number}");
        let channel = server.connect().await?;
        let limit = 32 << 20;
        let mut scene = Self {
            address: server.address,
            publisher: PublisherClient::new(channel.clone()),
            subscriber: SubscriberClient::new(channel).max_decoding_message_size(limit),
            topic: full("topics", "jobs"),
            subscription: full("subscriptions", "workers"),
            dead_topic: full("topics", "dead"),
            dead_subscription: full("subscriptions", "dead"),
        };
        for topic in [scene.topic.clone(), scene.dead_topic.clone()] {
            scene.create_topic(&topic).await?;
        }
        let dead = proto::Subscription {
            name: scene.dead_subscription.clone(),
            topic: scene.dead_topic.clone(),
            ..proto::Subscription::default()
        };
        scene.subscriber.create_subscription(dead).await?;
        let workers = scene.planned(plan);
        scene.subscriber.create_subscription(workers).await?;
        Ok(scene)
    }

    /// The subscription as it is planned.
    fn planned(&self, plan: Plan) -> proto::Subscription {
        let seconds = |seconds| prost_types::Duration { seconds, nanos: 0 };
        proto::Subscription {
            name: self.subscription.clone(),
            topic: self.topic.clone(),
            ack_deadline_seconds: DEADLINE,
            enable_message_ordering: plan.ordered,
            enable_exactly_once_delivery: plan.exactly_once,
            filter: plan.filter.to_owned(),
            dead_letter_policy: plan.attempts.map(|attempts| proto::DeadLetterPolicy {
                dead_letter_topic: self.dead_topic.clone(),
                max_delivery_attempts: attempts,
            }),
            retry_policy: plan.backoff.map(|(minimum, maximum)| proto::RetryPolicy {
                minimum_backoff: Some(seconds(minimum)),
                maximum_backoff: Some(seconds(maximum)),
            }),
            ..proto::Subscription::default()
        }
    }

    pub(crate) async fn create_topic(&mut self, name: &str) -> Result<()> {
        let topic = proto::Topic { name: name.to_owned(), ..proto::Topic::default() };
        self.publisher.create_topic(topic).await?;
        Ok(())
    }

    /// Publishes in one request.
    pub(crate) async fn send(&self, messages: Vec<PubsubMessage>) -> Result<Vec<String>, Status> {
        let request = proto::PublishRequest { topic: self.topic.clone(), messages };
        let published = self.publisher.clone().publish(request).await?;
        Ok(published.into_inner().message_ids)
    }

    /// Publishes texts with an ordering key ("" for none), in one request.
    pub(crate) async fn publish(&self, key: &str, texts: &[&str]) -> Result<()> {
        self.send(texts.iter().map(|text| message(key, text)).collect()).await?;
        Ok(())
    }

    /// A stream with a connection of its own and no flow control.
    pub(crate) async fn stream(&self) -> Result<Stream> {
        Stream::open(self.address, &self.subscription, 0).await
    }

    pub(crate) async fn stream_of(&self, subscription: &str, outstanding: i64) -> Result<Stream> {
        Stream::open(self.address, subscription, outstanding).await
    }

    /// Completes when an ack deadline has passed on the server: a message of another
    /// subscription, delivered after this was called, was delivered again.
    pub(crate) async fn one_deadline(server: &Server) -> Result<()> {
        let clock = Self::set(server, Plan::default()).await?;
        clock.publish("", &["tick"]).await?;
        let mut stream = clock.stream().await?;
        stream.next().await?;
        let again = stream.next().await?;
        stream.ack(&[&again]).await
    }
}

pub(crate) fn message(key: &str, text: &str) -> PubsubMessage {
    PubsubMessage { data: text.into(), ordering_key: key.to_owned(), ..PubsubMessage::default() }
}

/// A delivery.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) text: String,
    /// 0 where none is told.
    pub(crate) attempt: i32,
    pub(crate) ack_id: String,
    pub(crate) message: PubsubMessage,
}

/// An open `StreamingPull`. Dropping it cancels it and closes its connection.
#[derive(Debug)]
pub(crate) struct Stream {
    requests: mpsc::Sender<proto::StreamingPullRequest>,
    responses: Responses,
    arrived: VecDeque<Received>,
}

/// The response side. Google's emulator tells nothing of it before the first message, so
/// that a call may be under way for long.
#[derive(Debug)]
enum Responses {
    Opening(AbortOnDropHandle<Result<Streaming<proto::StreamingPullResponse>, Status>>),
    Open(Box<Streaming<proto::StreamingPullResponse>>),
}

impl Responses {
    /// The next response. Cancel safe.
    async fn message(&mut self) -> Result<Option<proto::StreamingPullResponse>, Status> {
        loop {
            match self {
                Self::Open(responses) => return responses.message().await,
                Self::Opening(call) => {
                    let opened = call.await.map_err(|panic| Status::unknown(panic.to_string()))?;
                    *self = Self::Open(Box::new(opened?));
                }
            }
        }
    }
}

impl Stream {
    /// Opens a stream; `outstanding` 0 asks for no flow control.
    pub(crate) async fn open(
        address: SocketAddr,
        subscription: &str,
        outstanding: i64,
    ) -> Result<Self> {
        let (requests, receiver) = mpsc::channel(64);
        let first = proto::StreamingPullRequest {
            subscription: subscription.to_owned(),
            stream_ack_deadline_seconds: DEADLINE,
            max_outstanding_messages: outstanding,
            ..proto::StreamingPullRequest::default()
        };
        requests.send(first).await?;
        let client = SubscriberClient::new(connect(address).await?);
        let mut client = client.max_decoding_message_size(32 << 20);
        let call = tokio::spawn(async move {
            let opened = client.streaming_pull(ReceiverStream::new(receiver)).await;
            opened.map(Response::into_inner)
        });
        let responses = Responses::Opening(AbortOnDropHandle::new(call));
        Ok(Self { requests, responses, arrived: VecDeque::new() })
    }

    /// The next delivery. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Received> {
        let next = timeout(PATIENCE, self.delivery()).await.context("nothing comes")?;
        next?.context("the stream ended")
    }

    /// The next delivery, or how the stream ended. Cancel safe.
    async fn delivery(&mut self) -> Result<Option<Received>, Status> {
        loop {
            if let Some(received) = self.arrived.pop_front() {
                return Ok(Some(received));
            }
            let Some(response) = self.responses.message().await? else { return Ok(None) };
            self.arrived.extend(response.received_messages.into_iter().map(|received| {
                let message = received.message.unwrap_or_default();
                Received {
                    text: String::from_utf8_lossy(&message.data).into_owned(),
                    attempt: received.delivery_attempt,
                    ack_id: received.ack_id,
                    message,
                }
            }));
        }
    }

    /// So many deliveries, in the order of arrival.
    pub(crate) async fn take(&mut self, count: usize) -> Result<Vec<Received>> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let missing = || format!("{} of {count} deliveries came", taken.len());
            let next = self.next().await.with_context(missing)?;
            taken.push(next);
        }
        Ok(taken)
    }

    /// What arrives before `signal` completes.
    pub(crate) async fn until(
        &mut self,
        signal: impl Future<Output = Result<()>>,
    ) -> Result<Vec<Received>> {
        let mut arrived = Vec::new();
        tokio::pin!(signal);
        loop {
            tokio::select! {
                biased;
                next = self.delivery() => arrived.push(next?.context("the stream ended")?),
                signalled = &mut signal => return signalled.map(|()| arrived),
            }
        }
    }

    /// Ends the stream as a client should: its requests first, then it waits for the
    /// server to end the responses. What arrives meanwhile is dropped.
    pub(crate) async fn half_close(self) -> Result<()> {
        let Self { requests, mut responses, .. } = self;
        drop(requests);
        let ended = async {
            while responses.message().await?.is_some() {}
            Ok::<_, Status>(())
        };
        Ok(timeout(PATIENCE, ended).await.context("the server does not end the stream")??)
    }

    /// The status that the server ends the stream with.
    pub(crate) async fn ended(&mut self) -> Result<Status> {
        let ended = async {
            loop {
                match self.delivery().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Status::ok(""),
                    Err(status) => return status,
                }
            }
        };
        timeout(PATIENCE, ended).await.context("the stream does not end")
    }

    pub(crate) async fn ack(&self, deliveries: &[&Received]) -> Result<()> {
        let ack_ids = deliveries.iter().map(|received| received.ack_id.clone()).collect();
        let request =
            proto::StreamingPullRequest { ack_ids, ..proto::StreamingPullRequest::default() };
        Ok(self.requests.send(request).await?)
    }

    /// Gives back, in one request.
    pub(crate) async fn nack(&self, deliveries: &[&Received]) -> Result<()> {
        self.extend(deliveries, 0).await
    }

    /// Sets the deadline of deliveries to so many seconds from now, in one request.
    pub(crate) async fn extend(&self, deliveries: &[&Received], seconds: i32) -> Result<()> {
        let ids: Vec<String> = deliveries.iter().map(|received| received.ack_id.clone()).collect();
        let request = proto::StreamingPullRequest {
            modify_deadline_seconds: vec![seconds; ids.len()],
            modify_deadline_ack_ids: ids,
            ..proto::StreamingPullRequest::default()
        };
        Ok(self.requests.send(request).await?)
    }
}

/// Texts and attempts, for comparison.
pub(crate) fn brief(deliveries: &[Received]) -> Vec<(&str, i32)> {
    deliveries.iter().map(|received| (received.text.as_str(), received.attempt)).collect()
}

/// Texts of each ordering key, in the order of arrival.
pub(crate) fn by_key(deliveries: &[Received]) -> HashMap<&str, Vec<&str>> {
    let mut keys: HashMap<&str, Vec<&str>> = HashMap::new();
    for received in deliveries {
        keys.entry(&received.message.ordering_key).or_default().push(&received.text);
    }
    keys
}

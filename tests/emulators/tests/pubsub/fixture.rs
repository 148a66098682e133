//! An emulator with a topic and a subscription, and clients for it.

use anyhow::{Context as _, Result};
use emulators::pubsub::{Config, PubSub};
use google_cloud_auth::credentials::Credentials;
use google_cloud_auth::credentials::anonymous::Builder as Anonymous;
use google_cloud_pubsub::client::{Publisher, Subscriber, SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::model::{Message, Subscription};
use google_cloud_pubsub::subscriber::MessageStream;
use google_cloud_pubsub::subscriber::handler::Handler;

pub(crate) const TOPIC: &str = "projects/test/topics/jobs";
pub(crate) const SUBSCRIPTION: &str = "projects/test/subscriptions/workers";

pub(crate) struct Fixture {
    pub(crate) pubsub: PubSub,
}

impl Fixture {
    /// A subscription with default settings.
    pub(crate) async fn start() -> Result<Self> {
        Self::with(Subscription::new()).await
    }

    /// A subscription with ordering.
    pub(crate) async fn ordered() -> Result<Self> {
        Self::with(Subscription::new().set_enable_message_ordering(true)).await
    }

    pub(crate) async fn with(subscription: Subscription) -> Result<Self> {
        let fixture = Self::empty().await?;
        let topics = fixture.topics().await?;
        topics.create_topic().set_name(TOPIC).send().await?;
        let subscriptions = fixture.subscriptions().await?;
        subscriptions
            .create_subscription()
            .with_request(subscription.set_name(SUBSCRIPTION).set_topic(TOPIC))
            .send()
            .await?;
        Ok(fixture)
    }

    /// An emulator with nothing in it.
    pub(crate) async fn empty() -> Result<Self> {
        let pubsub = PubSub::start(Config::default()).await?;
        Ok(Self { pubsub })
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.pubsub.address())
    }

    pub(crate) async fn topics(&self) -> Result<TopicAdmin> {
        let builder = TopicAdmin::builder().with_endpoint(self.endpoint());
        Ok(builder.with_credentials(anonymous()).build().await?)
    }

    pub(crate) async fn subscriptions(&self) -> Result<SubscriptionAdmin> {
        let builder = SubscriptionAdmin::builder().with_endpoint(self.endpoint());
        Ok(builder.with_credentials(anonymous()).build().await?)
    }

    pub(crate) async fn subscriber(&self) -> Result<Subscriber> {
        let builder = Subscriber::builder().with_endpoint(self.endpoint());
        Ok(builder.with_credentials(anonymous()).build().await?)
    }

    pub(crate) async fn publisher(&self) -> Result<Publisher> {
        let builder = Publisher::builder(TOPIC).with_endpoint(self.endpoint());
        Ok(builder.with_credentials(anonymous()).build().await?)
    }

    /// A stream with the client's default flow control.
    pub(crate) async fn subscribe(&self) -> Result<MessageStream> {
        Ok(self.subscriber().await?.subscribe(SUBSCRIPTION).build())
    }

    /// Publishes (ordering key, text) pairs in order.
    pub(crate) async fn publish<T: AsRef<str>>(&self, messages: &[(&str, T)]) -> Result<()> {
        let publisher = self.publisher().await?;
        let mut results = Vec::with_capacity(messages.len());
        for (key, text) in messages {
            let message =
                Message::new().set_data(text.as_ref().as_bytes().to_vec()).set_ordering_key(*key);
            results.push(publisher.publish(message));
        }
        for result in results {
            result.await?;
        }
        Ok(())
    }
}

/// The next message of a stream as text.
pub(crate) async fn next(stream: &mut MessageStream) -> Result<(String, Handler)> {
    let (message, handler) = stream.next().await.context("the stream ended")??;
    Ok((String::from_utf8(message.data.to_vec())?, handler))
}

fn anonymous() -> Credentials {
    Anonymous::new().build()
}

//! An emulator with a topic and a subscription, and clients for it.

use anyhow::Result;
use emulators::pubsub::{Config, PubSub};
use google_cloud_auth::credentials::anonymous::Builder as Anonymous;
use google_cloud_pubsub::client::{Publisher, Subscriber, SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::model::{Message, Subscription};

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
        let pubsub = PubSub::start(Config::default()).await?;
        let fixture = Self { pubsub };
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

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.pubsub.address())
    }

    pub(crate) async fn topics(&self) -> Result<TopicAdmin> {
        let builder = TopicAdmin::builder().with_endpoint(self.endpoint());
        Ok(builder
            .with_credentials(Anonymous::new().build())
            .build()
            .await?)
    }

    pub(crate) async fn subscriptions(&self) -> Result<SubscriptionAdmin> {
        let builder = SubscriptionAdmin::builder().with_endpoint(self.endpoint());
        Ok(builder
            .with_credentials(Anonymous::new().build())
            .build()
            .await?)
    }

    pub(crate) async fn subscriber(&self) -> Result<Subscriber> {
        let builder = Subscriber::builder().with_endpoint(self.endpoint());
        Ok(builder
            .with_credentials(Anonymous::new().build())
            .build()
            .await?)
    }

    /// Publishes (ordering key, text) pairs in order.
    pub(crate) async fn publish<T: AsRef<str>>(&self, messages: &[(&str, T)]) -> Result<()> {
        let builder = Publisher::builder(TOPIC).with_endpoint(self.endpoint());
        let publisher = builder
            .with_credentials(Anonymous::new().build())
            .build()
            .await?;
        let mut published = Vec::new();
        for (key, text) in messages {
            let message = Message::new()
                .set_data(text.as_ref().as_bytes().to_vec())
                .set_ordering_key(*key);
            published.push(publisher.publish(message));
        }
        for published in published {
            published.await?;
        }
        Ok(())
    }
}

pub(crate) fn text(message: &Message) -> String {
    String::from_utf8_lossy(&message.data).into_owned()
}

//! Publishes jobs, outcomes and rejected messages.

use std::collections::HashMap;
use std::fmt;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::retry_policy::RetryPolicyExt as _;
use google_cloud_pubsub::client::Publisher as Client;
use google_cloud_pubsub::error::PublishError as ClientError;
use google_cloud_pubsub::model::Message;
use google_cloud_pubsub::retry_policy::RetryableErrors;

use crate::spans;

use super::{Connection, Topic, no_credentials};

/// A publish is given up after this long; the caller decides what then.
const TIME_LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

/// A message to publish.
#[derive(Clone, Default)]
pub struct Outgoing {
    /// Its data.
    pub data: Bytes,
    /// Its attributes.
    pub attributes: HashMap<String, String>,
    /// Its ordering key; empty for none.
    pub ordering_key: String,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("len", &self.data.len()).finish_non_exhaustive()
    }
}

/// Why a message was not published.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// The client cannot be built.
    #[error("the Pub/Sub client cannot be built: {0}")]
    Client(String),
    /// There is no such topic.
    #[error("{0} does not exist; create it (`fleet setup`, or Terraform) or correct its name")]
    NoTopic(String),
    /// Not allowed to publish to it.
    #[error("{0}: permission denied; grant this process roles/pubsub.publisher on it")]
    Denied(String),
    /// The service refused the message or could not be reached in time.
    #[error("publishing to {topic} failed: {why}")]
    Failed {
        /// The topic.
        topic: String,
        /// What the service said.
        why: String,
    },
}

/// A topic to publish to. Messages are batched for up to 10 ms.
#[derive(Clone)]
pub struct Publisher {
    client: Client,
    topic: String,
}

impl Publisher {
    /// A publisher for the topic with this full name.
    ///
    /// # Errors
    /// [`PublishError::Client`].
    pub async fn open(connection: &Connection, topic: &str) -> Result<Self, PublishError> {
        let mut builder =
            Client::builder(topic).with_retry_policy(RetryableErrors.with_time_limit(TIME_LIMIT));
        if let Some(endpoint) = connection.endpoint() {
            builder = builder.with_endpoint(endpoint).with_credentials(no_credentials());
        }
        let client = builder.build().await.map_err(|e| PublishError::Client(e.to_string()))?;
        Ok(Self { client, topic: topic.to_owned() })
    }

    /// The topic's full name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Publishes a message; its ID. The message is queued when this is called,
    /// in the order of the calls; the future waits for the service's word.
    /// Dropping the future does not unpublish.
    ///
    /// Where traces are exported, the message continues the trace of the span that this
    /// is called in (attribute `traceparent`), unless its attributes name one already.
    ///
    /// # Errors
    /// [`PublishError`]; the message may have been published all the same when
    /// the service could not be reached in time.
    pub fn publish(
        &self,
        mut message: Outgoing,
    ) -> impl Future<Output = Result<String, PublishError>> + Send + 'static {
        spans::propagate(&mut message.attributes);
        let key = message.ordering_key.clone();
        let published = self.client.publish(
            Message::new()
                .set_data(message.data)
                .set_attributes(message.attributes)
                .set_ordering_key(message.ordering_key),
        );
        let this = self.clone();
        async move {
            match published.await {
                Ok(id) => Ok(id),
                Err(error) => {
                    if !key.is_empty() {
                        // A failure pauses its key until somebody takes note;
                        // the caller has, by this error.
                        this.client.resume_publish(key);
                    }
                    Err(this.failed(&error))
                }
            }
        }
    }

    fn failed(&self, error: &ClientError) -> PublishError {
        let topic = self.topic.clone();
        let ClientError::Rpc(service) = error else {
            return PublishError::Failed { topic, why: error.to_string() };
        };
        match service.status() {
            Some(status) if status.code == Code::NotFound => PublishError::NoTopic(topic),
            Some(status)
                if matches!(status.code, Code::PermissionDenied | Code::Unauthenticated) =>
            {
                PublishError::Denied(topic)
            }
            Some(status) => PublishError::Failed { topic, why: status.code.to_string() },
            None => PublishError::Failed { topic, why: "Pub/Sub cannot be reached".to_owned() },
        }
    }
}

impl Topic for Publisher {
    fn publish(&self, message: Outgoing) -> BoxFuture<'static, Result<String, PublishError>> {
        Self::publish(self, message).boxed()
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("topic", &self.topic).finish_non_exhaustive()
    }
}

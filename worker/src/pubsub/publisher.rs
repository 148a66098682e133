//! Publishes jobs, outcomes and rejected messages.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::retry_policy::RetryPolicyExt as _;
use google_cloud_pubsub::client::{BasePublisher, Publisher as Client};
use google_cloud_pubsub::error::PublishError as ClientError;
use google_cloud_pubsub::model::Message;
use google_cloud_pubsub::retry_policy::RetryableErrors;
use shared::innermost;

use crate::spans;

use super::{Cause, Connection, Inspector, Topic, Unseen};

/// The client tries again for so long.
const RETRY_LIMIT: Duration = Duration::from_secs(10);
/// A publish is given up after this long, also where the client hangs; the caller decides
/// what then.
const TIME_LIMIT: Duration = Duration::from_secs(15);

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

/// Why a message was not published. It may have been published all the same where the
/// service was not heard of in time ([`Unavailable`](Self::Unavailable)).
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// The client cannot be built.
    #[error("the Pub/Sub client cannot be built: {0}")]
    Client(#[source] Cause),
    /// There is no such topic: create it, or correct the setting.
    #[error("{topic} does not exist; create it (`fleet setup`, or Terraform) or correct its name")]
    NoTopic {
        /// The topic.
        topic: String,
        /// What the service said.
        source: Cause,
    },
    /// Not allowed to publish to it: grant the role.
    #[error("{topic}: permission denied; grant this process roles/pubsub.publisher on it")]
    Denied {
        /// The topic.
        topic: String,
        /// What the service said.
        source: Cause,
    },
    /// The service takes no such message (`INVALID_ARGUMENT`: too large, too many attributes, or
    /// not of the topic's schema), now or later: make another one of it. Of a batch
    /// that was refused every message is told so; only of one that was published alone
    /// ([`Topic::publish_alone`]) it is known to be meant.
    #[error("{topic} refuses the message: {why}")]
    Refused {
        /// The topic.
        topic: String,
        /// The status code.
        why: String,
        /// What the service said.
        source: Cause,
    },
    /// It was not tried, because an earlier message of its ordering key failed: try again.
    #[error("{topic}: not published, because an earlier message of its ordering key failed")]
    NotTried {
        /// The topic.
        topic: String,
    },
    /// The service cannot take it now, or was not heard of: try again later.
    #[error("publishing to {topic} failed: {why}")]
    Unavailable {
        /// The topic.
        topic: String,
        /// The status code, or why the service was not heard of.
        why: String,
        /// What the client said; nothing when it said nothing in time.
        source: Option<Cause>,
    },
}

/// A topic to publish to.
#[derive(Clone)]
pub struct Publisher {
    inspector: Arc<Inspector>,
    topic: String,
    /// Collects messages for up to 10 ms.
    batching: Client,
    /// Sends each message by itself.
    alone: Client,
}

impl Publisher {
    /// A publisher for the topic with this full name.
    ///
    /// # Errors
    /// [`PublishError::Client`].
    pub async fn open(connection: &Connection, topic: &str) -> Result<Self, PublishError> {
        let credentials =
            connection.credentials().map_err(|e| PublishError::Client(Arc::new(e)))?;
        let mut builder = BasePublisher::builder()
            .with_credentials(credentials)
            .with_retry_policy(RetryableErrors.with_time_limit(RETRY_LIMIT));
        if let Some(endpoint) = connection.endpoint() {
            builder = builder.with_endpoint(endpoint);
        }
        let base = builder.build().await.map_err(|e| PublishError::Client(Arc::new(e)))?;
        Ok(Self {
            inspector: Arc::new(Inspector::new(connection)),
            topic: topic.to_owned(),
            batching: base.publisher(topic).build(),
            alone: base.publisher(topic).set_message_count_threshold(1).build(),
        })
    }

    /// The topic's full name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Publishes a message, batched with others for up to 10 ms; its ID. The message is
    /// queued when this is called, in the order of the calls; the future waits for the
    /// service's word, at most 15 s. Dropping the future does not unpublish.
    ///
    /// Where traces are exported, the message continues the trace of the span that this
    /// is called in (attribute `traceparent`), unless its attributes name one already.
    ///
    /// # Errors
    /// [`PublishError`].
    pub fn publish(
        &self,
        message: Outgoing,
    ) -> impl Future<Output = Result<String, PublishError>> + Send + 'static {
        self.publish_by(&self.batching, message)
    }

    /// Publishes a message in a request of its own; otherwise like
    /// [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`PublishError`].
    pub fn publish_alone(
        &self,
        message: Outgoing,
    ) -> impl Future<Output = Result<String, PublishError>> + Send + 'static {
        self.publish_by(&self.alone, message)
    }

    fn publish_by(
        &self,
        client: &Client,
        mut message: Outgoing,
    ) -> impl Future<Output = Result<String, PublishError>> + Send + 'static {
        spans::propagate(&mut message);
        let key = message.ordering_key.clone();
        let published = tokio::time::timeout(
            TIME_LIMIT,
            client.publish(
                Message::new()
                    .set_data(message.data)
                    .set_attributes(message.attributes)
                    .set_ordering_key(message.ordering_key),
            ),
        );
        let (client, topic) = (client.clone(), self.topic.clone());
        async move {
            let error = match published.await {
                Ok(Ok(id)) => return Ok(id),
                Ok(Err(error)) => failed(topic, error),
                Err(_late) => PublishError::Unavailable {
                    topic,
                    why: format!("no answer within {TIME_LIMIT:?}"),
                    source: None,
                },
            };
            if !key.is_empty() {
                // A failure pauses its key until somebody takes note;
                // the caller has, by this error.
                client.resume_publish(key);
            }
            Err(error)
        }
    }
}

/// What the client's error means for the caller.
fn failed(topic: String, error: ClientError) -> PublishError {
    let error = match error {
        ClientError::OrderingKeyPaused => return PublishError::NotTried { topic },
        ClientError::Rpc(error) => error,
        other => {
            let why = other.to_string();
            return PublishError::Unavailable { topic, why, source: Some(Arc::new(other)) };
        }
    };
    let code = error.status().map(|status| status.code);
    let http = error.http_status_code();
    // The text of a status may quote the message.
    let why = match (code, http) {
        (Some(code), _) => code.to_string(),
        (None, Some(status)) => format!("HTTP status {status}"),
        (None, None) => format!("Pub/Sub cannot be reached: {}", innermost(&error)),
    };
    let source: Cause = error;
    match code {
        Some(Code::NotFound) => PublishError::NoTopic { topic, source },
        Some(Code::PermissionDenied | Code::Unauthenticated) => {
            PublishError::Denied { topic, source }
        }
        Some(Code::InvalidArgument) => PublishError::Refused { topic, why, source },
        // `FAILED_PRECONDITION` too: it speaks of the system's state (billing, the topic's key,
        // the regions that its policy allows), and so of every message.
        _ => PublishError::Unavailable { topic, why, source: Some(source) },
    }
}

impl Topic for Publisher {
    fn name(&self) -> &str {
        &self.topic
    }

    fn publish(&self, message: Outgoing) -> BoxFuture<'static, Result<String, PublishError>> {
        Self::publish(self, message).boxed()
    }

    fn publish_alone(&self, message: Outgoing) -> BoxFuture<'static, Result<String, PublishError>> {
        Self::publish_alone(self, message).boxed()
    }

    fn look(&self) -> BoxFuture<'_, Result<(), Unseen>> {
        self.inspector.may_publish(&self.topic).boxed()
    }

    fn is_kept(&self) -> BoxFuture<'_, Result<bool, Unseen>> {
        async move {
            let subscriptions = self.inspector.subscriptions_of(&self.topic).await?;
            Ok(!subscriptions.is_empty())
        }
        .boxed()
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("topic", &self.topic).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use google_cloud_gax::error::Error;
    use google_cloud_gax::error::rpc::Status;

    use super::*;

    #[test]
    fn only_what_is_wrong_with_the_message_is_a_refusal_of_it() {
        let told = |error| match failed("t".to_owned(), error) {
            PublishError::NoTopic { .. } => "no topic",
            PublishError::Denied { .. } => "denied",
            PublishError::Refused { .. } => "refused",
            PublishError::NotTried { .. } => "not tried",
            PublishError::Unavailable { .. } => "unavailable",
            PublishError::Client(_) => "client",
        };
        for (code, expected) in [
            (Code::NotFound, "no topic"),
            (Code::PermissionDenied, "denied"),
            (Code::Unauthenticated, "denied"),
            (Code::InvalidArgument, "refused"),
            (Code::FailedPrecondition, "unavailable"),
            (Code::ResourceExhausted, "unavailable"),
            (Code::Unavailable, "unavailable"),
            (Code::Internal, "unavailable"),
        ] {
            let error = Error::service(Status::default().set_code(code));
            assert_eq!(told(ClientError::Rpc(Arc::new(error))), expected, "{code:?}");
        }
        assert_eq!(told(ClientError::OrderingKeyPaused), "not tried");
    }
}

//! A subscription of one reader's own: it has what is published to a topic while somebody
//! reads it, and is removed afterwards.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::options::RequestOptionsBuilder as _;
use google_cloud_pubsub::client::SubscriptionAdmin;
use google_cloud_pubsub::model::{ExpirationPolicy, Subscription};
use google_cloud_wkt::Duration as WireDuration;
use shared::ports::Randomness;

use super::{Cause, Connection, Intake, IntakeError, IntakeSettings, OUTSTANDING_BYTES, Source};
use crate::job::Received;

/// A reader that was killed leaves its subscription behind, which Pub/Sub removes after so
/// long without one: the least that it allows.
const EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);
const ACK_DEADLINE: Duration = Duration::from_secs(10);
const OUTSTANDING: usize = 1000;
/// Bound on one call.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no subscription to read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotOpened {
    /// The client cannot be built.
    #[error("the Pub/Sub client cannot be built: {0}")]
    Client(#[source] Cause),
    /// There is no such topic.
    #[error(
        "{0} does not exist; create it (`fleet setup`, or Terraform) or correct --outcomes-topic"
    )]
    NoTopic(String),
    /// Not allowed to make a subscription of the topic.
    #[error(
        "{topic}: permission denied; to read it, this process needs pubsub.subscriptions.create, consume and delete on the project, and pubsub.topics.attachSubscription on the topic"
    )]
    Denied {
        /// The topic.
        topic: String,
        /// What the service said.
        source: Cause,
    },
    /// The service was not reached, or refused for another reason.
    #[error("no subscription of {topic} can be created: {why}")]
    Failed {
        /// The topic.
        topic: String,
        /// In short.
        why: String,
        /// What the service said.
        source: Cause,
    },
    /// It cannot be read.
    #[error(transparent)]
    Unread(#[from] IntakeError),
}

/// Such a subscription.
pub struct OwnSubscription {
    admin: SubscriptionAdmin,
    name: String,
    intake: Box<Intake>,
}

impl OwnSubscription {
    /// Makes one for the topic with this full name, in the topic's project. It has every message
    /// that is published from now on and that `filter` lets through; an empty one lets through
    /// all, and Google's emulator heeds none.
    ///
    /// Cancelling it may leave a subscription behind, for a day.
    ///
    /// # Errors
    /// [`NotOpened`].
    pub async fn open(
        connection: &Connection,
        topic: &str,
        filter: &str,
    ) -> Result<Self, NotOpened> {
        let builder = connection.of_here(SubscriptionAdmin::builder());
        let client = builder.build().await.map_err(|e| NotOpened::Client(Arc::new(e)));
        let (admin, name) = (client?, name_for(topic));
        let wanted = Subscription::new()
            .set_name(&name)
            .set_topic(topic)
            .set_filter(filter)
            .set_ack_deadline_seconds(i32::try_from(ACK_DEADLINE.as_secs()).unwrap_or(10))
            .set_message_retention_duration(wire(EXPIRY))
            .set_expiration_policy(ExpirationPolicy::new().set_ttl(wire(EXPIRY)));
        let call = admin.create_subscription().with_request(wanted);
        match call.with_attempt_timeout(TIME_LIMIT).send().await {
            Ok(_) => {}
            Err(error) => match error.status().map(|status| status.code) {
                // By an attempt whose answer was lost: nobody else has this name.
                Some(Code::AlreadyExists) => {}
                Some(Code::NotFound) => return Err(NotOpened::NoTopic(topic.to_owned())),
                Some(Code::PermissionDenied) => {
                    let topic = topic.to_owned();
                    return Err(NotOpened::Denied { topic, source: Arc::new(error) });
                }
                code => {
                    let why = code.map_or_else(|| error.to_string(), |code| code.to_string());
                    let topic = topic.to_owned();
                    return Err(NotOpened::Failed { topic, why, source: Arc::new(error) });
                }
            },
        }
        let settings = IntakeSettings {
            subscription: name.clone(),
            max_outstanding: OUTSTANDING,
            max_outstanding_bytes: OUTSTANDING_BYTES,
            ack_extension: ACK_DEADLINE,
        };
        let intake = Box::new(Intake::open(connection, settings).await?);
        Ok(Self { admin, name, intake })
    }

    /// Its full name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next message, which is acknowledged. Cancelling it loses none.
    ///
    /// # Errors
    /// [`IntakeError`].
    pub async fn next(&mut self) -> Result<Arc<Received>, IntakeError> {
        let delivery = self.intake.next().await?;
        delivery.settle.ack().await;
        Ok(delivery.received)
    }

    /// Stops reading and removes it, within ten seconds.
    ///
    /// # Errors
    /// A text that says what is left.
    pub async fn close(self) -> Result<(), String> {
        let Self { admin, name, intake } = self;
        let removed = async {
            intake.stop().await;
            admin.delete_subscription().set_subscription(&name).send().await
        };
        let why = match tokio::time::timeout(TIME_LIMIT, removed).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if error.status().is_some_and(|s| s.code == Code::NotFound) => {
                return Ok(());
            }
            Ok(Err(error)) => error.to_string(),
            Err(_late) => format!("no answer within {TIME_LIMIT:?}"),
        };
        Err(format!(
            "{name} is not removed ({why}); delete it, or Pub/Sub does after a day without a reader"
        ))
    }
}

impl fmt::Debug for OwnSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnSubscription").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A name that nobody else has, beside the topic.
fn name_for(topic: &str) -> String {
    let project = topic.split("/topics/").next().unwrap_or_default();
    format!("{project}/subscriptions/fleet-reader-{}", &Randomness::from_system().id()[..16])
}

fn wire(duration: Duration) -> WireDuration {
    WireDuration::try_from(duration).unwrap_or_default()
}

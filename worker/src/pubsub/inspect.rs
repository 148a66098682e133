//! Looks at topics, subscriptions and their access without changing them.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::options::RequestOptionsBuilder as _;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_pubsub::client::{SchemaService, SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::model::Subscription;
use google_cloud_wkt::Duration as WireDuration;
use shared::innermost;
use tokio::sync::OnceCell;

use super::Connection;

/// Bound on one call.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Why something cannot be looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unseen {
    /// There is no such resource.
    #[error("it does not exist")]
    Missing,
    /// Not allowed to look.
    #[error("permission denied")]
    Denied,
    /// The service says that nothing is allowed on it, and no more: it does so for what does
    /// not exist, too.
    #[error("it does not exist, or this account may not use it")]
    Nothing,
    /// The service does not know the question, as emulators do not.
    #[error("the service cannot tell")]
    Unsupported,
    /// No credentials, no connection, no answer in time.
    #[error("{0}")]
    Unreachable(String),
}

/// A subscription as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the service's settings")]
pub struct Settings {
    /// Full name of its topic; `_deleted-topic_` when that is gone.
    pub topic: String,
    /// Whether messages are pulled; otherwise they are pushed or exported.
    pub pulled: bool,
    /// How long a delivery may take before it is repeated.
    pub ack_deadline: Duration,
    /// Whether messages of one key come in order.
    pub ordering: bool,
    /// Whether an acknowledgement is confirmed.
    pub exactly_once: bool,
    /// After so long without a subscriber it is deleted.
    pub expires_after: Option<Duration>,
    /// Messages that do not match are never delivered.
    pub filter: Option<String>,
    /// The shortest and the longest pause before a redelivery.
    pub retry: Option<(Duration, Duration)>,
    /// Full name of the dead-letter topic, and after how many deliveries.
    pub dead_letter: Option<(String, i32)>,
    /// How long messages are kept.
    pub retention: Duration,
    /// Whether it lost its topic's messages.
    pub detached: bool,
}

/// Who has a role on a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The role.
    pub role: String,
    /// `serviceAccount:…`, `allUsers`, ….
    pub members: Vec<String>,
}

/// Looks at Pub/Sub. Every call ends within ten seconds. Each client reads the system's
/// certificates when it is built, which takes milliseconds: it is built when it is asked first.
pub struct Inspector {
    connection: Connection,
    topics: OnceCell<TopicAdmin>,
    subscriptions: OnceCell<SubscriptionAdmin>,
    policies: OnceCell<SchemaService>,
}

impl Inspector {
    /// Looks there.
    pub fn new(connection: &Connection) -> Self {
        Self {
            connection: connection.clone(),
            topics: OnceCell::new(),
            subscriptions: OnceCell::new(),
            policies: OnceCell::new(),
        }
    }

    async fn topics(&self) -> Result<&TopicAdmin, Unseen> {
        let build = async || {
            let builder = self.connection.of_here(TopicAdmin::builder());
            builder.with_retry_policy(NeverRetry).build().await.map_err(|error| not_built(&error))
        };
        self.topics.get_or_try_init(build).await
    }

    async fn subscriptions(&self) -> Result<&SubscriptionAdmin, Unseen> {
        let build = async || {
            let builder = self.connection.of_here(SubscriptionAdmin::builder());
            builder.with_retry_policy(NeverRetry).build().await.map_err(|error| not_built(&error))
        };
        self.subscriptions.get_or_try_init(build).await
    }

    /// Of all clients this one reads policies, and of every resource.
    async fn policies(&self) -> Result<&SchemaService, Unseen> {
        let build = async || {
            let builder = self.connection.of_here(SchemaService::builder());
            builder.with_retry_policy(NeverRetry).build().await.map_err(|error| not_built(&error))
        };
        self.policies.get_or_try_init(build).await
    }

    /// Whether a topic exists.
    ///
    /// # Errors
    /// [`Unseen`].
    pub async fn topic(&self, name: &str) -> Result<(), Unseen> {
        let call = self.topics().await?.get_topic().set_topic(name);
        bounded(call.with_attempt_timeout(TIME_LIMIT).send()).await.map(drop)
    }

    /// Whether this process may publish to a topic, or, where the service knows no
    /// permissions, whether the topic exists.
    ///
    /// # Errors
    /// [`Unseen`].
    pub async fn may_publish(&self, topic: &str) -> Result<(), Unseen> {
        match self.allowed(topic, &["pubsub.topics.publish"]).await {
            Ok(allowed) if allowed.is_empty() => Err(Unseen::Nothing),
            Ok(_) => Ok(()),
            Err(Unseen::Unsupported) => self.topic(topic).await,
            Err(why) => Err(why),
        }
    }

    /// Full names of the first subscriptions of a topic.
    ///
    /// # Errors
    /// [`Unseen`].
    pub async fn subscriptions_of(&self, topic: &str) -> Result<Vec<String>, Unseen> {
        let call = self.topics().await?.list_topic_subscriptions().set_topic(topic);
        let page = bounded(call.with_attempt_timeout(TIME_LIMIT).send()).await?;
        Ok(page.subscriptions)
    }

    /// A subscription's settings.
    ///
    /// # Errors
    /// [`Unseen`].
    pub async fn subscription(&self, name: &str) -> Result<Settings, Unseen> {
        let call = self.subscriptions().await?.get_subscription().set_subscription(name);
        bounded(call.with_attempt_timeout(TIME_LIMIT).send()).await.map(settings)
    }

    /// The access policy of a topic or subscription; what it inherits from its
    /// project is not in it.
    ///
    /// # Errors
    /// [`Unseen`].
    pub async fn grants(&self, resource: &str) -> Result<Vec<Grant>, Unseen> {
        let call = self.policies().await?.get_iam_policy().set_resource(resource);
        let policy = bounded(call.with_attempt_timeout(TIME_LIMIT).send()).await?;
        let grants = policy.bindings.into_iter();
        Ok(grants.map(|b| Grant { role: b.role, members: b.members }).collect())
    }

    /// Those of `permissions` that this process has on a topic or subscription.
    ///
    /// # Errors
    /// [`Unseen`].
    pub async fn allowed(
        &self,
        resource: &str,
        permissions: &[&str],
    ) -> Result<Vec<String>, Unseen> {
        let call = self.policies().await?.test_iam_permissions().set_resource(resource);
        let call = call.set_permissions(permissions.iter().copied());
        Ok(bounded(call.with_attempt_timeout(TIME_LIMIT).send()).await?.permissions)
    }
}

fn not_built(error: &google_cloud_gax::client_builder::Error) -> Unseen {
    Unseen::Unreachable(format!("the Pub/Sub client cannot be built: {error}"))
}

async fn bounded<T>(
    call: impl Future<Output = google_cloud_pubsub::Result<T>>,
) -> Result<T, Unseen> {
    let Ok(result) = tokio::time::timeout(TIME_LIMIT, call).await else {
        return Err(Unseen::Unreachable(format!("no answer within {TIME_LIMIT:?}")));
    };
    result.map_err(|error| {
        let code = error.status().map(|status| status.code);
        match (code, error.http_status_code()) {
            (Some(Code::NotFound), _) => Unseen::Missing,
            (Some(Code::PermissionDenied), _) => Unseen::Denied,
            (Some(Code::Unimplemented), _) | (None, Some(404 | 405 | 501)) => Unseen::Unsupported,
            (Some(code), _) => Unseen::Unreachable(code.to_string()),
            (None, Some(status)) => Unseen::Unreachable(format!("HTTP status {status}")),
            (None, None) => Unseen::Unreachable(innermost(&error).to_string()),
        }
    })
}

fn settings(found: Subscription) -> Settings {
    let pushed = found.push_config.is_some_and(|push| !push.push_endpoint.is_empty());
    let exported = found.bigquery_config.is_some()
        || found.cloud_storage_config.is_some()
        || found.bigtable_config.is_some();
    Settings {
        topic: found.topic,
        pulled: !pushed && !exported,
        ack_deadline: Duration::from_secs(u64::try_from(found.ack_deadline_seconds).unwrap_or(0)),
        ordering: found.enable_message_ordering,
        exactly_once: found.enable_exactly_once_delivery,
        expires_after: found
            .expiration_policy
            .and_then(|policy| policy.ttl)
            .map(duration)
            .filter(|ttl| !ttl.is_zero()),
        filter: Some(found.filter).filter(|filter| !filter.is_empty()),
        retry: found.retry_policy.map(|policy| {
            let of = |pause: Option<WireDuration>, default| {
                pause.map_or(Duration::from_secs(default), duration)
            };
            (of(policy.minimum_backoff, 10), of(policy.maximum_backoff, 600))
        }),
        dead_letter: found
            .dead_letter_policy
            .map(|policy| (policy.dead_letter_topic, policy.max_delivery_attempts)),
        retention: found.message_retention_duration.map(duration).unwrap_or_default(),
        detached: found.detached,
    }
}

fn duration(wire: WireDuration) -> Duration {
    Duration::try_from(wire).unwrap_or_default()
}

impl fmt::Debug for Inspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inspector")
    }
}

//! The official Pub/Sub client, behind thin adapters: its generic code is
//! instantiated here and nowhere else.

mod admin;
mod in_hand;
mod inspect;
mod intake;
mod own;
mod ports;
mod publisher;
mod reader;
mod silence;
mod start;
mod subscriber;
#[cfg(test)]
mod virtual_clock;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use google_cloud_auth::build_errors;
use google_cloud_auth::credentials::{self, Credentials, anonymous};
use google_cloud_gax::client_builder::ClientBuilder;

pub use admin::{Admin, SubscriptionPlan};
pub use inspect::{Grant, Inspector, Settings, Unseen};
pub use intake::{Intake, IntakeError, IntakeSettings, OUTSTANDING_BYTES};
pub use own::{NotOpened, OwnSubscription};
pub use ports::{Delivery, Settle, Source, Topic, Window};
pub use publisher::{Outgoing, PublishError, Publisher};
pub use start::{
    NamedTopic, TopicRefuses, await_topics, complain_if_refused, permitted_attempts,
    warn_unless_kept,
};

/// What a retry policy should begin at: shorter pauses use up the deliveries of a job while
/// something is down.
pub(crate) const MIN_BACKOFF: Duration = Duration::from_secs(10);

/// What the client said, behind an error of ours.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// Where Pub/Sub is.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// `host:port` of an emulator; without it, Google with Application Default
    /// Credentials.
    pub emulator: Option<String>,
}

impl Connection {
    fn endpoint(&self) -> Option<String> {
        self.emulator.as_ref().map(|address| format!("http://{address}"))
    }

    /// This builder's client is of this place: of an emulator, to which nobody shows credentials.
    fn of_here<F, C>(&self, builder: ClientBuilder<F, C>) -> ClientBuilder<F, C>
    where
        Credentials: Into<C>,
    {
        match self.endpoint() {
            Some(endpoint) => builder.with_endpoint(endpoint).with_credentials(no_credentials()),
            None => builder,
        }
    }

    /// None for an emulator, Application Default Credentials for Google.
    fn credentials(&self) -> Result<Credentials, build_errors::Error> {
        match self.emulator {
            Some(_) => Ok(no_credentials()),
            None => credentials::Builder::default().build(),
        }
    }
}

fn no_credentials() -> Credentials {
    anonymous::Builder::new().build()
}

/// The full name of a topic or subscription given as an ID or a full name.
///
/// # Errors
/// A text that says what is wrong with the name.
pub fn resource(project: Option<&str>, collection: &str, name: &str) -> Result<String, String> {
    let parts: Vec<&str> = name.split('/').collect();
    match parts[..] {
        ["projects", project, c, id]
            if c == collection && !project.is_empty() && !id.is_empty() =>
        {
            Ok(name.to_owned())
        }
        [id] if !id.is_empty() => match project {
            Some(project) => Ok(format!("projects/{project}/{collection}/{id}")),
            None => Err(format!(
                "{name:?} needs a project: set --project (GOOGLE_CLOUD_PROJECT), or write projects/PROJECT/{collection}/{id}"
            )),
        },
        _ => Err(format!(
            "{name:?} is neither an ID nor of the form projects/PROJECT/{collection}/ID"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(resource(Some("p"), "topics", "jobs").unwrap(), "projects/p/topics/jobs");
        assert_eq!(
            resource(None, "topics", "projects/q/topics/jobs").unwrap(),
            "projects/q/topics/jobs"
        );
        for bad in ["", "a/b", "projects/q/subscriptions/jobs", "projects//topics/jobs"] {
            assert!(resource(Some("p"), "topics", bad).is_err(), "{bad}");
        }
        assert!(resource(None, "topics", "jobs").unwrap_err().contains("GOOGLE_CLOUD_PROJECT"));
    }
}

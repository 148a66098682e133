//! Telling applications of changes of users' consent, for the commands that change it.

use std::sync::Arc;

use crate::events::Events;
use crate::events::state::Occasion;
use shared::adapters::SystemClock;
use shared::ports::Randomness;
use shared::{TokenStore, UserId, is_loopback};
use url::Url;

use super::connect::ProjectArgs;
use super::environment::Place;
use super::output::{self, Usage};

/// Where events go.
#[derive(Debug, clap::Args)]
pub(crate) struct EventArgs {
    /// Where changes of users' consent are published [default: nowhere]
    #[arg(long, env = "FLEET_EVENTS_TOPIC")]
    events_topic: Option<String>,
}

impl EventArgs {
    /// The topic's full name.
    pub(crate) fn topic(&self, project: &ProjectArgs) -> Result<Option<String>, Usage> {
        project.optional_topic("--events-topic", self.events_topic.as_ref())
    }

    /// Opens the topic of this full name.
    pub(crate) async fn open(
        topic: &str,
        place: &Place,
        store: &TokenStore,
        bucket: &str,
    ) -> anyhow::Result<Events> {
        Ok(Events {
            store: store.clone(),
            topic: Arc::new(place.publisher(topic).await?),
            clock: Arc::new(SystemClock::default()),
            random: Arc::new(Randomness::from_system()),
            source: format!("//storage.googleapis.com/projects/_/buckets/{bucket}"),
            site: None,
            unknown_users: false,
        })
    }

    /// Opens the topic, if one is named.
    pub(crate) async fn connect(
        &self,
        project: &ProjectArgs,
        place: &Place,
        store: &TokenStore,
        bucket: &str,
    ) -> anyhow::Result<Option<Arc<Events>>> {
        match self.topic(project)? {
            Some(topic) => Ok(Some(Arc::new(Self::open(&topic, place, store, bucket).await?))),
            None => Ok(None),
        }
    }
}

/// Tells what has changed about a user, where anybody is told. A failure does not undo what was
/// stored.
pub(crate) async fn tell(events: Option<&Events>, user: &UserId) {
    let Some(events) = events else { return };
    if let Err(error) = events.tell(user, &Occasion::Changed, None).await {
        output::note(format!("Applications are not told of the change yet: {error}"));
    }
}

/// The address of `fleet web`, if one is named.
pub(crate) fn public_url(given: Option<&str>) -> Result<Option<Url>, Usage> {
    let Some(text) = given.filter(|text| !text.is_empty()) else { return Ok(None) };
    let url = Url::parse(text).map_err(|e| Usage(format!("--public-url {text:?}: {e}")))?;
    let safe = url.scheme() == "https" || url.scheme() == "http" && is_loopback(&url);
    if !safe || url.cannot_be_a_base() {
        return Err(Usage(format!(
            "--public-url {text:?} must be https://HOST (http is for loopback addresses only)"
        )));
    }
    Ok(Some(url))
}

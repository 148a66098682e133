//! The built-in kinds of jobs.

mod answer;
mod api;
mod body;
mod challenge;
mod profile;
mod response;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::handler::Handler;

pub use api::{ApiHandler, OutputRules, OutputStore, Outputs};
pub use profile::ProfileHandler;

pub use crate::hosts::{Forbidden, HostRules};

/// Handlers by the kind that they do.
pub type Kinds = BTreeMap<String, Arc<dyn Handler>>;

/// What the built-in kinds need. The rest is the session's.
#[derive(Debug)]
pub struct KindSettings {
    /// Where profiles come from.
    pub userinfo_url: String,
    /// Where `output` may go; nowhere if `None`.
    pub outputs: Option<Outputs>,
}

/// `profile` and `api`.
pub fn builtin(settings: KindSettings) -> Kinds {
    let KindSettings { userinfo_url, outputs } = settings;
    let profile: Arc<dyn Handler> = Arc::new(ProfileHandler::new(&userinfo_url));
    let api: Arc<dyn Handler> = Arc::new(ApiHandler::new(outputs));
    BTreeMap::from([("profile".to_owned(), profile), ("api".to_owned(), api)])
}

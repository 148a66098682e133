//! The built-in kinds of jobs.

mod answer;
mod api;
mod body;
#[cfg(test)]
mod calls_table;
mod challenge;
mod hidden;
mod profile;
mod response;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::handler::Handler;

pub use api::{ApiHandler, MIN_BODY_MEMORY, OutputRules, OutputStore, Outputs, check_api};
pub use profile::ProfileHandler;

pub use crate::hosts::{Forbidden, HostRules};

pub(crate) use answer::{Said, insufficient_scope};
pub(crate) use challenge::scopes;
pub(crate) use hidden::Hidden;
pub(crate) use response::{json_of, media_type, says_json};

/// Handlers by the kind that they do.
pub type Kinds = BTreeMap<String, Arc<dyn Handler>>;

/// What the built-in kinds need. The rest is the session's.
#[derive(Debug)]
pub struct KindSettings {
    /// Where profiles come from.
    pub userinfo_url: String,
    /// Where `output` may go; nowhere if `None`.
    pub outputs: Option<Outputs>,
    /// What bodies and pages of all jobs may hold together, in bytes; at least
    /// [`MIN_BODY_MEMORY`].
    pub body_memory: usize,
}

/// What bodies and pages of all jobs may hold together unless the operator says otherwise.
pub const BODY_MEMORY: usize = 128 * 1024 * 1024;

/// What [`builtin`] does.
pub(crate) const BUILTIN: [&str; 2] = [PROFILE, API];
const PROFILE: &str = "profile";
const API: &str = "api";

/// `profile` and `api`.
pub fn builtin(settings: KindSettings) -> Kinds {
    let KindSettings { userinfo_url, outputs, body_memory } = settings;
    let profile: Arc<dyn Handler> = Arc::new(ProfileHandler::new(&userinfo_url));
    let api: Arc<dyn Handler> = Arc::new(ApiHandler::new(outputs, body_memory));
    BTreeMap::from([(PROFILE.to_owned(), profile), (API.to_owned(), api)])
}

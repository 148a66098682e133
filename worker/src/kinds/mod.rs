//! The built-in kinds of jobs.

mod answer;
mod api;
mod hosts;
mod profile;
mod response;

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::ports::Clock;
use url::Url;

use crate::handler::Handler;

pub use api::ApiHandler;
pub use hosts::{Forbidden, HostRules};
pub use profile::ProfileHandler;

/// Handlers by the kind that they do.
pub type Kinds = BTreeMap<String, Arc<dyn Handler>>;

/// What the built-in kinds need.
#[derive(Debug, Clone)]
pub struct KindSettings {
    /// Carries the requests; follows no redirects.
    pub http: reqwest::Client,
    /// Where profiles come from.
    pub userinfo_url: String,
    /// Which hosts may have a user's token.
    pub hosts: HostRules,
    /// Stands in for every `*.googleapis.com` origin, with emulators only.
    pub api_root: Option<Url>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// `profile` and `api`.
pub fn builtin(settings: KindSettings) -> Kinds {
    let profile: Arc<dyn Handler> =
        Arc::new(ProfileHandler::new(settings.http.clone(), settings.userinfo_url));
    let api: Arc<dyn Handler> =
        Arc::new(ApiHandler::new(settings.http, settings.hosts, settings.api_root, settings.clock));
    BTreeMap::from([("profile".to_owned(), profile), ("api".to_owned(), api)])
}

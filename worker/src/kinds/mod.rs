//! The built-in kinds of jobs.

mod answer;
mod api;
mod challenge;
mod hosts;
mod profile;
mod response;
mod retry_after;

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::ports::Clock;
use url::Url;

use crate::handler::Handler;

pub use api::{ApiHandler, OutputRules, OutputStore, Outputs};
pub(crate) use hosts::stand_in;
pub use hosts::{Forbidden, HostRules};
pub use profile::ProfileHandler;
pub(crate) use retry_after::asks_to_wait;

/// Handlers by the kind that they do.
pub type Kinds = BTreeMap<String, Arc<dyn Handler>>;

/// What the built-in kinds need.
#[derive(Debug)]
pub struct KindSettings {
    /// Carries the requests; follows no redirects and decodes nothing.
    pub http: reqwest::Client,
    /// Where profiles come from.
    pub userinfo_url: String,
    /// Which hosts may have a user's token.
    pub hosts: HostRules,
    /// Stands in for every `*.googleapis.com` origin, with emulators only.
    pub api_root: Option<Url>,
    /// Where `output` may go; nowhere if `None`.
    pub outputs: Option<Outputs>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// `profile` and `api`.
pub fn builtin(settings: KindSettings) -> Kinds {
    let profile: Arc<dyn Handler> =
        Arc::new(ProfileHandler::new(settings.http.clone(), &settings.userinfo_url));
    let KindSettings { http, hosts, api_root, outputs, clock, .. } = settings;
    let api: Arc<dyn Handler> = Arc::new(ApiHandler::new(http, hosts, api_root, outputs, clock));
    BTreeMap::from([("profile".to_owned(), profile), ("api".to_owned(), api)])
}

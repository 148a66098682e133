//! What carries the calls of all handlers of a worker.

use std::sync::Arc;

use shared::TokenStore;
use url::Url;

use crate::api_clients::ApiClients;
use crate::hosts::HostRules;
use crate::observer::Observer;
use crate::rate_limits::HostLimits;

/// What the sessions of a worker share.
#[derive(Debug, Clone)]
pub(crate) struct Carrier {
    pub(crate) store: TokenStore,
    pub(crate) clients: Arc<ApiClients>,
    pub(crate) hosts: HostRules,
    /// Stands in for Google's API origins, with emulators only.
    pub(crate) api_root: Option<Url>,
    pub(crate) observer: Arc<Observer>,
    /// Which hosts are left alone for a while.
    pub(crate) host_limits: Arc<HostLimits>,
}

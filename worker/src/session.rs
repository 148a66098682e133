//! What a handler acts with: one user's credentials, and clients that carry them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use google_cloud_auth::credentials::Credentials as GoogleCredentials;
use reqwest::Method;
use shared::{Credentials, TokenStore, UserId};
use url::Url;

use crate::calls::{ApiRequest, Observer};
use crate::kinds::{Forbidden, HostRules, stand_in};
use crate::timers::Timers;

/// What the sessions of a worker share.
#[derive(Debug, Clone)]
pub(crate) struct Carrier {
    pub(crate) store: TokenStore,
    pub(crate) http: reqwest::Client,
    pub(crate) hosts: HostRules,
    /// Stands in for Google's API origins, with emulators only.
    pub(crate) api_root: Option<Url>,
    pub(crate) observer: Arc<Observer>,
    /// Somebody is told what became of jobs.
    pub(crate) tells_result: bool,
}

impl Carrier {
    pub(crate) fn session<'a>(
        &'a self,
        credentials: Credentials,
        timers: &'a Timers,
    ) -> Session<'a> {
        Session { carrier: self, credentials, timers }
    }
}

/// One run of a handler as one user.
pub struct Session<'a> {
    carrier: &'a Carrier,
    credentials: Credentials,
    timers: &'a Timers,
}

impl Session<'_> {
    /// On whose behalf.
    pub fn user(&self) -> &UserId {
        self.credentials.user()
    }

    /// The user's fresh credentials. Whoever takes the token out of them decides
    /// where it goes; [`Session::request`] sends it to allowed hosts only.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// A request that carries the user's token, to a host that the operator's
    /// rules allow. It follows no redirects, is counted in the metrics and seen in the
    /// trace.
    ///
    /// # Errors
    /// [`Forbidden`] says why the token may not go there.
    pub fn request(&self, method: Method, url: &str) -> Result<ApiRequest<'_>, Forbidden> {
        let url = self.carrier.hosts.check(url)?;
        let target = self.resolve(&url);
        let token = self.credentials.access_token().expose();
        let request = self.carrier.http.request(method.clone(), target).bearer_auth(token);
        let host = url.host_str().unwrap_or_default();
        Ok(ApiRequest::new(request, method, host, self.observer()))
    }

    /// Whether the result of a job is published with its outcome. A handler may save
    /// itself the work for one that nobody will see.
    pub fn tells_result(&self) -> bool {
        self.carrier.tells_result
    }

    /// Does `work`, and gives it up after `limit`, counted from when it first waits: then
    /// the answer is `None`. Costs less than a timer for each call, as `tokio::time::timeout`
    /// has it.
    ///
    /// Cancelling it drops `work`.
    pub async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        self.timers.within(limit, work).await
    }

    pub(crate) fn observer(&self) -> &Observer {
        &self.carrier.observer
    }

    /// Where requests for an allowed URL really go: with emulators their stand-in
    /// for Google's APIs, else the URL itself.
    pub fn resolve(&self, url: &Url) -> Url {
        stand_in(self.carrier.api_root.as_ref(), url)
    }

    /// Credentials for Google's official clients, which then act as the user;
    /// always fresh, for as long as the client lives.
    pub fn google_credentials(&self) -> GoogleCredentials {
        self.carrier.store.google_credentials(self.user())
    }
}

/// No token.
impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("user", self.user()).finish_non_exhaustive()
    }
}

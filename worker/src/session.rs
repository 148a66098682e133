//! What a handler acts with: one user's credentials, and clients that carry them.

use std::fmt;
use std::sync::Arc;

use google_cloud_auth::credentials::Credentials as GoogleCredentials;
use reqwest::Method;
use shared::{Credentials, TokenStore, UserId};
use url::Url;

use crate::calls::{ApiRequest, Observer};
use crate::effect::{CallLedger, CallUnderWay};
use crate::kinds::{Forbidden, HostRules, stand_in};

/// What the sessions of a worker share.
#[derive(Debug, Clone)]
pub(crate) struct Carrier {
    pub(crate) store: TokenStore,
    pub(crate) http: reqwest::Client,
    pub(crate) hosts: HostRules,
    /// Stands in for Google's API origins, with emulators only.
    pub(crate) api_root: Option<Url>,
    pub(crate) observer: Arc<Observer>,
}

impl Carrier {
    /// A session for one run of a handler.
    pub(crate) fn session(&self, credentials: Credentials) -> Session<'_> {
        Session { carrier: self, credentials, ledger: Arc::default() }
    }
}

/// One run of a handler as one user.
pub struct Session<'a> {
    carrier: &'a Carrier,
    credentials: Credentials,
    ledger: Arc<CallLedger>,
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
        Ok(ApiRequest::new(request, method, host, self.observer(), &self.ledger))
    }

    /// Notes a call that is made otherwise than by [`Session::request`], by an official
    /// client for example, so that a run that is cut or panics meanwhile is not repeated
    /// unless the call is `repeatable`. Begin it before the first byte is sent, and say by
    /// [`CallUnderWay::ended`] what became of it.
    pub fn begin_call(&self, repeatable: bool) -> CallUnderWay {
        self.ledger.begin(repeatable)
    }

    /// What is known of the calls of this run. It outlives the session.
    pub fn ledger(&self) -> Arc<CallLedger> {
        Arc::clone(&self.ledger)
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

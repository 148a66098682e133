//! Where credentials come from: a person consents in a browser.
//!
//! [`oauth_start`] gives the address to send the browser to and a sealed
//! *pending login* for the browser to keep (a cookie). [`oauth_callback`] takes
//! both back: it checks the answer, exchanges the code, fetches the profile and
//! stores the credential by the protocol's *Login*. Neither knows a web
//! framework; `fleet web` and `fleet login` are two doors to them.
//!
//! # What is checked, and where it is kept
//!
//! Any replica may answer the callback, so nothing is kept in memory:
//!
//! - The pending login holds `state`, the PKCE verifier, the nonce, the scopes
//!   that were asked and where to go next. It is encrypted and authenticated
//!   (AES-256-GCM) with a key that the replicas share ([`SessionKey`]). It is
//!   the browser's, so a `state` that another browser presents finds no match.
//! - `state` is used once: before the code is exchanged, `logins/<expiry>-<hash of
//!   state>.json` is created, only if it is absent. Of two callbacks, on whichever
//!   replicas, one creates it and the other is a replay. These markers mean
//!   nothing once the pending login has expired; [`sweep_logins`] removes them.
//! - The code is bound to this login by PKCE (S256), and the ID token by its
//!   nonce. Its signature is not checked: it comes from the token endpoint over
//!   TLS (OpenID Connect Core 1.0, section 3.1.3.7); issuer, audience, expiry,
//!   nonce and subject are.
//!
//! The URL holds only what the provider needs and `state`, a random number.

mod callback;
mod id_token;
mod marker;
mod outcome;
mod pending;
mod seal;
mod start;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde_json::{Map, Value};
use url::Url;

use crate::adapters::SystemClock;
use crate::oauth_client::OAuthClient;
use crate::ports::{Bucket, Clock, Provider, Randomness};
use crate::store::TokenStore;
use crate::user_id::UserId;

pub use callback::{Callback, oauth_callback};
pub use marker::sweep_logins;
pub use outcome::{CallbackError, Outcome, SignedIn};
pub use seal::{BadSessionKey, SessionKey};
pub use start::{LONGEST_NEXT, Start, StartError, Started, oauth_start};

/// What is asked first: who the person is.
pub const SIGN_IN_SCOPES: [&str; 3] = ["openid", "email", "profile"];

/// How long a person may take between start and callback.
pub const LOGIN_LIFETIME: Duration = Duration::from_mins(15);

/// Decides which user of the embedding program a profile belongs to; here is
/// the place to create that user.
pub trait AppUsers: Send + Sync + 'static {
    /// The user ID under which the credential is stored, or a text for the
    /// person that says why there is none. It runs before anything is stored.
    fn user<'a>(&'a self, profile: &'a Map<String, Value>)
    -> BoxFuture<'a, Result<UserId, String>>;
}

/// The profile's `sub`, else its `id`: the account's unchanging name.
#[derive(Debug, Clone, Copy, Default)]
pub struct BySubject;

impl AppUsers for BySubject {
    fn user<'a>(
        &'a self,
        profile: &'a Map<String, Value>,
    ) -> BoxFuture<'a, Result<UserId, String>> {
        let user = subject(profile)
            .ok_or_else(|| "the provider's profile has neither sub nor id".to_owned())
            .and_then(|sub| UserId::new(sub).map_err(|e| e.to_string()));
        async move { user }.boxed()
    }
}

/// The account's name in a profile: `sub` (OpenID Connect), else `id`. A number is one
/// only if it is an integer: of any other the digits may have changed on the way, and
/// two accounts could become one.
pub fn subject(profile: &Map<String, Value>) -> Option<String> {
    let stated = ["sub", "id"].into_iter().filter_map(|field| profile.get(field));
    let named = stated.filter(|value| !value.is_null() && value.as_str() != Some(""));
    match named.into_iter().next()? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

/// Everything that a consent needs. A clone costs some reference counts.
#[derive(Clone)]
pub struct Consent {
    client: OAuthClient,
    provider: Arc<dyn Provider>,
    store: TokenStore,
    markers: Arc<dyn Bucket>,
    key: Arc<SessionKey>,
    redirect_uri: Url,
    users: Arc<dyn AppUsers>,
    issuer: Option<String>,
    listed: Option<Vec<String>>,
    clock: Arc<dyn Clock>,
    random: Arc<Randomness>,
}

impl Consent {
    /// Consents to `client`, stored in `store`. Browsers come back to
    /// `redirect_uri`, which the client must have registered. `markers` is the
    /// bucket in which used `state`s are remembered, the same for all replicas.
    pub fn new(
        client: OAuthClient,
        provider: Arc<dyn Provider>,
        store: TokenStore,
        markers: Arc<dyn Bucket>,
        key: SessionKey,
        redirect_uri: Url,
    ) -> Self {
        Self {
            client,
            provider,
            store,
            markers,
            key: Arc::new(key),
            redirect_uri,
            users: Arc::new(BySubject),
            issuer: None,
            listed: None,
            clock: Arc::new(SystemClock::default()),
            random: Arc::new(Randomness::from_system()),
        }
    }

    /// Lets the embedding program choose the user ID. Default [`BySubject`].
    #[must_use]
    pub fn users(mut self, users: Arc<dyn AppUsers>) -> Self {
        self.users = users;
        self
    }

    /// The exact issuer of ID tokens. Default: Google's for Google's client
    /// files, else any on the origin of the client's endpoints.
    #[must_use]
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// The scopes that may be asked for beyond [`SIGN_IN_SCOPES`]. A login that asks again
    /// for what the person allowed before leaves out what is not listed any more. Default:
    /// everything is. If `offline_access` is listed, every login asks for it: providers that
    /// know it give no refresh token without it, and do not report it as granted.
    #[must_use]
    pub fn listed(mut self, scopes: Vec<String>) -> Self {
        self.listed = Some(scopes);
        self
    }

    /// What every login asks for, whatever else is wanted.
    fn always_asked(&self) -> Vec<String> {
        let listed = self.listed.iter().flatten();
        let offline = listed.filter(|scope| long_name(scope) == OFFLINE_ACCESS).take(1).cloned();
        SIGN_IN_SCOPES.map(str::to_owned).into_iter().chain(offline).collect()
    }

    /// Those of a record's scopes that may be asked for again.
    fn still_listed(&self, scopes: &[String]) -> Vec<String> {
        let Some(listed) = &self.listed else {
            return scopes.to_vec();
        };
        let mut listed = listed.clone();
        listed.extend(SIGN_IN_SCOPES.map(str::to_owned));
        let unlisted = missing_scopes(scopes, &listed);
        scopes.iter().filter(|scope| !unlisted.contains(scope)).cloned().collect()
    }

    /// Replaces the system's clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Replaces the system's randomness; tests only.
    #[must_use]
    pub fn randomness(mut self, random: Arc<Randomness>) -> Self {
        self.random = random;
        self
    }

    /// The key that seals pending logins and may seal sessions.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// When the pending login that a browser kept was begun; `None` when it is none of ours,
    /// or over.
    pub fn pending_since(&self, sealed: &str) -> Option<Timestamp> {
        let begun = pending::Pending::open(&self.key, sealed)?.started_at;
        let age = Duration::try_from(self.clock.wall().duration_since(begun)).unwrap_or_default();
        (age < LOGIN_LIFETIME).then_some(begun)
    }

    /// The store that credentials end up in.
    pub fn store(&self) -> &TokenStore {
        &self.store
    }
}

impl fmt::Debug for Consent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consent")
            .field("client", &self.client)
            .field("redirect_uri", &self.redirect_uri.as_str())
            .finish_non_exhaustive()
    }
}

/// A scope by what it means: Google reports `email` and `profile` by longer names, and some
/// providers change the case.
fn long_name(scope: &str) -> String {
    match scope.to_ascii_lowercase().as_str() {
        "email" => "https://www.googleapis.com/auth/userinfo.email".to_owned(),
        "profile" => "https://www.googleapis.com/auth/userinfo.profile".to_owned(),
        other => other.to_owned(),
    }
}

/// What OpenID Connect calls the scope that a refresh token comes for.
const OFFLINE_ACCESS: &str = "offline_access";

/// Those of `wanted` that a grant with the scopes `held` does not allow. A provider need not
/// report `openid` and `offline_access`, so a grant without them may allow as much.
pub fn not_granted(wanted: &[String], held: &[String]) -> Vec<String> {
    let mut lacking = missing_scopes(wanted, held);
    lacking.retain(|scope| !matches!(long_name(scope).as_str(), "openid" | OFFLINE_ACCESS));
    lacking
}

/// Those of `wanted` that are not in `held`, whatever names they go by: what is still to be
/// asked for. Whether a grant allows what is wanted, [`not_granted`] says.
pub fn missing_scopes(wanted: &[String], held: &[String]) -> Vec<String> {
    let holds = |scope: &&String| !held.iter().any(|h| long_name(h) == long_name(scope));
    wanted.iter().filter(holds).cloned().collect()
}

#[cfg(test)]
mod tests;

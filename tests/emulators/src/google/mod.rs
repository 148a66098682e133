//! Google's identity provider and some of its APIs, on one loopback origin.
//!
//! The token endpoint is the one that a fleet must not call too often: it can rotate
//! refresh tokens, take the reuse of a spent one for a theft and end the grant, and it
//! keeps a record of every call. The APIs check the bearer token as Google's do, and
//! inserting a task leaves an effect that can be counted.
//!
//! | path | |
//! |---|---|
//! | `GET /o/oauth2/auth` | the consent page: choose an account, allow all, some or nothing |
//! | `POST /token` | `grant_type=refresh_token` or `authorization_code` (PKCE S256 checked, ID token); the client's secret in the body or as basic authentication |
//! | `POST /revoke` | `token`, in the form or the query |
//! | `GET /v1/userinfo`, `/oauth2/v3/userinfo`, `/oauth2/v2/userinfo` | the profile, as far as scopes allow |
//! | Calendar v3 | `events` of the primary calendar |
//! | Drive v3 | `files`: list, get, create and update (with media in one request), delete; `GET …/files/{id}?alt=media&size=N` makes up so much of one that every user has |
//! | Gmail v1 | `messages` list, get and send, `labels`, `getProfile` |
//! | Sheets v4 | `spreadsheets` create and get; their `values` |
//! | Tasks v1 | `tasks`, and `tasklists` to read; an insert is an effect, `x-effect-id` names the job |
//! | `/v1/status/{code}?retry_after=&reason=&location=` | that status |
//! | `/v1/echo` | the request as it arrived, without its token |
//! | `/v1/mirror/{code}` | that status, and the request's headers, the token included, wherever an answer can say something |
//! | `/v1/bytes?size=&content_type=&encoding=&chunked=&cut=` | so many bytes, compressed with `encoding=gzip`; `cut` breaks off after so many |
//! | `GET /v1/pages?pages=&elements=&pad=&circular=` | a list in pages |
//!
//! A request is decided and takes effect when it arrives; a latency only holds its
//! answer back. A caller that gives up meanwhile has spent its refresh token, which is
//! the worst that can happen to it.
//!
//! Clients are pointed at it by the root of each API: Go's and Rust's `with_endpoint`, Node's
//! `rootUrl`, Java's `setRootUrl`. Python's `api_endpoint` stands for root and service path in
//! one: the origin for Gmail, Sheets and Tasks, `{origin}/calendar/v3/` and `{origin}/drive/v3/` for
//! the others. It sends media to the root of the discovery document all the same: give
//! `build_from_document` one whose `rootUrl` is `{origin}/`; Node's takes `rootUrl` among the options
//! of a call that sends media, too.
//!
//! # Where production differs
//!
//! - Google does not rotate refresh tokens as a rule, and issues a successor only now
//!   and then; [`Config::rotate`] stands for providers that do. What one that detects a
//!   reuse does is [`OnReuse`].
//! - There is one client. Its grants come from [`Google::add_user`] or from the consent
//!   page, which is always shown (Google skips it when nothing new is asked) and knows no
//!   passwords. As at Google, a refresh token comes with an account's first consent only,
//!   or with `prompt=consent`.
//! - Revoking one token ends the grant that it came from. Google may withdraw every
//!   grant that the account gave to the project.
//! - ID tokens are not signed; no `access_token` in the query, no quotas but [`Google::limit_user`]
//!   and [`api_error`].
//! - All hosts of Google are this one origin: the path alone tells the API.
//! - A method or parameter that the published reference of an API has and the emulator has not is
//!   answered with a 501 that names it (`calendar.events.list with syncToken`); parameters that
//!   the reference does not have are ignored.
//! - A challenge for a missing scope names the one to ask for; Google names all that would do.
//! - Calendars are in UTC, and events do not recur. Mail goes to accounts of this emulator, nowhere
//!   else. No cell is calculated. A spreadsheet is not among the files of Drive.

mod apis;
mod authorize;
mod clock;
mod consent;
mod core;
mod exchange;
mod faults;
mod id_token;
mod identity;
mod kept;
mod large;
mod ledger;
mod limit;
mod oauth;
mod paged;
mod params;
mod probe;
mod refusal;
mod server;
mod token;
mod user;
mod userinfo;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use apis::scopes as api_scopes;
pub use clock::Clock;
pub use faults::{Operation, api_error};
pub use ledger::{Effect, Issued, RefreshCall, RefreshOutcome, Stats, StatsQuery};
pub use token::Fingerprint;
pub use user::{Grant, User};

use self::core::Shared;
use crate::data::Data;
use crate::faults::{Fault, Faults, Injected};
use identity::{Client, Identity, Policy};
use limit::Limit;
use server::Latencies;
use token::{Minter, Secret};

/// Where the emulator listens and how it behaves.
#[derive(Clone)]
pub struct Config {
    /// The one address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How long an access token lives.
    pub token_lifetime: Duration,
    /// Whether a refresh spends the refresh token and brings another.
    pub rotate: bool,
    /// What presenting a spent refresh token leads to.
    pub on_reuse: OnReuse,
    /// How long answers of the token endpoint are held back.
    pub refresh_latency: Duration,
    /// How long answers of the APIs are held back.
    pub api_latency: Duration,
    /// Makes the tokens: the same calls in the same order bring the same tokens.
    pub seed: u64,
    /// The client's ID; an obviously fake one if `None`.
    pub client_id: Option<String>,
    /// The client's secret; an obviously fake one if `None`.
    pub client_secret: Option<String>,
    /// The time by which tokens age and calls are recorded.
    pub clock: Clock,
}

impl Default for Config {
    /// A free port on 127.0.0.1, tokens of an hour, no rotation, no latency.
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            token_lifetime: Duration::from_hours(1),
            rotate: false,
            on_reuse: OnReuse::default(),
            refresh_latency: Duration::ZERO,
            api_latency: Duration::ZERO,
            seed: 0,
            client_id: None,
            client_secret: None,
            clock: Clock::default(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("token_lifetime", &self.token_lifetime)
            .field("rotate", &self.rotate)
            .field("on_reuse", &self.on_reuse)
            .field("refresh_latency", &self.refresh_latency)
            .field("api_latency", &self.api_latency)
            .field("seed", &self.seed)
            .field("client_id", &self.client_id)
            .field("client_secret", &"[redacted]")
            .finish_non_exhaustive()
    }
}

/// What presenting a spent refresh token leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnReuse {
    /// It is taken for a theft: the grant ends, with its current refresh token and all its
    /// access tokens.
    #[default]
    RevokeFamily,
    /// It is answered like any other, and counted.
    Accept,
}

/// The two kinds of OAuth client, which Google's console exports with different keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// A program on the user's computer.
    Installed,
    /// A web server.
    Web,
}

/// A running emulator. Dropping it stops the server and cuts what is under way.
#[derive(Debug)]
pub struct Google {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl Google {
    /// Starts the server. When this returns, it accepts connections.
    ///
    /// Cancelling it leaves nothing behind.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on.
    pub async fn start(config: Config) -> io::Result<Self> {
        Self::begin(config, None).await
    }

    /// Starts with what a folder keeps, and keeps there accounts, grants and tokens from now
    /// on. The client is the configuration's. Codes that were not exchanged, limits, the
    /// counts and what the APIs hold begin anew.
    ///
    /// # Errors
    ///
    /// As [`Google::start`], and when the folder cannot be read.
    pub async fn start_on(config: Config, data: &Data) -> io::Result<Self> {
        Self::begin(config, Some(data)).await
    }

    async fn begin(config: Config, data: Option<&Data>) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let origin = format!("http://{}", listener.local_addr()?);
        let mut minter = Minter::new(config.seed);
        let (id, secret) = (minter.client_id(), minter.client_secret());
        let client = Client {
            id: config.client_id.unwrap_or(id),
            secret: config.client_secret.map_or(secret, Secret::new),
        };
        let policy = Policy {
            token_lifetime: config.token_lifetime,
            rotate: config.rotate,
            on_reuse: config.on_reuse,
        };
        let runs = data.map_or(Ok(0), kept::runs)?;
        if runs > 0 {
            // The same client, and other tokens than before.
            minter = Minter::new(config.seed.wrapping_add(runs));
        }
        let mut identity = Identity::new(policy, client, minter);
        if let Some(data) = data {
            #[expect(clippy::disallowed_methods, reason = "tokens outlive this process's clock")]
            let wall = SystemTime::now();
            identity.resume(data, config.clock.now(), wall)?;
        }
        let journal = data.map(Data::journal);
        let shared = Arc::new(Shared::new(identity, journal, config.clock, origin));
        let latencies = Latencies { refresh: config.refresh_latency, api: config.api_latency };
        let stop = CancellationToken::new();
        server::serve(listener, Arc::clone(&shared), latencies, &stop);
        Ok(Self { shared, _stop: stop.drop_guard() })
    }

    /// Where everything is reached: `http://127.0.0.1:PORT`.
    pub fn origin(&self) -> String {
        self.shared.origin.clone()
    }

    /// The URL of the OpenID Connect userinfo endpoint.
    pub fn userinfo_url(&self) -> String {
        format!("{}/v1/userinfo", self.shared.origin)
    }

    /// The URL of the revocation endpoint.
    pub fn revoke_url(&self) -> String {
        format!("{}/revoke", self.shared.origin)
    }

    /// The client's file as Google's console downloads it, with the URLs of this emulator.
    /// It holds the client's secret. The consent page sends codes to these redirect URIs;
    /// `http://localhost` stands for every port and path of the loopback interface.
    pub fn client_json(&self, kind: ClientKind, redirect_uris: &[&str]) -> Value {
        let origin = &self.shared.origin;
        let client = self.shared.step(|core, _| {
            core.consents.register(redirect_uris);
            core.identity.client().clone()
        });
        let details = json!({
            "client_id": client.id,
            "project_id": "fake-project",
            "auth_uri": format!("{origin}/o/oauth2/auth"),
            "token_uri": format!("{origin}/token"),
            "auth_provider_x509_cert_url": format!("{origin}/oauth2/v1/certs"),
            "client_secret": client.secret.expose(),
            "redirect_uris": redirect_uris,
        });
        match kind {
            ClientKind::Installed => json!({"installed": details}),
            ClientKind::Web => json!({"web": details}),
        }
    }

    /// Grants `scopes` to the client on a user's behalf, as a consent would. The account
    /// is made, or brought up to date if `user.sub` is known; its other grants stay.
    pub fn add_user<S: Into<String>>(
        &self,
        user: User,
        scopes: impl IntoIterator<Item = S>,
    ) -> Grant {
        let scopes = scopes.into_iter().map(Into::into).collect();
        self.shared.step(|core, now| core.identity.grant(now, user, scopes))
    }

    /// An account that has granted nothing yet: the consent page offers it.
    pub fn add_account(&self, user: User) {
        self.shared.step(|core, _| core.identity.add_account(user));
    }

    /// Ends all grants of a user, as when access is withdrawn in the Google account.
    pub fn revoke_user(&self, sub: &str) {
        self.shared.step(|core, _| core.identity.revoke_user(sub));
    }

    /// Expires every access token that was issued for a user so far.
    pub fn expire_access_tokens(&self, sub: &str) {
        self.shared.step(|core, _| core.identity.expire_access_tokens(sub));
    }

    /// Lets `remaining` more API calls of a user pass and answers the next with 429 and
    /// `Retry-After`. Once the wait that it named is over, the limit is gone.
    pub fn limit_user(&self, sub: &str, remaining: u64, retry_after: Duration) {
        let limit = Limit::new(remaining, retry_after);
        self.shared.step(|core, _| core.identity.limit_user(sub, limit));
    }

    /// Has requests meet a fault. Its subject is the `sub` of the user whose token the
    /// request presents.
    pub fn inject(&self, fault: Fault<Operation>) -> Injected {
        self.shared.faults.inject(fault)
    }

    pub(crate) fn faults(&self) -> &Faults<Operation> {
        &self.shared.faults
    }

    /// Dates answers so many seconds ahead of the time, or behind it if negative. Tokens
    /// age as before.
    pub fn set_date_skew(&self, seconds: i64) {
        self.shared.date.set_skew(seconds);
    }

    /// What happened so far.
    pub fn stats(&self, query: &StatsQuery) -> Stats {
        self.shared.step(|core, _| core.ledger.stats(query))
    }

    /// Waits until the numbers for everybody satisfy `condition`, and returns them.
    /// Cancelling it changes nothing.
    pub async fn wait_for(&self, condition: impl FnMut(&Stats) -> bool) -> Stats {
        let mut stats = self.shared.watch();
        match stats.wait_for(condition).await {
            Ok(seen) => *seen,
            // The sender is gone, which cannot be while `self` is there.
            Err(_) => std::future::pending().await,
        }
    }

    /// Every secret that there is so far: access and refresh tokens, whatever became of them,
    /// and the client's.
    pub fn secrets(&self) -> Vec<String> {
        self.shared.step(|core, _| core.identity.secrets())
    }

    /// Every call of the token endpoint so far, in order.
    pub fn refresh_calls(&self) -> Vec<RefreshCall> {
        self.shared.step(|core, _| core.ledger.refresh_calls.clone())
    }

    /// Every effect so far, in order.
    pub fn effects(&self) -> Vec<Effect> {
        self.shared.step(|core, _| core.ledger.effects.clone())
    }

    /// How many access tokens, of all that were ever issued here (those of
    /// [`Google::add_user`] included), had reached `age` at `until`.
    pub fn expiries(&self, age: Duration, until: Instant) -> u64 {
        self.shared.step(|core, _| core.identity.expiries(age, until))
    }
}

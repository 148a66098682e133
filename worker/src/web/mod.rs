//! The consent pages: sign in, see the credential, test it, grow it, end it.
//!
//! Rendered on the server, without requests to other sites but the person's picture; the one
//! script shows times in the browser's zone. Nothing is kept in a replica's memory that another
//! would miss: the session and the login under way are sealed cookies, so any
//! number of replicas serve one address without sticky sessions. A session ends, with every
//! copy of its cookie, when the person signs out or disconnects, with their next consent, or
//! after [`SESSION_LIFETIME`].
//!
//! Every `POST` carries the session's CSRF token, and an `Origin` that differs
//! from ours is refused. Addresses that start logins are limited per caller.

mod account;
pub(crate) mod admin;
mod brand;
mod caller;
mod cookies;
mod hardening;
mod html;
mod limit;
mod link;
mod pages;
mod readiness;
mod router;
mod session;
mod test_job;

use std::sync::Arc;
use std::time::Duration;

use shared::TokenStore;
use shared::consent::Consent;
use shared::ports::{Bucket, Clock, Provider};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;
use url::Url;

use crate::events::Events;
use crate::http_server;
use crate::metrics::Render;
use crate::pubsub::{Connection, Publisher};

pub use brand::{Brand, Logo};
pub use link::connect_link;
pub use session::SESSION_LIFETIME;

/// How long applications may take to be told of the last consents when the process ends.
const TELLING: Duration = Duration::from_secs(5);
/// How often the markers of used logins are swept.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// A topic that outcomes are published to.
#[derive(Debug, Clone)]
pub struct OutcomesTopic {
    /// Where Pub/Sub is.
    pub connection: Connection,
    /// Its full name.
    pub name: String,
}

/// What the pages are made of.
#[derive(Debug)]
pub struct Site {
    /// Where logins begin and end.
    pub consent: Consent,
    /// The store of credentials.
    pub store: TokenStore,
    /// The bucket of the store.
    pub bucket: Arc<dyn Bucket>,
    /// For test calls and revocation.
    pub provider: Arc<dyn Provider>,
    /// For the profile.
    pub http: reqwest::Client,
    /// The userinfo endpoint.
    pub userinfo_url: String,
    /// Where test jobs go; without it the page does not offer them.
    pub jobs: Option<Publisher>,
    /// Where what becomes of them is told; without it the page does not show it.
    pub outcomes: Option<OutcomesTopic>,
    /// Tells applications, where they are told.
    pub events: Option<Arc<Events>>,
    /// Where browsers reach these pages: an origin.
    pub public_url: Url,
    /// The provider's authorization endpoint: forms may lead there.
    pub auth_url: Url,
    /// Scopes beyond signing in that people may be asked for.
    pub offered: Vec<String>,
    /// How many proxies append to `X-Forwarded-For`; the caller's address is the first that
    /// they saw.
    pub trusted_proxies: usize,
    /// Whose pages these are.
    pub brand: Brand,
    /// Where `/connect` may lead back to: origins.
    pub allow_return: Vec<Url>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What `/metrics` shows.
    pub metrics: Render,
}

/// Serves until `stop`, then ends what is under way.
///
/// # Errors
/// When `listener` fails.
pub async fn serve(
    listener: TcpListener,
    site: Site,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let sweeping = tokio::spawn(sweep(Arc::clone(&site.bucket), Arc::clone(&site.clock)));
    let (telling, clock) = (TaskTracker::new(), Arc::clone(&site.clock));
    let router = router::router(site, telling.clone(), stop.clone());
    let served = http_server::serve(listener, router, stop).await;
    sweeping.abort();
    telling.close();
    tokio::select! { biased; () = telling.wait() => {}, () = clock.sleep(TELLING) => {} }
    served
}

async fn sweep(bucket: Arc<dyn Bucket>, clock: Arc<dyn Clock>) {
    loop {
        if let Err(error) = shared::consent::sweep_logins(&*bucket, &*clock).await {
            warn!(%error, "old login markers are still there; the next sweep tries again");
        }
        clock.sleep(SWEEP_EVERY).await;
    }
}

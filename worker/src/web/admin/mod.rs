//! The operators' pages: how the fleet stands, and one user at a time with what can be done
//! about them.
//!
//! Whoever gets through may end any user's grant, so that there are two ways in and no other:
//! from this machine's loopback address, by a `Host` that names it (another site's name that
//! was made to lead here is refused), or through Google's Identity-Aware Proxy, whose signed
//! header says who it is. A `GET` changes nothing. Every form carries a token that was sealed
//! for its operator, and what it does is told the audit trail with the operator's name. No
//! secret is read for a page: what is shown are the record's times, reasons and scopes.

mod access;
mod acting;
mod board;
mod iap;
mod pages;
mod router;
mod search;

use std::sync::Arc;

use shared::TokenStore;
use shared::consent::SessionKey;
use shared::ports::{Clock, Provider};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::events::Events;
use crate::http_server;
use crate::metrics::Render;
use crate::pubsub::Publisher;
use crate::status::Gathering;

pub(crate) use access::Access;
pub(crate) use iap::{GOOGLE_KEYS_URL, Iap};

/// What the pages are made of.
#[derive(Debug)]
pub(crate) struct Admin {
    /// Who gets through.
    pub(crate) access: Access,
    /// Seals what the pages' forms carry.
    pub(crate) key: SessionKey,
    /// The store of credentials.
    pub(crate) store: TokenStore,
    /// How the fleet stands.
    pub(crate) gathering: Gathering,
    /// Ends grants.
    pub(crate) provider: Arc<dyn Provider>,
    /// Where waiting jobs go on; without it they do at a worker's sweep.
    pub(crate) jobs: Option<Publisher>,
    /// Tells applications, where they are told.
    pub(crate) events: Option<Arc<Events>>,
    /// The time.
    pub(crate) clock: Arc<dyn Clock>,
    /// What `/metrics` shows.
    pub(crate) metrics: Render,
}

/// Serves until `stop`, then ends what is under way.
///
/// # Errors
/// When `listener` fails.
pub(crate) async fn serve(
    listener: TcpListener,
    admin: Admin,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let tasks = TaskTracker::new();
    let router = router::router(admin, tasks.clone());
    let served = http_server::serve(listener, router, stop).await;
    tasks.close();
    // What was begun for an operator is not left half done.
    tasks.wait().await;
    served
}

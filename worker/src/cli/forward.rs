//! What is forwarded to HTTP handlers: the worker's flags.

use std::net::SocketAddr;
use std::time::Duration;

use crate::forward::{CONCURRENCY, ForwardError, ForwardSettings, Forwarding, Route};
use anyhow::Context as _;
use clap::Args;
use shared::TokenStore;

use super::connect::duration;
use super::environment::Place;
use super::output::Usage;

#[derive(Debug, Args)]
#[command(next_help_heading = "Jobs in any language")]
pub(crate) struct ForwardArgs {
    /// A kind whose jobs the HTTP handler at this URL does: `http://127.0.0.1:PORT/…`,
    /// `http://[::1]:PORT/…` or `unix:PATH` (repeat, or separate by commas)
    #[arg(long, env = "FLEET_FORWARD", value_delimiter = ',', value_name = "KIND=URL")]
    forward: Vec<String>,
    /// A forwarded kind of which no job may be done twice: where whether it was done is not
    /// known, it is rejected (repeat, or separate by commas)
    #[arg(long, env = "FLEET_FORWARD_ONCE", value_delimiter = ',', value_name = "KIND")]
    forward_once: Vec<String>,
    /// How many jobs of one forwarded kind are done at once
    #[arg(long, env = "FLEET_FORWARD_CONCURRENCY", default_value_t = CONCURRENCY)]
    forward_concurrency: usize,
    /// How long a handler may take for a job, at most 55m
    #[arg(long, env = "FLEET_FORWARD_TIMEOUT", default_value = "10m", value_parser = duration)]
    forward_timeout: Duration,
    /// Where handlers ask for tokens: a loopback address
    #[arg(long, env = "FLEET_TOKEN_LISTEN", default_value = "127.0.0.1:0")]
    token_listen: SocketAddr,
}

impl ForwardArgs {
    /// What the flags say of jobs that come from `subscription`; `None` if nothing is
    /// forwarded.
    ///
    /// # Errors
    /// When a route is none.
    pub(super) fn settings(&self, subscription: &str) -> Result<Option<ForwardSettings>, Usage> {
        let routes = named(&self.forward)
            .map(|text| text.parse::<Route>().map_err(|why| Usage(format!("--forward: {why}"))));
        let routes: Vec<Route> = routes.collect::<Result<_, _>>()?;
        let once: Vec<String> = named(&self.forward_once).map(str::to_owned).collect();
        if routes.is_empty() && once.is_empty() {
            return Ok(None);
        }
        Ok(Some(ForwardSettings {
            routes,
            once,
            concurrency: self.forward_concurrency,
            timeout: self.forward_timeout,
            token_listen: self.token_listen,
            subscription: subscription.to_owned(),
        }))
    }
}

/// A comma too many names nothing.
fn named(entries: &[String]) -> impl Iterator<Item = &str> {
    entries.iter().map(|entry| entry.trim()).filter(|entry| !entry.is_empty())
}

/// Opens what is forwarded.
///
/// # Errors
/// Where a handler could read the bucket's secrets, or the settings cannot work.
pub(super) async fn open(
    settings: ForwardSettings,
    place: &Place,
    store: &TokenStore,
) -> anyhow::Result<Forwarding> {
    needs_keyring(place, store.sealing().keyring().is_some())?;
    match Forwarding::open(settings).await {
        Err(ForwardError::Settings(why)) => Err(Usage(why).into()),
        opened => opened.context("nothing can be forwarded"),
    }
}

/// # Errors
/// Where a handler could read the bucket's secrets.
pub(super) fn needs_keyring(place: &Place, has_keyring: bool) -> Result<(), Usage> {
    if place.emulators.is_none() && !has_keyring {
        let text = "--forward needs --keyring: a handler that shares this worker's identity can \
                    read the bucket, which tells it nothing once that is sealed; make one with \
                    `fleet keyring new`";
        return Err(Usage(text.to_owned()));
    }
    Ok(())
}

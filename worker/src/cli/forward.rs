//! What is forwarded to HTTP handlers: the worker's flags.

use std::net::SocketAddr;
use std::time::Duration;

use crate::forward::{CONCURRENCY, ForwardError, ForwardSettings, Forwarding, Route};
use anyhow::Context as _;
use clap::Args;
use shared::keyring::KeyId;
use shared::{Keyring, TokenStore};

use super::connect::duration;
use super::environment::Place;
use super::output::Usage;

#[derive(Debug, Args)]
#[command(next_help_heading = "Jobs in any language")]
pub(crate) struct ForwardArgs {
    /// A kind whose jobs the HTTP handler at this URL does: `http://127.0.0.1:PORT/…`,
    /// `http://[::1]:PORT/…` or `unix:/PATH` (repeat, or separate by commas)
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
    /// Whether something is to be forwarded.
    pub(super) fn is_given(&self) -> bool {
        named(&self.forward).chain(named(&self.forward_once)).next().is_some()
    }

    /// What the flags say of jobs that come from `subscription`; `None` if nothing is
    /// forwarded.
    ///
    /// # Errors
    /// When one of them cannot work.
    pub(super) fn settings(&self, subscription: &str) -> Result<Option<ForwardSettings>, Usage> {
        if !self.is_given() {
            return Ok(None);
        }
        let routes = named(&self.forward)
            .map(|text| text.parse::<Route>().map_err(|why| Usage(format!("--forward: {why}"))));
        let routes: Vec<Route> = routes.collect::<Result<_, _>>()?;
        let once = named(&self.forward_once).map(str::to_owned).collect();
        let settings = ForwardSettings {
            routes,
            once,
            concurrency: self.forward_concurrency,
            timeout: self.forward_timeout,
            token_listen: self.token_listen,
            subscription: subscription.to_owned(),
        };
        settings.check().map_err(Usage)?;
        Ok(Some(settings))
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
    needs_keyring(place, store.sealing().keyring().and_then(Keyring::primary))?;
    match Forwarding::open(settings).await {
        Err(ForwardError::Settings(why)) => Err(Usage(why).into()),
        opened => opened.context("nothing can be forwarded"),
    }
}

/// `seals` is the key that seals what is stored from now on.
///
/// # Errors
/// Where a handler could read the bucket's secrets.
pub(super) fn needs_keyring(place: &Place, seals: Option<&KeyId>) -> Result<(), Usage> {
    if place.emulators.is_none() && seals.is_none() {
        let text = "--forward needs --keyring, with a key that seals: a handler that shares this \
                    worker's identity can read the bucket, which tells it nothing once that is \
                    sealed; make one with `fleet keyring new`, or have the key of one that only \
                    opens seal with `fleet keyring promote`";
        return Err(Usage(text.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::cli::emulated::Emulators;

    #[test]
    fn a_keyring_whose_key_only_opens_hides_nothing_from_a_handler() {
        let google = Place { emulators: None };
        let check = |place: &Place, keyring: Option<&Keyring>| {
            needs_keyring(place, keyring.and_then(Keyring::primary)).map_err(|Usage(why)| why)
        };
        let now = Timestamp::UNIX_EPOCH;
        let (opens, seals) = (Keyring::open_only(now), Keyring::new(now));
        assert!(check(&google, Some(&opens)).unwrap_err().contains("`fleet keyring promote`"));
        assert!(check(&google, None).unwrap_err().contains("`fleet keyring new`"));
        assert_eq!(check(&google, Some(&seals)), Ok(()));
        let emulators = Emulators {
            pubsub: "127.0.0.1:1".to_owned(),
            storage: "http://127.0.0.1:2".to_owned(),
            storage_grpc: None,
            api_root: None,
            kms_root: None,
        };
        assert_eq!(check(&Place { emulators: Some(emulators) }, None), Ok(()));
    }
}

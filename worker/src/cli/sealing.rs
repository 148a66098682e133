//! How a command seals and opens what is stored.

use std::error::Error as _;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::health::{self, Lack, Probes, Pulse, Readiness};
use crate::metrics::Render;
use anyhow::Context as _;
use clap::Args;
use clap::builder::FalseyValueParser;
use shared::adapters::SystemClock;
use shared::keyring::{KeyringFile, KeyringFileError, WrappedKeyring};
use shared::ports::{Clock, Kms, KmsError, Randomness};
use shared::sealing::Sealing;
use shared::{Keyring, Schedule};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::environment::Place;
use super::optional_path::{given, path_or_nothing};
use super::output::Usage;

/// The keyring, and what is read without it.
#[derive(Debug, Args)]
pub(crate) struct SealingArgs {
    /// Path of the keyring that seals the stored secrets (`fleet keyring new`)
    #[arg(long, env = "FLEET_KEYRING", value_name = "FILE", value_parser = path_or_nothing())]
    keyring: Option<PathBuf>,
    /// With a keyring: read what is not sealed too, until `fleet users reseal --all` is done
    #[arg(long, env = "FLEET_ACCEPT_UNSEALED", value_parser = FalseyValueParser::new())]
    accept_unsealed: bool,
}

/// Pauses between attempts to reach Cloud KMS.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

impl SealingArgs {
    /// # Errors
    /// When the keyring cannot be read or unwrapped.
    pub(crate) async fn sealing(&self, place: &Place) -> anyhow::Result<Sealing> {
        Ok(self.sealing_with(self.keyring(place).await?))
    }

    /// As [`SealingArgs::sealing`], except that Cloud KMS is waited for while it cannot be
    /// reached. Meanwhile `listener` answers that this process is alive and not ready, and why.
    ///
    /// # Errors
    /// When the keyring cannot be read, or the process is told to stop.
    pub(crate) async fn sealing_when_reachable(
        &self,
        place: &Place,
        listener: &TcpListener,
    ) -> anyhow::Result<Sealing> {
        let keyring = match self.file()? {
            Some(KeyringFile::Wrapped(wrapped)) => {
                let kms = place.kms()?;
                let first = wrapped.unwrap(&kms).await;
                match first {
                    Err(error @ KmsError::Unreachable { .. }) => {
                        Some(wait_for(&wrapped, &kms, error, listener).await?)
                    }
                    first => Some(first?),
                }
            }
            Some(KeyringFile::Plain(keyring)) => Some(keyring),
            None => None,
        };
        Ok(self.sealing_with(keyring))
    }

    /// The keyring, if one is named.
    ///
    /// # Errors
    /// When it cannot be read or unwrapped.
    pub(crate) async fn keyring(&self, place: &Place) -> anyhow::Result<Option<Keyring>> {
        Ok(match self.file()? {
            Some(KeyringFile::Wrapped(wrapped)) => Some(wrapped.unwrap(&place.kms()?).await?),
            Some(KeyringFile::Plain(keyring)) => Some(keyring),
            None => None,
        })
    }

    /// How to seal with this keyring, and what to read besides.
    pub(crate) fn sealing_with(&self, keyring: Option<Keyring>) -> Sealing {
        Sealing::new(keyring).accept_unsealed(self.accept_unsealed)
    }

    /// The keyring's file as it is, its keys wrapped where Cloud KMS wraps them.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn file(&self) -> Result<Option<KeyringFile>, Usage> {
        let path = given(self.keyring.as_ref());
        let told = |error: KeyringFileError| match error.source() {
            Some(why) => Usage(format!("{error}: {why}")),
            None => Usage(error.to_string()),
        };
        path.map(|path| KeyringFile::read(path).map_err(told)).transpose()
    }
}

/// Unwraps the keyring as soon as Cloud KMS can be reached, and serves probes until then.
async fn wait_for(
    wrapped: &WrappedKeyring,
    kms: &dyn Kms,
    mut error: KmsError,
    listener: &TcpListener,
) -> anyhow::Result<Keyring> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let ready = Arc::new(Readiness::new(Pulse::new(Arc::clone(&clock))));
    // Nothing is counted before the start.
    let probes = Probes { ready: Arc::clone(&ready), metrics: Render::new(String::new) };
    let stop = CancellationToken::new();
    tokio::spawn(health::serve(shared_listener(listener)?, probes, stop.clone()));
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut pauses = Schedule::new(FIRST_PAUSE, LONGEST_PAUSE);
    let random = Randomness::from_system();
    let health = listener.local_addr()?;
    let keyring = loop {
        warn!(%health, "the keyring is not unwrapped yet: {error}");
        ready.lacks(Lack::Keyring, error.to_string());
        let again = async {
            clock.sleep(pauses.next(random.unit())).await;
            wrapped.unwrap(kms).await
        };
        tokio::select! {
            unwrapped = again => match unwrapped {
                Err(again @ KmsError::Unreachable { .. }) => error = again,
                unwrapped => break unwrapped,
            },
            _ = terminate.recv() => anyhow::bail!("stopped while waiting for Cloud KMS"),
            _ = interrupt.recv() => anyhow::bail!("stopped while waiting for Cloud KMS"),
        }
    }?;
    stop.cancel();
    info!("the keyring is unwrapped");
    Ok(keyring)
}

/// The same port once more: a server keeps what it is given.
fn shared_listener(listener: &TcpListener) -> anyhow::Result<TcpListener> {
    let again = listener.as_fd().try_clone_to_owned().context("the listener cannot be shared")?;
    Ok(TcpListener::from_std(again.into())?)
}

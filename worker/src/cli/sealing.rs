//! How a command seals and opens what is stored.

use std::error::Error as _;
use std::path::PathBuf;

use clap::Args;
use clap::builder::FalseyValueParser;
use shared::Keyring;
use shared::keyring::KeyringFileError;
use shared::sealing::Sealing;

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

impl SealingArgs {
    /// # Errors
    /// When the keyring cannot be read.
    pub(crate) fn sealing(&self) -> Result<Sealing, Usage> {
        Ok(Sealing::new(self.keyring()?).accept_unsealed(self.accept_unsealed))
    }

    /// The keyring, if one is named.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn keyring(&self) -> Result<Option<Keyring>, Usage> {
        let path = given(self.keyring.as_ref());
        let told = |error: KeyringFileError| match error.source() {
            Some(why) => Usage(format!("{error}: {why}")),
            None => Usage(error.to_string()),
        };
        path.map(|path| Keyring::read(path).map_err(told)).transpose()
    }
}

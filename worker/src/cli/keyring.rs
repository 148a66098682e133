//! `fleet keyring`: the keys that seal stored secrets.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::json;
use shared::Keyring;
use shared::adapters::{CloudKms, SystemClock};
use shared::keyring::{KeyId, KeyringFile, WrappedKeyring};
use shared::ports::{Clock as _, InvalidKmsKey, KmsKey};

use super::environment::Place;
use super::output::{self, Usage};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a keyring with one fresh key
    #[command(after_help = "\
Example:
  fleet keyring new keyring.json

  fleet keyring new keyring.json \\
      --kms projects/my-project/locations/europe-west1/keyRings/fleet/cryptoKeys/keyring

Keep the file as you keep the OAuth client's: whoever has it and the bucket can act as
every user. Without it the sealed records are lost. With --kms it is of use only to those
who may decrypt with that Cloud KMS key, which processes ask at their start.")]
    New {
        /// The file to make; an existing one is left as it is
        #[arg(env = "FLEET_KEYRING", hide_env_values = true)]
        file: PathBuf,
        /// The key only opens until `fleet keyring promote`: for a fleet that runs already
        #[arg(long)]
        open_only: bool,
        /// Cloud KMS key that wraps the data keys, by its full name
        #[arg(long, value_name = "KEY", value_parser = kms_key)]
        kms: Option<KmsKey>,
        /// The key IDs as JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a key the one that seals
    #[command(after_help = "\
Example, for a fleet that runs without a keyring:
  fleet keyring new keyring.json --open-only   # give it to every replica
  fleet keyring promote keyring.json           # again, with --accept-unsealed
  fleet users reseal --all --accept-unsealed   # then drop --accept-unsealed")]
    Promote {
        /// The keyring's file
        #[arg(env = "FLEET_KEYRING", hide_env_values = true)]
        file: PathBuf,
        /// The key [default: the newest]
        #[arg(value_name = "KEY_ID")]
        key: Option<String>,
        /// The key IDs as JSON
        #[arg(long)]
        json: bool,
    },
    /// Add a fresh key, or make an added one the key that seals
    #[command(after_help = "\
Example, without downtime:
  fleet keyring rotate keyring.json --add      # then give the file to every replica
  fleet keyring rotate keyring.json --promote ID   # then again
  fleet users reseal --all                     # seals with the new key what is not yet

  fleet keyring rotate keyring.json --add --kms projects/…/cryptoKeys/keyring
                                               # moves a keyring to Cloud KMS, too

Without --add or --promote both happen at once: replicas with the old file cannot read
what the others seal until they have the new one.")]
    Rotate {
        /// The keyring's file
        #[arg(env = "FLEET_KEYRING", hide_env_values = true)]
        file: PathBuf,
        /// Add a key that opens, and does not seal yet
        #[arg(long, conflicts_with = "promote")]
        add: bool,
        /// Seal with this key from now on
        #[arg(long, value_name = "KEY_ID")]
        promote: Option<String>,
        /// Have this Cloud KMS key wrap every data key from now on, with its primary version
        #[arg(long, value_name = "KEY", value_parser = kms_key)]
        kms: Option<KmsKey>,
        /// The key IDs as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let now = SystemClock::default().wall();
    match &args.command {
        Command::New { file, open_only, kms, json } => {
            let keyring = if *open_only { Keyring::open_only(now) } else { Keyring::new(now) };
            let keyring = wrapped_by(kms.as_ref(), KeyringFile::Plain(keyring)).await?;
            keyring.write_new(file)?;
            tell(&keyring, *json)
        }
        Command::Promote { file, key, json } => {
            let mut keyring = KeyringFile::read(file)?;
            let newest = || keyring.keys().last().map(|(id, _)| (*id).clone());
            let id: KeyId = match key {
                Some(id) => id.parse().map_err(|e| Usage(format!("KEY_ID: {e}")))?,
                None => newest().context("a keyring is never empty")?,
            };
            keyring.promote(&id).map_err(|e| Usage(format!("KEY_ID: {e}")))?;
            keyring.replace(file)?;
            tell(&keyring, *json)
        }
        Command::Rotate { file, add, promote, kms, json } => {
            let mut keyring = wrapped_by(kms.as_ref(), KeyringFile::read(file)?).await?;
            let promoted = if let Some(id) = promote {
                let id = id.parse::<KeyId>();
                Some(id.map_err(|e| Usage(format!("--promote: {e}")))?)
            } else {
                let added = match &mut keyring {
                    KeyringFile::Plain(keyring) => keyring.add(now),
                    KeyringFile::Wrapped(wrapped) => wrapped.add(now, &kms_client()?).await?,
                };
                (!add).then_some(added)
            };
            if let Some(id) = promoted {
                keyring.promote(&id).map_err(|e| Usage(format!("--promote: {e}")))?;
            }
            keyring.replace(file)?;
            tell(&keyring, *json)
        }
    }
}

/// The keyring with every key wrapped by the primary version of `kms_key`, or as it is.
async fn wrapped_by(kms_key: Option<&KmsKey>, keyring: KeyringFile) -> anyhow::Result<KeyringFile> {
    let Some(kms_key) = kms_key else { return Ok(keyring) };
    let kms = kms_client()?;
    let keyring = match keyring {
        KeyringFile::Plain(keyring) => keyring,
        KeyringFile::Wrapped(wrapped) => wrapped.unwrap(&kms).await?,
    };
    Ok(KeyringFile::Wrapped(WrappedKeyring::wrap(&keyring, kms_key.clone(), &kms).await?))
}

fn kms_client() -> anyhow::Result<CloudKms> {
    Place::from_env()?.kms()
}

fn kms_key(text: &str) -> Result<KmsKey, String> {
    text.parse().map_err(|e: InvalidKmsKey| e.to_string())
}

/// The IDs of the keys; the keys themselves stay in the file.
fn tell(keyring: &KeyringFile, json: bool) -> anyhow::Result<()> {
    let primary = keyring.primary().map(KeyId::as_str);
    let kms_key = match keyring {
        KeyringFile::Plain(_) => None,
        KeyringFile::Wrapped(wrapped) => Some(wrapped.kms_key().as_str()),
    };
    if json {
        let keys = keyring.keys().into_iter();
        let keys: Vec<_> =
            keys.map(|(id, made)| json!({"id": id.as_str(), "created_at": made})).collect();
        let mut told = json!({"primary": primary, "keys": keys});
        if let Some(kms_key) = kms_key {
            told["kms_key"] = kms_key.into();
        }
        return output::json(&told);
    }
    for (id, made) in keyring.keys() {
        let seals = if Some(id.as_str()) == primary { "seals and opens" } else { "opens" };
        output::line(format!("{}  {made:.0}  {seals}", id.as_str()))?;
    }
    if let Some(kms_key) = kms_key {
        output::line(format!("wrapped by {kms_key}"))?;
    }
    Ok(())
}

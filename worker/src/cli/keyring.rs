//! `fleet keyring`: the keys that seal stored secrets.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;
use shared::Keyring;
use shared::adapters::SystemClock;
use shared::keyring::KeyId;
use shared::ports::Clock as _;

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

Keep the file as you keep the OAuth client's: whoever has it and the bucket can act as
every user. Without it the sealed records are lost.")]
    New {
        /// The file to make; an existing one is left as it is
        #[arg(env = "FLEET_KEYRING", hide_env_values = true)]
        file: PathBuf,
        /// The key only opens until `fleet keyring promote`: for a fleet that runs already
        #[arg(long)]
        open_only: bool,
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
        /// The key IDs as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let now = SystemClock::default().wall();
    match &args.command {
        Command::New { file, open_only, json } => {
            let keyring = if *open_only { Keyring::open_only(now) } else { Keyring::new(now) };
            keyring.write_new(file)?;
            tell(&keyring, *json)
        }
        Command::Promote { file, key, json } => {
            let mut keyring = Keyring::read(file)?;
            let id: KeyId = match key {
                Some(id) => id.parse().map_err(|e| Usage(format!("KEY_ID: {e}")))?,
                None => keyring.newest().clone(),
            };
            keyring.promote(&id).map_err(|e| Usage(format!("KEY_ID: {e}")))?;
            keyring.replace(file)?;
            tell(&keyring, *json)
        }
        Command::Rotate { file, add, promote, json } => {
            let mut keyring = Keyring::read(file)?;
            match promote {
                Some(id) => {
                    let id: KeyId = id.parse().map_err(|e| Usage(format!("--promote: {e}")))?;
                    keyring.promote(&id).map_err(|e| Usage(format!("--promote: {e}")))?;
                }
                None if *add => {
                    keyring.add(now);
                }
                None => {
                    keyring.rotate(now);
                }
            }
            keyring.replace(file)?;
            tell(&keyring, *json)
        }
    }
}

/// The IDs of the keys; the keys themselves stay in the file.
fn tell(keyring: &Keyring, json: bool) -> anyhow::Result<()> {
    let primary = keyring.primary().map(KeyId::as_str);
    if json {
        let keys: Vec<_> = keyring
            .keys()
            .map(|(id, made)| json!({"id": id.as_str(), "created_at": made}))
            .collect();
        return output::json(&json!({"primary": primary, "keys": keys}));
    }
    for (id, made) in keyring.keys() {
        let seals = if Some(id.as_str()) == primary { "seals and opens" } else { "opens" };
        output::line(format!("{}  {made:.0}  {seals}", id.as_str()))?;
    }
    Ok(())
}

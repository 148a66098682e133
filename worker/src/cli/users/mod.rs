//! `fleet users`: the stored users.

mod connect_link;
mod credential_file;
mod import;
mod list;
mod removal;
mod reseal;
mod retry;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};
use shared::record::{RecordCodec, TokenRecord};
use shared::{TokenStore, UserId};

use super::connect::{Connected, JsonAnyway, StoredUserArgs};
use super::environment::Place;
use super::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The stored users: their IDs, one per line
    List(list::Args),
    /// One user's record as JSON, secrets redacted, and why the user must consent
    #[command(after_help = "Example:\n  fleet users show 1097 --bucket my-tokens")]
    Show {
        #[command(flatten)]
        of: StoredUserArgs,
        #[command(flatten)]
        _json: JsonAnyway,
    },
    /// One user's record as JSON, secrets included
    #[command(
        after_help = "Example:\n  (umask 077; fleet users export 1097 --bucket my-tokens > record.json)"
    )]
    Export {
        #[command(flatten)]
        of: StoredUserArgs,
        #[command(flatten)]
        _json: JsonAnyway,
    },
    /// Store a grant that was obtained elsewhere
    Import(import::Args),
    /// Seal with the keyring's primary key what is not yet
    Reseal(reseal::Args),
    /// Present the token of a revoked user once more; some providers end a grant by mistake
    Retry(retry::Args),
    /// End a user's grant at the provider, then remove the record and what waits for it
    #[command(
        after_help = "Example:\n  fleet users revoke 1097 --yes --bucket my-tokens --client client.json"
    )]
    Revoke(removal::Args),
    /// Remove a user's record and what waits for it; the grant stays valid at the provider
    #[command(after_help = "Example:\n  fleet users delete 1097 --yes --bucket my-tokens")]
    Delete(removal::Args),
    /// The link by which a user allows what their waiting jobs need
    ConnectLink(connect_link::Args),
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let place = Place::from_env()?;
    match args.command {
        Command::List(args) => list::run(args, &place).await,
        Command::Show { of, .. } => {
            let record = read(&of.store.connect_to_look(&place).await?, &of.user).await?;
            let mut shown: Value = serde_json::from_slice(&RecordCodec::default().encode(&record))?;
            for secret in ["refresh_token", "access_token"] {
                if shown[secret].is_string() {
                    shown[secret] = "[redacted]".into();
                }
            }
            if let Some(why) = record.trouble() {
                shown["trouble"] = json!({
                    "reason": why.reason().as_str(),
                    "person": why.reason().for_person(),
                    "operator": why.to_string(),
                });
            }
            output::json(&shown)
        }
        Command::Export { of, .. } => {
            let connected = of.store.connect_to_look(&place).await?;
            let record = read(&connected, &of.user).await?;
            connected.exports(&of.user);
            output::json(&serde_json::from_slice(&RecordCodec::default().encode(&record))?)
        }
        Command::Import(args) => import::run(args, &place).await,
        Command::Reseal(args) => reseal::run(args, &place).await,
        Command::Retry(args) => retry::run(args, &place).await,
        Command::Revoke(args) => removal::revoke(args, &place).await,
        Command::Delete(args) => removal::delete(args, &place).await,
        Command::ConnectLink(args) => connect_link::run(args, &place).await,
    }
}

async fn every_user(store: &TokenStore) -> anyhow::Result<Vec<UserId>> {
    let mut all = Vec::new();
    let mut page = None;
    loop {
        let (users, next) = store.list_users(page).await?;
        all.extend(users);
        page = next;
        if page.is_none() {
            return Ok(all);
        }
    }
}

async fn read(connected: &Connected, user: &UserId) -> anyhow::Result<TokenRecord> {
    let record = connected.store.read_record(user).await;
    record.with_context(|| format!("user {:?}", user.as_str()))
}

//! `fleet users`: the stored users.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::adapters::{HttpProvider, SystemClock};
use shared::ports::Clock as _;
use shared::record::{RecordCodec, TokenRecord};
use shared::{Error, Grant, Imported, OAuthClient, Resealed, Revoked, Secret, TokenStore, UserId};

use super::connect::{
    JsonAnyway, Place, ProjectArgs, StoreArgs, StoredUserArgs, read_small, revoke_url, user_id,
    userinfo_url,
};
use super::output::{self, Usage};
use super::resume::resume;
use super::retry;
use super::starthinker;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The IDs of all stored users, one per line
    #[command(after_help = "Example:\n  fleet users list --bucket my-tokens")]
    List {
        #[command(flatten)]
        store: StoreArgs,
        /// One JSON array
        #[arg(long)]
        json: bool,
    },
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
    /// Store a grant that was obtained elsewhere: an exported record, gcloud's `authorized_user` JSON, or StarThinker's JSON or base64
    #[command(after_help = "\
Example:
  fleet users import application_default_credentials.json --user 1097 \\
      --bucket my-tokens --client client.json

The grant must belong to the configured OAuth client. Importing the stored refresh
token again changes nothing. Parked jobs of the user go on at once with --topic, else
at the workers' next sweep.")]
    Import {
        /// The file
        file: PathBuf,
        /// The user's ID
        #[arg(long, value_parser = user_id)]
        user: UserId,
        /// Replace an active record
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        store: StoreArgs,
        #[command(flatten)]
        project: ProjectArgs,
        /// Job topic, where this user's parked jobs go on
        #[arg(long, env = "FLEET_TOPIC")]
        topic: Option<String>,
        /// The result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Seal records with the keyring's primary key, those that are not yet
    #[command(after_help = "\
Examples:
  fleet users reseal --all --bucket my-tokens --client client.json --keyring keyring.json
  fleet users reseal 1097 --bucket my-tokens --client client.json --keyring keyring.json

Each record is written under its lease, so it can run beside the workers. A user whose
token is being renewed is waited for.")]
    Reseal {
        /// The users' IDs
        #[arg(value_name = "USER_ID", value_parser = user_id, required_unless_present = "all")]
        users: Vec<UserId>,
        /// Every stored user
        #[arg(long, conflicts_with = "users")]
        all: bool,
        #[command(flatten)]
        store: StoreArgs,
        /// The counts as JSON
        #[arg(long)]
        json: bool,
    },
    /// Present the token of a revoked user once more; some providers end a grant by mistake
    Retry(retry::Args),
    /// End a user's grant at the provider, then remove the record
    #[command(
        after_help = "Example:\n  fleet users revoke 1097 --bucket my-tokens --client client.json"
    )]
    Revoke {
        #[command(flatten)]
        of: StoredUserArgs,
        /// The result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a user's record; the grant stays valid at the provider
    #[command(after_help = "Example:\n  fleet users delete 1097 --bucket my-tokens")]
    Delete {
        #[command(flatten)]
        of: StoredUserArgs,
        /// The result as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let place = Place::from_env()?;
    match args.command {
        Command::List { store, json } => list(&store, &place, json).await,
        Command::Show { of, .. } => {
            let record = read(&of.store, &place, &of.user).await?;
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
            let record = read(&of.store, &place, &of.user).await?;
            output::json(&serde_json::from_slice(&RecordCodec::default().encode(&record))?)
        }
        Command::Import { file, user, replace, store, project, topic, json } => {
            let topic = project.optional_topic("--topic", topic.as_ref())?;
            let client = store.read_client()?;
            let grant = read_grant(&read_small(&file)?, &user, &client)
                .map_err(|e| Usage(format!("{}: {e}", file.display())))?;
            let connected = store.connect(&place).await?;
            let imported = connected.store.import(&user, grant, replace).await;
            let imported = match imported {
                Err(error @ Error::Exists { .. }) => {
                    return Err(anyhow::Error::new(error)
                        .context("nothing was changed; add --replace to replace the record"));
                }
                other => other.with_context(|| format!("user {:?}", user.as_str()))?,
            };
            resume(&place, topic, &*connected.bucket, &connected.store, &user).await;
            let what = match imported {
                Imported::Created => "created",
                Imported::Replaced => "replaced",
                Imported::Unchanged => "unchanged",
            };
            if json {
                return output::json(&json!({"user": user.as_str(), "result": what}));
            }
            output::line(format!("{what} {}", user.token_object()))
        }
        Command::Reseal { users, all, store, json } => {
            let connected = store.connect(&place).await?;
            let users = if all { every_user(&connected.store).await? } else { users };
            reseal(&connected.store, &users, json).await
        }
        Command::Retry(args) => retry::run(args, &place).await,
        Command::Revoke { of: StoredUserArgs { user, store }, json } => {
            let client = store.read_client()?;
            let connected = store.connect(&place).await?;
            let (userinfo, revoke) = (userinfo_url()?, revoke_url()?);
            let provider = HttpProvider::new(&client, connected.http.clone(), userinfo, revoke)?;
            let revoked = connected
                .store
                .revoke(&user, &provider)
                .await
                .with_context(|| {
                    format!(
                        "user {user:?} is not revoked, and the record stays: try again, or let the person \
                         remove the app in their account's settings at the provider and then run \
                         `fleet users delete {user}`",
                        user = user.as_str()
                    )
                })?;
            if json {
                let result = match revoked {
                    Revoked::Revoked => "revoked",
                    Revoked::WasInvalid => "was_invalid",
                    Revoked::Unknown => "unknown",
                };
                return output::json(&json!({"user": user.as_str(), "result": result}));
            }
            let what = match revoked {
                Revoked::Revoked => "revoked and deleted",
                Revoked::WasInvalid => "no longer valid at the provider; deleted",
                Revoked::Unknown => "nothing to revoke:",
            };
            output::line(format!("{what} {}", user.token_object()))
        }
        Command::Delete { of: StoredUserArgs { user, store }, json } => {
            let connected = store.connect_to_look(&place).await?;
            let existed = connected
                .store
                .delete(&user)
                .await
                .with_context(|| format!("user {:?} may not be deleted yet", user.as_str()))?;
            if json {
                return output::json(&json!({"user": user.as_str(), "deleted": existed}));
            }
            let what = if existed { "deleted" } else { "nothing to delete:" };
            output::line(format!("{what} {}", user.token_object()))
        }
    }
}

async fn list(store: &StoreArgs, place: &Place, json: bool) -> anyhow::Result<()> {
    let connected = store.connect_to_look(place).await?;
    let users = every_user(&connected.store).await?;
    if json {
        let ids: Vec<Value> = users.iter().map(|user| user.as_str().into()).collect();
        return output::json(&ids.into());
    }
    for user in users {
        output::line(user.as_str())?;
    }
    Ok(())
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

/// Seals what is not sealed with the primary key; goes on after a failure and
/// tells of it at the end.
async fn reseal(store: &TokenStore, users: &[UserId], json: bool) -> anyhow::Result<()> {
    let bar = indicatif::ProgressBar::new(users.len() as u64);
    let (mut resealed, mut current, mut failed) = (0_u64, 0_u64, 0_u64);
    for user in users {
        let result = loop {
            match store.reseal(user).await {
                Ok(Resealed::Busy { retry_after }) => {
                    SystemClock::default().sleep(retry_after).await;
                }
                other => break other,
            }
        };
        match result {
            Ok(Resealed::Done) => resealed += 1,
            // Deleted since it was listed: nothing left to seal.
            Ok(_) | Err(Error::NeedsConsent(_)) => current += 1,
            Err(error) => {
                failed += 1;
                bar.suspend(|| output::note(format!("user {:?}: {error}", user.as_str())));
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if json {
        let counts = json!({"resealed": resealed, "unchanged": current, "failed": failed});
        output::json(&counts)?;
    } else {
        output::line(format!("{resealed} resealed, {current} unchanged, {failed} failed"))?;
    }
    anyhow::ensure!(failed == 0, "{failed} record(s) are not sealed with the primary key");
    Ok(())
}

async fn read(store: &StoreArgs, place: &Place, user: &UserId) -> anyhow::Result<TokenRecord> {
    let connected = store.connect_to_look(place).await?;
    let record = connected.store.read_record(user).await;
    record.with_context(|| format!("user {:?}", user.as_str()))
}

/// gcloud's `authorized_user`, as in `application_default_credentials.json`.
#[derive(Deserialize)]
struct AuthorizedUser {
    client_id: String,
    refresh_token: String,
}

/// Reads a file to import; the text of an error quotes nothing of it.
fn read_grant(content: &[u8], user: &UserId, client: &OAuthClient) -> Result<Grant, String> {
    let value: Value = serde_json::from_slice(content)
        .or_else(|e| starthinker::unwrap(content).ok_or(e))
        .map_err(|e| format!("it is not JSON (line {}, column {})", e.line(), e.column()))?;
    let (client_id, grant) = if value["type"] == "authorized_user" {
        let file = AuthorizedUser::deserialize(&value)
            .map_err(|_| "client_id or refresh_token is missing".to_owned())?;
        let grant =
            Grant { refresh_token: Some(Secret::new(file.refresh_token)), ..Grant::default() };
        (file.client_id, grant)
    } else if value.get("version").is_some() {
        let mut value = value;
        // A record may be imported under another ID.
        value["user"] = user.as_str().into();
        let record = RecordCodec::default()
            .decode(user, value.to_string().as_bytes())
            .map_err(|e| e.to_string())?;
        (record.client_id.clone(), granted(record))
    } else if let Some(found) = starthinker::read(&value) {
        found
    } else {
        return Err(
            "it is neither an exported record nor an authorized_user or StarThinker credential"
                .into(),
        );
    };
    if grant.refresh_token.as_ref().is_none_or(|t| t.expose().is_empty()) {
        return Err("it has no refresh token".into());
    }
    if client_id != client.client_id() {
        return Err(format!(
            "it was granted to the OAuth client {client_id:?}, and the configured one is {:?}",
            client.client_id()
        ));
    }
    Ok(grant)
}

fn granted(record: TokenRecord) -> Grant {
    let live: Option<Timestamp> = record.expires_at;
    Grant {
        refresh_token: Some(record.refresh_token),
        access_token: record.access_token,
        expires_at: live,
        expires_in: record.expires_in,
        scopes: record.scopes,
        sub: record.sub,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> OAuthClient {
        OAuthClient::from_json(
            br#"{"installed": {"client_id": "mine", "auth_uri": "https://a.test/", "token_uri": "https://t.test/"}}"#,
        )
        .unwrap()
    }

    #[test]
    fn reads_gclouds_file() {
        let user = UserId::new("u").unwrap();
        let file = br#"{"type":"authorized_user","client_id":"mine","client_secret":"fake-s","refresh_token":"fake-r"}"#;
        let grant = read_grant(file, &user, &client()).unwrap();
        assert_eq!(grant.refresh_token.unwrap().expose(), "fake-r");
    }

    #[test]
    fn says_what_is_wrong_without_quoting_secrets() {
        let user = UserId::new("u").unwrap();
        for (file, says) in [
            ("", "not JSON"),
            ("{}", "neither"),
            (r#"{"type":"service_account","private_key":"fake-k"}"#, "neither"),
            (r#"{"type":"authorized_user","client_id":"mine"}"#, "missing"),
            (
                r#"{"type":"authorized_user","client_id":"mine","refresh_token":""}"#,
                "no refresh token",
            ),
            (
                r#"{"type":"authorized_user","client_id":"other","refresh_token":"fake-r"}"#,
                "\"other\"",
            ),
            (r#"{"version":1,"refresh_token":"fake-r"}"#, "not a token record"),
            (r#"{"version":9}"#, "version 9"),
        ] {
            let error = read_grant(file.as_bytes(), &user, &client()).unwrap_err();
            assert!(error.contains(says), "{file}: {error}");
            assert!(!error.contains("fake-"), "{error}");
        }
    }
}

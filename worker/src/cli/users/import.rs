//! `fleet users import`: a grant that another tool obtained.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;
use shared::adapters::HttpProvider;
use shared::consent::subject;
use shared::ports::Provider as _;
use shared::{Error, Grant, Imported, OAuthClient, Secret, TokenStore, UserId};

use super::super::connect::{
    Connected, ProjectArgs, StoreArgs, read_small, revoke_url, user_id, userinfo_url,
};
use super::super::environment::Place;
use super::super::events::{EventArgs, tell};
use super::super::output::{self, Usage};
use super::super::resume::resume;
use super::credential_file::{self, CredentialFile};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fleet users import application_default_credentials.json --user 1097 \\
      --bucket my-tokens --client client.json
  fleet users export 1097 --bucket old | fleet users import - --user 1097 --bucket new

Reads an exported record, gcloud's authorized_user, the token files of google-auth,
oauth2client, Go, rclone, Node, clasp, firebase-tools and yup-oauth2, and StarThinker's
base64. The grant must belong to the configured OAuth client. A file that names another user
or account than --user is refused: one grant under two IDs ends when either renews it. Of a
file that names nobody the provider is asked whose it is, where its access token is still
good; a refresh token alone tells nothing.

Importing the stored refresh token again changes nothing; a record that was revoked with it
stays revoked (fleet users retry asks the provider). Parked jobs of the user go on at once
with --topic, else at the workers' next sweep.")]
pub(super) struct Args {
    /// The file; - is stdin
    file: PathBuf,
    /// The user's ID
    #[arg(long, value_parser = user_id)]
    user: UserId,
    /// Replace an active record
    #[arg(long)]
    replace: bool,
    /// Take a file of another user, who must not be stored here
    #[arg(long)]
    as_other_user: bool,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    project: ProjectArgs,
    /// Job topic, where this user's parked jobs go on
    #[arg(long, env = "FLEET_TOPIC")]
    topic: Option<String>,
    #[command(flatten)]
    events: EventArgs,
    /// The result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, place: &Place) -> anyhow::Result<()> {
    let Args { file, user, replace, as_other_user, store, project, topic, events, json } = args;
    let topic = project.optional_topic("--topic", topic.as_ref())?;
    let client = store.read_client()?;
    let in_file = |why: String| Usage(format!("{}: {why}", file.display()));
    let read = credential_file::read(&read_small(&file)?).map_err(in_file)?;
    let mut others = others_of(&read, &user);
    let refuse = |others: &[String]| match others.first() {
        Some(other) if !as_other_user => Err(in_file(format!(
            "it is the credential of {other:?}, not of {:?}: one grant under two IDs ends when either renews it; nothing was changed. Import it with --user {other}, or add --as-other-user if {other:?} is not stored in any fleet",
            user.as_str()
        ))),
        _ => Ok(()),
    };
    refuse(&others)?;
    let names_nobody = read.user.is_none() && read.grant.sub.is_none();
    let mut grant = grant_for(read, &client).map_err(in_file)?;
    let ended = grant.ended;
    let connected = store.connect(place).await?;
    let events = events.connect(&project, place, &connected.store, &store.bucket).await?;
    if let (Some(token), true) = (&grant.access_token, names_nobody) {
        grant.sub = account_of(token, &client, &connected).await?;
        others.extend(grant.sub.clone().filter(|account| account != user.as_str()));
        refuse(&others)?;
    }
    for other in others {
        refuse_if_stored(&connected.store, &other, &user).await?;
    }
    let imported = match connected.store.import(&user, grant, replace).await {
        Err(error @ Error::Exists { .. }) => {
            return Err(anyhow::Error::new(error)
                .context("nothing was changed; add --replace to replace the record"));
        }
        other => other.with_context(|| format!("user {:?}", user.as_str()))?,
    };
    resume(place, topic, &*connected.bucket, &connected.store, &user).await;
    tell(events.as_deref(), &user).await;
    let what = match imported {
        Imported::Created => "created",
        Imported::Replaced => "replaced",
        Imported::Unchanged => "unchanged",
    };
    let state = match (imported, ended) {
        (Imported::Unchanged, _) => {
            connected.store.read_record(&user).await?.trouble().map(|why| why.reason())
        }
        (_, ended) => ended,
    };
    if let Some(reason) = state {
        output::note(format!(
            "The user must consent, or `fleet users retry {}` asks the provider: {}.",
            user.as_str(),
            reason.for_operator()
        ));
    }
    if json {
        return output::json(&json!({"user": user.as_str(), "result": what}));
    }
    output::line(format!("{what} {}", user.token_object()))
}

/// Whom the file names besides `user`: the user that it was exported as, or else the account.
fn others_of(file: &CredentialFile, user: &UserId) -> Vec<String> {
    let account = file.grant.sub.as_deref();
    let named = match &file.user {
        // Where the operator's IDs are not accounts, both are right.
        Some(named) if named == user => return Vec::new(),
        Some(named) => vec![named.as_str(), account.unwrap_or(named.as_str())],
        None => account.into_iter().collect(),
    };
    let mut others: Vec<String> =
        named.into_iter().filter(|name| *name != user.as_str()).map(str::to_owned).collect();
    others.dedup();
    others
}

/// Whose access token it is, as far as the provider says so now: one that has expired tells
/// nobody anything, and is no reason not to import what comes with it.
async fn account_of(
    token: &Secret,
    client: &OAuthClient,
    connected: &Connected,
) -> anyhow::Result<Option<String>> {
    let (userinfo, revoke) = (userinfo_url()?, revoke_url(client)?);
    let provider = HttpProvider::new(client, connected.http.clone(), userinfo, revoke)?;
    let profile = provider.profile(token).await.unwrap_or_default();
    Ok(subject(&profile))
}

async fn refuse_if_stored(store: &TokenStore, other: &str, user: &UserId) -> anyhow::Result<()> {
    let Ok(id) = UserId::new(other) else { return Ok(()) };
    match store.read_record(&id).await {
        Err(Error::NeedsConsent(_)) => Ok(()),
        Err(error @ Error::Unavailable(_)) => Err(error.into()),
        Ok(_) | Err(_) => Err(Usage(format!(
            "the file is the credential of {other:?}, who is stored here, so it is not stored as {:?} too: whichever renews it first locks the other out. Nothing was changed",
            user.as_str()
        ))
        .into()),
    }
}

fn grant_for(file: CredentialFile, client: &OAuthClient) -> Result<Grant, String> {
    match file.client_id {
        Some(named) if named != client.client_id() => Err(format!(
            "it was granted to the OAuth client {named:?}, and the configured one is {:?}",
            client.client_id()
        )),
        // A file that names none is taken for the configured client's.
        _ => Ok(file.grant),
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
    fn a_grant_belongs_to_the_configured_client() {
        let read = |client: &str| {
            let file = format!("{{{client} \"refresh_token\": \"fake-r\"}}");
            grant_for(credential_file::read(file.as_bytes()).unwrap(), &self::client())
        };
        assert!(read("\"client_id\": \"mine\",").is_ok());
        assert!(read("").is_ok(), "Go's files name no client");
        let error = read("\"client_id\": \"other\",").unwrap_err();
        assert!(error.contains("\"other\"") && error.contains("\"mine\""), "{error}");
        assert!(!error.contains("fake-"), "{error}");
    }

    #[test]
    fn whom_a_file_names_besides_the_user() {
        for (user, sub, asked, others) in [
            (Some("user-1"), Some("user-1"), "alice", &["user-1"][..]),
            (Some("user-1"), None, "alice", &["user-1"]),
            (Some("user-1"), Some("1097"), "alice", &["user-1", "1097"]),
            (Some("user-1"), Some("1097"), "1097", &["user-1"]),
            (Some("app-7"), Some("1097"), "app-7", &[]),
            (None, Some("1097"), "alice", &["1097"]),
            (None, Some("1097"), "1097", &[]),
            (None, None, "alice", &[]),
        ] {
            let file = CredentialFile {
                client_id: None,
                user: user.map(|user| UserId::new(user).unwrap()),
                grant: Grant { sub: sub.map(str::to_owned), ..Grant::default() },
            };
            let found = others_of(&file, &UserId::new(asked).unwrap());
            assert_eq!(found, others, "{user:?} {sub:?} {asked}");
        }
    }
}

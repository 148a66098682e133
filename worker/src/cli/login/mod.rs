//! `fleet login`: a user credential for a person at a terminal.

mod browser;
mod place;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::Value;
use shared::adapters::{HttpProvider, HttpTokenEndpoint, MemoryBucket, http_client};
use shared::consent::{
    Callback, CallbackError, Consent, OneUser, Outcome, SessionKey, Start, Started, missing_scopes,
    oauth_callback, oauth_start,
};
use shared::profile::get_profile;
use shared::{Error, OAuthClient, TokenStore, UserId};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use url::Url;

use super::connect::{
    Place, ProjectArgs, given, path_or_nothing, read_keyring, read_small, revoke_url, userinfo_url,
};
use super::output::{self, Usage};
use super::resume::resume;
use browser::Return;
use place::Target;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fleet login -c client.json -u me.json
  fleet login -c client.json -u my-bucket:people/me.json
  fleet login -c client.json -u 109876543210987654321 --bucket my-tokens
  fleet login -c client.json -u me.json --no-browser

A USER that ends in .json or contains / is a local file, BUCKET:PATH.json an object,
anything else a user ID in the token store. If it exists it is used, and refreshed
when needed; nothing is asked again.")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct Args {
    /// Path of the OAuth client JSON, as Google's console downloads it
    #[arg(long, short = 'c', env = "FLEET_OAUTH_CLIENT", value_name = "CLIENT", value_parser = path_or_nothing())]
    client: Option<PathBuf>,
    /// Where the credential is, or goes: FILE.json, BUCKET:PATH.json or a user ID
    #[arg(long, short = 'u', value_name = "USER")]
    user: String,
    /// Bucket of the token store, for user IDs
    #[arg(long, env = "FLEET_BUCKET")]
    bucket: Option<String>,
    #[command(flatten)]
    project: ProjectArgs,
    /// Job topic, where this user's parked jobs go on; for user IDs
    #[arg(long, env = "FLEET_TOPIC")]
    topic: Option<String>,
    /// Path of the keyring that seals the token store's secrets, for user IDs
    #[arg(long, env = "FLEET_KEYRING", value_name = "FILE", value_parser = path_or_nothing())]
    keyring: Option<PathBuf>,
    /// A scope beyond signing in (repeat, or separate by commas)
    #[arg(long, value_delimiter = ',', value_name = "SCOPE")]
    scope: Vec<String>,
    /// Print the address and take the pasted answer, for a computer without a browser
    #[arg(long)]
    no_browser: bool,
    /// Allow less than before: ask for nothing beyond --scope
    #[arg(long)]
    fewer: bool,
    /// Replace what another account has stored under this USER
    #[arg(long)]
    other_account: bool,
    /// The profile alone, as JSON
    #[arg(long)]
    json: bool,
}

/// What a person without a client file needs to know.
const HOW_TO_GET_A_CLIENT: &str = "\
no OAuth client file. To get one:
  1. Open https://console.cloud.google.com/apis/credentials and choose your project.
  2. If asked, configure the consent screen (APIs & Services > OAuth consent screen).
  3. Create credentials > OAuth client ID > Application type: Desktop app > Create.
  4. Download JSON, and keep the file to yourself (chmod 600).
  5. Run: fleet login -c THAT_FILE.json -u me.json";

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let client = args.read_client()?;
    let place = Place::from_env()?;
    let target = Target::parse(&args.user, args.bucket.as_deref())?;
    let http = http_client(concat!("fleet/", env!("CARGO_PKG_VERSION")))?;
    let endpoint = Arc::new(HttpTokenEndpoint::new(&client, http.clone())?);
    // A file of one's own is read by other programs, which have no keyring.
    let keyring = match &target {
        Target::Stored { .. } => read_keyring(args.keyring.as_ref())?,
        Target::File(_) | Target::Object { .. } => None,
    };
    let stored = matches!(target, Target::Stored { .. });
    let wanted = args.topic.as_ref().filter(|_| stored);
    let topic = args.project.optional_topic("--topic", wanted)?;
    let (bucket, user) = target.open(&place).await?;
    let store = TokenStore::builder(Arc::clone(&bucket), endpoint).keyring(keyring).build()?;
    let userinfo = userinfo_url()?;
    let login = Login { args: &args, client, http: &http, store: &store, user: &user };
    let result = match login.needed().await {
        Err(error) => Err(error),
        Ok(false) => Ok(()),
        Ok(true) => login.consent(&userinfo).await,
    };
    let profile = match result {
        Ok(()) => get_profile(&store, &http, &userinfo, &user).await.map_err(Into::into),
        Err(error) => Err(error),
    };
    if stored && profile.is_ok() {
        resume(&place, topic, &*bucket, &store, &user).await;
    }
    // A refresh that was begun must be stored.
    store.shutdown(store.policy().longest_flight()).await;
    let profile: serde_json::Map<String, Value> =
        profile.with_context(|| format!("no profile for {}", args.user))?;
    if !args.json {
        output::line("Profile:")?;
    }
    output::json(&Value::Object(profile))
}

impl Args {
    fn read_client(&self) -> Result<OAuthClient, Usage> {
        let path =
            given(self.client.as_ref()).ok_or_else(|| Usage(HOW_TO_GET_A_CLIENT.to_owned()))?;
        if !path.exists() {
            return Err(Usage(format!("{} does not exist: {HOW_TO_GET_A_CLIENT}", path.display())));
        }
        OAuthClient::from_json(&read_small(path)?)
            .map_err(|e| Usage(format!("OAuth client {}: {e}", path.display())))
    }
}

struct Login<'a> {
    args: &'a Args,
    client: OAuthClient,
    http: &'a reqwest::Client,
    store: &'a TokenStore,
    user: &'a UserId,
}

impl Login<'_> {
    /// Whether the person must be asked: there is no usable record, or it allows
    /// less than is wanted.
    async fn needed(&self) -> anyhow::Result<bool> {
        match self.store.get_credentials(self.user).await {
            Ok(held) => Ok(!missing_scopes(&self.args.scope, held.scopes()).is_empty()),
            Err(Error::NeedsConsent(_)) => Ok(true),
            Err(error) => Err(error).with_context(|| self.args.user.clone()),
        }
    }

    async fn consent(&self, userinfo: &str) -> anyhow::Result<()> {
        let back = Return::open(&self.client, self.args.no_browser).await?;
        let provider = HttpProvider::new(&self.client, self.http.clone(), userinfo, revoke_url()?)?;
        let consent = Consent::new(
            self.client.clone(),
            Arc::new(provider),
            self.store.clone(),
            // One process begins and ends this login: its own memory will do.
            Arc::new(MemoryBucket::default()),
            SessionKey::random(),
            back.address().clone(),
        )
        .users(Arc::new(OneUser(self.user.clone())));
        let start = Start { scopes: self.args.scope.clone(), ..Start::default() };
        let start = Start {
            user: Some(self.user.clone()),
            fewer: self.args.fewer,
            other_account: self.args.other_account,
            ..start
        };
        let mut started = oauth_start(&consent, start).await?;
        let mut signed_in = false;
        loop {
            let outcome = match &back {
                Return::Pasted(address) => {
                    ask(&started, address);
                    paste(&consent, &started).await
                }
                Return::Loopback { listener, .. } => {
                    output::note(format!(
                        "Your browser has been opened to visit:\n\n    {}\n\nWaiting for your consent there. Without a browser here: Ctrl-C, then --no-browser.",
                        started.url
                    ));
                    browser::open(&started.url);
                    browser::wait(listener, &consent, &started).await
                }
            };
            let outcome = match outcome {
                // What was allowed the first time is stored.
                Err(error) if signed_in && declined(&error) => return Ok(()),
                other => other?,
            };
            match outcome {
                Outcome::SignedIn(done) => {
                    for scope in &done.missing {
                        output::note(format!("not granted: {scope}"));
                    }
                    return Ok(());
                }
                Outcome::ConsentAgain(again) => started = again,
                Outcome::MoreConsent(_, again) => {
                    output::note(
                        "The credential is stored, but allows less than the one before. \
                         You are asked once more; decline to leave it so.",
                    );
                    signed_in = true;
                    started = again;
                }
            }
        }
    }
}

fn declined(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(CallbackError::Denied))
}

fn ask(started: &Started, address: &Url) {
    output::note(format!(
        "Open this address in a browser, on any computer, and consent:\n\n    {}\n\n\
         The browser then goes to an address that begins with {address}, which shows an\n\
         error: that is expected. Copy that whole address and paste it here (or its code):",
        started.url
    ));
}

async fn paste(consent: &Consent, started: &Started) -> anyhow::Result<Outcome> {
    let mut line = String::new();
    if BufReader::new(tokio::io::stdin()).read_line(&mut line).await? == 0 {
        return Err(Usage("nothing was pasted; nothing was changed".to_owned()).into());
    }
    let pasted = line.trim();
    let answer =
        if pasted.contains("://") { Callback::Url(pasted) } else { Callback::Code(pasted) };
    Ok(oauth_callback(consent, Some(&started.pending), answer).await?)
}

//! `fleet login`: a user credential for a person at a terminal.

mod account;
mod browser;
mod paste;
mod place;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::Value;
use shared::adapters::{HttpProvider, HttpTokenEndpoint, MemoryBucket, http_client};
use shared::consent::{
    CallbackError, Consent, Outcome, SessionKey, Start, not_granted, oauth_start,
};
use shared::profile::get_profile;
use shared::sealing::Sealing;
use shared::{ConsentReason, Error, OAuthClient, TokenStore, UserId};

use super::audit_log;
use super::connect::{ProjectArgs, read_secret, revoke_url, userinfo_url};
use super::environment::Place;
use super::events::{EventArgs, tell};
use super::optional_path::{given, path_or_nothing};
use super::output::{self, Usage};
use super::resume::resume;
use super::sealing::SealingArgs;
use account::Announced;
use browser::{Door, Return};
use paste::Keyboard;
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
when needed; nothing is asked again. A login asks for what is stored and for --scope,
so that it never allows less than before. Exit code 3: a scope was not granted.")]
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
    #[command(flatten)]
    events: EventArgs,
    #[command(flatten)]
    sealing: SealingArgs,
    /// A scope beyond signing in (repeat, or separate by commas)
    #[arg(long, value_delimiter = ',', value_name = "SCOPE")]
    scope: Vec<String>,
    /// Print the address and take the pasted answer, for a computer without a browser
    #[arg(long)]
    no_browser: bool,
    /// Allow no more than --scope: ask again, and for nothing that was allowed before
    #[arg(long)]
    only: bool,
    /// Replace what another account has stored under this USER
    #[arg(long)]
    replace: bool,
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
    let bucket_name = args.bucket.as_deref().filter(|bucket| !bucket.is_empty());
    let target = Target::parse(&args.user, bucket_name)?;
    let http = http_client(concat!("fleet/", env!("CARGO_PKG_VERSION")))?;
    let endpoint = Arc::new(HttpTokenEndpoint::new(&client, http.clone())?);
    // A file of one's own is read by other programs, which have no keyring.
    let sealing = match &target {
        Target::Stored { .. } => args.sealing.sealing(&place).await?,
        Target::File(_) | Target::Object { .. } => Sealing::default(),
    };
    let stored = matches!(target, Target::Stored { .. });
    let wanted = args.topic.as_ref().filter(|_| stored);
    let topic = args.project.optional_topic("--topic", wanted)?;
    let (bucket, user) = target.open(&place).await?;
    let store = TokenStore::builder(Arc::clone(&bucket), endpoint)
        .sealing(sealing)
        .audit(Arc::new(audit_log("")))
        .build()?;
    let events = match bucket_name.filter(|_| stored) {
        Some(name) => args.events.connect(&args.project, &place, &store, name).await?,
        None => None,
    };
    let userinfo = userinfo_url()?;
    let login = Login { args: &args, client, http: &http, store: &store, user: &user };
    let result = match login.needed().await {
        Err(error) => Err(error),
        Ok(false) => Ok(Vec::new()),
        Ok(true) => login.consent(&userinfo).await,
    };
    let profile = match &result {
        Ok(_) => get_profile(&store, &http, &userinfo, &user).await.map_err(Into::into),
        Err(_) => Err(anyhow::anyhow!("nobody signed in")),
    };
    if stored && profile.is_ok() {
        resume(&place, topic, &*bucket, &store, &user).await;
        tell(events.as_deref(), &user).await;
    }
    // A refresh that was begun must be stored.
    store.shutdown(store.policy().longest_flight()).await;
    let missing = result.with_context(|| format!("no profile for {}", args.user))?;
    let profile: serde_json::Map<String, Value> =
        profile.with_context(|| format!("no profile for {}", args.user))?;
    if !args.json {
        output::line("Profile:")?;
    }
    output::json(&Value::Object(profile))?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::NeedsConsent(ConsentReason::MissingScopes(missing)))
        .with_context(|| format!("{} is signed in, but not everything was granted", args.user))
}

impl Args {
    fn read_client(&self) -> Result<OAuthClient, Usage> {
        let path =
            given(self.client.as_ref()).ok_or_else(|| Usage(HOW_TO_GET_A_CLIENT.to_owned()))?;
        if !path.exists() && path.as_os_str() != "-" {
            return Err(Usage(format!("{} does not exist: {HOW_TO_GET_A_CLIENT}", path.display())));
        }
        OAuthClient::from_json(&read_secret(path)?)
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
    /// Whether the person must be asked: there is no usable record, it allows less than is
    /// wanted, or the person wants to change it.
    async fn needed(&self) -> anyhow::Result<bool> {
        if self.args.only || self.args.replace {
            return Ok(true);
        }
        match self.store.get_credentials(self.user).await {
            Ok(held) => Ok(!not_granted(&self.args.scope, held.scopes()).is_empty()),
            Err(Error::NeedsConsent(_)) => Ok(true),
            Err(Error::WrongClient { field, stored, configured, .. }) => {
                output::note(format!(
                    "{} was granted to another OAuth client ({field} {stored:?}); this login \
                     replaces that by a grant to {configured:?}.",
                    self.args.user
                ));
                Ok(true)
            }
            Err(error) => Err(error).with_context(|| self.args.user.clone()),
        }
    }

    /// Has the person consent; what was asked for, signing in included, and not granted.
    async fn consent(&self, userinfo: &str) -> anyhow::Result<Vec<String>> {
        let back = Return::open(&self.client, self.args.no_browser).await?;
        let provider = HttpProvider::new(
            &self.client,
            self.http.clone(),
            userinfo,
            revoke_url(&self.client)?,
        )?;
        let consent = Consent::new(
            self.client.clone(),
            Arc::new(provider),
            self.store.clone(),
            // One process begins and ends this login: its own memory will do.
            Arc::new(MemoryBucket::default()),
            SessionKey::random(),
            back.address().clone(),
        )
        .users(Arc::new(Announced(self.user.clone())));
        let start = Start {
            scopes: self.args.scope.clone(),
            user: Some(self.user.clone()),
            only: self.args.only,
            replace: self.args.replace,
            ..Start::default()
        };
        let mut started = oauth_start(&consent, start).await?;
        let mut keyboard = Keyboard::new();
        let mut signed_in = None;
        loop {
            let outcome = match &back {
                Return::Pasted(address) => {
                    paste::ask(&mut keyboard, &consent, &started, address).await
                }
                Return::Loopback { listener, .. } => {
                    let door = Door::new(back.address(), &started.url);
                    browser::show(&door);
                    browser::wait(listener, &consent, &started, door).await
                }
            };
            let outcome = match (outcome, signed_in.take()) {
                // What was allowed the first time is stored.
                (Err(error), Some(missing)) if declined(&error) => return Ok(missing),
                (Err(error), _) => return Err(self.explained(error)),
                (Ok(outcome), _) => outcome,
            };
            match outcome {
                Outcome::SignedIn(done) => return Ok(done.missing),
                Outcome::ConsentAgain(again) => started = again,
                Outcome::MoreConsent(done, again) => {
                    output::note(
                        "The credential is stored, but allows less than the one before. \
                         You are asked once more; decline to leave it so.",
                    );
                    signed_in = Some(done.missing);
                    started = again;
                }
            }
        }
    }

    /// An operator is told which accounts they are.
    fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        let Some(CallbackError::StoredForAnother { stored, chosen }) = error.downcast_ref() else {
            return error;
        };
        let chosen = chosen.as_deref().unwrap_or("an account that the provider does not name");
        anyhow::anyhow!(
            "{} holds the credential of account {stored}, and you chose {chosen}: nothing was changed. Choose the other account, or add --replace",
            self.args.user
        )
    }
}

fn declined(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(CallbackError::Denied))
}

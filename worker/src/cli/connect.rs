//! The flags that commands share, and what they connect to.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::metered::{MeteredBucket, MeteredEndpoint};
use crate::pubsub::resource;
use anyhow::Context as _;
use clap::Args;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shared::adapters::{
    GOOGLE_REVOKE_URL, HttpProvider, HttpTokenEndpoint, SystemClock, http_client,
};
use shared::ports::{
    Act, Answer, Audit, AuditEntry, Bucket, Clock, EndpointError, Limits, Provider, Randomness,
    TokenEndpoint,
};
use shared::profile::GOOGLE_USERINFO_URL;
use shared::sealing::Sealing;
use shared::{OAuthClient, Policy, Secret, TokenStore, UserId, may_have_secrets, open_secret};
use tokio::net::TcpListener;
use tracing::warn;

use super::audit_log;
use super::environment::Place;
use super::google_access;
use super::help::TUNABLES;
use super::optional_path::{given, path_or_nothing};
use super::output::Usage;
use super::sealing::SealingArgs;

/// The project that IDs are looked up in.
#[derive(Debug, Args)]
pub(crate) struct ProjectArgs {
    /// Project ID
    #[arg(long, env = "GOOGLE_CLOUD_PROJECT")]
    pub(crate) project: Option<String>,
}

impl ProjectArgs {
    /// The full name of the topic that `flag` names.
    pub(crate) fn topic(&self, flag: &str, name: &str) -> Result<String, Usage> {
        resource(self.project.as_deref(), "topics", name).map_err(|e| Usage(format!("{flag}: {e}")))
    }

    /// The full name of an optional topic; an empty variable is as good as none.
    pub(crate) fn optional_topic(
        &self,
        flag: &str,
        name: Option<&String>,
    ) -> Result<Option<String>, Usage> {
        name.filter(|name| !name.is_empty()).map(|name| self.topic(flag, name)).transpose()
    }

    /// The full name of the job subscription.
    pub(crate) fn subscription(&self, name: &str) -> Result<String, Usage> {
        self.subscription_of("--subscription", name)
    }

    /// The full name of the subscription that `flag` names.
    pub(crate) fn subscription_of(&self, flag: &str, name: &str) -> Result<String, Usage> {
        resource(self.project.as_deref(), "subscriptions", name)
            .map_err(|e| Usage(format!("{flag}: {e}")))
    }
}

/// The token store.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// Bucket of the token store
    #[arg(long, env = "FLEET_BUCKET")]
    pub(crate) bucket: String,
    /// Path of the OAuth client JSON, as Google's console downloads it
    #[arg(long, short = 'c', env = "FLEET_OAUTH_CLIENT", value_name = "FILE", value_parser = path_or_nothing())]
    pub(crate) client: Option<PathBuf>,
    #[command(flatten)]
    sealing: SealingArgs,
    /// Believe a provider whose access tokens live for more than 24 h
    #[arg(long, env = "FLEET_LONG_TOKENS", value_parser = clap::builder::FalseyValueParser::new())]
    long_tokens: bool,
    #[command(flatten)]
    policy: PolicyArgs,
}

/// One stored user.
#[derive(Debug, Args)]
pub(crate) struct StoredUserArgs {
    /// The stored user's ID
    #[arg(value_name = "USER_ID", value_parser = user_id)]
    pub(crate) user: UserId,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// For commands whose output is JSON in any case.
#[derive(Debug, Args)]
pub(crate) struct JsonAnyway {
    /// The output is JSON in any case; accepted for scripts
    #[arg(long = "json")]
    _json: bool,
}

/// The store's tunables. Every command takes them, and those show them to which they matter.
#[derive(Debug, Args)]
struct PolicyArgs {
    /// How long a replica may take to renew a token before others step in
    #[arg(long, env = "FLEET_LEASE_TTL", default_value = "30s", value_parser = duration, help_heading = TUNABLES, hide = true)]
    lease_ttl: Duration,
    /// How long before its expiry a token is renewed, at most a quarter of its life
    #[arg(long, env = "FLEET_REFRESH_AHEAD", default_value = "5m", value_parser = duration, help_heading = TUNABLES, hide = true)]
    refresh_ahead: Duration,
    /// A token with less than this left is not used, at most a tenth of its life
    #[arg(long, env = "FLEET_MIN_TTL", default_value = "60s", value_parser = duration, help_heading = TUNABLES, hide = true)]
    min_ttl: Duration,
    /// How long a job waits for a token that another replica is renewing
    #[arg(long, env = "FLEET_WAIT_LIMIT", default_value = "60s", value_parser = duration, help_heading = TUNABLES, hide = true)]
    wait_limit: Duration,
}

impl PolicyArgs {
    fn policy(&self) -> Result<Policy, Usage> {
        let defaults = Policy::default();
        let policy = Policy {
            lease_ttl: self.lease_ttl,
            refresh_ahead: self.refresh_ahead,
            min_ttl: self.min_ttl,
            wait_limit: self.wait_limit,
            look_min: defaults.look_min.min(self.lease_ttl),
            ..defaults
        };
        policy.check().map_err(|e| Usage(e.to_string()))?;
        Ok(policy)
    }
}

/// A duration as people write it: `30s`, `5m`, `1h 30m`, `250ms`, `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text
        .parse::<jiff::Span>()
        .and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()))
        .map_err(|_| "write a duration such as 30s, 5m or 250ms".to_owned())?;
    Duration::try_from(parsed).map_err(|_| "a duration must not be negative".to_owned())
}

/// A connected store and what it is made of.
pub(crate) struct Connected {
    pub(crate) store: TokenStore,
    pub(crate) bucket: Arc<dyn Bucket>,
    /// For APIs.
    pub(crate) http: reqwest::Client,
    /// Identifies this process.
    pub(crate) user_agent: String,
    audit: Arc<dyn Audit>,
}

impl Connected {
    /// Tells the audit trail that somebody is shown a secret of this user.
    pub(crate) fn exports(&self, user: &UserId) {
        self.audit.note(&AuditEntry::new(Act::Exported, user));
    }

    /// Waits until a refresh that was begun is stored: the end of the process
    /// would lose its grant.
    pub(crate) async fn finish(&self) {
        self.store.shutdown(self.store.policy().longest_flight()).await;
    }
}

impl StoreArgs {
    /// Connects with the OAuth client, which is required.
    pub(crate) async fn connect(&self, place: &Place) -> anyhow::Result<Connected> {
        let client = self.read_client()?;
        let sealing = self.sealing.sealing(place).await?;
        self.open(place, Some(&client), sealing).await
    }

    /// As [`StoreArgs::connect`], for what serves and runs until it is stopped: a service that
    /// the keyring needs and that cannot be reached is waited for, which `listener` tells.
    pub(crate) async fn connect_to_serve(
        &self,
        place: &Place,
        listener: &TcpListener,
    ) -> anyhow::Result<Connected> {
        let client = self.read_client()?;
        if place.emulators.is_none() {
            google_access::find_to_serve().await?;
        }
        let sealing = self.sealing.sealing_when_reachable(place, listener).await?;
        self.open(place, Some(&client), sealing).await
    }

    /// Connects for commands that never refresh; a client file is used if given.
    pub(crate) async fn connect_to_look(&self, place: &Place) -> anyhow::Result<Connected> {
        let client = self.client_path().is_some().then(|| self.read_client()).transpose()?;
        let sealing = self.sealing.sealing(place).await?;
        self.open(place, client.as_ref(), sealing).await
    }

    /// Where the OAuth client's file is, if one is named.
    pub(super) fn client_path(&self) -> Option<&Path> {
        given(self.client.as_ref())
    }

    /// How what is stored is sealed and opened.
    pub(super) fn sealing_args(&self) -> &SealingArgs {
        &self.sealing
    }

    /// The store's tunables.
    pub(super) fn policy(&self) -> Result<Policy, Usage> {
        self.policy.policy()
    }

    /// The OAuth client's file.
    pub(crate) fn read_client(&self) -> Result<OAuthClient, Usage> {
        let path = self.client_path().ok_or_else(|| {
            Usage(
                "no OAuth client: set --client (FLEET_OAUTH_CLIENT) to the JSON file that Google's console downloads (APIs & Services > Credentials > Create credentials > OAuth client ID)"
                    .to_owned(),
            )
        })?;
        OAuthClient::from_json(&read_secret(path)?)
            .map_err(|e| Usage(format!("OAuth client {}: {e}", path.display())))
    }

    async fn open(
        &self,
        place: &Place,
        client: Option<&OAuthClient>,
        sealing: Sealing,
    ) -> anyhow::Result<Connected> {
        let policy = self.policy()?;
        let instance = Randomness::from_system().id()[..16].to_owned();
        // Google compresses for those only who also say so here.
        let agent = format!("fleet/{} (replica {instance}; gzip)", env!("CARGO_PKG_VERSION"));
        let http = http_client(&agent).context("TLS cannot be set up")?;
        let mut provider: Option<Arc<dyn Provider>> = None;
        let endpoint: Arc<dyn TokenEndpoint> = match client {
            Some(client) => {
                let (userinfo, revoke) = (userinfo_url()?, revoke_url(client)?);
                let http_provider = HttpProvider::new(client, http.clone(), userinfo, revoke)?;
                provider = Some(Arc::new(http_provider));
                let endpoint = HttpTokenEndpoint::new(client, http.clone())?;
                Arc::new(endpoint.long_tokens(self.long_tokens))
            }
            None => Arc::new(NoClient),
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let endpoint = Arc::new(MeteredEndpoint::new(endpoint, Arc::clone(&clock)));
        if sealing.keyring().is_none() && place.emulators.is_none() {
            warn!(
                "no --keyring: whoever can read the bucket can act as every user; make one with `fleet keyring new`"
            );
        }
        let bucket = place.bucket(&self.bucket).await?.shared();
        let bucket: Arc<dyn Bucket> = Arc::new(MeteredBucket::new(bucket, clock));
        let audit: Arc<dyn Audit> = Arc::new(audit_log(&instance));
        let mut store = TokenStore::builder(Arc::clone(&bucket), endpoint)
            .sealing(sealing)
            .policy(policy)
            .audit(Arc::clone(&audit))
            .holder(instance);
        if let Some(provider) = provider {
            store = store.provider(provider);
        }
        let store = store.build()?;
        Ok(Connected { store, bucket, http, user_agent: agent, audit })
    }
}

/// Stands in where no OAuth client is needed.
#[derive(Debug)]
pub(super) struct NoClient;

impl TokenEndpoint for NoClient {
    fn refresh<'a>(
        &'a self,
        _refresh_token: &'a Secret,
        _limits: Limits,
    ) -> BoxFuture<'a, Result<Answer, EndpointError>> {
        let why = "no OAuth client is configured".into();
        let error = EndpointError::Refused { code: "invalid_client".into(), why };
        async { Err(error) }.boxed()
    }

    fn client_id(&self) -> &'static str {
        ""
    }

    fn token_uri(&self) -> &'static str {
        ""
    }
}

/// Reads a configuration file, or stdin where it is called `-`; a huge one is not one.
pub(crate) fn read_small(path: &Path) -> Result<Vec<u8>, Usage> {
    read_from(path, |path| File::open(path))
}

/// The same of a file that holds a secret, unless others can read or change it.
pub(crate) fn read_secret(path: &Path) -> Result<Vec<u8>, Usage> {
    read_from(path, open_secret)
}

fn read_from(path: &Path, open: impl Fn(&Path) -> io::Result<File>) -> Result<Vec<u8>, Usage> {
    const LIMIT: u64 = 1024 * 1024;
    let (name, source): (_, Box<dyn Read>) = if path.as_os_str() == "-" {
        ("stdin".into(), Box::new(io::stdin().lock()))
    } else {
        let opened = open(path);
        let file = opened.map_err(|e| Usage(format!("cannot read {}: {e}", path.display())))?;
        (path.display().to_string(), Box::new(file))
    };
    let mut content = Vec::new();
    let read = source.take(LIMIT + 1).read_to_end(&mut content);
    read.map_err(|e| Usage(format!("cannot read {name}: {e}")))?;
    if content.len() as u64 > LIMIT {
        return Err(Usage(format!("{name} is larger than {LIMIT} bytes")));
    }
    Ok(content)
}

/// The userinfo endpoint: Google's unless told otherwise.
pub(crate) fn userinfo_url() -> Result<String, Usage> {
    secret_url("FLEET_USERINFO_URL", GOOGLE_USERINFO_URL)
}

/// The revocation endpoint: Google's for Google's clients, unless told otherwise. Of another
/// provider's nothing is known, and Google would say of its tokens that they are dead already.
pub(crate) fn revoke_url(client: &OAuthClient) -> Result<Option<String>, Usage> {
    let default = if client.is_googles() { GOOGLE_REVOKE_URL } else { "" };
    secret_url("FLEET_REVOKE_URL", default).map(|url| Some(url).filter(|url| !url.is_empty()))
}

/// A URL from the environment to which tokens are sent, or that says whom to believe.
pub(crate) fn secret_url(name: &str, default: &str) -> Result<String, Usage> {
    match std::env::var(name).ok().filter(|v| !v.is_empty()) {
        None => Ok(default.to_owned()),
        Some(url) if may_have_secrets(&url) => Ok(url),
        Some(_) => {
            Err(Usage(format!("{name} must be an https URL (http is for loopback addresses only)")))
        }
    }
}

/// A user ID from the command line.
pub(crate) fn user_id(text: &str) -> Result<UserId, String> {
    UserId::new(text).map_err(|e| e.to_string())
}

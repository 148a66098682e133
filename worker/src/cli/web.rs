//! `fleet web`: the consent pages, or the operators' (`web_admin`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::health;
use crate::metrics::{self, Process, Render};
use crate::pubsub::Publisher;
use crate::replica::Stop;
use crate::web::{OutcomesTopic, Site, serve};
use anyhow::Context as _;
use shared::adapters::{HttpProvider, SystemClock};
use shared::consent::{Consent, SessionKey};
use shared::is_loopback;
use shared::ports::{Clock, Provider};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use super::connect::{ProjectArgs, StoreArgs, read_secret, revoke_url, userinfo_url};
use super::doctor::{Names, Start};
use super::environment::Place;
use super::events::EventArgs;
use super::optional_path::{given, path_or_nothing};
use super::orphan::ParentArgs;
use super::output::Usage;
use super::web_admin::{self, AdminArgs};
use super::web_brand::BrandArgs;
use crate::telemetry::prometheus::Scrape;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  (umask 077; openssl rand -base64 32 > session.key)
  fleet web --bucket my-tokens --client client.json --session-key session.key \\
      --public-url https://connect.example.com --listen 0.0.0.0:8080
  fleet web --check ...       # would these settings, files and permissions work?

  fleet web --admin --bucket my-tokens --client client.json --topic jobs

Register PUBLIC_URL/oauth/callback as a redirect URI of the OAuth client. Replicas
behind one address need the same session key and no sticky sessions.

With --admin it serves the operators' pages instead, at http://localhost:8081: how the fleet
stands, users, and buttons that resume, drop and revoke. Whoever reaches that address of this
machine may press them; elsewhere they are served behind Identity-Aware Proxy only.")]
pub(crate) struct Args {
    #[command(flatten)]
    project: ProjectArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    pages: PageArgs,
    /// Look whether it would work, say what to do, and exit 0 or 1 without starting
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// The pages.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Pages")]
pub(super) struct PageArgs {
    /// Where the pages are served
    #[arg(long, env = "FLEET_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where browsers reach them: an origin [default: by --listen]
    #[arg(long, env = "FLEET_PUBLIC_URL", value_name = "URL")]
    public_url: Option<String>,
    /// Path of the key that seals sessions: lines of base64, 32 random bytes or more each; the first seals
    #[arg(long, env = "FLEET_SESSION_KEY", value_name = "FILE", value_parser = path_or_nothing())]
    session_key: Option<PathBuf>,
    /// Job topic, for test jobs [default: none are offered]
    #[arg(long, env = "FLEET_TOPIC")]
    pub(super) topic: Option<String>,
    /// Where workers publish outcomes, to show what becomes of test jobs [default: it is not
    /// shown]
    #[arg(long, env = "FLEET_OUTCOMES_TOPIC")]
    outcomes_topic: Option<String>,
    #[command(flatten)]
    pub(super) events: EventArgs,
    /// A scope that people may be asked for beyond signing in (repeat, or separate by commas)
    #[arg(long, env = "FLEET_OFFER_SCOPES", value_delimiter = ',', value_name = "SCOPE")]
    offer_scope: Vec<String>,
    /// How many proxies append to X-Forwarded-For; 2 behind Google's load balancer
    #[arg(long, env = "FLEET_TRUSTED_PROXIES", default_value = "0", value_name = "N")]
    trusted_proxies: usize,
    /// An origin that /connect may lead back to (repeat, or separate by commas)
    #[arg(long, env = "FLEET_ALLOW_RETURN", value_delimiter = ',', value_name = "URL")]
    allow_return: Vec<String>,
    #[command(flatten)]
    brand: BrandArgs,
    #[command(flatten)]
    pub(super) parent: ParentArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    if args.check {
        return check(&args).await;
    }
    let Args { project, store, pages, admin, .. } = args;
    if admin.is_meant() {
        return web_admin::run(project, store, pages, admin).await;
    }
    let brand = pages.brand.read()?;
    let allow_return = pages.allowed_returns()?;
    let place = Place::from_env()?;
    let client = store.read_client()?;
    let auth_url = Url::parse(client.auth_uri()).context("auth_uri of the OAuth client")?;
    let (userinfo_url, revoke_url) = (userinfo_url()?, revoke_url()?);
    let topic = project.optional_topic("--topic", pages.topic.as_ref())?;
    let outcomes = project.optional_topic("--outcomes-topic", pages.outcomes_topic.as_ref())?;
    let outcomes = outcomes.map(|name| OutcomesTopic { connection: place.connection(), name });
    let listener = health::bind(pages.listen).await.map_err(anyhow::Error::msg)?;
    let address = listener.local_addr()?;
    let public_url = pages.public_url(address)?;
    let key = pages.key(&public_url)?;
    let connected = store.connect_to_serve(&place, &listener).await?;
    let jobs = match topic {
        Some(topic) => {
            place.reach_pubsub().await?;
            Some(Publisher::open(&place.connection(), &topic).await?)
        }
        None => None,
    };
    let bucket_name = &store.bucket;
    let events = pages.events.connect(&project, &place, &connected.store, bucket_name).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let scrape = Scrape::start()?;
    metrics::begin(Process::Web, [], []);
    let provider: Arc<dyn Provider> = Arc::new(HttpProvider::new(
        &client,
        connected.http.clone(),
        userinfo_url.as_str(),
        revoke_url,
    )?);
    let offered: Vec<String> =
        pages.offer_scope.iter().filter(|scope| !scope.is_empty()).cloned().collect();
    let consent = Consent::new(
        client,
        Arc::clone(&provider),
        connected.store.clone(),
        Arc::clone(&connected.bucket),
        key,
        public_url.join("/oauth/callback")?,
    )
    .listed(offered.clone());
    let site = Site {
        consent,
        store: connected.store.clone(),
        bucket: Arc::clone(&connected.bucket),
        provider,
        http: connected.http.clone(),
        userinfo_url,
        jobs,
        outcomes,
        events,
        auth_url,
        offered,
        trusted_proxies: pages.trusted_proxies,
        brand,
        allow_return,
        metrics: {
            let store = connected.store.clone();
            Render::new(move || {
                metrics::read_store(&store);
                scrape.render()
            })
        },
        clock,
        public_url: public_url.clone(),
    };
    let stop = pages.stop()?;
    info!(
        replica = connected.store.holder(),
        address = %address,
        url = public_url.origin().ascii_serialization(),
        "serving pages"
    );
    serve(listener, site, stop).await?;
    connected.finish().await;
    Ok(())
}

/// Looks whether a replica of these settings would work.
async fn check(args: &Args) -> anyhow::Result<()> {
    let Args { project, store, pages, .. } = args;
    let place = Place::from_env()?;
    let mut start = Start::of("fleet web");
    start.setting(pages.brand.read());
    start.setting(pages.allowed_returns());
    start.setting(userinfo_url());
    start.setting(revoke_url());
    let public_url = start.setting(pages.public_url(pages.listen));
    if let Some(public_url) = &public_url {
        start.setting(pages.key(public_url));
    }
    let topic = start.setting(project.optional_topic("--topic", pages.topic.as_ref()));
    let events = start.setting(pages.events.topic(project));
    // Outcomes are shown where they can be read; pages work without.
    start.setting(project.optional_topic("--outcomes-topic", pages.outcomes_topic.as_ref()));
    let (topic, events_topic) = (topic.flatten(), events.flatten());
    let names = Names { topic, events_topic, ..Names::default() };
    start.look(&place, store, &names, public_url.as_ref()).await
}

impl PageArgs {
    /// Cancelled by signals, and when stdin closes where that is asked for.
    pub(super) fn stop(&self) -> anyhow::Result<CancellationToken> {
        let stop = Stop::by_signals().context("signals cannot be watched")?.drain;
        let orphaned = stop.clone();
        self.parent.when_gone(move || orphaned.cancel());
        Ok(stop)
    }

    /// Where browsers are told that the pages are, if they are told.
    pub(super) fn named_url(&self) -> bool {
        self.public_url.as_ref().is_some_and(|url| !url.is_empty())
    }

    pub(super) fn public_url(&self, address: SocketAddr) -> Result<Url, Usage> {
        let Some(url) = self.public_url.as_ref().filter(|url| !url.is_empty()) else {
            return Url::parse(&format!("http://{address}/"))
                .map_err(|e| Usage(format!("--listen {address} makes no address: {e}")));
        };
        let url = Url::parse(url).map_err(|e| Usage(format!("--public-url {url:?}: {e}")))?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let safe = url.scheme() == "https" || url.scheme() == "http" && is_loopback(&url);
        if !bare || !safe || !url.username().is_empty() {
            return Err(Usage(format!(
                "--public-url {url} must be https://HOST (http is for loopback addresses only), without a path"
            )));
        }
        Ok(url)
    }

    /// The origins of `--allow-return`.
    fn allowed_returns(&self) -> Result<Vec<Url>, Usage> {
        let given = self.allow_return.iter().filter(|url| !url.is_empty());
        given
            .map(|text| {
                let url = Url::parse(text).ok().filter(|url| {
                    let bare = url.path() == "/" && url.query().is_none();
                    let safe = url.scheme() == "https" || url.scheme() == "http" && is_loopback(url);
                    bare && safe && url.username().is_empty()
                });
                url.ok_or_else(|| {
                    Usage(format!(
                        "--allow-return {text:?} must be https://HOST (http is for loopback addresses only), without a path"
                    ))
                })
            })
            .collect()
    }

    /// The key of `--session-key`.
    pub(super) fn given_key(&self) -> Result<Option<SessionKey>, Usage> {
        let Some(path) = given(self.session_key.as_ref()) else { return Ok(None) };
        let text = String::from_utf8(read_secret(path)?)
            .map_err(|_| Usage(format!("session key {} is not text", path.display())))?;
        let key = SessionKey::parse(&text);
        key.map(Some).map_err(|e| Usage(format!("session key {}: {e}", path.display())))
    }

    fn key(&self, public_url: &Url) -> Result<SessionKey, Usage> {
        if let Some(key) = self.given_key()? {
            return Ok(key);
        }
        if !is_loopback(public_url) {
            return Err(Usage(
                "no session key: set --session-key (FLEET_SESSION_KEY) to a file made with `openssl rand -base64 32`, the same for every web replica"
                    .to_owned(),
            ));
        }
        warn!("no --session-key: sessions end with this process, and no other replica knows them");
        Ok(SessionKey::random())
    }
}

//! `fleet web`: the consent pages, or the operators' (`web_admin`).

use std::sync::Arc;

use crate::health;
use crate::metrics::{self, Process, Render};
use crate::web::{OutcomesTopic, Site, serve};
use anyhow::Context as _;
use shared::adapters::{GOOGLE_REVOKE_URL, HttpProvider, SystemClock};
use shared::consent::Consent;
use shared::ports::{Clock, Provider};
use tracing::info;
use url::Url;

use super::connect::{ProjectArgs, StoreArgs, revoke_url, secret_url, userinfo_url};
use super::doctor::{Names, Start};
use super::environment::Place;
use super::web_admin::{self, AdminArgs};
use super::web_pages::PageArgs;
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
    /// Check whether it would work, say what to do, and exit without starting: 0 or 1, and 2
    /// where a flag is missing
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    admin: AdminArgs,
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
    let (userinfo_url, revoke_url) = (userinfo_url()?, revoke_url(&client)?);
    let topic = project.optional_topic("--topic", pages.topic.as_ref())?;
    let outcomes = project.optional_topic("--outcomes-topic", pages.outcomes_topic.as_ref())?;
    let outcomes = outcomes.map(|name| OutcomesTopic { connection: place.connection(), name });
    let listener = health::bind(pages.listen).await.map_err(anyhow::Error::msg)?;
    let address = listener.local_addr()?;
    let public_url = pages.public_url(address)?;
    let key = pages.key(&public_url)?;
    let connected = store.connect_to_serve(&place, &listener).await?;
    let jobs = match topic {
        Some(topic) => Some(place.publisher(&topic).await?),
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

/// Checks whether a replica of these settings would work.
async fn check(args: &Args) -> anyhow::Result<()> {
    let Args { project, store, pages, .. } = args;
    let place = Place::from_env()?;
    let mut start = Start::of("fleet web");
    start.setting(pages.brand.read());
    start.setting(pages.allowed_returns());
    start.setting(userinfo_url());
    start.setting(secret_url("FLEET_REVOKE_URL", GOOGLE_REVOKE_URL));
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

//! `fleet web --admin`: the operators' pages.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::health;
use crate::metrics::{self, Process, Render};
use crate::telemetry::prometheus::Scrape;
use crate::web::admin::{Access, Admin, GOOGLE_KEYS_URL, Iap, serve};
use clap::builder::FalseyValueParser;
use shared::adapters::{HttpProvider, SystemClock, http_client};
use shared::consent::SessionKey;
use tracing::info;

use super::connect::{ProjectArgs, StoreArgs, revoke_url, secret_url, userinfo_url};
use super::environment::Place;
use super::output::Usage;
use super::person;
use super::status::QueueArgs;
use super::web_pages::PageArgs;

/// The operators' pages.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Operators' pages")]
pub(crate) struct AdminArgs {
    /// Serve the operators' pages instead of the consent pages
    #[arg(long, env = "FLEET_ADMIN", value_parser = FalseyValueParser::new())]
    admin: bool,
    /// Where they are served: a loopback address, unless --iap-audience is set
    #[arg(
        long,
        env = "FLEET_ADMIN_LISTEN",
        default_value = "127.0.0.1:8081",
        value_name = "ADDRESS"
    )]
    admin_listen: SocketAddr,
    /// Behind Identity-Aware Proxy: the audience of its signed header, as the console shows it
    /// (/projects/NUMBER/global/backendServices/ID)
    #[arg(long, env = "FLEET_IAP_AUDIENCE", value_name = "AUDIENCE")]
    iap_audience: Option<String>,
    #[command(flatten)]
    queues: QueueArgs,
}

impl AdminArgs {
    pub(super) fn is_meant(&self) -> bool {
        self.admin
    }

    /// The audience of Identity-Aware Proxy, if it stands before the pages.
    fn audience(&self, pages: &PageArgs) -> Result<Option<&str>, Usage> {
        let audience = self.iap_audience.as_deref().map(str::trim).filter(|text| !text.is_empty());
        if audience.is_none() && !self.admin_listen.ip().is_loopback() {
            return Err(Usage(format!(
                "--admin-listen {}: whoever reaches these pages may end every user's grant, so that they are served on a loopback address (127.0.0.1), or behind Identity-Aware Proxy: set --iap-audience (FLEET_IAP_AUDIENCE)",
                self.admin_listen
            )));
        }
        if audience.is_some() && !pages.named_url() {
            return Err(Usage(
                "--iap-audience needs --public-url (FLEET_PUBLIC_URL): the address at which the proxy serves these pages"
                    .to_owned(),
            ));
        }
        Ok(audience)
    }
}

pub(super) async fn run(
    project: ProjectArgs,
    store: StoreArgs,
    pages: PageArgs,
    admin: AdminArgs,
) -> anyhow::Result<()> {
    let audience = admin.audience(&pages)?;
    let keys_url = secret_url("FLEET_IAP_KEYS_URL", GOOGLE_KEYS_URL)?;
    let topic = project.optional_topic("--topic", pages.topic.as_ref())?;
    let key = pages.given_key()?.unwrap_or_else(SessionKey::random);
    let place = Place::from_env()?;
    let client = store.read_client()?;
    let (userinfo_url, revoke_url) = (userinfo_url()?, revoke_url(&client)?);
    let listener = health::bind(admin.admin_listen).await.map_err(anyhow::Error::msg)?;
    let address = listener.local_addr()?;
    let access = match audience {
        None => Access::Loopback(person()),
        Some(audience) => {
            let http = http_client(concat!("fleet/", env!("CARGO_PKG_VERSION")))?;
            let iap = Iap::new(audience, http, keys_url);
            Access::Iap { iap: Box::new(iap), public_url: pages.public_url(address)? }
        }
    };
    let connected = store.connect_to_serve(&place, &listener).await?;
    let jobs = match topic {
        Some(topic) => Some(place.publisher(&topic).await?),
        None => None,
    };
    let bucket = &store.bucket;
    let events = pages.events.connect(&project, &place, &connected.store, bucket).await?;
    let scrape = Scrape::start()?;
    metrics::begin(Process::Web, [], []);
    let provider = HttpProvider::new(&client, connected.http.clone(), userinfo_url, revoke_url)?;
    let site = Admin {
        access,
        key,
        store: connected.store.clone(),
        gathering: admin.queues.gathering(&project, &place, &connected, bucket)?,
        provider: Arc::new(provider),
        jobs,
        events,
        clock: Arc::new(SystemClock::default()),
        metrics: {
            let store = connected.store.clone();
            Render::new(move || {
                metrics::read_store(&store);
                scrape.render()
            })
        },
    };
    let stop = pages.stop()?;
    info!(
        replica = connected.store.holder(),
        address = %address,
        url = format!("http://{address}"),
        "serving the operators' pages"
    );
    serve(listener, site, stop).await?;
    connected.finish().await;
    Ok(())
}

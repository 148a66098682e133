//! What the consent pages and the operators' pages are served with.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use shared::consent::SessionKey;
use shared::is_loopback;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use url::Url;

use crate::replica::Stop;

use super::connect::read_secret;
use super::events::EventArgs;
use super::optional_path::{given, path_or_nothing};
use super::orphan::ParentArgs;
use super::output::Usage;
use super::web_brand::BrandArgs;

/// The pages.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Pages")]
pub(super) struct PageArgs {
    /// Where the pages are served
    #[arg(long, env = "FLEET_LISTEN", default_value = "127.0.0.1:8080")]
    pub(super) listen: SocketAddr,
    /// Where browsers reach them: an origin [default: by --listen]
    #[arg(long, env = "FLEET_PUBLIC_URL", value_name = "URL")]
    public_url: Option<String>,
    /// Path of the key that seals sessions: lines of base64, 32 random bytes or more each; the first seals
    #[arg(long, env = "FLEET_SESSION_KEY", value_name = "FILE", value_parser = path_or_nothing())]
    pub(super) session_key: Option<PathBuf>,
    /// Job topic, for test jobs [default: none are offered]
    #[arg(long, env = "FLEET_TOPIC")]
    pub(super) topic: Option<String>,
    /// Where workers publish outcomes, to show what becomes of test jobs [default: it is not
    /// shown]
    #[arg(long, env = "FLEET_OUTCOMES_TOPIC")]
    pub(super) outcomes_topic: Option<String>,
    #[command(flatten)]
    pub(super) events: EventArgs,
    /// A scope that people may be asked for beyond signing in (repeat, or separate by commas)
    #[arg(long, env = "FLEET_OFFER_SCOPES", value_delimiter = ',', value_name = "SCOPE")]
    pub(super) offer_scope: Vec<String>,
    /// How many proxies append to X-Forwarded-For; 2 behind Google's load balancer
    #[arg(long, env = "FLEET_TRUSTED_PROXIES", default_value = "0", value_name = "N")]
    pub(super) trusted_proxies: usize,
    /// An origin that /connect may lead back to (repeat, or separate by commas)
    #[arg(long, env = "FLEET_ALLOW_RETURN", value_delimiter = ',', value_name = "URL")]
    pub(super) allow_return: Vec<String>,
    #[command(flatten)]
    pub(super) brand: BrandArgs,
    #[command(flatten)]
    pub(super) parent: ParentArgs,
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
    pub(super) fn allowed_returns(&self) -> Result<Vec<Url>, Usage> {
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

    pub(super) fn key(&self, public_url: &Url) -> Result<SessionKey, Usage> {
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

//! The person's browser, and the address on this computer that it comes back to.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use shared::consent::{
    Callback, CallbackError, Consent, LOGIN_LIFETIME, Outcome, Started, oauth_callback,
};
use shared::ports::Randomness;
use shared::{ClientKind, OAuthClient, is_loopback};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use url::Url;

use super::super::output::{self, Usage};

/// So many connections are read at a time.
const MOST_AT_ONCE: usize = 64;
const NOT_THIS: &str = "This is not the answer to your login.";
/// A connection that sends no request for so long is closed.
const PATIENCE: Duration = Duration::from_mins(1);

/// Where the answer comes back.
pub(super) enum Return {
    /// To a port of this computer.
    Loopback { listener: TcpListener, address: Url },
    /// To an address that nobody serves; the person copies it.
    Pasted(Url),
}

/// As nothing listens there, the address stays in the browser to be copied.
const PASTED: &str = "http://127.0.0.1:8085/";

impl Return {
    /// A desktop client may use any port; a web client has its addresses
    /// registered, and one of them must be of this computer.
    pub(super) async fn open(client: &OAuthClient, pasted: bool) -> anyhow::Result<Self> {
        let registered = client
            .redirect_uris()
            .iter()
            .filter_map(|uri| Url::parse(uri).ok())
            .find(|uri| uri.scheme() == "http" && is_loopback(uri) && uri.port().is_some());
        let fixed = match (client.kind(), registered) {
            (ClientKind::Installed, _) => None,
            (ClientKind::Web, Some(uri)) => Some(uri),
            (ClientKind::Web, None) => {
                return Err(Usage(
                    "this OAuth client is of type \"Web application\" and has no redirect URI on this computer: add http://127.0.0.1:8085/ to it in the console and download it again, or create one of type \"Desktop app\""
                        .to_owned(),
                )
                .into());
            }
        };
        if pasted {
            let address = fixed.map_or_else(|| Url::parse(PASTED), Ok)?;
            return Ok(Self::Pasted(address));
        }
        let port = fixed.as_ref().and_then(Url::port).unwrap_or(0);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.with_context(|| {
            format!("cannot listen on 127.0.0.1:{port}; end what uses it, or use --no-browser")
        })?;
        let address = match fixed {
            Some(address) => address,
            None => Url::parse(&format!("http://{}/", listener.local_addr()?))?,
        };
        Ok(Self::Loopback { listener, address })
    }

    pub(super) fn address(&self) -> &Url {
        match self {
            Self::Loopback { address, .. } | Self::Pasted(address) => address,
        }
    }
}

/// The page on this computer that sends the browser on to the provider, once. A browser's
/// arguments can be read by every local user, so that they hold this page's address: with
/// the provider's, anybody could end the login with an account of their own.
pub(super) struct Door {
    here: Url,
    leads_to: Url,
    opened: bool,
}

impl Door {
    pub(super) fn new(address: &Url, leads_to: &Url) -> Self {
        let mut here = address.clone();
        here.set_path(&format!("/open/{}", Randomness::from_system().id()));
        here.set_query(None);
        Self { here, leads_to: leads_to.clone(), opened: false }
    }
}

/// Opens the system's browser, or the one that `BROWSER` names, and says whether it was
/// opened. Failing is no error: the provider's address is shown, on a terminal that is the
/// person's own.
pub(super) fn show(door: &Door) {
    let opened = match open(&door.here) {
        Ok(()) => "Your browser has been opened to visit:".to_owned(),
        Err(why) => {
            format!("No browser was opened ({why}). Open this address in one on this computer:")
        }
    };
    output::note(format!(
        "{opened}\n\n    {}\n\nWaiting for your consent there. Without a browser here: Ctrl-C, then --no-browser.",
        door.leads_to
    ));
}

fn open(url: &Url) -> Result<(), String> {
    let default = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let program = std::env::var_os("BROWSER").filter(|v| !v.is_empty());
    let program = program.unwrap_or_else(|| default.into());
    let mut command = tokio::process::Command::new(&program);
    command.arg(url.as_str()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let started = command.spawn().map_err(|e| format!("{}: {e}", program.display()));
    let mut child = started?;
    tokio::spawn(async move {
        if child.wait().await.is_ok_and(|status| !status.success()) {
            output::note(format!(
                "{} could not open it; open the address yourself.",
                program.display()
            ));
        }
    });
    Ok(())
}

/// Answers requests until one ends the login. What does not belong to it, such
/// as a request for an icon or another program's, is told so and waited past. Connections are
/// read side by side: a browser opens some ahead of need and leaves them idle.
pub(super) async fn wait(
    listener: &TcpListener,
    consent: &Consent,
    started: &Started,
    mut door: Door,
) -> anyhow::Result<Outcome> {
    let (targets, mut read) = mpsc::channel(MOST_AT_ONCE);
    let slots = Arc::new(Semaphore::new(MOST_AT_ONCE));
    let accepting = async {
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await?;
            let (mut stream, _) = listener.accept().await?;
            let targets = targets.clone();
            tokio::spawn(async move {
                let _slot = slot;
                match target(&mut stream).await {
                    Some(target) => drop(targets.send((stream, target)).await),
                    None => answer(&mut stream, "400 Bad Request", NOT_THIS).await,
                }
            });
        }
    };
    let deciding = async {
        while let Some((mut stream, target)) = read.recv().await {
            if target == door.here.path() {
                enter(&mut door, &mut stream).await?;
                continue;
            }
            let Some((_, query)) = target.split_once('?') else {
                answer(&mut stream, "400 Bad Request", NOT_THIS).await;
                continue;
            };
            if let Some(ended) = decide(consent, started, &mut stream, query).await {
                return ended;
            }
        }
        anyhow::bail!("nothing is read any more")
    };
    let serving = async {
        tokio::select! {
            ended = deciding => ended,
            failed = accepting => failed,
        }
    };
    tokio::time::timeout(LOGIN_LIFETIME, serving)
        .await
        .unwrap_or_else(|_| anyhow::bail!("nobody consented in {LOGIN_LIFETIME:?}; start again"))
}

/// Sends the browser on; a second visitor ends the login, since one of the two is not the
/// person's browser.
async fn enter(door: &mut Door, stream: &mut TcpStream) -> anyhow::Result<()> {
    if door.opened {
        answer(
            stream,
            "410 Gone",
            "This address works once, and has been used. Start the login again.",
        )
        .await;
        anyhow::bail!(
            "the page that leads to the provider was asked for twice: perhaps another program on this computer did, to sign in with an account of its own. Nothing was stored; start again"
        );
    }
    door.opened = true;
    let location = format!("Location: {}\r\n", door.leads_to);
    respond(stream, "303 See Other", &location, "Your browser goes on to the provider.").await;
    Ok(())
}

/// Answers one request; how the login ended, if that ended it.
async fn decide(
    consent: &Consent,
    started: &Started,
    stream: &mut TcpStream,
    query: &str,
) -> Option<anyhow::Result<Outcome>> {
    match oauth_callback(consent, Some(&started.pending), Callback::Query(query)).await {
        Ok(Outcome::SignedIn(done)) => {
            let told = "You are signed in. You can close this window and go back to the terminal.";
            answer(stream, "200 OK", told).await;
            Some(Ok(Outcome::SignedIn(done)))
        }
        Ok(again) => {
            answer(stream, "200 OK", "One more step: see the terminal.").await;
            Some(Ok(again))
        }
        Err(error @ (CallbackError::NotYours | CallbackError::Malformed(_))) => {
            answer(stream, "400 Bad Request", &error.to_string()).await;
            None
        }
        Err(error) => {
            answer(stream, "400 Bad Request", &error.to_string()).await;
            Some(Err(anyhow::Error::new(error)))
        }
    }
}

/// What a GET request asks for, path and query, from its first line.
async fn target(stream: &mut TcpStream) -> Option<String> {
    const LONGEST: usize = 16 * 1024;
    let mut head = Vec::new();
    let mut chunk = [0; 2048];
    let reading = async {
        while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < LONGEST {
            match stream.read(&mut chunk).await {
                Ok(n) if n > 0 => head.extend_from_slice(&chunk[..n]),
                _ => break,
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.ok();
    let line = std::str::from_utf8(&head).ok()?.lines().next()?;
    line.strip_prefix("GET ")?.split(' ').next().map(str::to_owned)
}

async fn answer(stream: &mut TcpStream, status: &str, text: &str) {
    respond(stream, status, "", text).await;
}

async fn respond(stream: &mut TcpStream, status: &str, header: &str, text: &str) {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let body = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\"><title>Fleet</title><main><h1>Fleet</h1><p>{escaped}</p></main></html>"
    );
    let head = format!(
        "HTTP/1.1 {status}\r\n{header}Content-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nContent-Security-Policy: default-src 'none'\r\nReferrer-Policy: no-referrer\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // A browser that went away has missed a courtesy only.
    drop(stream.write_all(format!("{head}{body}").as_bytes()).await);
    drop(stream.shutdown().await);
}

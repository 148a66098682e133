//! The person's browser, and the address on this computer that it comes back to.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use shared::consent::{
    Callback, CallbackError, Consent, LOGIN_LIFETIME, Outcome, Started, oauth_callback,
};
use shared::{ClientKind, OAuthClient, is_loopback};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use url::Url;

use super::super::output::{self, Usage};

/// So many connections are read at a time.
const MOST_AT_ONCE: usize = 64;
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

/// Opens the system's browser, or the one that `BROWSER` names, and says whether it was
/// opened. Failing is no error: the address is printed.
pub(super) fn show(url: &Url) {
    let opened = match open(url) {
        Ok(()) => "Your browser has been opened to visit:".to_owned(),
        Err(why) => {
            format!("No browser was opened ({why}). Open this address in one on this computer:")
        }
    };
    output::note(format!(
        "{opened}\n\n    {url}\n\nWaiting for your consent there. Without a browser here: Ctrl-C, then --no-browser."
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
) -> anyhow::Result<Outcome> {
    let (queries, mut read) = mpsc::channel(MOST_AT_ONCE);
    let slots = Arc::new(Semaphore::new(MOST_AT_ONCE));
    let accepting = async {
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await?;
            let (mut stream, _) = listener.accept().await?;
            let queries = queries.clone();
            tokio::spawn(async move {
                let _slot = slot;
                match query(&mut stream).await {
                    Some(query) => drop(queries.send((stream, query)).await),
                    None => {
                        answer(
                            &mut stream,
                            "400 Bad Request",
                            "This is not the answer to your login.",
                        )
                        .await;
                    }
                }
            });
        }
    };
    let deciding = async {
        while let Some((mut stream, query)) = read.recv().await {
            if let Some(ended) = decide(consent, started, &mut stream, &query).await {
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

/// The query of a GET request to `/…`, from its first line.
async fn query(stream: &mut TcpStream) -> Option<String> {
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
    let target = line.strip_prefix("GET ")?.split(' ').next()?;
    target.split_once('?').map(|(_, query)| query.to_owned())
}

async fn answer(stream: &mut TcpStream, status: &str, text: &str) {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let body = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\"><title>Fleet</title><main><h1>Fleet</h1><p>{escaped}</p></main></html>"
    );
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nContent-Security-Policy: default-src 'none'\r\nReferrer-Policy: no-referrer\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // A browser that went away has missed a courtesy only.
    drop(stream.write_all(format!("{head}{body}").as_bytes()).await);
    drop(stream.shutdown().await);
}

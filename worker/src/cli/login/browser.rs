//! The person's browser, and the address on this computer that it comes back to.

use std::net::Ipv4Addr;
use std::process::Stdio;

use anyhow::Context as _;
use shared::consent::{
    Callback, CallbackError, Consent, LOGIN_LIFETIME, Outcome, Started, oauth_callback,
};
use shared::{ClientKind, OAuthClient, is_loopback};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use super::super::output::Usage;

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

/// Opens the system's browser, or the one that `BROWSER` names. Failing is no
/// error: the address was printed.
pub(super) fn open(url: &Url) {
    let default = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let program = std::env::var_os("BROWSER").filter(|v| !v.is_empty());
    let program = program.unwrap_or_else(|| default.into());
    let mut command = tokio::process::Command::new(program);
    command.arg(url.as_str()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Ok(mut child) = command.spawn() {
        tokio::spawn(async move { child.wait().await });
    }
}

/// Answers requests until one ends the login. What does not belong to it, such
/// as a request for an icon or another program's, is told so and waited past.
pub(super) async fn wait(
    listener: &TcpListener,
    consent: &Consent,
    started: &Started,
) -> anyhow::Result<Outcome> {
    let serving = async {
        loop {
            let (mut stream, _) = listener.accept().await?;
            let Some(query) = query(&mut stream).await else {
                answer(&mut stream, "400 Bad Request", "This is not the answer to your login.")
                    .await;
                continue;
            };
            let callback = Callback::Query(&query);
            match oauth_callback(consent, Some(&started.pending), callback).await {
                Ok(Outcome::SignedIn(done)) => {
                    let told =
                        "You are signed in. You can close this window and go back to the terminal.";
                    answer(&mut stream, "200 OK", told).await;
                    return Ok(Outcome::SignedIn(done));
                }
                Ok(again) => {
                    let told = "One more step: see the terminal.";
                    answer(&mut stream, "200 OK", told).await;
                    return Ok(again);
                }
                Err(error @ (CallbackError::NotYours | CallbackError::Malformed(_))) => {
                    answer(&mut stream, "400 Bad Request", &error.to_string()).await;
                }
                Err(error) => {
                    answer(&mut stream, "400 Bad Request", &error.to_string()).await;
                    return Err(anyhow::Error::new(error));
                }
            }
        }
    };
    tokio::time::timeout(LOGIN_LIFETIME, serving)
        .await
        .unwrap_or_else(|_| anyhow::bail!("nobody consented in {LOGIN_LIFETIME:?}; start again"))
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
    // A browser opens connections ahead of need and leaves them idle.
    tokio::time::timeout(std::time::Duration::from_secs(5), reading).await.ok();
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

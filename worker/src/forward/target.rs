//! Where the jobs of a kind are sent.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use url::Url;

/// A listener that takes no connection for so long is down.
const CONNECT: Duration = Duration::from_secs(5);

/// A kind and where its jobs are sent, as `KIND=URL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The kind.
    pub kind: String,
    /// Where to.
    pub target: Target,
}

/// An HTTP server on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `http://127.0.0.1:PORT/…` or `http://[::1]:PORT/…`. A name is none: another user of the
    /// machine may own the other address of `localhost`.
    Http {
        /// The URL as it is requested.
        url: Url,
        /// Its address.
        address: SocketAddr,
    },
    /// `unix:PATH`. The port of a handler that died can be taken by anybody on the machine,
    /// who would receive handles; a socket in a folder of one's own cannot.
    Unix(PathBuf),
}

/// What is wrong with a route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadRoute(String);

/// Whether a kind may be forwarded: `[a-z][a-z0-9._-]{0,63}`.
fn is_kind(text: &str) -> bool {
    let plain =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    text.len() <= 64
        && text.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
        && text.bytes().all(plain)
}

/// The path of `unix:PATH`, which must be absolute.
pub(super) fn unix_path(text: &str) -> Option<PathBuf> {
    text.strip_prefix("unix:").filter(|path| path.starts_with('/')).map(PathBuf::from)
}

impl FromStr for Route {
    type Err = BadRoute;

    fn from_str(text: &str) -> Result<Self, BadRoute> {
        let Some((kind, target)) = text.split_once('=') else {
            return Err(BadRoute("write KIND=URL".to_owned()));
        };
        if !is_kind(kind) {
            return Err(BadRoute(format!(
                "{kind:?} is no kind: 1 to 64 of a-z, 0-9, `.`, `_` and `-`, a letter first"
            )));
        }
        Ok(Self { kind: kind.to_owned(), target: target.parse()? })
    }
}

impl FromStr for Target {
    type Err = BadRoute;

    fn from_str(text: &str) -> Result<Self, BadRoute> {
        let bad = || {
            BadRoute(format!(
                "{text:?} names no server of this machine: write http://127.0.0.1:PORT/…, \
                 http://[::1]:PORT/… or unix:/PATH"
            ))
        };
        if let Some(path) = unix_path(text) {
            return Ok(Self::Unix(path));
        }
        // As it is written: a parser makes an address of `127.1` and of `0x7f000001`.
        let rest = text.strip_prefix("http://").ok_or_else(bad)?;
        let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
        let literal = ["127.0.0.1:", "[::1]:"].into_iter().any(|host| {
            authority
                .strip_prefix(host)
                .is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
        });
        let address = authority.parse().ok().filter(|_| literal);
        let address = address.filter(|address: &SocketAddr| address.port() != 0).ok_or_else(bad)?;
        let url = Url::parse(text).map_err(|_| bad())?;
        if url.fragment().is_some() {
            return Err(bad());
        }
        Ok(Self::Http { url, address })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { url, .. } => url.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Target {
    /// The URL that a request names.
    pub(super) fn url(&self) -> Url {
        match self {
            Self::Http { url, .. } => url.clone(),
            Self::Unix(_) => Url::parse("http://localhost/").expect("it is a URL"),
        }
    }

    /// What carries the requests: it follows no redirects, uses no proxy and repeats nothing.
    /// Connections are kept for a second only, since servers close idle ones soon, and a reset
    /// on one of them leaves open whether the job was begun.
    ///
    /// # Errors
    /// When the TLS configuration of the system cannot be loaded, though none is used.
    pub(super) fn client(&self) -> Result<reqwest::Client, reqwest::Error> {
        let builder = reqwest::Client::builder()
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT)
            .pool_idle_timeout(Duration::from_secs(1))
            .user_agent(concat!("fleet/", env!("CARGO_PKG_VERSION")));
        match self {
            Self::Http { .. } => builder.build(),
            Self::Unix(path) => builder.unix_socket(path.clone()).build(),
        }
    }

    /// Whether somebody listens there.
    pub(super) async fn listens(&self) -> bool {
        let connecting = async {
            match self {
                Self::Http { address, .. } => TcpStream::connect(address).await.is_ok(),
                Self::Unix(path) => UnixStream::connect(path).await.is_ok(),
            }
        };
        tokio::time::timeout(CONNECT, connecting).await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_loopback_addresses_and_sockets() {
        for text in [
            "greet=http://127.0.0.1:8080",
            "greet=http://127.0.0.1:8080/",
            "a.b_c-9=http://[::1]:1/path?x=y",
        ] {
            let route: Route = text.parse().unwrap();
            assert!(matches!(route.target, Target::Http { .. }), "{text}");
        }
        let route: Route = "greet=unix:/run/greet.sock".parse().unwrap();
        assert_eq!(route.target, Target::Unix("/run/greet.sock".into()));
        assert_eq!(route.target.url().as_str(), "http://localhost/");
    }

    #[test]
    fn what_is_no_route_is_refused() {
        for (text, says) in [
            ("greet", "KIND=URL"),
            ("=http://127.0.0.1:1/", "no kind"),
            ("Greet=http://127.0.0.1:1/", "no kind"),
            ("9=http://127.0.0.1:1/", "no kind"),
            ("a b=http://127.0.0.1:1/", "no kind"),
            ("k=", "no server"),
            ("k=http://localhost:1/", "no server"),
            ("k=http://127.0.0.1/", "no server"),
            ("k=http://127.0.0.1:0/", "no server"),
            ("k=http://127.1:80/", "no server"),
            ("k=http://0x7f000001:80/", "no server"),
            ("k=http://127.0.0.2:80/", "no server"),
            ("k=http://127.0.0.1:80@evil.test/", "no server"),
            ("k=http://u@127.0.0.1:80/", "no server"),
            ("k=http://127.0.0.1:80\\@evil.test/", "no server"),
            ("k=http://127.0.0.1:80/#x", "no server"),
            ("k=https://127.0.0.1:80/", "no server"),
            ("k=http://10.0.0.1:80/", "no server"),
            ("k=unix:relative", "no server"),
        ] {
            let parsed = text.parse::<Route>();
            // What is after a backslash is a path to the parser.
            if let Ok(Route { target: Target::Http { address, .. }, .. }) = &parsed {
                assert!(address.ip().is_loopback() && text.contains('\\'), "{text}");
                continue;
            }
            assert!(parsed.unwrap_err().to_string().contains(says), "{text}");
        }
        let long = format!("{}=http://127.0.0.1:1/", "k".repeat(65));
        assert!(long.parse::<Route>().is_err());
    }
}

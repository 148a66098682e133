//! What the token endpoint is asked: RFC 6749, section 6, as libraries send it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use http::request::Parts;
use shared::Secret;
use url::form_urlencoded;

/// The most that a form may have, in bytes.
pub(super) const MAX_FORM: usize = 16 * 1024;

/// A well-formed question.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TokenRequest {
    /// Who asks.
    pub(super) secret: Secret,
    /// Whose token is wanted.
    pub(super) user: String,
    /// What it must allow at least.
    pub(super) scopes: Vec<String>,
    /// For how long it must be good yet: Fleet's own parameter `min_ttl`, in seconds.
    pub(super) min_ttl: Duration,
}

/// Why a question is none; RFC 6749's code, and a text that quotes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadRequest {
    /// It comes from a browser, or by another name than loopback's.
    NotLocal(&'static str),
    /// It is malformed.
    Invalid(&'static str),
    /// It asks for another grant.
    UnsupportedGrantType,
}

impl TokenRequest {
    /// Reads one.
    ///
    /// # Errors
    /// [`BadRequest`].
    pub(super) fn read(head: &Parts, form: &[u8]) -> Result<Self, BadRequest> {
        use BadRequest::Invalid;
        is_local(head)?;
        if form.len() > MAX_FORM {
            return Err(Invalid("the form is larger than 16 KiB"));
        }
        let media = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media = media.and_then(|value| value.split(';').next()).unwrap_or_default();
        if !media.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(Invalid("the body must be a form"));
        }
        let mut parameters = std::collections::BTreeMap::new();
        for (name, value) in form_urlencoded::parse(form) {
            if parameters.insert(name.into_owned(), value.into_owned()).is_some() {
                return Err(Invalid("a parameter is repeated"));
            }
        }
        let mut take = |name: &str| parameters.remove(name).filter(|value| !value.is_empty());
        match take("grant_type").as_deref() {
            Some("refresh_token") => {}
            Some(_) => return Err(BadRequest::UnsupportedGrantType),
            None => return Err(Invalid("`grant_type` is missing")),
        }
        let secret = match (take("client_secret"), basic(head)?) {
            (Some(_), Some(_)) => {
                return Err(Invalid("the client is named by form and by header"));
            }
            (Some(secret), None) => Secret::new(secret),
            (None, secret) => secret.unwrap_or_else(|| Secret::new("")),
        };
        let min_ttl = take("min_ttl").map_or(Ok(0), |seconds| seconds.parse());
        let min_ttl =
            min_ttl.map_err(|_| Invalid("`min_ttl` must be a whole number of seconds"))?;
        let scopes = take("scope").unwrap_or_default();
        let scopes = scopes.split(' ').filter(|scope| !scope.is_empty());
        Ok(Self {
            secret,
            user: take("refresh_token").unwrap_or_default(),
            scopes: scopes.map(str::to_owned).collect(),
            min_ttl: Duration::from_secs(min_ttl),
        })
    }
}

/// Refuses what a page in a browser can send, and what names this machine by a name that
/// somebody else may have given it.
pub(super) fn is_local(head: &Parts) -> Result<(), BadRequest> {
    if head.headers.contains_key(ORIGIN) {
        return Err(BadRequest::NotLocal("browsers are not served"));
    }
    let bad = BadRequest::NotLocal("the host must be a loopback address");
    let mut hosts = head.headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(bad) };
    let host = host.to_str().map_err(|_| bad)?;
    let target = head.uri.authority().map(http::uri::Authority::as_str);
    if is_loopback(host) && target.is_none_or(is_loopback) { Ok(()) } else { Err(bad) }
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let address = host.parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// The secret in a Basic header, if there is one.
fn basic(head: &Parts) -> Result<Option<Secret>, BadRequest> {
    let bad = BadRequest::Invalid("the header `Authorization` is malformed");
    let mut values = head.headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(bad);
    }
    let value = value.to_str().map_err(|_| bad)?;
    let (scheme, encoded) = value.split_once(' ').ok_or(bad)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(bad);
    }
    let decoded = STANDARD.decode(encoded.trim()).map_err(|_| bad)?;
    let text = String::from_utf8(decoded).map_err(|_| bad)?;
    let (_client, secret) = text.split_once(':').ok_or(bad)?;
    Ok(Some(Secret::new(form_decoded(secret))))
}

/// Client and secret are form-encoded in a Basic header (RFC 6749, section 2.3.1), but by some
/// libraries they are not. Handles and keys have no character that is encoded.
fn form_decoded(text: &str) -> String {
    if !text.contains('%') || text.contains(['=', '&']) {
        return text.to_owned();
    }
    let mut names = form_urlencoded::parse(text.as_bytes()).map(|(name, _)| name.into_owned());
    names.next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const FORM: &str = "application/x-www-form-urlencoded";

    fn read(headers: &[(&str, &str)], form: &str) -> Result<TokenRequest, BadRequest> {
        let mut request = Request::post("/token");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        TokenRequest::read(&head, form.as_bytes())
    }

    fn asked(form: &str) -> Result<TokenRequest, BadRequest> {
        read(&[("host", "127.0.0.1:9091"), ("content-type", FORM)], form)
    }

    fn question(secret: &str, user: &str, scopes: &[&str]) -> TokenRequest {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let min_ttl = Duration::ZERO;
        TokenRequest { secret: Secret::new(secret), user: user.to_owned(), scopes, min_ttl }
    }

    #[test]
    fn as_libraries_ask() {
        let python = "grant_type=refresh_token&client_id=fleet&client_secret=fake-handle&refresh_token=a%2Fb&scope=email+profile";
        assert_eq!(asked(python), Ok(question("fake-handle", "a/b", &["email", "profile"])));
        let longer = asked(&format!("{python}&min_ttl=600")).unwrap();
        assert_eq!(longer.min_ttl, Duration::from_secs(600));
        let basic = format!("Basic {}", STANDARD.encode("fleet:fake%2Dhandle"));
        let go = [
            ("host", "localhost"),
            ("content-type", "application/x-www-form-urlencoded; charset=UTF-8"),
            ("authorization", basic.as_str()),
        ];
        let form = "grant_type=refresh_token&refresh_token=ann&unknown=x";
        assert_eq!(read(&go, form), Ok(question("fake-handle", "ann", &[])));
        // Python's library and Node's do not encode what they send like this.
        let basic = format!("Basic {}", STANDARD.encode("fleet:a+b/c=="));
        let node = [("host", "127.0.0.1"), ("content-type", FORM), ("authorization", &*basic)];
        assert_eq!(read(&node, form), Ok(question("a+b/c==", "ann", &[])));
        assert_eq!(
            asked("grant_type=refresh_token"),
            Ok(question("", "", &[])),
            "unknown like any other handle"
        );
    }

    #[test]
    fn malformed_questions() {
        use BadRequest::{Invalid, UnsupportedGrantType};
        let invalid = |result: Result<TokenRequest, BadRequest>, says: &str| {
            assert!(matches!(&result, Err(Invalid(why)) if why.contains(says)), "{result:?}");
        };
        invalid(asked(""), "`grant_type` is missing");
        invalid(asked("grant_type="), "`grant_type` is missing");
        for grant in ["password", "urn:ietf:params:oauth:grant-type:token-exchange"] {
            assert_eq!(asked(&format!("grant_type={grant}")), Err(UnsupportedGrantType));
        }
        for twice in ["grant_type=refresh_token", "client_secret=a", "x=1"] {
            let form = format!("grant_type=refresh_token&{twice}&{twice}");
            invalid(asked(&form), "repeated");
        }
        for seconds in ["-1", "1.5", "ten", "99999999999999999999"] {
            invalid(asked(&format!("grant_type=refresh_token&min_ttl={seconds}")), "`min_ttl`");
        }
        invalid(asked(&"x".repeat(MAX_FORM + 1)), "larger");
        invalid(read(&[("host", "127.0.0.1"), ("content-type", "application/json")], "{}"), "form");
        let both = [("host", "127.0.0.1"), ("content-type", FORM), ("authorization", "Basic Zjph")];
        invalid(read(&both, "grant_type=refresh_token&client_secret=b"), "by form and by header");
        for bad in ["Bearer x", "Basic", "Basic %%", "Basic Zg=="] {
            let header = [("host", "127.0.0.1"), ("content-type", FORM), ("authorization", bad)];
            invalid(read(&header, "grant_type=refresh_token"), "Authorization");
        }
    }

    #[test]
    fn only_this_machine_and_no_browser() {
        let from = |host: &str| read(&[("host", host), ("content-type", FORM)], "grant_type=x");
        for host in ["127.0.0.1", "127.0.0.1:80", "[::1]:80", "[::1]", "localhost:1", "LOCALHOST"] {
            assert_eq!(from(host), Err(BadRequest::UnsupportedGrantType), "{host}");
        }
        for host in
            ["evil.test", "127.0.0.1.evil.test:80", "10.0.0.1", "", "localhost.evil", "0.0.0.0"]
        {
            assert!(matches!(from(host), Err(BadRequest::NotLocal(_))), "{host}");
        }
        let form = "grant_type=refresh_token";
        for headers in [
            &[("content-type", FORM)][..],
            &[("host", "127.0.0.1"), ("host", "127.0.0.1"), ("content-type", FORM)],
            &[("host", "127.0.0.1"), ("origin", "http://127.0.0.1"), ("content-type", FORM)],
            &[("host", "127.0.0.1"), ("origin", "null"), ("content-type", FORM)],
        ] {
            assert!(matches!(read(headers, form), Err(BadRequest::NotLocal(_))), "{headers:?}");
        }
    }
}

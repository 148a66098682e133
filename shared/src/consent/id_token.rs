//! The claims of an ID token (OpenID Connect Core 1.0, section 3.1.3.7).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use url::Url;

use crate::oauth_client::OAuthClient;

/// Clocks may differ by this many seconds.
const SKEW: i64 = 300;

/// What an ID token must say.
pub(super) struct Expected<'a> {
    pub(super) client: &'a OAuthClient,
    pub(super) issuer: Option<&'a str>,
    pub(super) nonce: &'a str,
    /// Unix seconds.
    pub(super) now: i64,
}

/// Checks the claims; the account, or which claim is wrong.
pub(super) fn check(token: &str, expected: &Expected<'_>) -> Result<String, &'static str> {
    let claims = claims(token).ok_or("is not a JSON web token")?;
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let number = |name: &str| claims.get(name).and_then(Value::as_i64);
    if !text("iss").is_some_and(|iss| is_issuer(iss, expected.client, expected.issuer)) {
        return Err("names another issuer (iss)");
    }
    let id = expected.client.client_id();
    let (ours, several) = match claims.get("aud") {
        Some(Value::String(aud)) => (aud == id, false),
        Some(Value::Array(all)) => (all.iter().any(|aud| aud == id), all.len() > 1),
        _ => (false, false),
    };
    if !ours {
        return Err("is for another client (aud)");
    }
    match text("azp") {
        Some(azp) if azp != id => return Err("was issued to another client (azp)"),
        None if several => return Err("has several audiences and no authorized party (azp)"),
        _ => {}
    }
    if number("exp").is_none_or(|exp| exp.saturating_add(SKEW) < expected.now) {
        return Err("has expired (exp); check the clock");
    }
    if number("iat").is_none_or(|iat| iat.saturating_sub(SKEW) > expected.now) {
        return Err("was issued in the future (iat); check the clock");
    }
    if text("nonce") != Some(expected.nonce) {
        return Err("belongs to another login (nonce)");
    }
    match text("sub") {
        Some(sub) if !sub.is_empty() => Ok(sub.to_owned()),
        _ => Err("names no account (sub)"),
    }
}

fn claims(token: &str) -> Option<Map<String, Value>> {
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?).ok()
}

/// Whether `iss` may speak for the client's provider.
pub(super) fn is_issuer(iss: &str, client: &OAuthClient, exact: Option<&str>) -> bool {
    if let Some(exact) = exact {
        return iss == exact;
    }
    let url = |text: &str| Url::parse(text).ok();
    let Some(auth) = url(client.auth_uri()) else {
        return false;
    };
    if auth.host_str() == Some("accounts.google.com") {
        return matches!(iss, "https://accounts.google.com" | "accounts.google.com");
    }
    let token = url(client.token_uri());
    url(iss).is_some_and(|iss| {
        iss.origin() == auth.origin() || token.is_some_and(|token| iss.origin() == token.origin())
    })
}

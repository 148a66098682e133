//! The claims of an ID token (OpenID Connect Core 1.0, section 3.1.3.7).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use url::Url;

use crate::endpoint_answer::fields::{Fields, Value};
use crate::oauth_client::OAuthClient;

/// Clocks may differ by this many seconds.
const SKEW: f64 = 300.0;

const CLAIMS: &[&str] = &["iss", "aud", "azp", "exp", "iat", "nbf", "nonce", "sub"];

/// What an ID token must say.
pub(super) struct Expected<'a> {
    pub(super) client: &'a OAuthClient,
    pub(super) issuer: Option<&'a str>,
    pub(super) nonce: &'a str,
    /// Unix seconds.
    pub(super) now: f64,
}

/// Checks the claims; the account, or which claim is wrong.
pub(super) fn check(token: &str, expected: &Expected<'_>) -> Result<String, &'static str> {
    let claims = claims(token).ok_or("is not a JSON web token")?;
    let text = |name: &str| claims.text(name);
    let time = |name: &str| claims.get(name).and_then(numeric_date);
    let now = expected.now;
    if !text("iss").is_some_and(|iss| is_issuer(iss, expected.client, expected.issuer)) {
        return Err("names another issuer (iss)");
    }
    let id = expected.client.client_id();
    let (ours, several) = match claims.get("aud") {
        Some(Value::Text(aud)) => (aud == id, false),
        Some(Value::Texts(all)) => (all.iter().any(|aud| aud == id), all.len() > 1),
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
    if time("exp").is_none_or(|exp| exp + SKEW < now) {
        return Err("has expired (exp); check the clock");
    }
    if time("iat").is_none_or(|iat| iat - SKEW > now) {
        return Err("was issued in the future (iat); check the clock");
    }
    if claims.get("nbf").is_some() && time("nbf").is_none_or(|nbf| nbf - SKEW > now) {
        return Err("is not valid yet (nbf); check the clock");
    }
    if text("nonce") != Some(expected.nonce) {
        return Err("belongs to another login (nonce)");
    }
    match claims.get("sub") {
        Some(Value::Text(sub)) if !sub.is_empty() => Ok(sub.to_owned()),
        Some(Value::Number(sub)) if is_integer(sub) => Ok(sub.to_owned()),
        _ => Err("names no account (sub)"),
    }
}

fn claims(token: &str) -> Option<Fields> {
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let content = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    content.trim_ascii_start().starts_with(b"{").then(|| Fields::read(&content, CLAIMS))
}

/// Seconds since 1970, fractions and exponents allowed (RFC 7519, section 2).
fn numeric_date(value: &Value) -> Option<f64> {
    let Value::Number(number) = value else { return None };
    number.parse().ok().filter(|seconds: &f64| seconds.is_finite())
}

fn is_integer(number: &str) -> bool {
    number.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit())
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

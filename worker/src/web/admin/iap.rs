//! What Identity-Aware Proxy says about who makes a request: a token in a header, signed by
//! keys that Google publishes.

use std::time::Duration;

use http::HeaderMap;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use shared::ports::{Clock, Monotonic};
use tokio::sync::Mutex;

use shared::innermost;

/// Where Google publishes the proxy's keys.
pub(crate) const GOOGLE_KEYS_URL: &str = "https://www.gstatic.com/iap/verify/public_key-jwk";
const HEADER: &str = "x-goog-iap-jwt-assertion";
const ISSUER: &str = "https://cloud.google.com/iap";
/// Clocks may differ by so many seconds, as Google's guide allows.
const SKEW: u64 = 30;
/// Keys are asked for again when they are so old, and when a token names one that is not known.
const FRESH_FOR: Duration = Duration::from_secs(3600);
/// But not sooner than this after they were asked for last, whoever makes up key IDs.
const PAUSE: Duration = Duration::from_secs(10);
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// The published keys are a few hundred bytes.
const LARGEST: usize = 64 * 1024;

/// Why nobody vouches for who makes a request. Quotes nothing of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unproven {
    #[error("The request did not come through Identity-Aware Proxy: it has no {HEADER}.")]
    Missing,
    #[error("What Identity-Aware Proxy should have signed does not hold: {0}.")]
    Bad(&'static str),
    #[error("The keys of Identity-Aware Proxy cannot be had: {0}. Try again in a minute.")]
    NoKeys(String),
}

/// Checks the proxy's tokens for one audience.
#[derive(Debug)]
pub(crate) struct Iap {
    audience: String,
    keys: Keys,
}

#[derive(Debug, Deserialize)]
struct Claims {
    iat: u64,
    sub: String,
    #[serde(default)]
    email: String,
}

impl Iap {
    /// For tokens of this audience, which Google's console shows of the backend service, signed
    /// by keys that are published at `keys_url`.
    pub(crate) fn new(
        audience: impl Into<String>,
        http: reqwest::Client,
        keys_url: impl Into<String>,
    ) -> Self {
        let keys = Keys { http, url: keys_url.into(), known: Mutex::default() };
        Self { audience: audience.into(), keys }
    }

    /// The operator whom the proxy has let through, by their email address.
    pub(super) async fn operator(
        &self,
        headers: &HeaderMap,
        clock: &dyn Clock,
    ) -> Result<String, Unproven> {
        let mut sent = headers.get_all(HEADER).iter();
        let token = match (sent.next(), sent.next()) {
            (None, _) => return Err(Unproven::Missing),
            (Some(token), None) => token.as_bytes(),
            (Some(_), Some(_)) => return Err(Unproven::Bad("there are several")),
        };
        let header = decode_header(token).map_err(|_| Unproven::Bad("it is no token"))?;
        if header.alg != Algorithm::ES256 {
            return Err(Unproven::Bad("it is not signed by ES256"));
        }
        let id = header.kid.ok_or(Unproven::Bad("it names no key"))?;
        let key = self.keys.of(&id, clock).await?;
        let mut validation = Validation::new(Algorithm::ES256);
        validation.leeway = SKEW;
        validation.set_audience(&[&self.audience]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let Claims { iat, sub, email } =
            decode(token, &key, &validation).map_err(|error| why(&error))?.claims;
        let now = u64::try_from(clock.wall().as_second()).unwrap_or_default();
        if iat > now + SKEW {
            return Err(Unproven::Bad("it was issued in the future; check the clock"));
        }
        let name = if email.is_empty() { sub } else { email };
        if name.is_empty() { Err(Unproven::Bad("it names nobody")) } else { Ok(name) }
    }
}

fn why(error: &jsonwebtoken::errors::Error) -> Unproven {
    use jsonwebtoken::errors::ErrorKind;
    Unproven::Bad(match error.kind() {
        ErrorKind::InvalidSignature => "its signature is wrong",
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::InvalidIssuer => "it names another issuer",
        ErrorKind::InvalidAudience => "it is for another audience (--iap-audience)",
        ErrorKind::MissingRequiredClaim(_) => "a claim is missing",
        _ => "it is no token of the proxy",
    })
}

/// The keys, as they were published last.
#[derive(Debug)]
struct Keys {
    http: reqwest::Client,
    url: String,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    keys: JwkSet,
    /// When they were had, and when they were asked for last.
    had: Option<Monotonic>,
    asked: Option<Monotonic>,
}

impl Keys {
    /// The key of this ID. Asks for the keys at most once at a time, and seldom.
    async fn of(&self, id: &str, clock: &dyn Clock) -> Result<DecodingKey, Unproven> {
        let mut known = self.known.lock().await;
        let now = clock.monotonic();
        let is_fresh = known.had.is_some_and(|had| now.since(had) < FRESH_FOR);
        let may_ask = known.asked.is_none_or(|asked| now.since(asked) >= PAUSE);
        if may_ask && (!is_fresh || known.keys.find(id).is_none()) {
            known.asked = Some(now);
            match self.fetch().await {
                Ok(keys) => (known.keys, known.had) = (keys, Some(now)),
                // An hour is a bound on how long a key that was withdrawn is believed, so an
                // old one is not.
                Err(why) if !is_fresh => return Err(Unproven::NoKeys(why)),
                Err(_) => {}
            }
        } else if !is_fresh {
            return Err(Unproven::NoKeys("they did not come a moment ago".to_owned()));
        }
        let key = known.keys.find(id).ok_or(Unproven::Bad("its key is not one of the proxy's"))?;
        DecodingKey::from_jwk(key).map_err(|_| Unproven::Bad("its key cannot be used"))
    }

    async fn fetch(&self) -> Result<JwkSet, String> {
        let fetching = async {
            let told = |error: reqwest::Error| innermost(&error.without_url()).to_string();
            let mut answer = self.http.get(&self.url).send().await.map_err(told)?;
            if !answer.status().is_success() {
                return Err(format!("HTTP status {}", answer.status()));
            }
            let mut body = Vec::new();
            while let Some(chunk) = answer.chunk().await.map_err(told)? {
                if body.len() + chunk.len() > LARGEST {
                    return Err("the answer is too large".to_owned());
                }
                body.extend_from_slice(&chunk);
            }
            serde_json::from_slice(&body).map_err(|_| "the answer is no set of keys".to_owned())
        };
        let fetched = tokio::time::timeout(TIME_LIMIT, fetching).await;
        fetched.unwrap_or_else(|_| Err(format!("no answer within {TIME_LIMIT:?}")))
    }
}

//! The authorization page's decisions: what is asked, what is allowed, and the code
//! that stands for it until the client exchanges it. No I/O.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use url::{Host, Url, form_urlencoded};

use super::exchange::{Fresh, TokenError};
use super::identity::Identity;
use super::token::Secret;

/// A code that is not exchanged within this time is worth nothing.
const CODE_LIFETIME: Duration = Duration::from_mins(10);

/// Scopes that come with signing in and cannot be unticked.
const SIGN_IN: [&str; 5] = [
    "openid",
    "email",
    "profile",
    "https://www.googleapis.com/auth/userinfo.email",
    "https://www.googleapis.com/auth/userinfo.profile",
];

/// What a client asks a person for (RFC 6749, 4.1.1; RFC 7636; OpenID Connect Core 3.1.2.1).
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) client_id: String,
    pub(super) redirect_uri: String,
    pub(super) response_type: String,
    pub(super) scopes: Vec<String>,
    pub(super) state: Option<String>,
    pub(super) nonce: Option<String>,
    challenge: Option<String>,
    challenge_method: Option<String>,
    offline: bool,
    include_granted: bool,
    prompt_consent: bool,
    pub(super) login_hint: Option<String>,
}

/// Why the page is not shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BadAsk {
    /// The person is told, and sent nowhere: the address to return to is not trusted.
    Shown(&'static str),
    /// The client is told, by the error code.
    Returned(&'static str),
}

/// A code that was issued: spent or not, it is remembered.
struct Code {
    sub: String,
    ask: Ask,
    granted: Vec<String>,
    issued_at: Instant,
    spent: bool,
}

/// What a code exchange presents.
#[derive(Default)]
pub(super) struct CodeRequest {
    pub(super) code: Option<Secret>,
    pub(super) redirect_uri: Option<String>,
    pub(super) verifier: Option<Secret>,
}

/// The codes, and where they may be sent.
#[derive(Default)]
pub(super) struct Consents {
    codes: HashMap<Secret, Code>,
    redirect_uris: Vec<String>,
}

impl std::fmt::Debug for Consents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consents").field("codes", &self.codes.len()).finish_non_exhaustive()
    }
}

impl Ask {
    pub(super) fn parse(query: &str) -> Self {
        let mut ask = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = value.into_owned();
            match &*name {
                "client_id" => ask.client_id = value,
                "redirect_uri" => ask.redirect_uri = value,
                "response_type" => ask.response_type = value,
                "scope" => {
                    ask.scopes = value.split_whitespace().map(ToOwned::to_owned).collect();
                }
                "state" => ask.state = Some(value),
                "nonce" => ask.nonce = Some(value),
                "code_challenge" => ask.challenge = Some(value),
                "code_challenge_method" => ask.challenge_method = Some(value),
                "access_type" => ask.offline = value == "offline",
                "include_granted_scopes" => ask.include_granted = value == "true",
                "prompt" => ask.prompt_consent = value.split(' ').any(|p| p == "consent"),
                "login_hint" => ask.login_hint = Some(value),
                _ => {}
            }
        }
        ask
    }

    /// The scopes that the person may refuse one by one.
    pub(super) fn optional(&self) -> impl Iterator<Item = &String> {
        self.scopes.iter().filter(|scope| !SIGN_IN.contains(&scope.as_str()))
    }

    /// Where the browser goes, with these parameters and the state.
    pub(super) fn back(&self, parameters: &[(&str, &str)]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.state.iter().map(|state| ("state", state)));
        query.extend_pairs(parameters);
        let joint = if self.redirect_uri.contains('?') { '&' } else { '?' };
        format!("{}{joint}{}", self.redirect_uri, query.finish())
    }
}

impl Consents {
    /// Adds to the addresses that codes may be sent to.
    pub(super) fn register(&mut self, redirect_uris: &[&str]) {
        self.redirect_uris.extend(redirect_uris.iter().map(|&uri| uri.to_owned()));
    }

    pub(super) fn check(&self, identity: &Identity, ask: &Ask) -> Result<(), BadAsk> {
        if ask.client_id != identity.client().id {
            return Err(BadAsk::Shown(
                "Error 401: invalid_client. The OAuth client was not found.",
            ));
        }
        if !self.redirect_uris.iter().any(|known| redirect_matches(known, &ask.redirect_uri)) {
            return Err(BadAsk::Shown("Error 400: redirect_uri_mismatch"));
        }
        if ask.response_type != "code" {
            return Err(BadAsk::Returned("unsupported_response_type"));
        }
        if ask.scopes.is_empty() {
            return Err(BadAsk::Returned("invalid_scope"));
        }
        match (&ask.challenge, ask.challenge_method.as_deref()) {
            (None, None) | (Some(_), Some("S256")) => Ok(()),
            _ => Err(BadAsk::Returned("invalid_request")),
        }
    }

    /// The person allows `optional` of what was asked; the code that stands for it.
    /// `None` when there is no such account.
    pub(super) fn allow(
        &mut self,
        now: Instant,
        identity: &mut Identity,
        ask: Ask,
        sub: &str,
        optional: &[String],
    ) -> Option<Secret> {
        identity.user(sub)?;
        let allowed = |scope: &String| {
            SIGN_IN.contains(&scope.as_str()) || optional.iter().any(|allowed| allowed == scope)
        };
        let granted = ask.scopes.iter().filter(|scope| allowed(scope)).cloned().collect();
        let code = identity.mint_code();
        let kept = Code { sub: sub.to_owned(), ask, granted, issued_at: now, spent: false };
        self.codes.insert(code.clone(), kept);
        Some(code)
    }

    /// Exchanges a code: a refresh token comes with the account's first consent to the
    /// client, or when the client insisted on the page with `prompt=consent`. Also returns
    /// whose it is and the nonce that an ID token must repeat.
    pub(super) fn exchange(
        &mut self,
        now: Instant,
        identity: &mut Identity,
        request: &CodeRequest,
    ) -> Result<(Fresh, String, Option<String>), TokenError> {
        let presented =
            request.code.as_ref().ok_or(TokenError::InvalidRequest("Missing parameter: code"))?;
        let code = self.codes.get_mut(presented).ok_or(TokenError::UnknownCode)?;
        // Whatever comes of it: a code is presented once.
        if std::mem::replace(&mut code.spent, true) || now >= code.issued_at + CODE_LIFETIME {
            return Err(TokenError::UnknownCode);
        }
        if request.redirect_uri.as_ref() != Some(&code.ask.redirect_uri) {
            return Err(TokenError::RedirectMismatch);
        }
        if let Some(challenge) = &code.ask.challenge {
            let verifier = request
                .verifier
                .as_ref()
                .ok_or(TokenError::InvalidRequest("Missing code verifier."))?;
            let digest = Sha256::digest(verifier.expose().as_bytes());
            if BASE64_URL_SAFE_NO_PAD.encode(digest) != *challenge {
                return Err(TokenError::WrongVerifier);
            }
        }
        let earlier = identity.granted_scopes(&code.sub);
        let first = earlier.is_empty();
        let mut scopes = code.granted.clone();
        if code.ask.include_granted {
            scopes.extend(earlier);
        }
        scopes.sort();
        scopes.dedup();
        let refresh = code.ask.offline && (first || code.ask.prompt_consent);
        let fresh =
            identity.consent(now, &code.sub, scopes, refresh).ok_or(TokenError::UnknownCode)?;
        Ok((fresh, code.sub.clone(), code.ask.nonce.clone()))
    }
}

/// Equal, or for a registered loopback origin (as programs on the person's computer have
/// it) any port and path of the loopback interface.
fn redirect_matches(known: &str, asked: &str) -> bool {
    if known == asked {
        return true;
    }
    let loopback = |url: &Url| match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    let (Ok(known), Ok(asked)) = (Url::parse(known), Url::parse(asked)) else {
        return false;
    };
    let bare = known.scheme() == "http" && known.port().is_none() && known.path() == "/";
    bare && loopback(&known)
        && asked.scheme() == "http"
        && loopback(&asked)
        && asked.fragment().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_redirects_may_have_any_port() {
        for (known, asked, fine) in [
            ("https://a.test/cb", "https://a.test/cb", true),
            ("https://a.test/cb", "https://a.test/cb/", false),
            ("https://a.test/cb", "https://evil.test/cb", false),
            ("http://localhost", "http://127.0.0.1:9/x", true),
            ("http://localhost", "http://evil.test:9/x", false),
            ("http://127.0.0.1:8080/cb", "http://127.0.0.1:8081/cb", false),
        ] {
            assert_eq!(redirect_matches(known, asked), fine, "{known} {asked}");
        }
    }

    #[test]
    fn the_state_goes_back_encoded() {
        let ask = Ask::parse("redirect_uri=http%3A%2F%2Flocalhost%2Fcb&state=a%26b");
        assert_eq!(ask.back(&[("error", "e")]), "http://localhost/cb?state=a%26b&error=e");
    }
}

//! The first half: where to send the browser, and what it must bring back.

use std::fmt;

use oauth2::basic::BasicClient;
use oauth2::{
    AuthUrl, ClientId, CsrfToken, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope,
};
use url::Url;

use super::pending::{NAME_LENGTH, Pending};
use super::{Consent, LOGIN_LIFETIME, missing_scopes, not_granted};
use crate::error::Error;
use crate::user_id::UserId;

/// What to ask a person for.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// Scopes beyond [`SIGN_IN_SCOPES`](super::SIGN_IN_SCOPES), which are always asked.
    pub scopes: Vec<String>,
    /// A local path to go to afterwards; anything else becomes `/`.
    pub next: String,
    /// The person whose access is to grow, if they are known already: only the
    /// same account will do.
    pub user: Option<UserId>,
    /// Whom the browser remembers. Anybody may sign in, and probably it is them.
    pub remembered: Option<UserId>,
    /// The person wants to allow less than before: nothing is asked for beyond `scopes`.
    pub only: bool,
    /// The account stored under this ID may be replaced by another one.
    pub replace: bool,
}

/// A login that was begun.
#[derive(Clone)]
pub struct Started {
    /// Where to send the browser.
    pub url: Url,
    /// For the browser to keep, in a cookie that scripts cannot read.
    pub pending: String,
    /// A name for that cookie that tells logins in two tabs apart, and how long
    /// it is worth keeping.
    pub name: String,
}

impl fmt::Debug for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Started").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a login cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The client file's or the redirect's address is not a URL.
    #[error("the OAuth client's {0} is not a URL; correct the client file")]
    BadClient(&'static str),
    /// The person's record cannot be read.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Begins a login. It asks for the page (`prompt=consent`) only when no usable
/// refresh token of [`Start::user`] is stored or scopes must grow: a
/// provider keeps a limited number of refresh tokens and drops the oldest
/// silently. Whoever is not known yet is asked without, and again with it if
/// the answer brings no refresh token.
///
/// Some providers end the older grant at a login, so a login that asks for less than the
/// record holds would narrow it. Of a person who is known beforehand the union is asked,
/// as far as it is still listed ([`Consent::listed`]), unless [`Start::only`] is set.
///
/// Cancelling it is harmless; nothing is written.
///
/// # Errors
/// [`StartError`].
pub async fn oauth_start(consent: &Consent, start: Start) -> Result<Started, StartError> {
    let mut scopes = consent.always_asked();
    let always = scopes.len();
    for scope in start.scopes {
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    let wanted = scopes.len();
    let binding = start.user.is_some();
    let mut prompt = false;
    let mut hint = None;
    if let Some(user) = start.user.as_ref().or(start.remembered.as_ref()) {
        match consent.store.read_record(user).await {
            Ok(record) => {
                // Not every provider reports what comes with signing in, and somebody else than
                // is remembered need not see a page for that.
                let asked = &scopes[if binding { 0 } else { always }..];
                let due = record.trouble().is_some()
                    || record.client_id != consent.client.client_id()
                    || !not_granted(asked, &record.scopes).is_empty();
                prompt = due || start.only || start.replace;
                if !start.only {
                    let held = consent.still_listed(&record.scopes);
                    scopes.extend(missing_scopes(&held, &scopes));
                }
                hint = record.sub;
            }
            Err(Error::NeedsConsent(_)) => prompt = binding,
            Err(error) if binding => return Err(error.into()),
            // Whom the browser remembers need not be who comes.
            Err(_) => {}
        }
    }
    let draw = || consent.random.id();
    let pending = Pending {
        state: draw(),
        // 64 of the characters that RFC 7636 allows: 256 random bits.
        verifier: format!("{}{}", draw(), draw()),
        nonce: draw(),
        scopes,
        wanted,
        next: local_path(&start.next),
        user: start.user.map(|user| user.as_str().to_owned()),
        redirect_uri: consent.redirect_uri.to_string(),
        started_at: consent.clock.wall(),
        repeated: false,
        only: start.only,
        replace: start.replace,
    };
    begin(consent, &pending, prompt, hint)
}

/// The second round of a login, for `scopes`: it brought no refresh token, or less than
/// was allowed before, or the provider does not know what was allowed before.
pub(super) fn again(
    consent: &Consent,
    before: &Pending,
    scopes: Vec<String>,
    hint: Option<String>,
) -> Result<Started, StartError> {
    let draw = || consent.random.id();
    let pending = Pending {
        state: draw(),
        verifier: format!("{}{}", draw(), draw()),
        nonce: draw(),
        started_at: consent.clock.wall(),
        scopes,
        repeated: true,
        ..before.clone()
    };
    begin(consent, &pending, true, hint)
}

fn begin(
    consent: &Consent,
    pending: &Pending,
    prompt: bool,
    hint: Option<String>,
) -> Result<Started, StartError> {
    let auth_uri = AuthUrl::new(consent.client.auth_uri().to_owned());
    let redirect_uri = RedirectUrl::new(pending.redirect_uri.clone());
    let client = BasicClient::new(ClientId::new(consent.client.client_id().to_owned()))
        .set_auth_uri(auth_uri.map_err(|_| StartError::BadClient("auth_uri"))?)
        .set_redirect_uri(redirect_uri.map_err(|_| StartError::BadClient("redirect_uri"))?);
    let verifier = PkceCodeVerifier::new(pending.verifier.clone());
    let state = CsrfToken::new(pending.state.clone());
    let mut request = client
        .authorize_url(|| state)
        .add_scopes(pending.scopes.iter().cloned().map(Scope::new))
        .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier))
        .add_extra_param("nonce", pending.nonce.clone())
        .add_extra_param("access_type", "offline");
    if !pending.only {
        request = request.add_extra_param("include_granted_scopes", "true");
    }
    if prompt {
        request = request.add_extra_param("prompt", "consent");
    }
    if let Some(hint) = hint {
        request = request.add_extra_param("login_hint", hint);
    }
    let (url, _) = request.url();
    Ok(Started {
        url,
        pending: pending.seal(&consent.key),
        name: pending.digest()[..NAME_LENGTH].to_owned(),
    })
}

impl Started {
    /// For how many seconds the pending login is worth keeping.
    pub fn max_age(&self) -> u64 {
        LOGIN_LIFETIME.as_secs()
    }
}

/// A longer path is not led to after a login: the cookie that keeps it would not fit.
pub const LONGEST_NEXT: usize = 1024;

/// `next` if it is a path on this very site, else `/`. A browser reads `//host`
/// and `/\host` as other sites, and drops tabs and newlines before it looks.
pub(super) fn local_path(next: &str) -> String {
    let plain = next.starts_with('/')
        && !next[1..].starts_with(['/', '\\'])
        && next.len() <= LONGEST_NEXT
        && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    let base = Url::parse("https://local.invalid").ok();
    let stays = plain
        && base.is_some_and(|base| base.join(next).is_ok_and(|url| url.origin() == base.origin()));
    if stays { next.to_owned() } else { "/".to_owned() }
}

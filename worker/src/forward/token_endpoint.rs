//! The token endpoint: where a job's HTTP handler gets its user's access tokens, and programs
//! that are no jobs those of the users that they may act as.
//!
//! It looks like an OAuth token endpoint to the client libraries of all languages, and opens
//! nothing but access tokens, to whoever has the handle of an attempt under way or a key.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use shared::consent::missing_scopes;
use shared::ports::Clock;
use shared::{ConsentReason, Credentials, Error, Reason, TokenStore, UserId};

use crate::audit::HandedOn;
use crate::kinds::scopes;

use super::clients::Clients;
use super::handles::{Attempt, Handles};
use super::scopes::has_wider;
use super::token_request::{BadRequest, TokenRequest};

/// Libraries ask for another token on every call when theirs has less than 225 to 300 s left.
const AHEAD: Duration = Duration::from_secs(6 * 60);
/// How long a question waits for its answer: shorter than libraries do.
const LONGEST_WAIT: Duration = Duration::from_secs(45);
/// How long whoever asks is told to wait when nothing says for how long.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Who is answered.
#[derive(Debug, Clone)]
pub(super) enum Callers {
    /// The attempts under way.
    Attempts(Arc<Handles>),
    /// Programs that have a key, and where it is noted what they are given.
    Clients(Arc<Clients>, HandedOn),
}

/// Who asks, and for whom.
enum Caller<'a> {
    Attempt(Arc<Attempt>),
    Client(UserId, &'a HandedOn),
}

/// Answers them.
#[derive(Debug, Clone)]
pub(super) struct TokenEndpoint {
    pub(super) callers: Callers,
    pub(super) store: TokenStore,
    pub(super) clock: Arc<dyn Clock>,
}

/// What it says.
#[derive(Debug)]
enum Told {
    Token(Credentials),
    Refused {
        status: StatusCode,
        error: &'static str,
        why: &'static str,
        /// Why the user must consent, if that is it.
        reason: Option<Reason>,
    },
    /// Ask again after this time.
    Later(Duration),
}

#[derive(Serialize)]
struct Success<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    scope: String,
}

#[derive(Serialize)]
struct Refusal {
    error: &'static str,
    error_description: &'static str,
    /// Fleet's own: a [`Reason`].
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl TokenEndpoint {
    /// `POST /token`.
    pub(super) fn routes(self) -> Router {
        Router::new().route("/token", post(token)).with_state(self)
    }

    async fn answer(&self, head: &Parts, form: &[u8]) -> Told {
        let request = match TokenRequest::read(head, form) {
            Ok(request) => request,
            Err(bad) => return Told::bad(bad),
        };
        let caller = match self.caller(&request) {
            Ok(caller) => caller,
            Err(told) => return told,
        };
        let asking = async {
            match &caller {
                // A job could have its user refreshed every ttl.
                Caller::Client(user, _) if !request.min_ttl.is_zero() => {
                    self.store.get_credentials_lasting(user, request.min_ttl).await
                }
                caller => self.store.get_credentials_ahead(caller.user(), AHEAD).await,
            }
        };
        let got = tokio::select! {
            biased;
            got = asking => got,
            () = self.clock.sleep(LONGEST_WAIT) => Err(Error::Busy("no answer in time".into())),
        };
        // An attempt may have ended meanwhile, and its handle with it.
        if let Err(told) = self.caller(&request) {
            return told;
        }
        match got {
            Ok(credentials) => granted(&caller, &request.scopes, credentials),
            Err(Error::NeedsConsent(why)) => {
                let reason = why.reason();
                caller.refused(Some(why));
                Told::Refused {
                    status: StatusCode::BAD_REQUEST,
                    error: "invalid_grant",
                    why: "the user must consent",
                    reason: Some(reason),
                }
            }
            Err(error) => {
                caller.refused(None);
                match error {
                    Error::Later { retry_after, .. } => Told::Later(retry_after),
                    _ => Told::Later(ASK_AGAIN),
                }
            }
        }
    }

    /// Who asks, if they may act as the user that is asked for.
    fn caller(&self, request: &TokenRequest) -> Result<Caller<'_>, Told> {
        match &self.callers {
            Callers::Attempts(handles) => {
                let attempt = handles.attempt(&request.secret);
                let own = attempt.filter(|attempt| attempt.user.as_str() == request.user);
                own.map(Caller::Attempt).ok_or_else(Told::ended)
            }
            Callers::Clients(clients, _) if !clients.knows(&request.secret) => {
                Err(Told::invalid_client())
            }
            Callers::Clients(clients, handed_on) => {
                let user = clients.user(&request.user);
                user.map(|user| Caller::Client(user, handed_on))
                    .ok_or_else(|| Told::invalid_grant("this user's tokens are not given here"))
            }
        }
    }

    /// For how long a token is good, in whole seconds.
    fn expires_in(&self, credentials: &Credentials) -> u64 {
        let left = credentials.expires_at().map(|at| at.duration_since(self.clock.wall()));
        let left = left.and_then(|left| u64::try_from(left.as_secs()).ok());
        left.unwrap_or_default().max(1)
    }

    fn response(&self, told: &Told) -> Response {
        let (status, body) = match told {
            Told::Token(credentials) => {
                let token = Success {
                    access_token: credentials.access_token().expose(),
                    token_type: "Bearer",
                    expires_in: self.expires_in(credentials),
                    scope: credentials.scopes().join(" "),
                };
                (StatusCode::OK, serde_json::to_vec(&token))
            }
            Told::Refused { status, error, why, reason } => {
                let reason = reason.map(Reason::as_str);
                (*status, serde_json::to_vec(&Refusal { error, error_description: why, reason }))
            }
            Told::Later(_) => {
                let error = "temporarily_unavailable";
                let error_description = "no token can be had at the moment; ask again later";
                let refusal = Refusal { error, error_description, reason: None };
                (StatusCode::SERVICE_UNAVAILABLE, serde_json::to_vec(&refusal))
            }
        };
        let body = body.expect("strings and numbers are JSON");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"fleet\""));
        }
        if let Told::Later(after) = told {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}

async fn token(State(endpoint): State<TokenEndpoint>, head: Parts, form: Bytes) -> Response {
    let told = endpoint.answer(&head, &form).await;
    endpoint.response(&told)
}

/// Hands a token out, unless it allows less than what is asked for.
fn granted(caller: &Caller<'_>, asked: &[String], credentials: Credentials) -> Told {
    let held = credentials.scopes();
    // A provider that reports no scopes does not say that there are none.
    let missing = if held.is_empty() { Vec::new() } else { missing_scopes(asked, held) };
    if missing.is_empty() {
        match caller {
            Caller::Attempt(attempt) => attempt.granted(&credentials),
            Caller::Client(user, handed_on) => handed_on.note(user),
        }
        return Told::Token(credentials);
    }
    let wanted: Vec<String> = missing.into_iter().filter(|scope| !has_wider(scope, held)).collect();
    let consent = ConsentReason::MissingScopes(scopes(&wanted.join(" ")));
    caller.refused((!wanted.is_empty()).then_some(consent));
    Told::Refused {
        status: StatusCode::BAD_REQUEST,
        error: "invalid_scope",
        why: "the user has not granted a scope that is asked for",
        reason: Some(Reason::ScopesMissing),
    }
}

impl Caller<'_> {
    fn user(&self) -> &UserId {
        match self {
            Self::Attempt(attempt) => &attempt.user,
            Self::Client(user, _) => user,
        }
    }

    /// Notes that an attempt was given no token, because of `consent` if the user can change
    /// that.
    fn refused(&self, consent: Option<ConsentReason>) {
        if let Self::Attempt(attempt) = self {
            attempt.refused(consent);
        }
    }
}

impl Told {
    fn bad(bad: BadRequest) -> Self {
        let (status, error, why) = match bad {
            BadRequest::NotLocal(why) => (StatusCode::FORBIDDEN, "invalid_request", why),
            BadRequest::Invalid(why) => (StatusCode::BAD_REQUEST, "invalid_request", why),
            BadRequest::UnsupportedGrantType => (
                StatusCode::BAD_REQUEST,
                "unsupported_grant_type",
                "only `refresh_token` is supported",
            ),
        };
        Self::Refused { status, error, why, reason: None }
    }

    fn invalid_grant(why: &'static str) -> Self {
        Self::Refused { status: StatusCode::BAD_REQUEST, error: "invalid_grant", why, reason: None }
    }

    fn invalid_client() -> Self {
        let (error, why) = ("invalid_client", "the key is not one of this broker's");
        Self::Refused { status: StatusCode::UNAUTHORIZED, error, why, reason: None }
    }

    /// Whatever is wrong with a handle: who guesses learns nothing.
    fn ended() -> Self {
        Self::invalid_grant("the handle is unknown, another user's, or its job has ended")
    }
}

#[cfg(test)]
mod tests;

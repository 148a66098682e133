//! A provider in memory: rotating or not, revoking the family on reuse, and
//! failing on demand.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::SignedDuration;
use serde_json::{Map, Value};
use shared::ports::{
    Answer, Clock as _, CodeAnswer, EndpointError, Limits, Resend, Revocation, TokenEndpoint,
};
use shared::profile::ProfileError;
use shared::{Grant, Secret};
use tokio::time::Instant;

use super::VirtualClock;

/// What happens to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerFault {
    /// Refused before anything was spent (503).
    Transient,
    /// Carried out, and the answer lost.
    AnswerLost,
    /// The client is not accepted, nor when that is asked next.
    Misconfigured,
    /// This user is refused with this code.
    Refused(&'static str),
    /// Not served now; it asks to wait so long.
    NotNow(Option<Duration>),
    /// A dead grant, by mistake.
    MistakenlyInvalid,
    /// Carried out, and granted without an access token.
    NoAccessToken,
    /// Carried out, and granted with more scopes than a record can hold.
    Vast,
    /// A gateway gave up, with the request carried out.
    GatewayTimeout,
    /// Refused with a code that says nothing.
    UnknownError,
    /// Carried out and answered after this long.
    Slow(Duration),
}

/// See the module's page.
#[derive(Debug)]
pub struct Provider {
    rotating: bool,
    lifetime: Mutex<Duration>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    serial: u64,
    /// Refresh token → its user, and whether it was spent.
    refresh_tokens: BTreeMap<String, (String, bool)>,
    /// Users whose grants died.
    revoked: BTreeMap<String, bool>,
    faults: VecDeque<AnswerFault>,
    latency: Duration,
    calls: u64,
    questions: u64,
    reuse: u64,
    /// The refresh tokens whose grants were ended on request.
    ended: Vec<String>,
    /// The client is not accepted: with this code.
    client_refused: Option<&'static str>,
    /// The next question is told that the client is not accepted.
    question_refused: bool,
    /// Users who are refused, each with a code.
    denied: BTreeMap<String, &'static str>,
    /// What is said about a dead or unknown grant, unless `invalid_grant`.
    dead_word: Option<&'static str>,
}

fn refused(code: &'static str) -> EndpointError {
    EndpointError::Refused { code: code.into(), why: format!("the provider said {code}").into() }
}

impl Provider {
    /// A provider whose access tokens live for `lifetime`.
    pub fn new(rotating: bool, lifetime: Duration) -> Self {
        Self { rotating, lifetime: Mutex::new(lifetime), state: Mutex::default() }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lifetime(&self) -> Duration {
        *self.lifetime.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Access tokens issued from now on live this long.
    pub fn set_lifetime(&self, lifetime: Duration) {
        *self.lifetime.lock().unwrap_or_else(PoisonError::into_inner) = lifetime;
    }

    /// The user consents: a grant of its own family, older families live on.
    ///
    /// # Panics
    /// When the lifetime is longer than a timestamp can say.
    pub fn consent(&self, user: &str) -> Grant {
        let lifetime = self.lifetime();
        self.with(|s| {
            s.serial += 1;
            let family = format!("{user}#{}", s.serial);
            let token = format!("fake-refresh-{family}-{}", s.serial);
            s.refresh_tokens.insert(token.clone(), (family, false));
            let now = VirtualClock::new(SignedDuration::ZERO).wall();
            Grant {
                refresh_token: Some(Secret::new(token)),
                access_token: Some(Secret::new(format!("fake-access-{}", s.serial))),
                expires_at: Some(now + SignedDuration::try_from(lifetime).expect("short")),
                expires_in: Some(lifetime),
                scopes: vec!["openid".into(), "email".into()],
                sub: Some(user.to_owned()),
                ended: None,
            }
        })
    }

    /// A refresh token that another provider of this kind gave out is honoured here too.
    ///
    /// # Panics
    /// When it is none.
    pub fn honour(&self, refresh_token: &str) {
        let family = refresh_token.strip_prefix("fake-refresh-");
        let family = family.and_then(|rest| rest.rsplit_once('-')).map(|(family, _)| family);
        let family = family.expect("a refresh token of this provider").to_owned();
        self.with(|s| {
            // Another one's serials are not given out again.
            s.serial = s.serial.max(1_000_000);
            s.refresh_tokens.insert(refresh_token.to_owned(), (family, false));
        });
    }

    /// The user withdraws access: every grant of theirs dies.
    pub fn revoke(&self, user: &str) {
        self.with(|s| {
            let families: Vec<_> = s.refresh_tokens.values().map(|(f, _)| f.clone()).collect();
            for family in families {
                if family.rsplit_once('#').is_some_and(|(u, _)| u == user) {
                    s.revoked.insert(family, true);
                }
            }
        });
    }

    /// The next request meets this fault; several queue up.
    pub fn fail(&self, fault: AnswerFault) {
        self.with(|s| s.faults.push_back(fault));
    }

    /// The faults that no request has met yet are off.
    pub fn forget_faults(&self) {
        self.with(|s| s.faults.clear());
    }

    /// Every request takes this long from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.with(|s| s.latency = latency);
    }

    /// The client is refused with `code` from now on, or accepted again.
    pub fn refuse_client(&self, code: Option<&'static str>) {
        self.with(|s| s.client_refused = code);
    }

    /// `user` is refused with `code` from now on, or no longer.
    pub fn deny(&self, user: &str, code: Option<&'static str>) {
        self.with(|s| match code {
            Some(code) => drop(s.denied.insert(user.to_owned(), code)),
            None => drop(s.denied.remove(user)),
        });
    }

    /// What this provider says about a dead or unknown grant instead of `invalid_grant`.
    pub fn set_dead_word(&self, code: &'static str) {
        self.with(|s| s.dead_word = Some(code));
    }

    /// Questions whether the client is accepted: requests with a made-up refresh token.
    pub fn questions(&self) -> u64 {
        self.with(|s| s.questions)
    }

    /// Requests so far, without questions.
    pub fn calls(&self) -> u64 {
        self.with(|s| s.calls)
    }

    /// Requests that presented a spent refresh token.
    pub fn reuse(&self) -> u64 {
        self.with(|s| s.reuse)
    }

    /// The refresh tokens whose grants were ended on request (RFC 7009).
    pub fn ended(&self) -> Vec<String> {
        self.with(|s| s.ended.clone())
    }

    fn question(&self) -> Result<Answer, EndpointError> {
        self.with(|s| {
            s.questions += 1;
            let once = std::mem::take(&mut s.question_refused).then_some("invalid_client");
            let code = s.client_refused.or(once).or(s.dead_word);
            Err(code.map_or(EndpointError::InvalidGrant("invalid_grant".into()), refused))
        })
    }

    /// Why a request is refused whatever its grant is worth.
    fn denial(&self, presented: &str) -> Option<&'static str> {
        self.with(|s| {
            let (family, _) = s.refresh_tokens.get(presented)?;
            let (user, _) = family.rsplit_once('#')?;
            s.client_refused.or_else(|| s.denied.get(user).copied())
        })
    }

    fn carry_out(&self, presented: &str) -> Result<Answer, EndpointError> {
        let lifetime = self.lifetime();
        let rotating = self.rotating;
        self.with(|s| {
            let invalid = || match s.dead_word {
                None => EndpointError::InvalidGrant("invalid_grant".into()),
                Some(code) => refused(code),
            };
            let Some((family, spent)) = s.refresh_tokens.get(presented).cloned() else {
                return Err(invalid());
            };
            if spent {
                s.reuse += 1;
                s.revoked.insert(family.clone(), true);
            }
            if s.revoked.contains_key(&family) {
                return Err(invalid());
            }
            s.serial += 1;
            let refresh_token = rotating.then(|| format!("fake-refresh-{family}-{}", s.serial));
            if let Some(token) = &refresh_token {
                s.refresh_tokens.insert(token.clone(), (family.clone(), false));
                s.refresh_tokens.insert(presented.to_owned(), (family, true));
            }
            Ok(Answer {
                access_token: Some(Secret::new(format!("fake-access-{}", s.serial))),
                refresh_token: refresh_token.map(Secret::new),
                expires_in: Some(lifetime),
                scopes: None,
            })
        })
    }
}

impl TokenEndpoint for Provider {
    fn refresh<'a>(
        &'a self,
        refresh_token: &'a Secret,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Answer, EndpointError>> {
        async move {
            if !self.with(|s| s.refresh_tokens.contains_key(refresh_token.expose())) {
                return self.question();
            }
            let (fault, latency) = self.with(|s| {
                s.calls += 1;
                (s.faults.pop_front(), s.latency)
            });
            let latency = match fault {
                Some(AnswerFault::Slow(slow)) => slow,
                _ => latency,
            };
            if !latency.is_zero() {
                let until = Instant::now() + latency.min(limits.answer);
                tokio::time::sleep_until(until).await;
            }
            let lost = || EndpointError::Ambiguous {
                why: "the answer was lost for the test".into(),
                resend_after: Resend::Soon,
            };
            match fault {
                Some(AnswerFault::Transient) => {
                    return Err(EndpointError::NotReached("down for the test".into()));
                }
                Some(AnswerFault::Misconfigured) => {
                    self.with(|s| s.question_refused = true);
                    return Err(refused("invalid_client"));
                }
                Some(AnswerFault::Refused(code)) => return Err(refused(code)),
                Some(AnswerFault::NotNow(retry_after)) => {
                    let why = "too many requests, for the test".into();
                    return Err(EndpointError::NotNow { code: None, why, retry_after });
                }
                Some(AnswerFault::UnknownError) => {
                    let (code, why) = (Some("unknown_error".into()), "for the test".into());
                    return Err(EndpointError::NotNow { code, why, retry_after: None });
                }
                Some(AnswerFault::MistakenlyInvalid) => {
                    return Err(EndpointError::InvalidGrant("invalid_grant".into()));
                }
                _ => {}
            }
            if let Some(code) = self.denial(refresh_token.expose()) {
                return Err(refused(code));
            }
            let answer = self.carry_out(refresh_token.expose());
            match fault {
                Some(AnswerFault::GatewayTimeout) => Err(EndpointError::Ambiguous {
                    why: "HTTP status 504, for the test".into(),
                    resend_after: Resend::Late,
                }),
                Some(AnswerFault::AnswerLost) => Err(lost()),
                Some(AnswerFault::NoAccessToken) => {
                    answer.map(|answer| Answer { access_token: None, ..answer })
                }
                Some(AnswerFault::Vast) => answer.map(|answer| {
                    let scopes = (0..4000).map(|n| format!("https://scopes.test/{n:0>60}"));
                    Answer { scopes: Some(scopes.collect()), ..answer }
                }),
                _ if latency > limits.answer => Err(lost()),
                _ => answer,
            }
        }
        .boxed()
    }

    fn client_id(&self) -> &'static str {
        "test-client"
    }

    fn token_uri(&self) -> &'static str {
        "https://provider.test/token"
    }
}

impl shared::ports::Provider for Provider {
    fn exchange<'a>(
        &'a self,
        _code: &'a Secret,
        _verifier: &'a Secret,
        _redirect_uri: &'a str,
        _limits: Limits,
    ) -> BoxFuture<'a, Result<CodeAnswer, EndpointError>> {
        async { Err(EndpointError::NotReached("nobody logs in by a code here".into())) }.boxed()
    }

    fn profile<'a>(
        &'a self,
        _access_token: &'a Secret,
    ) -> BoxFuture<'a, Result<Map<String, Value>, ProfileError>> {
        async { Err(ProfileError::NoAnswer("is not here".into())) }.boxed()
    }

    fn revoke<'a>(
        &'a self,
        refresh_token: &'a Secret,
        _limits: Limits,
    ) -> BoxFuture<'a, Result<Revocation, EndpointError>> {
        let token = refresh_token.expose();
        let revoked = self.with(|s| match s.refresh_tokens.get(token).cloned() {
            Some((family, false)) if s.revoked.insert(family.clone(), true).is_none() => {
                s.ended.push(token.to_owned());
                Revocation::Revoked
            }
            _ => Revocation::AlreadyInvalid,
        });
        async move { Ok(revoked) }.boxed()
    }
}

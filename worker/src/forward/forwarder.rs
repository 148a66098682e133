//! The handler of a kind that is forwarded: one job, one event, one answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::SignedDuration;
use reqwest::{Client, RequestBuilder};
use shared::ports::Randomness;
use tracing::{Instrument as _, Span};

use crate::effect::CallLedger;
use crate::handler::Handler;
use crate::job::Job;
use crate::metrics::ForwardMeters;
use crate::outcome::Verdict;
use crate::places::{Closed, Places};
use crate::session::Session;
use crate::spans;

use super::answer::{Answer, Came, Facts, MAX_BODY, Meaning};
use super::event::Event;
use super::handles::{Handles, Noted};
use super::renewals::Renewals;
use super::target::Target;

/// What all forwarded kinds share.
pub(super) struct Common {
    pub(super) handles: Arc<Handles>,
    pub(super) random: Randomness,
    pub(super) renewals: Renewals,
    /// Where handles open tokens.
    pub(super) token_uri: String,
    /// The full name of the subscription that jobs come from.
    pub(super) subscription: String,
}

/// Sends the jobs of one kind to its HTTP handler.
pub(super) struct Forwarder {
    pub(super) common: Arc<Common>,
    pub(super) target: Target,
    pub(super) client: Client,
    /// No job of the kind may be done twice.
    pub(super) once: bool,
    /// How long an answer may take.
    pub(super) limit: Duration,
    pub(super) places: Places,
    pub(super) meters: ForwardMeters,
    /// It has answered 2xx since the start.
    pub(super) proven: AtomicBool,
}

impl Forwarder {
    async fn forward(&self, job: &Job, session: &Session<'_>) -> Verdict {
        let epoch = self.places.epoch();
        let noted = Noted::default();
        if self.places.closed() == Some(Closed::Down) {
            // A job may take minutes; that somebody listens is known at once.
            if !self.target.listens().await {
                return self.learn(&Came::Unsent, job, session, epoch, noted, Vec::new());
            }
            self.places.open(epoch);
        }
        let once = self.once || job.once;
        let (handed_on, random) = (session.handed_on(), &self.common.random);
        let handle = self.common.handles.issue(&job.user, handed_on, random);
        let attempt = session.attempt();
        let limit = SignedDuration::try_from(self.limit).unwrap_or(SignedDuration::MAX);
        let deadline = session.clock().wall().saturating_add(limit);
        let event = Event {
            job,
            received: attempt.received,
            subscription: &self.common.subscription,
            attempt: attempt.number,
            deadline: deadline.unwrap_or(jiff::Timestamp::MAX),
            token_uri: &self.common.token_uri,
            handle: &handle.secret,
        };
        let span = spans::forward(&job.kind);
        let mut headers = event.headers();
        add_trace(&mut headers, &span, &attempt.received.attributes);
        let request = self.client.post(self.target.url()).headers(headers).body(event.body());
        let call = session.begin_call(!once);
        let came = {
            let _in_flight = self.meters.send();
            self.send(request, &session.ledger()).instrument(span.clone()).await
        };
        spans::api_answered(&span, came.status());
        call.ended(came.effect());
        let handle_text = handle.secret.clone();
        let noted = handle.end();
        let mut secrets = noted.tokens.clone();
        secrets.push(handle_text);
        self.learn(&came, job, session, epoch, noted, secrets)
    }

    /// Sends one event. An answer that has begun counts, whatever becomes of its body.
    async fn send(&self, request: RequestBuilder, ledger: &CallLedger) -> Came {
        let mut begun = None;
        let sending = exchange(request, ledger, &mut begun);
        match tokio::time::timeout(self.limit, sending).await {
            Ok(Some(came)) => came,
            Ok(None) => begun.map_or(Came::Lost, Came::Answer),
            Err(_late) => begun.map_or(Came::Late(self.limit), Came::Answer),
        }
    }

    /// What came of a job, and what follows from it for the kind.
    fn learn(
        &self,
        came: &Came,
        job: &Job,
        session: &Session<'_>,
        epoch: u64,
        noted: Noted,
        secrets: Vec<shared::Secret>,
    ) -> Verdict {
        self.meters.answered(came.class());
        let facts = Facts {
            once: self.once || job.once,
            noted: noted.consent,
            asked_again: noted.asks_of_grant > 1,
            proven: self.proven.load(Ordering::Relaxed),
            secrets,
        };
        let meaning = came.meaning(&facts);
        if came.class() == "2xx" {
            self.proven.store(true, Ordering::Relaxed);
        }
        let now = session.clock().monotonic();
        let close = |because, asked| {
            let unit = self.common.random.unit();
            self.places.close(epoch, because, &came.to_string(), asked, now, unit);
        };
        match meaning {
            Meaning::KindWaits(after, verdict) => {
                close(Closed::Asked, Some(after));
                verdict
            }
            Meaning::Misrouted(verdict) => {
                close(Closed::Misrouted, None);
                verdict
            }
            Meaning::Down(verdict) => {
                close(Closed::Down, None);
                verdict
            }
            Meaning::Verdict(verdict) => {
                if matches!(came, Came::Answer(_)) {
                    self.places.open(epoch);
                }
                verdict
            }
            Meaning::Renew(otherwise) => {
                self.places.open(epoch);
                if session.attempt().renewed || !self.common.renewals.allow(&job.user, now) {
                    return otherwise;
                }
                if let Some(credentials) = noted.credentials {
                    session.reject(credentials);
                }
                Verdict::Unauthorized
            }
        }
    }
}

/// Sends a request and reads its answer into `begun`, as far as it comes. What came, where
/// there is no answer.
async fn exchange(
    request: RequestBuilder,
    ledger: &CallLedger,
    begun: &mut Option<Answer>,
) -> Option<Came> {
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) if error.is_connect() => return Some(Came::Unsent),
        Err(_) => return Some(Came::Lost),
    };
    let status = response.status().as_u16();
    if response.status().is_success() {
        ledger.job_is_carried_out(status);
    }
    let headers = std::mem::take(response.headers_mut());
    let answer = begun.insert(Answer { status, headers, body: Vec::new(), whole: false });
    loop {
        match response.chunk().await {
            Ok(Some(piece)) if answer.body.len() + piece.len() <= MAX_BODY => {
                answer.body.extend_from_slice(&piece);
            }
            Ok(None) => {
                answer.whole = true;
                return None;
            }
            Ok(Some(_)) | Err(_) => return None,
        }
    }
}

fn add_trace(
    headers: &mut HeaderMap,
    span: &Span,
    received: &std::collections::HashMap<String, String>,
) {
    for (name, value) in spans::forwarded(span, received) {
        let name = HeaderName::try_from(name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
}

impl Handler for Forwarder {
    fn handle<'a>(&'a self, job: &'a Job, session: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
        self.forward(job, session).boxed()
    }

    fn places(&self) -> Option<&Places> {
        Some(&self.places)
    }
}

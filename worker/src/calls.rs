//! Calls of APIs on behalf of a user. There is one way to make one, whichever handler does:
//! it is counted by host and code, has a span in the trace of its delivery, and stands in
//! the ledger of its run.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Method, RequestBuilder, Response};
use serde::Serialize;
use shared::{Credentials, Secret, innermost};
use url::Url;

use crate::carrier::Carrier;
use crate::effect::{CallLedger, Effect};
use crate::retry_after::asks_to_wait;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Correct the request. Nothing was sent.
    #[error("the request cannot be made: HTTP does not allow it")]
    NotARequest(#[source] reqwest::Error),
    /// Try again. Nothing was sent.
    #[error("the API cannot be reached: {}", innermost(.0))]
    Unreachable(#[source] reqwest::Error),
    /// The API refuses calls of many users, so that this replica makes none for a while.
    /// Nothing was sent.
    #[error("the API limits the rate of all users for another {wait:.0?}")]
    Paused {
        /// Until the next call may be made.
        wait: Duration,
    },
    /// The connection broke. The call may have been carried out.
    #[error("the connection to the API failed: {}", innermost(.source))]
    Lost {
        /// Whether making the call again does no harm.
        repeatable: bool,
        /// What broke.
        source: reqwest::Error,
    },
    /// Nothing came in time. The call may have been carried out.
    #[error("the API did not answer within {limit:?}")]
    TimedOut {
        /// Whether making the call again does no harm.
        repeatable: bool,
        /// The time that the answer had to begin.
        limit: Duration,
    },
}

impl CallError {
    fn effect(&self) -> Effect {
        match self {
            Self::NotARequest(_) | Self::Unreachable(_) | Self::Paused { .. } => Effect::None,
            Self::Lost { .. } | Self::TimedOut { .. } => Effect::Unknown,
        }
    }
}

/// What is remembered of a call with its answer.
#[derive(Debug, Clone)]
pub(crate) struct SentCall {
    /// It asks for nothing to be done (GET, HEAD).
    pub(crate) safe: bool,
    /// Making it again does no harm.
    pub(crate) repeatable: bool,
    /// The API that was asked, whatever stands in for it.
    pub(crate) host: Arc<str>,
    /// What it carried, and its answer must not repeat.
    pub(crate) token: Secret,
}

impl SentCall {
    /// The call that `response` answers, if it was an [`ApiRequest`].
    pub(crate) fn of(response: &Response) -> Option<&Self> {
        response.extensions().get()
    }

    /// What is known of its effect when this status came.
    pub(crate) fn effect(&self, response: &Response) -> Effect {
        match response.status().as_u16() {
            // Nothing but the way to the answer: told as unknown, every GET that was
            // redirected would be.
            300..=302 if self.safe => Effect::None,
            status => Effect::of_status(status, asks_to_wait(response.headers())),
        }
    }
}

/// A request that carries the user's token to a host that may have it. Built as
/// `reqwest` builds them; it follows no redirects.
#[must_use = "a request does nothing before it is sent"]
pub struct ApiRequest<'a> {
    builder: RequestBuilder,
    method: Method,
    /// The API's, whatever stands in for it.
    host: Arc<str>,
    carrier: &'a Carrier,
    ledger: &'a Arc<CallLedger>,
    credentials: &'a Credentials,
    kind: &'a Arc<str>,
    repeatable: bool,
    limit: Option<Duration>,
}

impl<'a> ApiRequest<'a> {
    /// The request of `builder`, which goes to `url` or to what stands in for it, with the
    /// user's token.
    pub(crate) fn new(
        carrier: &'a Carrier,
        builder: RequestBuilder,
        ledger: &'a Arc<CallLedger>,
        credentials: &'a Credentials,
        kind: &'a Arc<str>,
        method: Method,
        url: &Url,
    ) -> Self {
        Self {
            builder: builder.bearer_auth(credentials.access_token().expose()),
            repeatable: method.is_idempotent(),
            method,
            host: url.host_str().unwrap_or_default().into(),
            carrier,
            ledger,
            credentials,
            kind,
            limit: None,
        }
    }

    /// Says that making this call again does no harm, as it does none with GET, HEAD, PUT
    /// and DELETE. A job whose call may have had an effect runs again only then.
    pub fn idempotent(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// How long the API may take until its answer begins; without it, for ever.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Adds a header.
    pub fn header(self, name: HeaderName, value: HeaderValue) -> Self {
        self.with(|builder| builder.header(name, value))
    }

    /// Adds headers, in the place of those of the same names.
    pub fn headers(self, headers: HeaderMap) -> Self {
        self.with(|builder| builder.headers(headers))
    }

    /// Adds to the query; the values are encoded.
    pub fn query<T: Serialize + ?Sized>(self, query: &T) -> Self {
        self.with(|builder| builder.query(query))
    }

    /// Sends a JSON body.
    pub fn json<T: Serialize + ?Sized>(self, body: &T) -> Self {
        self.with(|builder| builder.json(body))
    }

    /// Sends a body.
    pub fn body(self, body: impl Into<Body>) -> Self {
        self.with(|builder| builder.body(body))
    }

    /// Anything else that `reqwest` can do with a request before it is sent.
    pub fn with(mut self, change: impl FnOnce(RequestBuilder) -> RequestBuilder) -> Self {
        self.builder = change(self.builder);
        self
    }

    /// Sends it. The time until the answer begins is counted; its body comes later.
    ///
    /// Cancelling it abandons the call, which may have been carried out: the run's ledger
    /// then says that its effect is unknown.
    ///
    /// # Errors
    /// When no answer begins; [`CallError`] says whether anything was sent, and
    /// [`Verdict::of_call_error`](crate::Verdict::of_call_error) what it means for the job.
    pub async fn send(self) -> Result<Response, CallError> {
        let Self { builder, method, host, carrier, ledger, credentials, kind, repeatable, limit } =
            self;
        let wait = carrier.host_limits.wait(&host, carrier.observer.clock.monotonic());
        if !wait.is_zero() {
            return Err(CallError::Paused { wait });
        }
        let sending = async {
            let failed = |error: reqwest::Error| {
                // Its path and query may hold personal data.
                let error = error.without_url();
                if error.is_builder() {
                    CallError::NotARequest(error)
                } else if error.is_connect() {
                    CallError::Unreachable(error)
                } else {
                    CallError::Lost { repeatable, source: error }
                }
            };
            let Some(limit) = limit else { return builder.send().await.map_err(failed) };
            match tokio::time::timeout(limit, builder.send()).await {
                Ok(answer) => answer.map_err(failed),
                Err(_late) => Err(CallError::TimedOut { repeatable, limit }),
            }
        };
        carrier.observer.usage.note(credentials.user(), kind, &host);
        let call = ledger.begin(repeatable);
        match carrier.observer.observe(&method, &host, sending).await {
            Ok(mut response) => {
                let token = credentials.access_token().clone();
                let sent = SentCall { safe: method.is_safe(), repeatable, host, token };
                call.ended(sent.effect(&response));
                response.extensions_mut().insert(sent);
                Ok(response)
            }
            Err(error) => {
                call.ended(error.effect());
                Err(error)
            }
        }
    }
}

/// No token, no URL.
impl fmt::Debug for ApiRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiRequest")
            .field("method", &self.method)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::post;
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;
    use crate::conclusion::Conclusion;
    use crate::effect::Knowledge;
    use crate::outcome::Verdict;
    use crate::session::Session;
    use crate::session::stand::{carrier, raw};
    use crate::telemetry::prometheus::recorder;

    const TASKS: &str = "https://tasks.googleapis.com/tasks";
    const SPENT: Knowledge = Knowledge { effect: Effect::Unknown, repeatable: false };

    async fn call(origin: &str, gone: &str) {
        let (mut carrier, credentials) = carrier(origin).await;
        let session = Session::new(&carrier, credentials.clone());
        let request = session.request(Method::POST, TASKS).unwrap().json(&json!({"title": "x"}));
        let shown = format!("{request:?}");
        assert!(!shown.contains("fake-") && !shown.contains("/tasks"), "{shown}");
        assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
        let missing = session.request(Method::GET, "https://made-up.googleapis.com/").unwrap();
        let missing = missing.query(&[("a", "b")]).send().await.unwrap();
        assert_eq!(missing.status(), StatusCode::NOT_FOUND);
        assert!(session.request(Method::GET, "https://evil.example/").is_err());
        let known = Knowledge { effect: Effect::Done, repeatable: false };
        assert_eq!(session.ledger().calls().knowledge(), known);
        assert_eq!(session.ledger().calls().begun, 2, "what was forbidden is no call");
        drop(session);
        carrier.api_root = Some(gone.parse().unwrap());
        let session = Session::new(&carrier, credentials);
        let error = session.request(Method::POST, TASKS).unwrap().send().await.unwrap_err();
        assert!(matches!(error, CallError::Unreachable(_)), "{error:?}");
        assert!(std::error::Error::source(&error).is_some());
        assert!(!format!("{error:?}").contains("/tasks"), "{error:?}");
        assert_eq!(session.ledger().calls().knowledge(), Knowledge::NOTHING, "nothing was sent");
    }

    #[test]
    fn calls_of_any_handler_are_counted_by_host_and_code() {
        let recorder = recorder();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        ::metrics::with_local_recorder(&recorder, || {
            runtime.block_on(async {
                let routes = Router::new().route("/tasks", post(|| async { "{}" }));
                let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
                let (open, closed) = (listen().await, listen().await);
                let origin = |l: &TcpListener| format!("http://{}", l.local_addr().unwrap());
                let (origin, gone) = (origin(&open), origin(&closed));
                drop(closed);
                tokio::spawn(async move { axum::serve(open, routes).await });
                call(&origin, &gone).await;
            });
        });
        let text = recorder.handle().render();
        for (host, code, times) in [
            ("tasks.googleapis.com", "200", 1),
            ("tasks.googleapis.com", "error", 1),
            // What is made up takes no label value of its own.
            ("other", "404", 1),
        ] {
            let series = format!("fleet_api_requests_total{{host=\"{host}\",code=\"{code}\"}}");
            let line = format!("{series} {times}\n");
            assert!(text.contains(&line), "{line} is not in {text}");
        }
    }

    /// A call is under way until its answer begins, and a future that is dropped meanwhile
    /// leaves behind that its effect is unknown.
    #[tokio::test]
    async fn a_call_that_is_cut_is_known_to_have_been_under_way() {
        let (origin, mut requests) = raw([]).await;
        let (carrier, credentials) = carrier(&origin).await;
        for (method, idempotent, spent) in [
            (Method::GET, false, false),
            (Method::PUT, false, false),
            (Method::POST, true, false),
            (Method::POST, false, true),
            (Method::PATCH, false, true),
        ] {
            let session = Session::new(&carrier, credentials.clone());
            let ledger = session.ledger();
            let request = session.request(method.clone(), TASKS).unwrap();
            let request = if idempotent { request.idempotent() } else { request };
            let mut sending = Box::pin(request.send());
            assert_eq!(ledger.calls().begun, 0, "{method}: nothing is sent before it is polled");
            tokio::select! {
                biased;
                answer = &mut sending => panic!("{answer:?}"),
                _ = requests.recv() => {}
            }
            assert_eq!(ledger.is_unrepeatable_call_under_way(), spent, "{method}");
            drop(sending);
            // The future is gone, and the session with it.
            drop(session);
            assert!(!ledger.is_unrepeatable_call_under_way());
            let known = Knowledge { effect: Effect::Unknown, repeatable: !spent };
            assert_eq!(ledger.calls().knowledge(), known, "{method}");
            let Conclusion { verdict, knowledge } = Conclusion::of_cut("cut", &ledger.calls());
            assert_eq!(matches!(verdict, Verdict::Reject { .. }), spent, "{verdict:?}");
            assert_eq!(knowledge, known);
        }
    }

    /// The pause of a host is everybody's, whatever handler makes the call.
    #[tokio::test]
    async fn no_call_is_made_to_a_host_that_refuses_many_users() {
        let (origin, mut requests) = raw([]).await;
        let (carrier, credentials) = carrier(&origin).await;
        let now = carrier.observer.clock.monotonic();
        for user in ["ann", "bob", "eve"] {
            let user = shared::UserId::new(user).unwrap();
            carrier.host_limits.refused("tasks.googleapis.com", &user, true, now, 0.5);
        }
        let session = Session::new(&carrier, credentials);
        let request = session.request(Method::POST, TASKS).unwrap();
        let error = request.send().await.unwrap_err();
        let Verdict::Retry { after: Some(after), .. } = Verdict::of_call_error(&error) else {
            panic!("{error:?}");
        };
        assert!(after > Duration::from_secs(20), "{after:?}");
        assert_eq!(session.ledger().calls().knowledge(), Knowledge::NOTHING);
        assert!(requests.try_recv().is_err(), "nothing was sent");
    }

    /// Time passes as soon as everything waits.
    #[tokio::test(start_paused = true)]
    async fn an_api_that_says_nothing_is_given_up_within_the_limit() {
        let (origin, _requests) = raw([]).await;
        let (carrier, credentials) = carrier(&origin).await;
        let session = Session::new(&carrier, credentials);
        let start = tokio::time::Instant::now();
        let limit = Duration::from_secs(60);
        let request = session.request(Method::POST, TASKS).unwrap().within(limit);
        let error = request.send().await.unwrap_err();
        assert_eq!(start.elapsed().as_secs(), 60);
        assert!(matches!(error, CallError::TimedOut { repeatable: false, .. }), "{error:?}");
        assert_eq!(session.ledger().calls().knowledge(), SPENT);
        let verdict = Verdict::of_call_error(&error);
        let Verdict::Reject { reason, .. } = verdict else { panic!("{verdict:?}") };
        assert!(reason.starts_with("the API did not answer within 60s; whether"), "{reason}");
    }
}

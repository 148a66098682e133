//! Calls of APIs on behalf of a user: each is counted, by host and code, and has a span
//! in the trace of its delivery, whichever handler makes it.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Method, RequestBuilder, Response};
use serde::Serialize;
use shared::ports::Clock;
use tracing::Instrument as _;

use crate::effect::{CallLedger, Effect};
use crate::kinds::asks_to_wait;
use crate::metrics::ApiSeries;
use crate::spans;

/// Whoever calls APIs, as far as it is observed.
#[derive(Debug)]
pub(crate) struct Observer {
    clock: Arc<dyn Clock>,
    series: ApiSeries,
}

impl Observer {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, series: ApiSeries::default() }
    }

    /// Carries out `call`, which asks `host`. `status` is what the host answered, `None`
    /// without an answer. Dropping this drops `call`, uncounted.
    pub(crate) async fn observe<T>(
        &self,
        method: &Method,
        host: &str,
        call: impl Future<Output = T>,
        status: impl FnOnce(&T) -> Option<u16>,
    ) -> T {
        let span = spans::api(method.as_str(), host);
        let sent = self.clock.monotonic();
        let answer = call.instrument(span.clone()).await;
        let status = status(&answer);
        spans::api_answered(&span, status);
        self.series.note(host, status, self.clock.monotonic().since(sent));
        answer
    }
}

/// A request that carries the user's token to a host that may have it. Built as
/// `reqwest` builds them; it follows no redirects.
#[must_use = "a request does nothing before it is sent"]
pub struct ApiRequest<'a> {
    builder: RequestBuilder,
    method: Method,
    /// The API's, whatever stands in for it.
    host: String,
    observer: &'a Observer,
    ledger: &'a Arc<CallLedger>,
    repeatable: bool,
}

impl<'a> ApiRequest<'a> {
    pub(crate) fn new(
        builder: RequestBuilder,
        method: Method,
        host: &str,
        observer: &'a Observer,
        ledger: &'a Arc<CallLedger>,
    ) -> Self {
        let repeatable = method.is_idempotent();
        Self { builder, method, host: host.to_owned(), observer, ledger, repeatable }
    }

    /// Says that making this call again does no harm, as it does none with GET, HEAD, PUT
    /// and DELETE. A job whose call may have had an effect runs again only then.
    pub fn idempotent(mut self) -> Self {
        self.repeatable = true;
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
    /// Cancelling it abandons the call, which may have been carried out.
    ///
    /// # Errors
    /// When no answer begins: the call may have been carried out, unless the error says
    /// that the host was not reached (`is_connect`) or the request is none (`is_builder`).
    pub async fn send(self) -> Result<Response, reqwest::Error> {
        let Self { builder, method, host, observer, ledger, repeatable } = self;
        let status = |answer: &Result<Response, reqwest::Error>| {
            answer.as_ref().ok().map(|response| response.status().as_u16())
        };
        let call = ledger.begin(repeatable);
        let answer = observer.observe(&method, &host, builder.send(), status).await;
        call.ended(effect(&answer));
        answer
    }
}

/// What is known of a call of which this came.
fn effect(answer: &Result<Response, reqwest::Error>) -> Effect {
    match answer {
        Ok(response) => {
            Effect::of_status(response.status().as_u16(), asks_to_wait(response.headers()))
        }
        // Nothing of it was sent.
        Err(error) if error.is_builder() || error.is_connect() => Effect::None,
        Err(_) => Effect::Unknown,
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
    use std::time::Duration;

    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::{get, post};
    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;
    use serde_json::json;
    use shared::adapters::{MemoryBucket, SystemClock};
    use shared::ports::{Answer, EndpointError, Limits, TokenEndpoint};
    use shared::{Credentials, Grant, Secret, TokenStore, UserId};

    use super::*;
    use crate::handler::Handler as _;
    use crate::job::Job;
    use crate::kinds::{HostRules, ProfileHandler};
    use crate::outcome::Verdict;
    use crate::session::Carrier;
    use crate::telemetry::prometheus::recorder;

    #[derive(Debug)]
    struct Unused;

    impl TokenEndpoint for Unused {
        fn refresh<'a>(
            &'a self,
            _: &'a Secret,
            _: Limits,
        ) -> BoxFuture<'a, Result<Answer, EndpointError>> {
            async { unreachable!("the token is fresh") }.boxed()
        }

        fn client_id(&self) -> &'static str {
            "client"
        }

        fn token_uri(&self) -> &'static str {
            "https://token.test/"
        }
    }

    async fn credentials(store: &TokenStore) -> Credentials {
        let user = UserId::new("ann").unwrap();
        let hour = Duration::from_secs(3600);
        let grant = Grant {
            refresh_token: Some("fake-refresh".into()),
            access_token: Some("fake-access".into()),
            expires_at: SystemClock::default().wall().checked_add(hour).ok(),
            expires_in: Some(hour),
            ..Grant::default()
        };
        store.set_credentials(&user, grant).await.unwrap();
        store.get_credentials(&user).await.unwrap()
    }

    async fn call(origin: String, gone: String) {
        let bucket = Arc::new(MemoryBucket::default());
        let store = TokenStore::builder(bucket, Arc::new(Unused)).build().unwrap();
        let credentials = credentials(&store).await;
        let mut carrier = Carrier {
            store,
            http: reqwest::Client::new(),
            hosts: HostRules::default(),
            api_root: Some(origin.parse().unwrap()),
            observer: Arc::new(Observer::new(Arc::new(SystemClock::default()))),
        };
        let session = carrier.session(credentials.clone());
        let url = "https://tasks.googleapis.com/tasks";
        let request = session.request(Method::POST, url).unwrap().json(&json!({"title": "x"}));
        let shown = format!("{request:?}");
        assert!(!shown.contains("fake-") && !shown.contains("/tasks"), "{shown}");
        assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
        let missing = session.request(Method::GET, "https://made-up.googleapis.com/").unwrap();
        let missing = missing.query(&[("a", "b")]).send().await.unwrap();
        assert_eq!(missing.status(), StatusCode::NOT_FOUND);
        assert!(session.request(Method::GET, "https://evil.example/").is_err());
        let job = Job::decode(br#"{"user": "ann", "kind": "profile"}"#, "j").unwrap();
        let profile = ProfileHandler::new(reqwest::Client::new(), &format!("{origin}/userinfo"));
        let done = |result| Verdict::Done { http_status: Some(200), result, warning: None };
        assert_eq!(profile.handle(&job, &session).await, done(json!({"sub": "ann"})));
        let no_object = ProfileHandler::new(reqwest::Client::new(), &format!("{origin}/list"));
        let verdict = no_object.handle(&job, &session).await;
        assert!(matches!(verdict, Verdict::Retry { .. }), "{verdict:?}");
        drop(session);
        carrier.api_root = Some(gone.parse().unwrap());
        let session = carrier.session(credentials);
        assert!(session.request(Method::GET, url).unwrap().send().await.is_err());
    }

    #[test]
    fn calls_of_any_handler_are_counted_by_host_and_code() {
        let recorder = recorder();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        ::metrics::with_local_recorder(&recorder, || {
            runtime.block_on(async {
                let routes = Router::new()
                    .route("/tasks", post(|| async { "{}" }))
                    .route("/list", get(|| async { "[]" }))
                    .route("/userinfo", get(|| async { r#"{"sub": "ann"}"# }));
                let listen = async || tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let (open, closed) = (listen().await, listen().await);
                let origin =
                    |l: &tokio::net::TcpListener| format!("http://{}", l.local_addr().unwrap());
                let (origin, gone) = (origin(&open), origin(&closed));
                drop(closed);
                tokio::spawn(async move { axum::serve(open, routes).await });
                call(origin, gone).await;
            });
        });
        let text = recorder.handle().render();
        for (host, code, times) in [
            ("tasks.googleapis.com", "200", 1),
            ("tasks.googleapis.com", "error", 1),
            // What is made up takes no label value of its own.
            ("other", "404", 1),
            ("127.0.0.1", "200", 1),
            ("127.0.0.1", "error", 1),
        ] {
            let series = format!("fleet_api_requests_total{{host=\"{host}\",code=\"{code}\"}}");
            let line = format!("{series} {times}\n");
            assert!(text.contains(&line), "{line} is not in {text}");
        }
    }

    /// Time passes as soon as everything waits.
    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_says_nothing_is_given_up() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", silent.local_addr().unwrap());
        let recorder = recorder();
        let counting = ::metrics::set_default_local_recorder(&recorder);
        let bucket = Arc::new(MemoryBucket::default());
        let store = TokenStore::builder(bucket, Arc::new(Unused)).build().unwrap();
        let credentials = credentials(&store).await;
        let carrier = Carrier {
            store,
            http: reqwest::Client::new(),
            hosts: HostRules::default(),
            api_root: None,
            observer: Arc::new(Observer::new(Arc::new(SystemClock::default()))),
        };
        let session = carrier.session(credentials);
        let job = Job::decode(br#"{"user": "ann", "kind": "profile"}"#, "j").unwrap();
        let profile = ProfileHandler::new(carrier.http.clone(), &url);
        let start = tokio::time::Instant::now();
        let verdict = profile.handle(&job, &session).await;
        let Verdict::Retry { why, .. } = verdict else { panic!("{verdict:?}") };
        assert!(why.ends_with("gave no answer within 15s"), "{why}");
        assert_eq!(start.elapsed().as_secs(), 15);
        drop(counting);
        let text = recorder.handle().render();
        // No host has a label of its own before it has answered.
        let line = "fleet_api_requests_total{host=\"other\",code=\"error\"} 1\n";
        assert!(text.contains(line), "{text}");
    }
}

//! An HTTP handler, written as one is in any language: it knows the event and the token
//! endpoint that is named in it, and nothing of the fleet.

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tests::stage::PATIENCE;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use url::form_urlencoded;

/// One event as it came.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

/// A handler that serves until it is dropped.
pub(crate) struct Function {
    pub(crate) url: String,
    events: watch::Receiver<Vec<Event>>,
    stop: CancellationToken,
    serving: AbortOnDropHandle<()>,
}

impl Function {
    /// Starts one that answers so.
    pub(crate) async fn start<F>(answer: F) -> anyhow::Result<Self>
    where
        F: Fn(Event) -> BoxFuture<'static, Response> + Clone + Send + Sync + 'static,
    {
        Self::start_at(0, answer).await
    }

    /// Starts one on this port.
    pub(crate) async fn start_at<F>(port: u16, answer: F) -> anyhow::Result<Self>
    where
        F: Fn(Event) -> BoxFuture<'static, Response> + Clone + Send + Sync + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let url = format!("http://{}/", listener.local_addr()?);
        let (seen, events) = watch::channel(Vec::new());
        let serve = move |headers: HeaderMap, body: Bytes| {
            let event = Event { headers, body: serde_json::from_slice(&body).unwrap() };
            seen.send_modify(|seen: &mut Vec<Event>| seen.push(event.clone()));
            answer(event)
        };
        let routes = Router::new().route("/", post(serve));
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serving = axum::serve(listener, routes).with_graceful_shutdown(stopped);
        let serving = async move { serving.await.unwrap() };
        let serving = AbortOnDropHandle::new(tokio::spawn(serving));
        Ok(Self { url, events, stop, serving })
    }

    /// The events so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.borrow().clone()
    }

    /// Waits until so many events have come.
    pub(crate) async fn comes(&self, events: usize) -> anyhow::Result<()> {
        let mut seen = self.events.clone();
        let came = seen.wait_for(|seen| seen.len() >= events);
        tokio::time::timeout(PATIENCE, came).await.context("the events do not come")??;
        Ok(())
    }

    /// Stops it: its port is free when this returns.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
    }

    /// As `--forward` has it.
    pub(crate) fn route(&self, kind: &str) -> String {
        format!("{kind}={}", self.url)
    }
}

impl Event {
    fn credential(&self, name: &str) -> String {
        self.body["credentials"][name].as_str().unwrap().to_owned()
    }

    pub(crate) fn id(&self) -> &str {
        self.body["id"].as_str().unwrap()
    }

    /// The handle.
    pub(crate) fn handle(&self) -> String {
        self.credential("client_secret")
    }

    /// Asks for a token of `user` with its handle and these parameters besides; the status and
    /// the answer.
    pub(crate) async fn ask(&self, user: &str, more: &[(&str, &str)]) -> (u16, Value) {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("client_id", &self.credential("client_id"))
            .append_pair("client_secret", &self.handle())
            .append_pair("refresh_token", user)
            .extend_pairs(more)
            .finish();
        self.post(form, &[]).await
    }

    /// Sends a form to the token endpoint with these headers.
    pub(crate) async fn post(&self, form: String, headers: &[(&str, &str)]) -> (u16, Value) {
        let mut request = reqwest::Client::builder()
            .no_proxy()
            .build()
            .unwrap()
            .post(self.credential("token_uri"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// Its user's token, as a library gets it.
    pub(crate) async fn token(&self) -> Option<String> {
        let (_, answer) = self.ask(&self.credential("refresh_token"), &[]).await;
        answer["access_token"].as_str().map(str::to_owned)
    }

    /// Makes a task as its user, as a program does with a library: a call that is refused makes
    /// it ask for a token once more. The status of the last call.
    pub(crate) async fn act(&self, google: &str) -> u16 {
        let mut status = 0;
        for _ in 0..2 {
            let Some(token) = self.token().await else { return 500 };
            let url = format!("{google}/tasks/v1/lists/@default/tasks");
            let call = reqwest::Client::new().post(url).bearer_auth(token);
            let call = call.header("x-effect-id", self.id()).json(&json!({"title": self.id()}));
            status = call.send().await.unwrap().status().as_u16();
            if status != 401 {
                break;
            }
        }
        status
    }
}

/// What a function of the field's frameworks answers when it is done, or raises.
pub(crate) fn answered(status: u16) -> Response {
    if status == 200 {
        "OK".into_response()
    } else {
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

/// A handler that makes a task as the event's user.
pub(crate) async fn acting(google: String) -> anyhow::Result<Function> {
    Function::start(move |event| {
        let google = google.clone();
        async move { answered(event.act(&google).await) }.boxed()
    })
    .await
}

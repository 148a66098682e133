//! The REST API, on the same port as gRPC: topics, subscriptions, snapshots, and
//! messages one request at a time, as gcloud and curl move them, and what Cloud Monitoring knows
//! of a subscription.

mod iam;
mod messages;
mod monitoring;
mod resources;
mod snapshots;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tonic::{Code, Status};

use self::resources::{Subscription, Topic, UpdateSubscription, UpdateTopic};
use super::engine::Engine;
use super::error::Error;
use super::fault;
use super::page::page;
use crate::front_end;

type Shared = State<Arc<Engine>>;
type Answer<T> = Result<Json<T>, Error>;

/// Above the base64 of what a publish request can have.
const MAX_BODY: usize = 32 << 20;

/// Which page of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Paging {
    page_size: i32,
    page_token: String,
}

/// The routes below `/v1`, and one of Cloud Monitoring's below `/v3`.
pub(super) fn routes(engine: Arc<Engine>) -> Router {
    let topics = "/v1/projects/{project}/topics";
    let subscriptions = "/v1/projects/{project}/subscriptions";
    let routes = Router::new()
        .route(topics, get(list_topics))
        .route(
            &format!("{topics}/{{id}}"),
            get(get_topic)
                .put(create_topic)
                .patch(update_topic)
                .delete(delete_topic)
                .post(topic_verb),
        )
        .route(&format!("{topics}/{{id}}/subscriptions"), get(list_topic_subscriptions))
        .route(subscriptions, get(list_subscriptions))
        .route(
            &format!("{subscriptions}/{{id}}"),
            get(get_subscription)
                .put(create_subscription)
                .patch(update_subscription)
                .delete(delete_subscription)
                .post(subscription_verb),
        )
        .route(&format!("{topics}/{{id}}/snapshots"), get(snapshots::of_topic))
        .route("/v3/projects/{project}/timeSeries", get(monitoring::list))
        .route("/v1/projects/{project}/snapshots", get(snapshots::list))
        .route(
            "/v1/projects/{project}/snapshots/{id}",
            get(snapshots::get)
                .put(snapshots::create)
                .patch(snapshots::update)
                .delete(snapshots::delete),
        )
        .method_not_allowed_fallback(unknown)
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(Arc::clone(&engine), fault::at_rest))
        .with_state(engine);
    // Around the routes, which are chosen by what it makes of a request.
    Router::new().fallback_service(routes).layer(middleware::from_fn(through_front_end))
}

async fn through_front_end(request: Request, next: Next) -> Response {
    match front_end::pass(request, MAX_BODY).await {
        Ok(request) => next.run(request).await,
        Err(garbled) => Error::Invalid(garbled.to_string()).into_response(),
    }
}

/// A call that production may answer and the emulator does not: it is named, in the way
/// of the protocol that it came by.
async fn unknown(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let grpc = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/grpc"));
    if grpc {
        let call = uri.path().trim_start_matches('/').to_owned();
        return Status::from(Error::Unimplemented(call.into())).into_http();
    }
    Error::Unimplemented(format!("{method} {}", uri.path()).into()).into_response()
}

async fn create_topic(
    State(engine): Shared,
    Path(path): Path<(String, String)>,
    body: Bytes,
) -> Answer<Topic> {
    let resource = proto::Topic { name: topic_name(&path), ..parse::<Topic>(&body)?.into() };
    let created = engine.run(|broker, _| broker.create_topic(resource))?;
    Ok(Json(created.into()))
}

async fn get_topic(
    State(engine): Shared,
    Path(path): Path<(String, String)>,
) -> Result<Response, Error> {
    let name = topic_name(&path);
    if let Some((resource, verb)) = split_verb(&name) {
        return iam::read(&engine, resource, verb);
    }
    let topic = engine.read(|broker| broker.topic(&name).cloned())?;
    Ok(Json(Topic::from(topic)).into_response())
}

async fn update_topic(
    State(engine): Shared,
    Path(path): Path<(String, String)>,
    body: Bytes,
) -> Answer<Topic> {
    let update: UpdateTopic = parse(&body)?;
    let request = update.into_request(topic_name(&path));
    let updated = engine.run(|broker, _| broker.update_topic(request))?;
    Ok(Json(updated.into()))
}

async fn delete_topic(State(engine): Shared, Path(path): Path<(String, String)>) -> Answer<Value> {
    engine.run(|broker, _| broker.delete_topic(&topic_name(&path)))?;
    Ok(Json(json!({})))
}

async fn list_topics(
    State(engine): Shared,
    Path(project): Path<String>,
    Query(paging): Query<Paging>,
) -> Answer<Value> {
    let project = format!("projects/{project}");
    let (topics, next) = engine.read(|broker| {
        let topics = broker.topics(&project, &paging.page_token)?;
        Ok::<_, Error>(page(topics.cloned(), paging.page_size, |topic| &topic.name))
    })?;
    let topics: Vec<Topic> = topics.into_iter().map(Topic::from).collect();
    Ok(Json(json!({ "topics": topics, "nextPageToken": next })))
}

async fn list_topic_subscriptions(
    State(engine): Shared,
    Path(path): Path<(String, String)>,
    Query(paging): Query<Paging>,
) -> Answer<Value> {
    let names =
        engine.read(|broker| broker.topic_subscriptions(&topic_name(&path), &paging.page_token))?;
    let (names, next) = page(names, paging.page_size, |name| name);
    Ok(Json(json!({ "subscriptions": names, "nextPageToken": next })))
}

async fn create_subscription(
    State(engine): Shared,
    Path(path): Path<(String, String)>,
    body: Bytes,
) -> Answer<Subscription> {
    let resource = proto::Subscription {
        name: subscription_name(&path),
        ..parse::<Subscription>(&body)?.into()
    };
    let created = engine.run(|broker, _| broker.create_subscription(resource))?;
    Ok(Json(created.into()))
}

async fn get_subscription(
    State(engine): Shared,
    Path(path): Path<(String, String)>,
) -> Result<Response, Error> {
    let name = subscription_name(&path);
    if let Some((resource, verb)) = split_verb(&name) {
        return iam::read(&engine, resource, verb);
    }
    let resource = engine.read(|broker| broker.subscription(&name).cloned())?;
    Ok(Json(Subscription::from(resource)).into_response())
}

async fn update_subscription(
    State(engine): Shared,
    Path(path): Path<(String, String)>,
    body: Bytes,
) -> Answer<Subscription> {
    let update: UpdateSubscription = parse(&body)?;
    let request = update.into_request(subscription_name(&path));
    let updated = engine.run(|broker, _| broker.update_subscription(request))?;
    Ok(Json(updated.into()))
}

async fn delete_subscription(
    State(engine): Shared,
    Path(path): Path<(String, String)>,
) -> Answer<Value> {
    engine.run(|broker, _| broker.delete_subscription(&subscription_name(&path)))?;
    Ok(Json(json!({})))
}

async fn list_subscriptions(
    State(engine): Shared,
    Path(project): Path<String>,
    Query(paging): Query<Paging>,
) -> Answer<Value> {
    let project = format!("projects/{project}");
    let (all, next) = engine.read(|broker| {
        let all = broker.subscriptions(&project, &paging.page_token)?;
        Ok::<_, Error>(page(all.cloned(), paging.page_size, |resource| &resource.name))
    })?;
    let all: Vec<Subscription> = all.into_iter().map(Subscription::from).collect();
    Ok(Json(json!({ "subscriptions": all, "nextPageToken": next })))
}

async fn topic_verb(
    State(engine): Shared,
    Path(path): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Error> {
    let name = topic_name(&path);
    let (topic, verb) = verb(&name)?;
    messages::topic(&engine, topic, verb, &body)
}

async fn subscription_verb(
    State(engine): Shared,
    Path(path): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Error> {
    let name = subscription_name(&path);
    let (subscription, verb) = verb(&name)?;
    messages::subscription(&engine, subscription, verb, &body).await
}

fn verb(name: &str) -> Result<(&str, &str), Error> {
    split_verb(name).ok_or_else(|| Error::Invalid(format!("no method is named on {name}")))
}

/// `projects/p/topics/t:verb`; a resource's ID never has a colon.
fn split_verb(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once(':').filter(|(_, verb)| !verb.contains('/'))
}

fn topic_name((project, id): &(String, String)) -> String {
    format!("projects/{project}/topics/{id}")
}

fn subscription_name((project, id): &(String, String)) -> String {
    format!("projects/{project}/subscriptions/{id}")
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    // A client may leave the body out when there is nothing to say.
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        match text.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
            // Most are settings of production that have no effect here.
            Some((field, _)) => Error::Unimplemented(format!("the field {field}").into()),
            None => Error::Invalid(format!("invalid body: {text}")),
        }
    })
}

/// A refusal of a method that both protocols have, over REST.
fn told(status: &Status) -> Response {
    let (code, name) = over_http(status.code());
    let error = json!({"code": code.as_u16(), "message": status.message(), "status": name});
    (code, Json(json!({ "error": error }))).into_response()
}

/// How production tells a gRPC code over REST.
fn over_http(code: Code) -> (StatusCode, &'static str) {
    match code {
        Code::InvalidArgument => (StatusCode::BAD_REQUEST, "INVALID_ARGUMENT"),
        Code::FailedPrecondition => (StatusCode::BAD_REQUEST, "FAILED_PRECONDITION"),
        Code::Unauthenticated => (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED"),
        Code::PermissionDenied => (StatusCode::FORBIDDEN, "PERMISSION_DENIED"),
        Code::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
        Code::AlreadyExists => (StatusCode::CONFLICT, "ALREADY_EXISTS"),
        Code::Aborted => (StatusCode::CONFLICT, "ABORTED"),
        Code::ResourceExhausted => (StatusCode::TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED"),
        Code::Unimplemented => (StatusCode::NOT_IMPLEMENTED, "UNIMPLEMENTED"),
        Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        Code::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "DEADLINE_EXCEEDED"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL"),
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (code, status) = match self {
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            Self::AlreadyExists(_) => (StatusCode::CONFLICT, "ALREADY_EXISTS"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "ABORTED"),
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, "INVALID_ARGUMENT"),
            Self::Unimplemented(_) => (StatusCode::NOT_IMPLEMENTED, "UNIMPLEMENTED"),
            Self::Precondition(_) => (StatusCode::BAD_REQUEST, "FAILED_PRECONDITION"),
            Self::Injected(code, _) => over_http(code),
        };
        let error = json!({
            "code": code.as_u16(),
            "message": self.to_string(),
            "status": status,
        });
        (code, Json(json!({ "error": error }))).into_response()
    }
}

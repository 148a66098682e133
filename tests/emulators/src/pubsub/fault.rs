//! Where faults strike: at requests over gRPC and REST, and inside, at messages.
//!
//! What each fault does is told by [`crate::faults`].

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::PubsubMessage;
use http::Method;
use tonic::{Code, Status};

use super::PubSub;
use super::engine::Engine;
use super::error::Error;
use crate::connection::Cut;
use crate::faults::{self, Instead, Passage};

/// A kind of request, or what happens to a message inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// `Publish`, about a topic.
    Publish,
    /// `GetTopic` and `GetSubscription`; lists, over REST.
    Get,
    /// `TestIamPermissions`, about a topic or subscription.
    TestPermissions,
    /// Creating, changing, deleting a topic or subscription.
    Manage,
    /// The opening of a stream, and `Pull`; about a subscription.
    Receive,
    /// `Acknowledge`, about a subscription. On a stream only [`Fault::forgotten`] strikes.
    Acknowledge,
    /// `ModifyAckDeadline`, nacks included; about a subscription. Not on a stream.
    ModifyDeadline,
    /// A subscription takes in a message.
    Deliver,
}

/// What is to go wrong with requests to Pub/Sub: refused with a gRPC code, late,
/// lost, stalled; acknowledgements forgotten, deliveries duplicated.
pub type Fault = faults::Fault<Operation, Code>;

pub(crate) type Faults = faults::Faults<Operation, Code>;

impl PubSub {
    /// For who injects them by other words.
    pub(crate) fn faults(&self) -> &Faults {
        &self.engine.faults
    }
}

const TEXT: &str = "a fault was injected";

/// Lets a request over gRPC meet its fault. `work` carries it out.
pub(super) async fn pass<T>(
    engine: &Engine,
    (operation, subject): (Operation, &str),
    cut: Cut,
    work: impl FnOnce() -> Result<T, Status>,
) -> Result<T, Status> {
    let passage = enter(engine, (operation, subject), &[], cut).await.map_err(refused)?;
    let result = work();
    passage.leave(result.is_ok()).await;
    result
}

/// Lets a request in, or says with which code it is refused. What is stalled ends with
/// the server.
pub(super) async fn enter(
    engine: &Engine,
    (operation, subject): (Operation, &str),
    messages: &[PubsubMessage],
    cut: Cut,
) -> Result<Passage<Operation, Code>, Code> {
    tokio::select! {
        entered = engine.faults.enter_with(operation, Some(subject), messages, cut) => {
            entered.map_err(|instead| match instead {
                Instead::Refusal(code) => code,
                Instead::Answer(_) => unreachable!("no answers are made up for Pub/Sub"),
            })
        }
        () = engine.stop.cancelled() => Err(Code::Unavailable),
    }
}

/// How a refused request over gRPC is answered.
pub(super) fn refused(code: Code) -> Status {
    Status::new(code, TEXT)
}

/// Lets requests to the REST API meet their faults, as a layer around it.
pub(super) async fn at_rest(
    State(engine): State<Arc<Engine>>,
    cut: Cut,
    request: Request,
    next: Next,
) -> Response {
    let (operation, subject) = read(request.method(), request.uri().path());
    match enter(&engine, (operation, &subject), &[], cut).await {
        Err(code) => Error::Injected(code, TEXT).into_response(),
        Ok(passage) => {
            let response = next.run(request).await;
            passage.leave(response.status().is_success()).await;
            response
        }
    }
}

/// What a request over REST does, and to which resource.
fn read(method: &Method, path: &str) -> (Operation, String) {
    let name = path.trim_start_matches("/v1/");
    let (name, verb) = name.rsplit_once(':').unwrap_or((name, ""));
    let operation = match verb {
        "publish" => Operation::Publish,
        "pull" => Operation::Receive,
        "acknowledge" => Operation::Acknowledge,
        "modifyAckDeadline" => Operation::ModifyDeadline,
        "testIamPermissions" => Operation::TestPermissions,
        "" if method == Method::GET => Operation::Get,
        _ => Operation::Manage,
    };
    (operation, name.to_owned())
}

//! Google's APIs that people try first, with state behind them.
//!
//! A request is matched with the methods of the published discovery documents
//! (`methods.txt`): those say which scopes let a token in and which parameters there are. A
//! method or parameter of the reference that is missing here is refused with a 501 that names
//! it. What a user has is gone with the emulator.

mod calendar;
mod call;
mod drive;
mod gmail;
mod methods;
mod sheets;
mod tasks;

use std::sync::Arc;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::StatusCode;
use url::form_urlencoded;

use self::call::{Call, Implemented};
use super::core::Shared;
use super::refusal::Refusal;
use crate::front_end::{self, Garbled};
use crate::storage::fields::Selection;

/// The largest request.
const LARGEST: usize = 64 * 1024 * 1024;

/// Where methods are.
const ROOTS: [&str; 8] = [
    "/calendar/v3",
    "/drive/v3",
    "/gmail/v1",
    "/tasks/v1",
    "/v4/spreadsheets",
    "/upload",
    "/resumable/upload",
    "/batch",
];

const IMPLEMENTED: [&[Implemented]; 5] =
    [calendar::METHODS, drive::METHODS, gmail::METHODS, sheets::METHODS, tasks::METHODS];

/// What all users have.
#[derive(Debug, Default)]
pub(super) struct Data {
    calendars: calendar::Calendars,
    drives: drive::Drives,
    mail: gmail::Mail,
    spreadsheets: sheets::Spreadsheets,
    tasks: tasks::TaskLists,
}

pub(super) fn routes() -> Router<Arc<Shared>> {
    ROOTS.iter().fold(Router::new(), |router, root| {
        router.route(root, any(answer)).route(&format!("{root}/{{*rest}}"), any(answer))
    })
}

/// Every scope that a method of the APIs takes.
pub fn scopes() -> Vec<String> {
    methods::scopes()
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answered(&shared, request).await.unwrap_or_else(IntoResponse::into_response)
}

/// Takes effect when the request has arrived; whatever delays the answer comes after, so
/// that a caller that goes away before it has done it all the same.
async fn answered(shared: &Shared, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = front_end::pass(request, LARGEST).await?.into_parts();
    // Before anything is refused: an answer ends the connection if it comes sooner.
    let body = to_bytes(body, LARGEST).await.map_err(|_| Garbled::TooLarge)?;
    let path = parts.uri.path();
    let what = format!("{} {path}", parts.method);
    if path.starts_with("/batch") || path.starts_with("/resumable") {
        return Err(Refusal::unimplemented(&what));
    }
    let upload = path.strip_prefix("/upload");
    let (method, ids) = methods::find(&parts.method, upload.unwrap_or(path), upload.is_some())
        .ok_or_else(|| Refusal::not_found(&format!("The method {what}")))?;
    let implemented = IMPLEMENTED
        .into_iter()
        .flatten()
        .find(|implemented| implemented.id == method.id)
        .ok_or_else(|| Refusal::unimplemented(&format!("{} ({what})", method.id)))?;
    let query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let query: Vec<_> = query.into_owned().collect();
    let fields = query.iter().find(|(name, _)| name == "fields").map(|(_, value)| value.as_str());
    let fields = match fields.unwrap_or(implemented.fields) {
        "" => None,
        fields => Some(Selection::parse(fields).ok_or_else(|| {
            let message = format!("Invalid field selection {fields}");
            Refusal::new(StatusCode::BAD_REQUEST, "invalidParameter", message)
        })?),
    };
    let now = shared.date.now();
    let answer = shared.step(|core, at| {
        let scopes: Vec<&'static str> = std::iter::once(implemented.scope)
            .chain(method.scopes.iter().map(String::as_str))
            .collect();
        let caller = core.authorize(at, &parts.headers, &scopes)?;
        let origin = shared.origin.clone();
        let (headers, upload) = (parts.headers, upload.is_some());
        let call = Call { method, ids, query, headers, body, upload, caller, origin, at, now };
        call.check(implemented)?;
        (implemented.work)(&call, core)
    })?;
    Ok(answer.into_response(fields.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference has each, and lets in with the scope that is asked for.
    #[test]
    fn what_is_implemented_is_in_the_reference() {
        let reference = include_str!("methods.txt");
        for implemented in IMPLEMENTED.into_iter().flatten() {
            let line =
                reference.lines().find(|line| line.split(' ').next() == Some(implemented.id));
            let line = line.unwrap_or_else(|| panic!("{} is no method", implemented.id));
            let scope = implemented.scope.trim_start_matches("https://www.googleapis.com/auth/");
            assert!(line.split([' ', ',']).any(|word| word == scope), "{line}");
            for parameter in implemented.parameters {
                assert!(
                    line.split([' ', ',']).any(|word| word == *parameter),
                    "{parameter}: {line}"
                );
            }
        }
    }
}

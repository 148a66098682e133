//! Writing an object: in one request, or over an upload session.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{HeaderMap, HeaderName, StatusCode};
use serde::Deserialize;

use super::conditions::Conditions;
use super::extract::{Content, Params, Segments};
use super::multipart::{self, Multipart};
use super::object::{Attributes, StoredObject, Upload, encode_segment};
use super::operation::Operation;
use super::received::Received;
use super::refusal::Refusal;
use super::resumable::{Chunk, Progress, Target};
use super::store::Store;
use crate::connection::Cut;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StartParams {
    upload_type: Option<String>,
    name: Option<String>,
    /// Of the object; goes before what its metadata says.
    content_encoding: Option<String>,
    /// Of the session that the request is about, if it does not open one.
    #[serde(rename = "upload_id")]
    upload_id: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct SessionParams {
    upload_id: String,
    /// The object's, as the link of the session has it.
    #[serde(default)]
    name: String,
}

/// `POST /upload/…/o`: an object in one request, or a new session. Google's client for Go sends
/// the chunks of a session by POST, too.
pub(super) async fn start(
    Shared(store): Shared<Arc<Store>>,
    Segments(bucket): Segments<String>,
    Params(params): Params<StartParams>,
    Params(conditions): Params<Conditions>,
    cut: Cut,
    headers: HeaderMap,
    Content(body): Content,
) -> Result<Response, Refusal> {
    if let Some(upload_id) = params.upload_id {
        let session = SessionParams { upload_id, name: params.name.unwrap_or_default() };
        return advance(Shared(store), Params(session), cut, headers, Content(body)).await;
    }
    let content_type = header(&headers, CONTENT_TYPE.as_str());
    let (mut attributes, content) = match params.upload_type.as_deref() {
        Some("multipart") => {
            let content_type = content_type.unwrap_or_default();
            let Multipart { attributes, media } = multipart::parse(content_type, &body)?;
            (attributes, media)
        }
        Some("media") => {
            let attributes = Attributes {
                content_type: content_type.map(ToOwned::to_owned),
                crc32c: told_hash(&headers, "crc32c="),
                md5_hash: told_hash(&headers, "md5="),
                ..Attributes::default()
            };
            (attributes, body)
        }
        Some("resumable") => {
            let mut attributes = Attributes::parse(&body)?;
            if attributes.content_type.is_none() {
                attributes.content_type =
                    header(&headers, "x-upload-content-type").map(ToOwned::to_owned);
            }
            attributes.content_encoding = params.content_encoding.or(attributes.content_encoding);
            let name = object_name(params.name, &attributes)?;
            let target = Target { bucket, name, attributes, conditions };
            let object = target.name.clone();
            let open = || open_session(&store, target);
            return store.pass(cut, Operation::Write, &object, open).await;
        }
        other => {
            let given = other.unwrap_or_default();
            return Err(Refusal::invalid(format!("Invalid uploadType: '{given}'")));
        }
    };
    attributes.content_encoding = params.content_encoding.or(attributes.content_encoding);
    let name = object_name(params.name, &attributes)?;
    let keep = store.sessions().keep;
    let upload = if content.len() > keep {
        let mut received = Received::new(keep);
        received.extend(&content);
        Upload::of(&received, attributes)?
    } else {
        Upload::new(content, attributes)?
    };
    let write = || store.write(&bucket, &name, upload, conditions);
    let object = store.pass(cut, Operation::Write, &name, write).await?;
    Ok(stored(&store, &bucket, &name, &object))
}

fn open_session(store: &Store, target: Target) -> Result<Response, Refusal> {
    let path = format!(
        "{}/upload/storage/v1/b/{}/o?uploadType=resumable&name={}",
        store.origin,
        target.bucket,
        encode_segment(&target.name)
    );
    let id = store.open_upload(target)?;
    let location = [(LOCATION, format!("{path}&upload_id={id}"))];
    Ok((StatusCode::OK, location).into_response())
}

/// `PUT` or `POST` on a session: a chunk, or the question how far it is.
pub(super) async fn advance(
    Shared(store): Shared<Arc<Store>>,
    Params(SessionParams { upload_id, name }): Params<SessionParams>,
    cut: Cut,
    headers: HeaderMap,
    Content(body): Content,
) -> Result<Response, Refusal> {
    let chunk = Chunk::parse(header(&headers, CONTENT_RANGE.as_str()))?;
    let hash = |kind| told_hash(&headers, kind);
    let told = (hash("crc32c="), hash("md5="));
    let advance = || store.advance_upload(&upload_id, chunk, &body, told);
    match store.pass(cut, Operation::Write, &name, advance).await? {
        Progress::Stored { bucket, name, object } => Ok(stored(&store, &bucket, &name, &object)),
        Progress::Incomplete(have) => Ok(incomplete(have, &headers)),
    }
}

/// So much of an upload is there: a 308, or what stands for it where the client says that it
/// takes a 308 for a redirection.
fn incomplete(have: usize, headers: &HeaderMap) -> Response {
    let range = (have > 0).then(|| [(RANGE, format!("bytes=0-{}", have - 1))]);
    if header(headers, "x-guploader-no-308").is_some_and(|said| said.eq_ignore_ascii_case("yes")) {
        let instead = HeaderName::from_static("x-http-status-code-override");
        return (StatusCode::OK, [(instead, "308")], range, ()).into_response();
    }
    (StatusCode::PERMANENT_REDIRECT, range, ()).into_response()
}

/// `DELETE` on a session.
pub(super) async fn cancel(
    Shared(store): Shared<Arc<Store>>,
    Params(SessionParams { upload_id, .. }): Params<SessionParams>,
) -> Result<StatusCode, Refusal> {
    store.cancel_upload(&upload_id)?;
    // "Client closed request": what production answers to a cancelled upload.
    Ok(StatusCode::from_u16(499).unwrap_or(StatusCode::NO_CONTENT))
}

fn object_name(query: Option<String>, attributes: &Attributes) -> Result<String, Refusal> {
    query
        .or_else(|| attributes.name.clone())
        .ok_or_else(|| Refusal::invalid("Required object name."))
}

fn stored(store: &Store, bucket: &str, name: &str, object: &StoredObject) -> Response {
    Json(object.to_json(&store.origin, bucket, name)).into_response()
}

/// A checksum of `x-goog-hash`, whose values may come in one header or in several.
pub(super) fn told_hash(headers: &HeaderMap, kind: &str) -> Option<String> {
    let values = headers.get_all("x-goog-hash").iter().filter_map(|value| value.to_str().ok());
    let mut hashes = values.flat_map(|value| value.split(',')).map(str::trim);
    hashes.find_map(|hash| hash.strip_prefix(kind).map(ToOwned::to_owned))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

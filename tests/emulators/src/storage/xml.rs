//! The XML API as far as clients without signed URLs use it: objects by their public
//! path, and the listing of a bucket.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{Request, State as Shared};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, StatusCode};

use super::conditions::Conditions;
use super::download;
use super::listing::ListQuery;
use super::object::{Attributes, Upload};
use super::operation::Operation;
use super::refusal::Refusal;
use super::state::Place;
use super::store::Store;
use super::upload::told_hash;
use super::xml_parts;
use crate::connection::Cut;

/// The largest request body.
const MAX_BODY: usize = 1 << 30;

/// A request, taken apart.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) place: Place,
    pub(super) query: BTreeMap<String, String>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Answers what is no call of the JSON API.
pub(super) async fn answer(Shared(store): Shared<Arc<Store>>, request: Request) -> Response {
    let cut = Cut::of(request.extensions());
    match read(request).await {
        Ok(call) => carry_out(&store, call, cut).await.unwrap_or_else(|refusal| told(&refusal)),
        Err(refusal) => told(&refusal),
    }
}

async fn read(request: Request) -> Result<Call, Refusal> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().trim_start_matches('/');
    let (bucket, name) = path.split_once('/').unwrap_or((path, ""));
    let place = Place { bucket: decode(bucket)?, name: decode(name)? };
    let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let query = query.into_owned().collect();
    let body = to_bytes(body, MAX_BODY).await.map_err(|_| Refusal::TooLarge)?;
    Ok(Call { method: parts.method, place, query, headers: parts.headers, body })
}

async fn carry_out(store: &Arc<Store>, call: Call, cut: Cut) -> Result<Response, Refusal> {
    if call.place.bucket.is_empty() {
        return Err(Refusal::Unimplemented(format!("{} / of the XML API", call.method)));
    }
    let parts = call.query.contains_key("uploads") || call.query.contains_key("uploadId");
    if parts && !call.place.name.is_empty() {
        return xml_parts::answer(store, call, cut).await;
    }
    let known = [
        "list-type",
        "prefix",
        "delimiter",
        "max-keys",
        "marker",
        "start-after",
        "continuation-token",
        "generation",
        "encoding-type",
        "fetch-owner",
    ];
    let other = call.query.keys().find(|key| !known.contains(&key.as_str()));
    let copied = call.headers.contains_key("x-goog-copy-source");
    match (call.method.as_str(), call.place.name.is_empty(), other) {
        ("GET", true, None) => list(store, &call, cut).await,
        ("GET" | "HEAD", false, None) => get(store, &call, cut).await,
        ("PUT", false, None) if !copied => put(store, call, cut).await,
        ("DELETE", false, None) => delete(store, &call, cut).await,
        (method, _, other) => {
            let Place { bucket, name } = &call.place;
            let sub = other.map(|other| format!("?{other}")).unwrap_or_default();
            let copied = if copied { " with x-goog-copy-source" } else { "" };
            Err(Refusal::Unimplemented(format!(
                "{method} /{bucket}/{name}{sub}{copied} of the XML API"
            )))
        }
    }
}

async fn get(store: &Arc<Store>, call: &Call, cut: Cut) -> Result<Response, Refusal> {
    let Place { bucket, name } = &call.place;
    let generation = call.query.get("generation").and_then(|text| text.parse().ok());
    let read = || {
        let object = store.lock().read(bucket, name, generation, conditions(&call.headers))?;
        download::check_etags(&call.headers, &object)?;
        Ok(object)
    };
    let object = store.pass(cut, Operation::Read, name, read).await?;
    download::content(&object, &call.headers)
}

async fn put(store: &Arc<Store>, call: Call, cut: Cut) -> Result<Response, Refusal> {
    let Place { bucket, name } = &call.place;
    let upload = Upload::new(call.body, attributes(&call.headers))?;
    let conditions = conditions(&call.headers);
    let write = || store.write(bucket, name, upload, conditions);
    let object = store.pass(cut, Operation::Write, name, write).await?;
    Ok(download::object_headers(&object).into_response())
}

async fn delete(store: &Arc<Store>, call: &Call, cut: Cut) -> Result<Response, Refusal> {
    let Place { bucket, name } = &call.place;
    let generation = call.query.get("generation").and_then(|text| text.parse().ok());
    let delete = || store.delete(bucket, name, generation, conditions(&call.headers));
    store.pass(cut, Operation::Delete, name, delete).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn list(store: &Arc<Store>, call: &Call, cut: Cut) -> Result<Response, Refusal> {
    let text = |key: &str| call.query.get(key).cloned();
    let limit = text("max-keys").and_then(|keys| keys.parse().ok()).unwrap_or(1_000).min(1_000);
    let query = ListQuery {
        prefix: text("prefix").unwrap_or_default(),
        delimiter: text("delimiter").unwrap_or_default(),
        after: text("continuation-token").or(text("marker")).or(text("start-after")),
        limit,
        ..ListQuery::default()
    };
    let bucket = &call.place.bucket;
    let list = || store.lock().list(bucket, &query);
    let page = store.pass(cut, Operation::List, &query.prefix, list).await?;
    let head = format!(
        "<ListBucketResult xmlns=\"http://doc.s3.amazonaws.com/2006-03-01\"><Name>{}</Name>\
         <Prefix>{}</Prefix><IsTruncated>{}</IsTruncated>",
        escape(bucket),
        escape(&query.prefix),
        page.next.is_some()
    );
    let contents = page.objects.iter().map(|(name, object)| {
        format!(
            "<Contents><Key>{}</Key><Generation>{}</Generation><MetaGeneration>{}\
             </MetaGeneration><LastModified>{}</LastModified><ETag>\"{}\"</ETag><Size>{}</Size>\
             </Contents>",
            escape(name),
            object.generation,
            object.metageneration,
            prost_types::Timestamp::from(object.updated),
            object.etag(),
            object.size
        )
    });
    let prefixes = page.prefixes.iter().map(|prefix| {
        format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escape(prefix))
    });
    let next = page.next.iter().map(|next| {
        let next = escape(next);
        format!(
            "<NextMarker>{next}</NextMarker><NextContinuationToken>{next}</NextContinuationToken>"
        )
    });
    let parts = std::iter::once(head).chain(contents).chain(prefixes).chain(next);
    let xml: String = parts.chain(["</ListBucketResult>".to_owned()]).collect();
    Ok(document(StatusCode::OK, &xml))
}

/// What a writer says of an object in headers.
pub(super) fn attributes(headers: &HeaderMap) -> Attributes {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(ToOwned::to_owned);
    let metadata = headers.iter().filter_map(|(name, value)| {
        let key = name.as_str().strip_prefix("x-goog-meta-")?;
        Some((key.to_owned(), value.to_str().ok()?.to_owned()))
    });
    Attributes {
        content_type: text("content-type"),
        content_encoding: text("content-encoding"),
        content_disposition: text("content-disposition"),
        content_language: text("content-language"),
        cache_control: text("cache-control"),
        custom_time: text("x-goog-custom-time"),
        storage_class: text("x-goog-storage-class"),
        crc32c: told_hash(headers, "crc32c="),
        md5_hash: told_hash(headers, "md5=").or_else(|| text("content-md5")),
        metadata: metadata.collect(),
        ..Attributes::default()
    }
}

pub(super) fn conditions(headers: &HeaderMap) -> Conditions {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.parse().ok();
    Conditions {
        generation_match: number("x-goog-if-generation-match"),
        metageneration_match: number("x-goog-if-metageneration-match"),
        ..Conditions::default()
    }
}

pub(super) fn document(status: StatusCode, xml: &str) -> Response {
    let kind = [(CONTENT_TYPE, "application/xml; charset=UTF-8")];
    (status, kind, format!("<?xml version='1.0' encoding='UTF-8'?>{xml}")).into_response()
}

/// A refusal as this API tells it.
fn told(refusal: &Refusal) -> Response {
    let code = match refusal {
        Refusal::NoBucket => "NoSuchBucket",
        Refusal::NoObject { .. } => "NoSuchKey",
        Refusal::NoUpload => "NoSuchUpload",
        Refusal::Precondition => "PreconditionFailed",
        Refusal::NotModified => return StatusCode::NOT_MODIFIED.into_response(),
        Refusal::Pace { .. } => "SlowDown",
        Refusal::Range { .. } => "InvalidRange",
        Refusal::Unimplemented(_) => "NotImplemented",
        Refusal::Kept { .. } => "AccessDenied",
        Refusal::TooLarge => "EntityTooLarge",
        Refusal::Injected(_) => "InternalError",
        _ => "InvalidArgument",
    };
    let message = escape(&refusal.to_string());
    let xml = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    document(refusal.status(), &xml)
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Percent-decodes a path.
fn decode(path: &str) -> Result<String, Refusal> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next(), rest.next()].map(|digit| {
            char::from(digit.unwrap_or_default())
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        });
        let [Some(high), Some(low)] = digits else {
            return Err(Refusal::invalid(format!("Malformed path: {path}")));
        };
        bytes.push(high * 16 + low);
    }
    String::from_utf8(bytes).map_err(|_| Refusal::invalid(format!("Malformed path: {path}")))
}

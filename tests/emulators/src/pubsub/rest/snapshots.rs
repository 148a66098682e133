//! Snapshots over REST.

use std::collections::HashMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use prost_types::Timestamp;
use proto::seek_request::Target;
use serde::Deserialize;
use serde_json::{Value, json};

use super::resources::mask;
use super::{Answer, Paging, Shared, parse, topic_name};
use crate::pubsub::engine::Engine;
use crate::pubsub::error::Error;
use crate::pubsub::page::page;

/// What the methods are sent; each reads its own fields.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Sent {
    subscription: String,
    labels: HashMap<String, String>,
    snapshot: Snapshot,
    update_mask: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Snapshot {
    labels: HashMap<String, String>,
    expire_time: Option<String>,
}

fn to_json(snapshot: &proto::Snapshot) -> Value {
    let mut json = json!({
        "name": snapshot.name,
        "topic": snapshot.topic,
        "expireTime": snapshot.expire_time.map(|time| time.to_string()),
    });
    if !snapshot.labels.is_empty() {
        json["labels"] = json!(snapshot.labels);
    }
    json
}

fn name((project, id): &(String, String)) -> String {
    format!("projects/{project}/snapshots/{id}")
}

/// A time in RFC 3339.
pub(super) fn time(text: &str) -> Result<Timestamp, Error> {
    text.parse().map_err(|_| Error::Invalid(format!("{text:?} is not a time in RFC 3339")))
}

pub(super) fn seek(
    engine: &Engine,
    subscription: &str,
    time: Option<Timestamp>,
    snapshot: String,
) -> Result<(), Error> {
    let snapshot = (!snapshot.is_empty()).then_some(Target::Snapshot(snapshot));
    let request = proto::SeekRequest {
        subscription: subscription.to_owned(),
        target: time.map(Target::Time).or(snapshot),
    };
    engine.run(|broker, now| broker.seek(request, now))
}

pub(super) async fn create(
    State(engine): Shared,
    Path(path): Path<(String, String)>,
    body: Bytes,
) -> Answer<Value> {
    let sent: Sent = parse(&body)?;
    let request = proto::CreateSnapshotRequest {
        name: name(&path),
        subscription: sent.subscription,
        labels: sent.labels,
        ..proto::CreateSnapshotRequest::default()
    };
    let made = engine.run(|broker, now| broker.create_snapshot(request, now))?;
    Ok(Json(to_json(&made)))
}

pub(super) async fn get(
    State(engine): Shared,
    Path(path): Path<(String, String)>,
) -> Answer<Value> {
    let found = engine.read(|broker| broker.snapshot(&name(&path)).map(to_json))?;
    Ok(Json(found))
}

pub(super) async fn update(
    State(engine): Shared,
    Path(path): Path<(String, String)>,
    body: Bytes,
) -> Answer<Value> {
    let sent: Sent = parse(&body)?;
    let snapshot = proto::Snapshot {
        name: name(&path),
        labels: sent.snapshot.labels,
        expire_time: sent.snapshot.expire_time.as_deref().map(time).transpose()?,
        ..proto::Snapshot::default()
    };
    let update_mask = Some(mask(&sent.update_mask));
    let request = proto::UpdateSnapshotRequest { snapshot: Some(snapshot), update_mask };
    let updated = engine.run(|broker, _| broker.update_snapshot(request))?;
    Ok(Json(to_json(&updated)))
}

pub(super) async fn delete(
    State(engine): Shared,
    Path(path): Path<(String, String)>,
) -> Answer<Value> {
    engine.run(|broker, _| broker.delete_snapshot(&name(&path)))?;
    Ok(Json(json!({})))
}

pub(super) async fn list(
    State(engine): Shared,
    Path(project): Path<String>,
    Query(paging): Query<Paging>,
) -> Answer<Value> {
    let project = format!("projects/{project}");
    let (all, next) = engine.read(|broker| {
        let all = broker.snapshots(&project, &paging.page_token)?;
        Ok::<_, Error>(page(all.cloned(), paging.page_size, |resource| &resource.name))
    })?;
    let all: Vec<Value> = all.iter().map(to_json).collect();
    Ok(Json(json!({ "snapshots": all, "nextPageToken": next })))
}

pub(super) async fn of_topic(
    State(engine): Shared,
    Path(path): Path<(String, String)>,
    Query(paging): Query<Paging>,
) -> Answer<Value> {
    let topic = topic_name(&path);
    let names = engine.read(|broker| broker.topic_snapshots(&topic, &paging.page_token))?;
    let (names, next) = page(names, paging.page_size, |name| name);
    Ok(Json(json!({ "snapshots": names, "nextPageToken": next })))
}

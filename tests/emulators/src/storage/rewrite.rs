//! Objects made of others: `copyTo`, `rewriteTo`, `compose`, `moveTo`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::conditions::{Conditions, SourceConditions};
use super::extract::{Content, Params, Segments};
use super::object::Attributes;
use super::operation::Operation;
use super::refusal::Refusal;
use super::state::{Component, Place, Rewrite};
use super::store::Store;
use crate::connection::Cut;

/// What one call copies is a multiple of it.
const STEP: usize = 1 << 20;

type Both = Segments<(String, String, String, String)>;

/// Reads what a copy says of itself. What names only a storage class changes only that.
fn rewrite(body: &[u8], source: SourceConditions, target: Conditions) -> Result<Rewrite, Refusal> {
    let said = Attributes::parse(body)?;
    let nothing = said == Attributes::default();
    let said = (!nothing).then_some(said);
    Ok(Rewrite { generation: source.generation, source: source.into(), target, said })
}

/// Only the storage class changes, and all else is as the source has it.
fn keeps_the_rest(rewrite: &mut Rewrite, source: &Attributes) {
    if let Some(said) = &mut rewrite.said {
        let class = said.storage_class.take();
        if *said == Attributes::default() {
            *said = source.clone();
        }
        said.storage_class = class;
    }
}

/// `POST …/b/{b}/o/{o}/copyTo/b/{b}/o/{o}`.
pub(super) async fn copy(
    Shared(store): Shared<Arc<Store>>,
    Segments((bucket, name, to_bucket, to_name)): Both,
    (Params(source), Params(target)): (Params<SourceConditions>, Params<Conditions>),
    cut: Cut,
    Content(body): Content,
) -> Result<Json<Value>, Refusal> {
    let from = Place { bucket, name };
    let to = Place { bucket: to_bucket, name: to_name };
    let rewrite = rewrite(&body, source, target)?;
    let make =
        || store.make(&to.bucket, &to.name, |state, now| state.copy(now, &from, &to, rewrite));
    let object = store.pass(cut, Operation::Write, &to.name, make).await?;
    Ok(Json(object.to_json(&store.origin, &to.bucket, &to.name)))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RewriteParams {
    max_bytes_rewritten_per_call: Option<usize>,
    rewrite_token: Option<String>,
}

/// `POST …/b/{b}/o/{o}/rewriteTo/b/{b}/o/{o}`. A copy to another location or storage
/// class is done in calls, if the client limits each of them.
pub(super) async fn rewrite_object(
    Shared(store): Shared<Arc<Store>>,
    Segments((bucket, name, to_bucket, to_name)): Both,
    (Params(source), Params(target), Params(params)): (
        Params<SourceConditions>,
        Params<Conditions>,
        Params<RewriteParams>,
    ),
    cut: Cut,
    Content(body): Content,
) -> Result<Json<Value>, Refusal> {
    let from = Place { bucket, name };
    let to = Place { bucket: to_bucket, name: to_name };
    let mut rewrite = rewrite(&body, source, target)?;
    let step = params.max_bytes_rewritten_per_call;
    if step.is_some_and(|step| step == 0 || step % STEP != 0) {
        return Err(Refusal::invalid("maxBytesRewrittenPerCall must be a multiple of 1048576."));
    }
    let work = || {
        let (object, stays) = store.step(|state, _| state.source(&from, &to, &rewrite))?;
        keeps_the_rest(&mut rewrite, &object.said());
        let size = object.size;
        let whose = format!("{}/{}/{}", object.generation, to.bucket, to.name);
        let before = match &params.rewrite_token {
            Some(token) => progress(token, &whose)?,
            None => 0,
        };
        let step = step.filter(|_| !stays).unwrap_or(usize::MAX);
        let rewritten = before.saturating_add(step).min(size);
        let mut json = json!({
            "kind": "storage#rewriteResponse",
            "totalBytesRewritten": rewritten.to_string(),
            "objectSize": size.to_string(),
            "done": rewritten == size,
        });
        if rewritten < size {
            let token = format!("{rewritten}/{whose}");
            json["rewriteToken"] = BASE64_URL_SAFE_NO_PAD.encode(token).into();
            return Ok(json);
        }
        let make = |state: &mut super::state::State, now| state.copy(now, &from, &to, rewrite);
        let copy = store.make(&to.bucket, &to.name, make)?;
        json["resource"] = copy.to_json(&store.origin, &to.bucket, &to.name);
        Ok(json)
    };
    Ok(Json(store.pass(cut, Operation::Write, &to.name, work).await?))
}

/// How far the copy is whose token this is.
fn progress(token: &str, whose: &str) -> Result<usize, Refusal> {
    let read = || {
        let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let (rewritten, of) = text.split_once('/')?;
        (of == whose).then(|| rewritten.parse().ok())?
    };
    read().ok_or_else(|| Refusal::invalid("The rewrite token is not one of this copy."))
}

/// `POST …/b/{b}/o/{o}/moveTo/o/{o}`.
pub(super) async fn move_object(
    Shared(store): Shared<Arc<Store>>,
    Segments((bucket, name, to)): Segments<(String, String, String)>,
    (Params(source), Params(target)): (Params<SourceConditions>, Params<Conditions>),
    cut: Cut,
) -> Result<Json<Value>, Refusal> {
    let from = Place { bucket, name };
    // It is the live version that moves.
    let rewrite = Rewrite { generation: None, ..rewrite(b"", source, target)? };
    let make =
        || store.make(&from.bucket, &to, |state, now| state.rename(now, &from, &to, rewrite));
    let object = store.pass(cut, Operation::Write, &to, make).await?;
    Ok(Json(object.to_json(&store.origin, &from.bucket, &to)))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Compose {
    source_objects: Vec<Source>,
    #[serde(default)]
    destination: Value,
    #[serde(default)]
    delete_source_objects: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    name: String,
    #[serde(default)]
    generation: Value,
    #[serde(default)]
    object_preconditions: Value,
}

/// A number that JSON clients write as one or as text.
fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// `POST …/b/{b}/o/{o}/compose`.
pub(super) async fn compose(
    Shared(store): Shared<Arc<Store>>,
    Segments((bucket, name)): Segments<(String, String)>,
    Params(conditions): Params<Conditions>,
    cut: Cut,
    Content(body): Content,
) -> Result<Json<Value>, Refusal> {
    let asked: Compose = serde_json::from_slice(&body)
        .map_err(|error| Refusal::invalid(format!("Malformed composition: {error}")))?;
    if asked.delete_source_objects {
        let what = "objects.compose with deleteSourceObjects".to_owned();
        return Err(Refusal::Unimplemented(what));
    }
    let attributes = Attributes::default().patched(&asked.destination_or_nothing())?;
    let components: Vec<Component> = asked
        .source_objects
        .into_iter()
        .map(|source| Component {
            name: source.name,
            generation: number(&source.generation),
            generation_match: number(&source.object_preconditions["ifGenerationMatch"]),
        })
        .collect();
    let target = Place { bucket, name };
    let make = || {
        store.make(&target.bucket, &target.name, |state, now| {
            state.compose(now, &target, &components, attributes, conditions)
        })
    };
    let object = store.pass(cut, Operation::Write, &target.name, make).await?;
    Ok(Json(object.to_json(&store.origin, &target.bucket, &target.name)))
}

impl Compose {
    fn destination_or_nothing(&self) -> Value {
        if self.destination.is_null() { json!({}) } else { self.destination.clone() }
    }
}

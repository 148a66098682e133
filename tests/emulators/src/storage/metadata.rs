//! Changing what an object says of itself: `PATCH` a part of it, `PUT` all of it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use http::Method;
use serde::Deserialize;
use serde_json::Value;

use super::conditions::Conditions;
use super::extract::{Content, Params, Segments};
use super::object::{Attributes, StoredObject};
use super::operation::Operation;
use super::refusal::Refusal;
use super::store::Store;
use crate::connection::Cut;

#[derive(Debug, Deserialize)]
pub(super) struct GenerationParam {
    pub(super) generation: Option<i64>,
}

/// `PATCH` and `PUT …/o/{object}`.
pub(super) async fn update_object(
    Shared(store): Shared<Arc<Store>>,
    Segments((bucket, name)): Segments<(String, String)>,
    (Params(conditions), Params(GenerationParam { generation })): (
        Params<Conditions>,
        Params<GenerationParam>,
    ),
    method: Method,
    cut: Cut,
    Content(body): Content,
) -> Result<Json<Value>, Refusal> {
    let said: Value = serde_json::from_slice(&body)
        .map_err(|error| Refusal::invalid(format!("Malformed object metadata: {error}")))?;
    let change = |object: &StoredObject| {
        if method == Method::PUT { Attributes::default() } else { object.said() }.patched(&said)
    };
    let update = || {
        store.step(|state, now| state.update(now, (&bucket, &name, generation), conditions, change))
    };
    let object = store.pass(cut, Operation::Write, &name, update).await?;
    Ok(Json(object.to_json(&store.origin, &bucket, &name)))
}

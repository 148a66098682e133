//! Tasks: the API whose calls have an effect that can be counted.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::core::{Shared, text, user_agent};
use super::params::Params;
use super::refusal::Refusal;

const WRITE: [&str; 1] = ["https://www.googleapis.com/auth/tasks"];
const READ: [&str; 2] =
    ["https://www.googleapis.com/auth/tasks", "https://www.googleapis.com/auth/tasks.readonly"];

/// The header that names the job which asks for an effect.
const EFFECT_ID: &str = "x-effect-id";

/// All tasks. Every list that is asked for exists.
#[derive(Debug, Default)]
pub(super) struct TaskLists {
    /// By account and list.
    lists: HashMap<(String, String), Vec<Task>>,
    inserted: u64,
}

#[derive(Debug, Clone)]
struct Task {
    id: u64,
    title: String,
    notes: Option<String>,
}

#[derive(Debug, Deserialize)]
struct NewTask {
    title: String,
    notes: Option<String>,
}

impl TaskLists {
    fn insert(&mut self, list: (String, String), new: NewTask) -> Task {
        self.inserted += 1;
        let task = Task { id: self.inserted, title: new.title, notes: new.notes };
        self.lists.entry(list).or_default().push(task.clone());
        task
    }
}

impl Task {
    fn to_json(&self, origin: &str, list: &str) -> Value {
        let id = format!("task-{}", self.id);
        let mut json = json!({
            "kind": "tasks#task",
            "selfLink": format!("{origin}/tasks/v1/lists/{list}/tasks/{id}"),
            "id": id,
            "etag": format!("\"{}\"", self.id),
            "title": self.title,
            "status": "needsAction",
            "position": format!("{:020}", self.id),
        });
        if let Some(notes) = &self.notes {
            json["notes"] = notes.as_str().into();
        }
        json
    }
}

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/tasks/v1/lists/{list}/tasks", get(list).post(insert))
}

/// Takes effect when the request arrives; whatever delays the answer comes after, so
/// that a caller that goes away before it has done it all the same.
async fn insert(
    State(shared): State<Arc<Shared>>,
    Path(list): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let task = shared.step(|core, now| {
        let caller = core.authorize(now, &headers, &WRITE)?;
        let new: NewTask = serde_json::from_slice(&body)
            .map_err(|error| Refusal::invalid(format!("Invalid task: {error}")))?;
        let id = text(&headers, EFFECT_ID).map(ToOwned::to_owned);
        core.ledger.effect(now, id, &new.title, &caller.sub, user_agent(&headers));
        Ok::<_, Refusal>(core.tasks.insert((caller.sub, list.clone()), new))
    })?;
    Ok(Json(task.to_json(&shared.origin, &list)))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListParams {
    max_results: Option<usize>,
    page_token: Option<String>,
}

async fn list(
    State(shared): State<Arc<Shared>>,
    Path(list): Path<String>,
    Params(params): Params<ListParams>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = shared.authorize(&headers, &READ)?;
    let size = params.max_results.unwrap_or(20).clamp(1, 100);
    let start: usize = match params.page_token {
        None => 0,
        Some(token) => token.parse().map_err(|_| Refusal::invalid("Invalid page token."))?,
    };
    let (page, more) = shared.step(|core, _| {
        let tasks = core.tasks.lists.get(&(caller.sub, list.clone()));
        let rest = tasks.and_then(|tasks| tasks.get(start..)).unwrap_or_default();
        let page: Vec<Task> = rest.iter().take(size).cloned().collect();
        (page, rest.len() > size)
    });
    let items: Vec<Value> = page.iter().map(|task| task.to_json(&shared.origin, &list)).collect();
    let mut json = json!({"kind": "tasks#tasks", "items": items});
    if more {
        json["nextPageToken"] = (start + size).to_string().into();
    }
    Ok(Json(json))
}

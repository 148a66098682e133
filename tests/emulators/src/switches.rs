//! Faults by HTTP: what a test in another language, or a person with `curl`, switches on.
//!
//! ```text
//! POST   /faults        {"server": "apis", "fault": "refuse", "status": 429, "about": "user-1"}
//! GET    /faults        what is switched on, and how many requests each has struck
//! DELETE /faults        all of it off; /faults/{id}: one
//! ```
//!
//! A switch says which `server` (`pubsub`, `storage`, `token` or `apis`) and which `fault`:
//!
//! | `fault` | needs | the request |
//! |---|---|---|
//! | `refuse` | `code` (Pub/Sub, a gRPC code) or `status`; `reason` and `retry_after_s` for `apis`, `reason` for `token` | is refused |
//! | `delay` | `delay_ms` | is carried out, and answered so much later |
//! | `lose` | | is carried out, and its connection cut |
//! | `stall` | | is never answered |
//! | `forget`, `duplicate` (Pub/Sub) | | acknowledgements are lost, or deliveries doubled |
//!
//! and which requests: `on` (operations), `about` (an object, a topic or subscription by its full
//! name, a user's `sub`), `under` (object names that begin so), `attributes` (of messages),
//! `times`. What it does not know, or a fault does not take, is refused by its name. See
//! [`crate::faults`].

mod asked;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use crate::faults::{Faults, Injected};
use crate::google::{self, Google};
use crate::pubsub::{self, PubSub};
use crate::storage::{self, Storage};
use asked::{Asked, Server};

/// The fault switches of three running emulators.
#[derive(Clone, Debug)]
pub struct Switches {
    pubsub: Faults<pubsub::Operation, tonic::Code>,
    storage: Faults<storage::Operation>,
    google: Faults<google::Operation>,
    on: Arc<Mutex<On>>,
}

/// What is switched on.
#[derive(Debug, Default)]
struct On {
    switches: Vec<Switch>,
    /// How many ever were.
    made: usize,
}

#[derive(Debug)]
struct Switch {
    id: usize,
    asked: Value,
    injected: Injected,
}

impl Switches {
    /// Those of these emulators, all off.
    pub fn of(pubsub: &PubSub, storage: &Storage, google: &Google) -> Self {
        Self {
            pubsub: pubsub.faults().clone(),
            storage: storage.faults().clone(),
            google: google.faults().clone(),
            on: Arc::default(),
        }
    }

    /// `/faults`, for a server on loopback. Whoever reaches it may do all of it.
    pub fn routes(self) -> Router {
        Router::new()
            .route("/faults", get(list).post(set).delete(lift_all))
            .route("/faults/{id}", delete(lift))
            .with_state(self)
    }

    fn lock(&self) -> MutexGuard<'_, On> {
        self.on.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Injects the fault that is asked for.
    fn read(&self, body: &[u8]) -> Result<(Value, Injected), String> {
        let json: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        // From the value, so that names and not places in the text are told.
        let asked: Asked = serde_json::from_value(json.clone()).map_err(|e| e.to_string())?;
        asked.check()?;
        let injected = match asked.server {
            Server::Pubsub => self.pubsub.inject(asked.pubsub()?),
            Server::Storage => self.storage.inject(asked.storage()?),
            Server::Token | Server::Apis => self.google.inject(asked.google()?),
        };
        Ok((json, injected))
    }
}

impl Switch {
    fn to_json(&self) -> Value {
        json!({"id": self.id, "fault": self.asked, "struck": self.injected.count()})
    }
}

async fn list(State(switches): State<Switches>) -> Json<Value> {
    let on: Vec<Value> = switches.lock().switches.iter().map(Switch::to_json).collect();
    Json(json!({"faults": on}))
}

async fn set(State(switches): State<Switches>, body: Bytes) -> Response {
    match switches.read(&body) {
        Ok((asked, injected)) => {
            let mut on = switches.lock();
            on.made += 1;
            let switch = Switch { id: on.made, asked, injected };
            let json = switch.to_json();
            on.switches.push(switch);
            (StatusCode::CREATED, Json(json)).into_response()
        }
        Err(why) => refused(StatusCode::BAD_REQUEST, &why),
    }
}

async fn lift_all(State(switches): State<Switches>) -> Json<Value> {
    let lifted = std::mem::take(&mut switches.lock().switches);
    for switch in &lifted {
        switch.injected.lift();
    }
    Json(json!({"lifted": lifted.len()}))
}

async fn lift(State(switches): State<Switches>, Path(id): Path<String>) -> Response {
    let mut on = switches.lock();
    let Some(at) = on.switches.iter().position(|switch| switch.id.to_string() == id) else {
        return refused(StatusCode::NOT_FOUND, "no fault of this id is switched on");
    };
    let switch = on.switches.remove(at);
    switch.injected.lift();
    Json(switch.to_json()).into_response()
}

fn refused(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({"error": why}))).into_response()
}

//! The queue of what is to be kept, and who waits for it.

use std::fmt::Display;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use tokio::sync::watch;
use tonic::Status;

/// One record that changes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Put(String, Bytes),
    Delete(String),
    /// All records whose keys begin so.
    DeleteUnder(String),
}

impl std::fmt::Debug for Change {
    /// Keys and values may be tokens.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Put(..) => "Put",
            Self::Delete(_) => "Delete",
            Self::DeleteUnder(_) => "DeleteUnder",
        })
    }
}

/// What a step has changed so far; nothing is collected where nothing is kept.
#[derive(Debug, Default)]
pub(crate) struct Changes(Option<Vec<Change>>);

impl Changes {
    /// From now on changes are collected.
    pub(crate) fn collect(&mut self) {
        self.0 = Some(Vec::new());
    }

    pub(crate) fn are_collected(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn put(&mut self, record: impl FnOnce() -> (String, Bytes)) {
        self.add(|| {
            let (key, value) = record();
            Change::Put(key, value)
        });
    }

    pub(crate) fn add(&mut self, change: impl FnOnce() -> Change) {
        if let Some(changes) = &mut self.0 {
            changes.push(change());
        }
    }

    pub(crate) fn take(&mut self) -> Vec<Change> {
        self.0.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// Changes on their way to the folder. Every step of every emulator gets a number here.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    queue: Mutex<Queue>,
    /// Rings when the queue has something or is closed.
    filled: Condvar,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Default)]
struct Queue {
    changes: Vec<Change>,
    /// How many steps were queued so far.
    steps: u64,
    closed: bool,
}

#[derive(Debug, Default)]
struct Progress {
    /// How many steps are committed.
    steps: u64,
    /// Why no more will be.
    failed: Option<String>,
}

/// What was done may not be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the emulator cannot keep what it is told: {0}")]
pub(crate) struct NotKept(String);

impl Journal {
    /// Queues what a step changed. The caller holds the lock under which it did, so that
    /// changes come in their order.
    pub(crate) fn append(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let mut queue = self.lock();
        queue.changes.extend(changes);
        queue.steps += 1;
        drop(queue);
        self.filled.notify_one();
    }

    /// Waits until everything that was queued so far is committed. Cancel safe.
    pub(crate) async fn kept(&self) -> Result<(), NotKept> {
        let steps = self.lock().steps;
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|now| now.steps >= steps || now.failed.is_some()).await;
        match reached {
            Ok(now) if now.steps >= steps => Ok(()),
            Ok(now) => Err(NotKept(now.failed.clone().unwrap_or_default())),
            // Unreachable: the sender is in `self`.
            Err(_) => Err(NotKept("closed".to_owned())),
        }
    }

    /// Completes when no more can be committed; why.
    pub(super) async fn failed(&self) -> String {
        let mut progress = self.progress.subscribe();
        match progress.wait_for(|now| now.failed.is_some()).await {
            Ok(now) => now.failed.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Commits what is queued, until it is closed and empty or a commit fails.
    pub(super) fn drain<E: Display>(&self, mut commit: impl FnMut(&[Change]) -> Result<(), E>) {
        let why = loop {
            let Some((changes, steps)) = self.next() else { break "it is closed".to_owned() };
            if let Err(error) = commit(&changes) {
                break error.to_string();
            }
            self.progress.send_modify(|progress| progress.steps = steps);
        };
        self.progress.send_modify(|progress| progress.failed = Some(why));
    }

    fn next(&self) -> Option<(Vec<Change>, u64)> {
        let idle = |queue: &mut Queue| queue.changes.is_empty() && !queue.closed;
        let waited = self.filled.wait_while(self.lock(), idle);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
        let changes = std::mem::take(&mut queue.changes);
        (!changes.is_empty()).then_some((changes, queue.steps))
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds the answers of these routes back until what they may tell of is kept, if anything is.
pub(crate) fn answering_when_kept(routes: Router, journal: Option<&Arc<Journal>>) -> Router {
    match journal {
        Some(journal) => routes.layer(from_fn_with_state(Arc::clone(journal), answer_when_kept)),
        None => routes,
    }
}

async fn answer_when_kept(
    State(journal): State<Arc<Journal>>,
    request: Request,
    next: Next,
) -> Response {
    let content_type = request.headers().get(CONTENT_TYPE);
    let grpc = content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let response = next.run(request).await;
    match journal.kept().await {
        Ok(()) => response,
        Err(not_kept) if grpc => Status::unavailable(not_kept.to_string()).into_http(),
        Err(not_kept) => (StatusCode::SERVICE_UNAVAILABLE, not_kept.to_string()).into_response(),
    }
}

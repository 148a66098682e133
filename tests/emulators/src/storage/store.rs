//! The state behind its lock: what both protocols drive.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::time::Instant;

use super::clock::Clock;
use super::conditions::Conditions;
use super::object::{StoredObject, Upload};
use super::observers::{Observers, Written};
use super::operation::Operation;
use super::refusal::Refusal;
use super::resumable::{Chunk, Progress, Sessions, Target};
use super::settings::BucketSettings;
use super::state::State;
use super::xml_parts::PartUploads;
use crate::connection::Cut;
use crate::data::Journal;
use crate::date::ServerDate;
use crate::faults::Faults;

#[derive(Debug)]
pub(super) struct Store {
    state: Mutex<State>,
    /// Where what changes is kept, if it is.
    pub(super) journal: Option<Arc<Journal>>,
    /// Locked before the state where both are needed.
    sessions: Mutex<Sessions>,
    /// Uploads of the XML API in parts.
    parts: Mutex<PartUploads>,
    pub(super) observers: Observers,
    clock: Clock,
    pub(super) faults: Faults<Operation>,
    /// What answers are dated with.
    pub(super) date: ServerDate,
    /// Where the JSON API is reached, for the links that it gives out.
    pub(super) origin: String,
}

impl Store {
    pub(super) fn new(
        state: State,
        journal: Option<Arc<Journal>>,
        clock: Clock,
        origin: String,
    ) -> Self {
        Self {
            state: Mutex::new(state),
            journal,
            sessions: Mutex::default(),
            parts: Mutex::default(),
            observers: Observers::default(),
            clock,
            faults: Faults::default(),
            date: ServerDate::default(),
            origin,
        }
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { state, journal: self.journal.as_deref() }
    }

    /// Carries a request out, unless a fault keeps it from that or its answer from its
    /// client. `subject` is what the request is about.
    pub(super) async fn pass<T>(
        &self,
        cut: Cut,
        operation: Operation,
        subject: &str,
        work: impl FnOnce() -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let entered = self.faults.enter(operation, Some(subject), cut).await;
        let passage = entered.map_err(|instead| Refusal::Injected(instead.status()))?;
        let result = work();
        drop(passage.leave(result.is_ok()).await);
        result
    }

    /// One step of the state, at the present time.
    pub(super) fn step<T>(&self, work: impl FnOnce(&mut State, SystemTime) -> T) -> T {
        let mut state = self.lock();
        // The time is read under the lock, so that it does not go back between writes.
        work(&mut state, self.clock.now())
    }

    pub(super) fn create_bucket(
        &self,
        name: &str,
        settings: BucketSettings,
    ) -> Result<(), Refusal> {
        self.step(|state, now| state.create_bucket(now, name, settings).map(drop))
    }

    /// A step that writes an object; the observers are told.
    pub(super) fn make(
        &self,
        bucket: &str,
        name: &str,
        work: impl FnOnce(&mut State, SystemTime) -> Result<Arc<StoredObject>, Refusal>,
    ) -> Result<Arc<StoredObject>, Refusal> {
        let object = self.commit(bucket, name, work)?;
        self.observers.deliver();
        Ok(object)
    }

    pub(super) fn write(
        &self,
        bucket: &str,
        name: &str,
        upload: Upload,
        conditions: Conditions,
    ) -> Result<Arc<StoredObject>, Refusal> {
        self.make(bucket, name, |state, now| state.write(now, bucket, name, upload, conditions))
    }

    /// Writes and queues the news; the caller has it delivered.
    fn commit(
        &self,
        bucket: &str,
        name: &str,
        work: impl FnOnce(&mut State, SystemTime) -> Result<Arc<StoredObject>, Refusal>,
    ) -> Result<Arc<StoredObject>, Refusal> {
        self.step(|state, now| {
            let object = work(state, now)?;
            self.observers.push(|| Written {
                bucket: bucket.to_owned(),
                name: name.to_owned(),
                content: object.content.clone(),
                generation: object.generation,
                at: Instant::now(),
            });
            Ok(object)
        })
    }

    pub(super) fn delete(
        &self,
        bucket: &str,
        name: &str,
        generation: Option<i64>,
        conditions: Conditions,
    ) -> Result<(), Refusal> {
        self.step(|state, now| state.delete(now, bucket, name, generation, conditions))
    }

    /// Opens an upload session, whose ID is returned.
    pub(super) fn open_upload(&self, target: Target) -> Result<String, Refusal> {
        self.lock().begin_upload(&target.bucket, &target.name, target.conditions)?;
        Ok(self.sessions().open(target))
    }

    pub(super) fn advance_upload(
        &self,
        id: &str,
        chunk: Chunk,
        content: &Bytes,
        told: (Option<String>, Option<String>),
    ) -> Result<Progress, Refusal> {
        let progress = self.sessions().advance(id, chunk, content, told, |target, upload| {
            let Target { bucket, name, conditions, .. } = target;
            self.commit(bucket, name, |state, now| {
                state.write(now, bucket, name, upload, *conditions)
            })
        });
        self.observers.deliver();
        progress
    }

    pub(super) fn cancel_upload(&self, id: &str) -> Result<(), Refusal> {
        self.sessions().cancel(id)
    }

    pub(super) fn parts(&self) -> MutexGuard<'_, PartUploads> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state, whose changes are on their way to be kept when it is unlocked.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    state: MutexGuard<'a, State>,
    journal: Option<&'a Journal>,
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if let Some(journal) = self.journal {
            journal.append(self.state.take_changes());
        }
    }
}

//! Telling others about writes, in order and without holding a lock while they listen.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::time::Instant;

/// A successful write.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// The bucket's name.
    pub bucket: String,
    /// The object's name.
    pub name: String,
    /// What was written.
    pub content: Bytes,
    /// The generation that this write made.
    pub generation: i64,
    /// When: writes follow each other in this, too.
    pub at: Instant,
}

type Callback = Arc<dyn Fn(&Written) + Send + Sync>;

/// The observers, and the writes that they have not been told of yet.
#[derive(Default)]
pub(super) struct Observers {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    callbacks: Vec<Callback>,
    queue: VecDeque<Written>,
    /// Whether a thread is working through the queue; it takes what others add.
    delivering: bool,
}

impl Observers {
    pub(super) fn add(&self, callback: Callback) {
        self.lock().callbacks.push(callback);
    }

    /// Queues a write, if anybody listens. Called while the state is locked, so that
    /// the queue has the order of the writes.
    pub(super) fn push(&self, written: impl FnOnce() -> Written) {
        let mut inner = self.lock();
        if !inner.callbacks.is_empty() {
            inner.queue.push_back(written());
        }
    }

    /// Works through the queue, unless another thread does. Called with no lock held.
    pub(super) fn deliver(&self) {
        {
            let mut inner = self.lock();
            if inner.delivering || inner.queue.is_empty() {
                return;
            }
            inner.delivering = true;
        }
        let delivery = Delivery { observers: self };
        while let Some((written, callbacks)) = delivery.next() {
            for callback in callbacks {
                callback(&written);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to deliver; given back when it ends, by a panicking observer too.
struct Delivery<'a> {
    observers: &'a Observers,
}

impl Delivery<'_> {
    /// Finding the queue empty ends the delivery in the same step, so that a write
    /// queued right after it is delivered by its own thread.
    fn next(&self) -> Option<(Written, Vec<Callback>)> {
        let mut inner = self.observers.lock();
        let Some(written) = inner.queue.pop_front() else {
            inner.delivering = false;
            return None;
        };
        Some((written, inner.callbacks.clone()))
    }
}

impl Drop for Delivery<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.observers.lock().delivering = false;
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("Observers")
            .field("callbacks", &inner.callbacks.len())
            .field("queue", &inner.queue.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(generation: i64) -> Written {
        Written {
            bucket: "bucket".to_owned(),
            name: "name".to_owned(),
            content: Bytes::new(),
            generation,
            at: Instant::now(),
        }
    }

    #[test]
    fn an_observer_may_write_and_sees_its_own_write_after() {
        let observers = Arc::new(Observers::default());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (inner, log) = (Arc::clone(&observers), Arc::clone(&seen));
        observers.add(Arc::new(move |write: &Written| {
            if write.generation == 1 {
                inner.push(|| written(3));
                inner.deliver();
            }
            log.lock().unwrap().push(write.generation);
        }));
        observers.push(|| written(1));
        observers.push(|| written(2));
        observers.deliver();
        assert_eq!(*seen.lock().unwrap(), [1, 2, 3]);
    }

    #[test]
    fn a_panicking_observer_stops_nobody_else() {
        let observers = Observers::default();
        observers.add(Arc::new(|write: &Written| {
            assert_ne!(write.generation, 1, "as the test wants");
        }));
        observers.push(|| written(1));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            observers.deliver();
        }));
        assert!(panicked.is_err());
        observers.push(|| written(2));
        observers.deliver();
        assert!(observers.lock().queue.is_empty());
        assert!(!observers.lock().delivering);
    }
}

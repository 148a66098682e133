//! What the first page shows, counted for all who ask at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as Plain, PoisonError};
use std::time::Duration;

use shared::ports::{Clock, Monotonic};
use tokio::sync::Mutex;

use crate::status::{Gathering, Progress, Status};

/// A count is good for so long: each costs a request per thousand objects.
const FRESH_FOR: Duration = Duration::from_secs(10);

/// A count, or why there is none.
pub(super) type Counted = Arc<Result<Status, String>>;

/// The last count.
#[derive(Debug, Default)]
pub(super) struct Board {
    counting: Mutex<Option<Monotonic>>,
    last: Plain<Option<Counted>>,
    progress: Plain<Arc<Progress>>,
    /// Something was changed since.
    is_old: AtomicBool,
}

impl Board {
    /// What was counted last, however old.
    pub(super) fn last(&self) -> Option<Counted> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many objects the count that is under way has listed.
    pub(super) fn listed(&self) -> u64 {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).listed()
    }

    /// Counts, unless somebody has a moment ago; one count is under way at a time.
    pub(super) async fn count(&self, gathering: &Gathering, clock: &dyn Clock) -> Counted {
        let mut at = self.counting.lock().await;
        if let (Some(at), Some(last)) = (*at, self.last())
            && !self.is_old.swap(false, Ordering::Relaxed)
            && clock.monotonic().since(at) < FRESH_FOR
        {
            return last;
        }
        let progress = Arc::new(Progress::default());
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&progress);
        let counted = gathering.run(clock.wall(), &progress).await;
        let counted = Arc::new(counted.map_err(|error| error.to_string()));
        *at = Some(clock.monotonic());
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&counted));
        counted
    }

    /// The next look counts anew: something was changed.
    pub(super) fn forget(&self) {
        self.is_old.store(true, Ordering::Relaxed);
    }
}

//! Tells changes beside what jobs do: one look at a time per user, however many of their jobs
//! are parked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use shared::UserId;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::state::Occasion;
use super::telling::Events;

/// So many users are looked at at once.
const AT_ONCE: usize = 16;

/// Tells changes in tasks of its own.
#[derive(Debug)]
pub(crate) struct Teller {
    events: Arc<Events>,
    /// Users that are looked at, and what to look at after that.
    under_way: Mutex<HashMap<UserId, Option<Occasion>>>,
    turns: Semaphore,
}

impl Teller {
    pub(crate) fn new(events: Arc<Events>) -> Self {
        Self { events, under_way: Mutex::default(), turns: Semaphore::new(AT_ONCE) }
    }

    /// Looks at `user` in a task of `tasks`, until `over`.
    pub(crate) fn note(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        over: &CancellationToken,
        user: &UserId,
        occasion: Occasion,
    ) {
        {
            let mut under_way = self.under_way();
            if let Some(next) = under_way.get_mut(user) {
                let both = next.take().map(|before| before.and(occasion.clone()));
                *next = Some(both.unwrap_or(occasion));
                return;
            }
            under_way.insert(user.clone(), None);
        }
        let (teller, over, user) = (Arc::clone(self), over.clone(), user.clone());
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = over.cancelled() => {}
                () = teller.look(&user, occasion) => {}
            }
        });
    }

    async fn look(&self, user: &UserId, first: Occasion) {
        let mut next = Some(first);
        while let Some(occasion) = next {
            // Never closed, so that there is always a permit to be had.
            let _turn = self.turns.acquire().await;
            if let Err(why) = self.events.tell(user, &occasion, None).await {
                warn!(user = %user.digest(), "a change of a user's consent is not told yet: {why}");
            }
            let mut under_way = self.under_way();
            next = under_way.get_mut(user).and_then(Option::take);
            if next.is_none() {
                under_way.remove(user);
            }
        }
    }

    fn under_way(&self) -> std::sync::MutexGuard<'_, HashMap<UserId, Option<Occasion>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

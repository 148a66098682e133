//! Who runs next: a queue for each user, so that one user's jobs run one after
//! another and nobody waits behind somebody else's.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use ahash::RandomState;
use shared::UserId;
use shared::ports::{Monotonic, Randomness};

use crate::delivery::Known;
use crate::job::{Job, Received};
use crate::pubsub::Settle;

/// A job that waits for its user's turn. Boxed, as it moves from place to place.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) job: Job,
    /// `None`: nobody here does it.
    pub(crate) kind: Option<Arc<Known>>,
    pub(crate) received: Arc<Received>,
    pub(crate) settle: Box<dyn Settle>,
    pub(crate) received_at: Monotonic,
}

impl Queued {
    /// Pub/Sub delivers the messages of an ordering key in order; so they run.
    pub(crate) fn ordered(&self) -> bool {
        !self.received.ordering_key.is_empty()
    }
}

/// The users' queues.
#[derive(Debug)]
pub(crate) struct Queues {
    per_user: usize,
    users: Mutex<Users>,
}

/// Publishers choose the IDs, so the hash is keyed.
type Users = HashMap<UserId, Queue, RandomState>;

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Box<Queued>>,
    runners: usize,
    /// An ordered job runs: the next one has to wait, unordered ones have not.
    ordered_runs: bool,
}

impl Queue {
    /// The first job that may run now.
    fn next(&mut self) -> Option<Box<Queued>> {
        let at = self.waiting.iter().position(|q| !(self.ordered_runs && q.ordered()))?;
        let queued = self.waiting.remove(at)?;
        self.ordered_runs |= queued.ordered();
        Some(queued)
    }
}

impl Queues {
    /// At most `per_user` jobs of a user run at a time, and of those with an
    /// ordering key one.
    pub(crate) fn new(per_user: usize, random: &Randomness) -> Self {
        let seed = || random.seed();
        let users = Users::with_hasher(RandomState::with_seeds(seed(), seed(), seed(), seed()));
        Self { per_user: per_user.max(1), users: Mutex::new(users) }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Users) -> T) -> T {
        f(&mut self.users.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a job in. What is returned has its turn at once, and the caller must start
    /// a runner for its user with it.
    pub(crate) fn push(&self, queued: Box<Queued>) -> Option<Box<Queued>> {
        self.with(|users| {
            let queue = users.entry(queued.job.user.clone()).or_default();
            let useful = !(queue.ordered_runs && queued.ordered());
            let start = useful && queue.runners < self.per_user;
            if start && queue.waiting.is_empty() {
                queue.ordered_runs |= queued.ordered();
                queue.runners += 1;
                return Some(queued);
            }
            queue.waiting.push_back(queued);
            if !start {
                return None;
            }
            let next = queue.next();
            queue.runners += usize::from(next.is_some());
            next
        })
    }

    /// The next job for a runner of `user`, whose last job was `ordered` or not; `None`
    /// ends the runner.
    pub(crate) fn pop(&self, user: &UserId, ordered: bool) -> Option<Box<Queued>> {
        self.with(|users| {
            let queue = users.get_mut(user)?;
            queue.ordered_runs &= !ordered;
            if let Some(queued) = queue.next() {
                return Some(queued);
            }
            queue.runners -= 1;
            if queue.runners == 0 {
                users.remove(user);
            }
            None
        })
    }

    /// Takes out the waiting jobs that share this ordering key: when one of the
    /// key is given back, Pub/Sub redelivers the later ones too.
    pub(crate) fn take_key(&self, user: &UserId, ordering_key: &str) -> VecDeque<Box<Queued>> {
        self.with(|users| {
            let Some(queue) = users.get_mut(user) else {
                return VecDeque::new();
            };
            let (taken, kept) = std::mem::take(&mut queue.waiting)
                .into_iter()
                .partition(|q| q.received.ordering_key == ordering_key);
            queue.waiting = kept;
            taken
        })
    }

    /// How many users have jobs here.
    pub(crate) fn users(&self) -> usize {
        self.with(|users| users.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use futures_util::future::{Either, ready};

    use crate::pubsub::Acknowledged;

    #[derive(Debug)]
    struct Ignore;

    impl Settle for Ignore {
        fn ack(self: Box<Self>) -> Acknowledged {
            Either::Left(ready(true))
        }

        fn nack(self: Box<Self>) {}
    }

    fn queued(user: &str, id: &str, key: &str) -> Box<Queued> {
        let text = format!(r#"{{"id":"{id}","user":"{user}","kind":"k"}}"#);
        Box::new(Queued {
            job: Job::decode(text.as_bytes(), id).unwrap(),
            kind: None,
            received: Arc::new(Received {
                data: text.into(),
                attributes: HashMap::new(),
                ordering_key: key.to_owned(),
                message_id: id.to_owned(),
                publish_time: None,
                delivery_attempt: None,
            }),
            settle: Box::new(Ignore),
            received_at: Monotonic(Duration::ZERO),
        })
    }

    fn queues(per_user: usize) -> Queues {
        Queues::new(per_user, &Randomness::seeded(7))
    }

    fn id(queued: Option<Box<Queued>>) -> Option<String> {
        queued.map(|q| q.job.id)
    }

    #[test]
    fn one_runner_per_user_in_order() {
        let queues = queues(1);
        let ann = UserId::new("ann").unwrap();
        assert_eq!(id(queues.push(queued("ann", "1", "ann"))).as_deref(), Some("1"));
        assert_eq!(id(queues.push(queued("ann", "2", "ann"))), None, "ann has her runner");
        assert_eq!(id(queues.push(queued("bob", "3", "bob"))).as_deref(), Some("3"));
        assert_eq!(id(queues.pop(&ann, true)).as_deref(), Some("2"));
        assert_eq!(id(queues.pop(&ann, true)), None);
        let again = queues.push(queued("ann", "4", ""));
        assert_eq!(id(again).as_deref(), Some("4"), "the runner has ended");
    }

    #[test]
    fn more_at_a_time_leave_the_order_of_a_key_alone() {
        let queues = queues(3);
        let ann = UserId::new("ann").unwrap();
        assert_eq!(id(queues.push(queued("ann", "1", "ann"))).as_deref(), Some("1"));
        assert_eq!(id(queues.push(queued("ann", "2", "ann"))), None, "it waits for the first");
        let third = queues.push(queued("ann", "3", ""));
        assert_eq!(id(third).as_deref(), Some("3"), "past the ordered one");
        assert_eq!(id(queues.push(queued("ann", "4", ""))).as_deref(), Some("4"));
        assert_eq!(id(queues.push(queued("ann", "5", ""))), None, "three run");
        assert_eq!(id(queues.pop(&ann, false)).as_deref(), Some("5"), "past the ordered one");
        assert_eq!(id(queues.pop(&ann, false)), None, "2 still waits: a runner ends");
        assert_eq!(id(queues.pop(&ann, true)).as_deref(), Some("2"), "1 has ended");
        assert_eq!(id(queues.pop(&ann, true)), None);
        assert_eq!(id(queues.pop(&ann, false)), None);
        assert_eq!(queues.users(), 0, "nothing is left behind");
    }

    #[test]
    fn giving_back_takes_the_rest_of_the_key() {
        let queues = queues(1);
        let ann = UserId::new("ann").unwrap();
        for (id, key) in [("0", "ann"), ("1", "ann"), ("2", ""), ("3", "ann")] {
            queues.push(queued("ann", id, key));
        }
        let taken: Vec<_> = queues.take_key(&ann, "ann").into_iter().map(|q| q.job.id).collect();
        assert_eq!(taken, ["1", "3"]);
        assert_eq!(id(queues.pop(&ann, true)).as_deref(), Some("2"));
    }
}

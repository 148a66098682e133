//! Who runs next: a queue for each user, so that one user's jobs run one after
//! another and nobody waits behind somebody else's.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use shared::UserId;
use shared::ports::Monotonic;

use crate::job::Job;
use crate::pubsub::Delivery;

/// A job that waits for its user's turn.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) job: Job,
    pub(crate) delivery: Delivery,
    pub(crate) received_at: Monotonic,
}

/// The users' queues.
#[derive(Debug)]
pub(crate) struct Queues {
    per_user: usize,
    users: Mutex<HashMap<UserId, Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Queued>,
    runners: usize,
}

impl Queues {
    /// At most `per_user` jobs of a user run at a time.
    pub(crate) fn new(per_user: usize) -> Self {
        Self { per_user: per_user.max(1), users: Mutex::default() }
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<UserId, Queue>) -> T) -> T {
        f(&mut self.users.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a job in; `true` when the caller must start a runner for its user.
    pub(crate) fn push(&self, queued: Queued) -> bool {
        self.with(|users| {
            let queue = users.entry(queued.job.user.clone()).or_default();
            queue.waiting.push_back(queued);
            let start = queue.runners < self.per_user;
            queue.runners += usize::from(start);
            start
        })
    }

    /// The next job for a runner of `user`; `None` ends the runner.
    pub(crate) fn pop(&self, user: &UserId) -> Option<Queued> {
        self.with(|users| {
            let queue = users.get_mut(user)?;
            if let Some(queued) = queue.waiting.pop_front() {
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
    pub(crate) fn take_key(&self, user: &UserId, ordering_key: &str) -> Vec<Queued> {
        self.with(|users| {
            let Some(queue) = users.get_mut(user) else {
                return Vec::new();
            };
            let (taken, kept) = std::mem::take(&mut queue.waiting)
                .into_iter()
                .partition(|q| q.delivery.received.ordering_key == ordering_key);
            queue.waiting = kept;
            taken.into_iter().collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Received;
    use crate::pubsub::Settle;
    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;
    use std::time::Duration;

    #[derive(Debug)]
    struct Ignore;

    impl Settle for Ignore {
        fn ack(self: Box<Self>) -> BoxFuture<'static, bool> {
            async { true }.boxed()
        }

        fn nack(self: Box<Self>) {}
    }

    fn queued(user: &str, id: &str, key: &str) -> Queued {
        let text = format!(r#"{{"id":"{id}","user":"{user}","kind":"k"}}"#);
        Queued {
            job: Job::decode(text.as_bytes(), id).unwrap(),
            delivery: Delivery {
                received: Received {
                    data: text.into(),
                    attributes: HashMap::new(),
                    ordering_key: key.to_owned(),
                    message_id: id.to_owned(),
                    publish_time: None,
                    delivery_attempt: None,
                },
                settle: Box::new(Ignore),
            },
            received_at: Monotonic(Duration::ZERO),
        }
    }

    #[test]
    fn one_runner_per_user_in_order() {
        let queues = Queues::new(1);
        let ann = UserId::new("ann").unwrap();
        assert!(queues.push(queued("ann", "1", "ann")));
        assert!(!queues.push(queued("ann", "2", "ann")), "ann has her runner");
        assert!(queues.push(queued("bob", "3", "bob")));
        assert_eq!(queues.pop(&ann).unwrap().job.id, "1");
        assert_eq!(queues.pop(&ann).unwrap().job.id, "2");
        assert!(queues.pop(&ann).is_none());
        assert!(queues.push(queued("ann", "4", "")), "the runner has ended");
    }

    #[test]
    fn giving_back_takes_the_rest_of_the_key() {
        let queues = Queues::new(1);
        let ann = UserId::new("ann").unwrap();
        for (id, key) in [("1", "ann"), ("2", ""), ("3", "ann")] {
            queues.push(queued("ann", id, key));
        }
        let taken: Vec<_> = queues.take_key(&ann, "ann").into_iter().map(|q| q.job.id).collect();
        assert_eq!(taken, ["1", "3"]);
        assert_eq!(queues.pop(&ann).unwrap().job.id, "2");
    }
}

//! Whose job runs next.
//!
//! One user's jobs run one after another in their order where they have an ordering key;
//! of the others at most `per_user` run at a time. All users together are bounded by the
//! slots ([`crate::delivery`]), which a job takes only to run. So there is a map from user
//! to queue, and each job that has its user's turn runs in a task.
//!
//! A job that waits for something known (its user's rate limit, a credential, a pause
//! before another run) is *held*, and so are the jobs that cannot begin before it goes on:
//! all of its user while it keeps the turn, else later ones of its key. Held messages may fill
//! half of what the replica may hold, and those of one user a quarter: beyond that the
//! youngest go back.

mod queue;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared::UserId;
use shared::ports::Monotonic;
use tokio::sync::oneshot;

use crate::job::{Job, Received};
use crate::message::Message;

pub(crate) use queue::Held;
use queue::Queue;

/// A message that was given back and comes again sooner than this was not paced by the
/// subscription.
const PACED: Duration = Duration::from_secs(5);
/// After a message with an ordering key was given back, later ones of the key go back too
/// until it is here again, but no longer than this.
const KEY_RETURNS: Duration = Duration::from_secs(60);

/// What a replica may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How many jobs of a user that have no ordering key run at a time; at least 1.
    pub(crate) per_user: usize,
    /// How many messages a replica holds.
    pub(crate) outstanding: usize,
    /// How many bytes of data these have.
    pub(crate) outstanding_bytes: usize,
}

/// A job that waits for its turn.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) job: Job,
    pub(crate) message: Message,
    pub(crate) received_at: Monotonic,
    /// Counts the messages that the replica received.
    pub(crate) number: u64,
}

/// What has to be done about jobs after a change.
#[derive(Debug, Default)]
#[must_use = "these jobs are nowhere else"]
pub(crate) struct Moves {
    /// Each of them has its turn: run it in a task.
    pub(crate) start: Vec<Queued>,
    /// These go back.
    pub(crate) give_back: Vec<Queued>,
}

/// The queues of all users.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    users: HashMap<UserId, Queue>,
    received: u64,
    /// Messages that were given back a moment ago, and when.
    returned: HashMap<String, Monotonic>,
    /// Keys whose later messages go back: the first message of each that was given back.
    returning_keys: HashMap<String, Returning>,
    /// Messages come again sooner than a retry policy would allow.
    unpaced: bool,
}

/// A message with an ordering key that was given back: later ones of its key follow it until
/// it is here again.
#[derive(Debug)]
struct Returning {
    message_id: String,
    /// [`Queued::number`] of the delivery that went back. A message of the key that comes
    /// while it is away has a larger one and follows it, so a smaller one is of a message that
    /// was ahead of it.
    number: u64,
    at: Monotonic,
}

impl Queued {
    fn is_ordered(&self) -> bool {
        !self.message.received.ordering_key.is_empty()
    }

    fn bytes(&self) -> usize {
        self.message.received.data.len()
    }
}

impl State {
    /// Notes that the message of this number goes back, and takes those out of the queue that
    /// have to follow it: the later ones of its key.
    fn gave_back(
        &mut self,
        user: &UserId,
        received: &Received,
        number: u64,
        now: Monotonic,
    ) -> Vec<Queued> {
        self.returned.retain(|_, at| now.since(*at) < PACED);
        self.returned.insert(received.message_id.clone(), now);
        let key = &received.ordering_key;
        if key.is_empty() {
            return Vec::new();
        }
        self.returning_keys.retain(|_, first| now.since(first.at) < KEY_RETURNS);
        // One that follows another goes back without taking its place.
        if self.returning_keys.get(key).is_none_or(|first| number <= first.number) {
            let message_id = received.message_id.clone();
            self.returning_keys.insert(key.clone(), Returning { message_id, number, at: now });
        }
        let Some(queue) = self.users.get_mut(user) else { return Vec::new() };
        let is_later = |queued: &Queued| queued.is_ordered() && queued.number > number;
        let (follow, stay): (VecDeque<_>, _) =
            std::mem::take(&mut queue.waiting).into_iter().partition(is_later);
        queue.waiting = stay;
        follow.into()
    }

    /// Whether a message that has come follows one of its key that was given back.
    fn follows_returned(&mut self, received: &Received, now: Monotonic) -> bool {
        let Some(first) = self.returning_keys.get(&received.ordering_key) else {
            return false;
        };
        let follows = first.message_id != received.message_id && now.since(first.at) < KEY_RETURNS;
        if !follows {
            self.returning_keys.remove(&received.ordering_key);
        }
        follows
    }

    /// Gives back the youngest held messages until their number is within the limits.
    fn keep_within(&mut self, limits: &Limits, now: Monotonic) -> Vec<Queued> {
        let above = |(messages, bytes): (usize, usize), share: usize| {
            messages > (limits.outstanding / share).max(1)
                || bytes > limits.outstanding_bytes / share
        };
        let mut give_back = Vec::new();
        loop {
            let held = || self.users.iter().filter(|(_, queue)| !queue.held.is_empty());
            let total = held().fold((0, 0), |(messages, bytes), (_, queue)| {
                let (m, b) = queue.held();
                (messages + m, bytes + b)
            });
            let crowded = held().find(|(_, queue)| above(queue.held(), 4));
            let youngest = || held().max_by_key(|(_, queue)| queue.youngest());
            let Some(user) = crowded
                .or_else(|| above(total, 2).then(youngest).flatten())
                .map(|(user, _)| user.clone())
            else {
                return give_back;
            };
            let Some(queue) = self.users.get_mut(&user) else { return give_back };
            let youngest_held = queue.held.iter().map(|held| held.number).max();
            match queue.last_behind() {
                Some(at) if Some(queue.waiting[at].number) > youngest_held => {
                    let Some(last) = queue.waiting.remove(at) else { return give_back };
                    let received = Arc::clone(&last.message.received);
                    let number = last.number;
                    give_back.push(last);
                    give_back.extend(self.gave_back(&user, &received, number, now));
                }
                _ => {
                    let at = queue.held.iter().position(|held| Some(held.number) == youngest_held);
                    let Some(at) = at else { return give_back };
                    queue.held.swap_remove(at).go_back.cancel();
                }
            }
        }
    }
}

impl Scheduler {
    pub(crate) fn new(limits: Limits) -> Self {
        let per_user = limits.per_user.max(1);
        Self { limits: Limits { per_user, ..limits }, state: Mutex::default() }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a job in that was received at `now`.
    pub(crate) fn push(&self, job: Job, message: Message, now: Monotonic) -> Moves {
        self.with(|state| {
            state.received += 1;
            let queued = Queued { job, message, received_at: now, number: state.received };
            let received = &queued.message.received;
            let came_back = state.returned.remove(&received.message_id);
            if came_back.is_some_and(|at| now.since(at) < PACED) && !state.unpaced {
                state.unpaced = true;
                tracing::warn!(
                    "a message that was given back came again within {PACED:?}: the subscription \
                     has no retry policy. Messages are held for a while before they go back; set \
                     a retry policy of 10s to 600s"
                );
            }
            if state.follows_returned(received, now) {
                return Moves { give_back: vec![queued], ..Moves::default() };
            }
            let user = queued.job.user.clone();
            let queue = state.users.entry(user).or_default();
            queue.waiting.push_back(queued);
            let start = queue.next(self.limits.per_user).into_iter().collect();
            let give_back = if queue.held.is_empty() {
                Vec::new()
            } else {
                state.keep_within(&self.limits, now)
            };
            Moves { start, give_back }
        })
    }

    /// A started job has ended; `paused` if it had let go of its turn. The next one of its
    /// user, to be run in its place.
    pub(crate) fn ended(&self, user: &UserId, ordered: bool, paused: bool) -> Option<Queued> {
        self.with(|state| {
            let queue = state.users.get_mut(user)?;
            queue.started -= 1;
            queue.turns -= usize::from(!paused);
            queue.ordered_started &= !ordered;
            let next = self.pass_on(queue);
            if queue.is_idle() {
                state.users.remove(user);
            }
            next
        })
    }

    /// A started job pauses: what may run of its user meanwhile.
    pub(crate) fn pause(&self, user: &UserId) -> Option<Queued> {
        self.with(|state| {
            let queue = state.users.get_mut(user)?;
            queue.turns -= 1;
            self.pass_on(queue)
        })
    }

    /// Waits until a job that paused has its turn again. Not to be dropped before.
    pub(crate) async fn come_back(&self, user: &UserId) {
        let turn = self.with(|state| {
            let queue = state.users.get_mut(user)?;
            if queue.turns < self.limits.per_user {
                queue.turns += 1;
                return None;
            }
            let (sender, turn) = oneshot::channel();
            queue.coming_back.push_back(sender);
            Some(turn)
        });
        if let Some(turn) = turn {
            // The sender is in the queue for as long as the job has not ended.
            drop(turn.await);
        }
    }

    /// Gives a free turn to a job that comes back, else to one that waits.
    fn pass_on(&self, queue: &mut Queue) -> Option<Queued> {
        while queue.turns < self.limits.per_user {
            let Some(back) = queue.coming_back.pop_front() else {
                return queue.next(self.limits.per_user);
            };
            if back.send(()).is_ok() {
                queue.turns += 1;
            }
        }
        None
    }

    /// A started job is held from now on, until [`Scheduler::release`]. Returns the messages
    /// that go back because of it.
    /// `everybodys`: all users are in the same trouble, so nothing goes back for it.
    pub(crate) fn hold(
        &self,
        user: &UserId,
        held: Held,
        everybodys: bool,
        now: Monotonic,
    ) -> Vec<Queued> {
        self.with(|state| {
            let Some(queue) = state.users.get_mut(user) else { return Vec::new() };
            queue.held.push(held);
            if everybodys { Vec::new() } else { state.keep_within(&self.limits, now) }
        })
    }

    /// A job is not held any more.
    pub(crate) fn release(&self, user: &UserId, number: u64) {
        self.with(|state| {
            if let Some(queue) = state.users.get_mut(user) {
                queue.held.retain(|held| held.number != number);
            }
        });
    }

    /// The message of this [`Queued::number`] goes back; those that have to follow it.
    pub(crate) fn gave_back(
        &self,
        user: &UserId,
        received: &Received,
        number: u64,
        now: Monotonic,
    ) -> Vec<Queued> {
        self.with(|state| state.gave_back(user, received, number, now))
    }

    /// Takes out everything that has not been started: keys from their first message on.
    pub(crate) fn take_waiting(&self, now: Monotonic) -> Vec<Queued> {
        self.with(|state| {
            let mut taken = Vec::new();
            let users: Vec<UserId> = state.users.keys().cloned().collect();
            for user in users {
                let Some(queue) = state.users.get_mut(&user) else { continue };
                let waiting = std::mem::take(&mut queue.waiting);
                if queue.is_idle() {
                    state.users.remove(&user);
                }
                for Queued { message, number, .. } in &waiting {
                    drop(state.gave_back(&user, &message.received, *number, now));
                }
                taken.extend(waiting);
            }
            taken
        })
    }

    /// Whether messages that go back come again at once, so that they have to be held for
    /// a while before.
    pub(crate) fn is_unpaced(&self) -> bool {
        self.with(|state| state.unpaced)
    }

    /// How many users have jobs here.
    pub(crate) fn users(&self) -> usize {
        self.with(|state| state.users.len())
    }

    /// How many messages are held.
    pub(crate) fn held(&self) -> usize {
        self.with(|state| state.users.values().map(|queue| queue.held().0).sum())
    }
}

#[cfg(test)]
mod tests;

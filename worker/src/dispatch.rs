//! Who runs next: a queue for each user, so that one user's jobs run one after
//! another and nobody waits behind somebody else's.
//!
//! Jobs are run by runners. As many work as there are slots for handlers; jobs whose
//! users' turn has come stand in line, and each job that ends makes room for the one that
//! has been there longest. A runner for each user would work as well, and cost every job a
//! wait for a slot and what its runner had in the cache.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use shared::UserId;
use shared::ports::{Monotonic, Randomness};
use slab::Slab;

use crate::delivery::Known;
use crate::job::{Job, Received};
use crate::pubsub::Settle;

/// A job that waits for its turn. Boxed, as it moves from place to place.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) job: Job,
    /// `None`: nobody here does it.
    pub(crate) kind: Option<Arc<Known>>,
    pub(crate) received: Arc<Received>,
    pub(crate) settle: Box<dyn Settle>,
    pub(crate) received_at: Monotonic,
    /// Where it belongs, once it is queued.
    pub(crate) place: Place,
}

/// Which of a user's jobs one is: its queue, and whether it keeps to the order there.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    queue: usize,
    /// It has an ordering key. Pub/Sub delivers the messages of one in order; so they run.
    ordered: bool,
}

/// The users' queues, and who runs them.
#[derive(Debug)]
pub(crate) struct Queues {
    per_user: usize,
    at_once: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The queues of users who have jobs here. Where they are is found by the user or known
    /// from a job, so that most jobs are hashed once.
    queues: Slab<Queue>,
    users: HashTable<usize>,
    /// Publishers choose the IDs, so the hash is keyed.
    hasher: RandomState,
    /// Jobs whose users' turn has come, while no runner is free for them.
    line: VecDeque<Box<Queued>>,
    /// Runners at work. One that has waited for something else than a slot or its handler
    /// stands aside until its job has ended.
    working: usize,
    /// At the end of the replica nobody stands in line.
    closed: bool,
}

/// When a job has its turn.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Now: the caller must start a runner with this job.
    Now(Box<Queued>),
    /// Now, but as many run as may. The caller must put it in line, or squeeze it in.
    Full(Box<Queued>),
    /// After others of its user.
    Later,
}

#[derive(Debug)]
struct Queue {
    user: UserId,
    hash: u64,
    waiting: VecDeque<Waiting>,
    /// Jobs that run or stand in line to.
    runners: usize,
    /// An ordered job runs: the next one has to wait, unordered ones have not.
    ordered_runs: bool,
}

/// A job, and what is asked of it before its turn: to look into the job itself would be to
/// fetch what has long left the cache, too early to use it.
#[derive(Debug)]
struct Waiting {
    ordered: bool,
    queued: Box<Queued>,
}

impl Queue {
    fn of(user: UserId, hash: u64) -> Self {
        Self { user, hash, waiting: VecDeque::new(), runners: 0, ordered_runs: false }
    }

    /// The first job that may run now.
    fn next(&mut self) -> Option<Box<Queued>> {
        let at = self.waiting.iter().position(|w| !(self.ordered_runs && w.ordered))?;
        let Waiting { ordered, queued } = self.waiting.remove(at)?;
        self.ordered_runs |= ordered;
        Some(queued)
    }

    /// Takes a job in; a job that has its turn at once counts as running.
    fn push(&mut self, queued: Box<Queued>, per_user: usize) -> Option<Box<Queued>> {
        let ordered = queued.place.ordered;
        let useful = !(self.ordered_runs && ordered);
        let start = useful && self.runners < per_user;
        if start && self.waiting.is_empty() {
            self.ordered_runs |= ordered;
            self.runners += 1;
            return Some(queued);
        }
        self.waiting.push_back(Waiting { ordered, queued });
        if !start {
            return None;
        }
        let next = self.next();
        self.runners += usize::from(next.is_some());
        next
    }

    /// The next job after one that has ended.
    fn pop(&mut self, ordered: bool) -> Option<Box<Queued>> {
        self.ordered_runs &= !ordered;
        let next = self.next();
        self.runners -= usize::from(next.is_none());
        next
    }
}

impl State {
    /// Where the queue of `user` is, made if there is none.
    fn queue_of(&mut self, user: &UserId) -> usize {
        let hash = self.hasher.hash_one(user);
        let (is_theirs, hash_of) =
            (|at: &usize| self.queues[*at].user == *user, |at: &usize| self.queues[*at].hash);
        match self.users.entry(hash, is_theirs, hash_of) {
            Entry::Occupied(at) => *at.get(),
            Entry::Vacant(place) => {
                let at = self.queues.insert(Queue::of(user.clone(), hash));
                place.insert(at);
                at
            }
        }
    }

    /// The queue of `user`, if they have jobs here.
    fn find(&mut self, user: &UserId) -> Option<&mut Queue> {
        let hash = self.hasher.hash_one(user);
        let at = *self.users.find(hash, |at| self.queues[*at].user == *user)?;
        Some(&mut self.queues[at])
    }

    /// The next job of the user whose job at `ended` has ended.
    fn pop(&mut self, ended: Place) -> Option<Box<Queued>> {
        let queue = &mut self.queues[ended.queue];
        let next = queue.pop(ended.ordered);
        if queue.runners == 0 {
            let idle = self.queues.remove(ended.queue);
            if let Ok(place) = self.users.find_entry(idle.hash, |at| *at == ended.queue) {
                place.remove();
            }
        }
        next
    }
}

impl Queues {
    /// At most `per_user` jobs of a user run at a time, and of those with an ordering key
    /// one; of all users, `at_once` and those who stand aside.
    pub(crate) fn new(per_user: usize, at_once: usize, random: &Randomness) -> Self {
        let seed = || random.seed();
        let state = State {
            queues: Slab::new(),
            users: HashTable::new(),
            hasher: RandomState::with_seeds(seed(), seed(), seed(), seed()),
            line: VecDeque::new(),
            working: 0,
            closed: false,
        };
        Self { per_user: per_user.max(1), at_once: at_once.max(1), state: Mutex::new(state) }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a job in.
    pub(crate) fn push(&self, mut queued: Box<Queued>) -> Turn {
        let ordered = !queued.received.ordering_key.is_empty();
        self.with(|state| {
            let queue = state.queue_of(&queued.job.user);
            queued.place = Place { queue, ordered };
            match state.queues[queue].push(queued, self.per_user) {
                None => Turn::Later,
                Some(next) if self.is_full(state) => Turn::Full(next),
                Some(next) => {
                    state.working += 1;
                    Turn::Now(next)
                }
            }
        })
    }

    fn is_full(&self, state: &State) -> bool {
        state.working >= self.at_once && !state.closed
    }

    /// Puts a job in line that has its turn. What is returned found room after all, and
    /// the caller must start a runner with it.
    pub(crate) fn stand_in_line(&self, queued: Box<Queued>) -> Option<Box<Queued>> {
        self.with(|state| {
            if self.is_full(state) {
                state.line.push_back(queued);
                return None;
            }
            state.working += 1;
            Some(queued)
        })
    }

    /// The caller starts a runner with a job that has its turn, though there is no room: it
    /// will stand aside, or end, before it needs a slot.
    pub(crate) fn squeeze_in(&self) {
        self.with(|state| state.working += 1);
    }

    /// What a runner does after the job at `ended`: the next job of whoever has been in
    /// line longest, and of the same user if nobody is. `None` ends the runner.
    pub(crate) fn pop(&self, ended: Place) -> Option<Box<Queued>> {
        self.with(|state| {
            let own = state.pop(ended);
            // Who stood aside comes back without asking for room.
            let crowded = state.working > self.at_once && !state.closed;
            let next = if crowded {
                state.line.extend(own);
                None
            } else if state.line.is_empty() {
                own
            } else {
                state.line.extend(own);
                state.line.pop_front()
            };
            state.working -= usize::from(next.is_none());
            next
        })
    }

    /// A runner waits for something that takes up no slot. What is returned has its turn,
    /// and the caller must start another runner with it.
    pub(crate) fn stand_aside(&self) -> Option<Box<Queued>> {
        self.with(|state| {
            state.working -= 1;
            let next = if state.working < self.at_once { state.line.pop_front() } else { None };
            state.working += usize::from(next.is_some());
            next
        })
    }

    /// The job of a runner that stood aside has ended.
    pub(crate) fn come_back(&self) {
        self.with(|state| state.working += 1);
    }

    /// Nobody stands in line any more. The caller must start a runner with each job.
    pub(crate) fn close(&self) -> VecDeque<Box<Queued>> {
        self.with(|state| {
            state.closed = true;
            state.working += state.line.len();
            std::mem::take(&mut state.line)
        })
    }

    /// Takes out the waiting jobs that share this ordering key: when one of the
    /// key is given back, Pub/Sub redelivers the later ones too.
    pub(crate) fn take_key(&self, user: &UserId, ordering_key: &str) -> VecDeque<Box<Queued>> {
        self.with(|state| {
            let Some(Queue { waiting, .. }) = state.find(user) else {
                return VecDeque::new();
            };
            let (taken, kept): (Vec<_>, _) = std::mem::take(waiting)
                .into_iter()
                .partition(|w| w.queued.received.ordering_key == ordering_key);
            *waiting = kept.into();
            taken.into_iter().map(|w| w.queued).collect()
        })
    }

    /// How many users have jobs here.
    pub(crate) fn users(&self) -> usize {
        self.with(|state| state.queues.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use futures_util::future::{BoxFuture, ready};

    #[derive(Debug)]
    struct Ignore;

    impl Settle for Ignore {
        fn ack(self: Box<Self>) -> BoxFuture<'static, bool> {
            ready(true).boxed()
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
            place: Place::default(),
        })
    }

    /// As the intake takes a job in that needs nothing but a slot.
    fn push(queues: &Queues, queued: Box<Queued>) -> Option<String> {
        id(match queues.push(queued) {
            Turn::Now(next) => Some(next),
            Turn::Full(next) => queues.stand_in_line(next),
            Turn::Later => None,
        })
    }

    /// As a runner whose job of `name` has ended.
    fn pop(queues: &Queues, name: &str, ordered: bool) -> Option<Box<Queued>> {
        let queue = queues.with(|state| state.queue_of(&user(name)));
        queues.pop(Place { queue, ordered })
    }

    fn queues(per_user: usize) -> Queues {
        Queues::new(per_user, 64, &Randomness::seeded(7))
    }

    fn id(queued: Option<Box<Queued>>) -> Option<String> {
        queued.map(|q| q.job.id)
    }

    #[test]
    fn one_runner_per_user_in_order() {
        let queues = queues(1);
        assert_eq!(push(&queues, queued("ann", "1", "ann")).as_deref(), Some("1"));
        assert_eq!(push(&queues, queued("ann", "2", "ann")), None, "ann has her runner");
        assert_eq!(push(&queues, queued("bob", "3", "bob")).as_deref(), Some("3"));
        assert_eq!(id(pop(&queues, "ann", true)).as_deref(), Some("2"));
        assert_eq!(id(pop(&queues, "ann", true)), None);
        let again = push(&queues, queued("ann", "4", ""));
        assert_eq!(again.as_deref(), Some("4"), "the runner has ended");
    }

    #[test]
    fn more_at_a_time_leave_the_order_of_a_key_alone() {
        let queues = queues(3);
        assert_eq!(push(&queues, queued("ann", "1", "ann")).as_deref(), Some("1"));
        assert_eq!(push(&queues, queued("ann", "2", "ann")), None, "it waits for the first");
        let third = push(&queues, queued("ann", "3", ""));
        assert_eq!(third.as_deref(), Some("3"), "past the ordered one");
        assert_eq!(push(&queues, queued("ann", "4", "")).as_deref(), Some("4"));
        assert_eq!(push(&queues, queued("ann", "5", "")), None, "three run");
        assert_eq!(id(pop(&queues, "ann", false)).as_deref(), Some("5"), "past the ordered one");
        assert_eq!(id(pop(&queues, "ann", false)), None, "2 still waits: a runner ends");
        assert_eq!(id(pop(&queues, "ann", true)).as_deref(), Some("2"), "1 has ended");
        assert_eq!(id(pop(&queues, "ann", true)), None);
        assert_eq!(id(pop(&queues, "ann", false)), None);
        assert_eq!(queues.users(), 0, "nothing is left behind");
    }

    fn narrow(at_once: usize, jobs: &[(&str, &str)]) -> (Queues, Vec<String>) {
        let queues = Queues::new(1, at_once, &Randomness::seeded(7));
        let begun = jobs.iter().filter_map(|(user, job)| push(&queues, queued(user, job, user)));
        let begun = begun.collect();
        (queues, begun)
    }

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    #[test]
    fn users_beyond_the_runners_stand_in_line() {
        let jobs = [("ann", "a1"), ("ann", "a2"), ("bob", "b1"), ("cy", "c1"), ("cy", "c2")];
        let (queues, begun) = narrow(1, &jobs);
        assert_eq!(begun, ["a1"]);
        let mut order = Vec::new();
        let mut last = "ann".to_owned();
        while let Some(next) = pop(&queues, &last, true) {
            last = next.job.user.as_str().to_owned();
            order.push(next.job.id);
        }
        assert_eq!(order, ["b1", "c1", "a2", "c2"], "everybody once before anybody twice");
        assert_eq!(queues.users(), 0);
        assert_eq!(push(&queues, queued("bob", "b2", "")).as_deref(), Some("b2"), "room again");
    }

    #[test]
    fn who_stands_aside_makes_room_and_comes_back_to_less() {
        let jobs = [("ann", "a1"), ("ann", "a2"), ("bob", "b1"), ("cy", "c1")];
        let (queues, begun) = narrow(1, &jobs);
        assert_eq!(begun, ["a1"]);
        assert_eq!(id(queues.stand_aside()).as_deref(), Some("b1"), "in ann's place");
        queues.come_back();
        assert_eq!(id(pop(&queues, "ann", true)), None, "bob works in her place");
        assert_eq!(id(pop(&queues, "bob", true)).as_deref(), Some("c1"));
        assert_eq!(id(pop(&queues, "cy", true)).as_deref(), Some("a2"));
        assert_eq!(id(queues.stand_aside()), None, "nobody is in line");
        assert_eq!(push(&queues, queued("bob", "b2", "")).as_deref(), Some("b2"));
        queues.come_back();
        assert_eq!(id(pop(&queues, "ann", true)), None);
        assert_eq!(id(pop(&queues, "bob", false)), None);
        assert_eq!(queues.users(), 0);
    }

    #[test]
    fn who_needs_no_slot_at_first_is_squeezed_in() {
        let (queues, begun) = narrow(1, &[("ann", "a1")]);
        assert_eq!(begun, ["a1"]);
        let Turn::Full(_cold) = queues.push(queued("bob", "b1", "")) else {
            panic!("there is room")
        };
        queues.squeeze_in();
        assert_eq!(push(&queues, queued("bob", "b2", "")), None, "after b1");
        assert_eq!(push(&queues, queued("cy", "c1", "")), None, "in line");
        assert_eq!(id(queues.stand_aside()), None, "bob's runner was one too many");
        assert_eq!(id(pop(&queues, "ann", false)).as_deref(), Some("c1"));
        assert_eq!(id(pop(&queues, "cy", false)), None);
        queues.come_back();
        assert_eq!(id(pop(&queues, "bob", false)).as_deref(), Some("b2"));
        assert_eq!(id(pop(&queues, "bob", false)), None);
        assert_eq!(queues.users(), 0);
    }

    #[test]
    fn nobody_stands_in_line_at_the_end() {
        let jobs = [("ann", "a1"), ("bob", "b1"), ("bob", "b2"), ("cy", "c1")];
        let (queues, begun) = narrow(1, &jobs);
        assert_eq!(begun, ["a1"]);
        let line: Vec<_> = queues.close().into_iter().map(|q| q.job.id).collect();
        assert_eq!(line, ["b1", "c1"], "each gets a runner beside ann's");
        let next = id(pop(&queues, "bob", true));
        assert_eq!(next.as_deref(), Some("b2"), "by bob's runner, though three work");
        for name in ["bob", "cy", "ann"] {
            assert_eq!(id(pop(&queues, name, true)), None);
        }
        assert_eq!(queues.users(), 0);
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
        assert_eq!(id(pop(&queues, "ann", true)).as_deref(), Some("2"));
    }
}

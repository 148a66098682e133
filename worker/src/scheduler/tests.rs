use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::message::InHand;
use crate::pubsub::{Delivery, Settle};

#[derive(Debug)]
struct Ignore;

impl Settle for Ignore {
    fn ack(self: Box<Self>) -> BoxFuture<'static, bool> {
        ready(true).boxed()
    }

    fn nack(self: Box<Self>) {}
}

/// A scheduler and what has been started and given back, by job ID.
struct Driven {
    scheduler: Scheduler,
    in_hand: Arc<InHand>,
    now: Monotonic,
    started: Vec<Queued>,
    returned: Vec<String>,
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn ids(jobs: &[Queued]) -> Vec<&str> {
    jobs.iter().map(|queued| queued.job.id.as_str()).collect()
}

impl Driven {
    fn new(per_user: usize, outstanding: usize) -> Self {
        let limits = Limits { per_user, outstanding, outstanding_bytes: 1 << 20 };
        Self {
            scheduler: Scheduler::new(limits),
            in_hand: Arc::default(),
            now: Monotonic(Duration::from_secs(1000)),
            started: Vec::new(),
            returned: Vec::new(),
        }
    }

    /// A job comes; those that start because of it.
    fn push(&mut self, name: &str, id: &str, key: &str) -> Vec<String> {
        let text = format!(r#"{{"id":"{id}","user":"{name}","kind":"k"}}"#);
        let received = Received {
            data: text.clone().into(),
            ordering_key: key.to_owned(),
            message_id: id.to_owned(),
            ..Received::default()
        };
        let job = Job::of(&received).unwrap();
        let delivery = Delivery { received: Arc::new(received), settle: Box::new(Ignore) };
        let message = self.in_hand.take(delivery).unwrap();
        let moves = self.scheduler.push(job, message, self.now);
        self.make(moves)
    }

    fn make(&mut self, moves: Moves) -> Vec<String> {
        self.gave_back(moves.give_back);
        let started = ids(&moves.start).into_iter().map(str::to_owned).collect();
        self.started.extend(moves.start);
        started
    }

    /// These go back: the scheduler is told so of each when it does.
    fn gave_back(&mut self, jobs: Vec<Queued>) {
        let mut going: VecDeque<_> = jobs.into();
        while let Some(queued) = going.pop_front() {
            let Queued { job, message, number, .. } = queued;
            let received = Arc::clone(&message.received);
            drop(message);
            self.returned.push(job.id);
            going.extend(self.scheduler.gave_back(&job.user, &received, number, self.now));
        }
    }

    /// A started job goes back, and its delivery has ended.
    fn give_back(&mut self, id: &str) -> Option<String> {
        let started = self.take(id);
        let (user, ordered) = (started.job.user.clone(), started.is_ordered());
        self.gave_back(vec![started]);
        let next = self.scheduler.ended(&user, ordered, false);
        let id = next.as_ref().map(|queued| queued.job.id.clone());
        self.started.extend(next);
        id
    }

    fn take_returned(&mut self) -> Vec<String> {
        std::mem::take(&mut self.returned)
    }

    fn take(&mut self, id: &str) -> Queued {
        let at = self.started.iter().position(|queued| queued.job.id == id).unwrap();
        self.started.remove(at)
    }

    /// A started job ends; the one that runs in its place.
    fn end(&mut self, id: &str) -> Option<String> {
        let ended = self.take(id);
        let next = self.scheduler.ended(&ended.job.user, ended.is_ordered(), false);
        let id = next.as_ref().map(|queued| queued.job.id.clone());
        self.started.extend(next);
        id
    }

    /// A started job is held in its user's turn; the token says when it has to go back.
    fn hold(&mut self, id: &str) -> CancellationToken {
        self.hold_or_pause(id, true)
    }

    /// The same of one that has let go of its turn, or not.
    fn hold_or_pause(&mut self, id: &str, keeps_turn: bool) -> CancellationToken {
        let at = self.started.iter().position(|queued| queued.job.id == id).unwrap();
        let queued = &self.started[at];
        let go_back = CancellationToken::new();
        let held = Held {
            number: queued.number,
            bytes: queued.bytes(),
            keeps_turn,
            ordered: queued.is_ordered(),
            go_back: go_back.clone(),
        };
        let returned = self.scheduler.hold(&queued.job.user, held, false, self.now);
        self.gave_back(returned);
        go_back
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
    }
}

#[test]
fn one_job_of_a_user_at_a_time_in_order_and_nobody_waits_for_another() {
    let mut driven = Driven::new(1, 64);
    assert_eq!(driven.push("ann", "1", "ann"), ["1"]);
    assert!(driven.push("ann", "2", "ann").is_empty(), "ann's first job runs");
    assert!(driven.push("ann", "3", "ann").is_empty());
    assert_eq!(driven.push("bob", "4", "bob"), ["4"]);
    assert_eq!(driven.end("1").as_deref(), Some("2"));
    assert_eq!(driven.end("2").as_deref(), Some("3"));
    assert_eq!(driven.end("3"), None);
    assert_eq!(driven.end("4"), None);
    assert_eq!(driven.scheduler.users(), 0, "nothing is left behind");
    assert_eq!(driven.push("ann", "5", ""), ["5"]);
}

#[test]
fn more_at_a_time_leave_the_order_of_a_key_alone() {
    let mut driven = Driven::new(3, 64);
    assert_eq!(driven.push("ann", "1", "ann"), ["1"]);
    assert!(driven.push("ann", "2", "ann").is_empty(), "it waits for the first");
    assert_eq!(driven.push("ann", "3", ""), ["3"], "past the ordered one");
    assert_eq!(driven.push("ann", "4", ""), ["4"]);
    assert!(driven.push("ann", "5", "").is_empty(), "three run");
    assert_eq!(driven.end("3").as_deref(), Some("5"), "past the ordered one");
    assert_eq!(driven.end("4"), None, "2 still waits for 1");
    assert_eq!(driven.end("1").as_deref(), Some("2"));
    assert_eq!((driven.end("5"), driven.end("2")), (None, None));
    assert_eq!(driven.scheduler.users(), 0);
}

#[test]
fn a_job_that_pauses_lets_unordered_ones_run_and_has_its_turn_again() {
    let mut driven = Driven::new(1, 64);
    driven.push("ann", "1", "ann");
    driven.push("ann", "2", "ann");
    driven.push("ann", "3", "");
    let next = driven.scheduler.pause(&user("ann")).unwrap();
    assert_eq!(next.job.id, "3", "2 has to wait for 1");
    driven.started.push(next);
    assert!(driven.push("ann", "4", "").is_empty());
    let ann = user("ann");
    {
        let mut back = std::pin::pin!(driven.scheduler.come_back(&ann));
        assert_eq!(back.as_mut().now_or_never(), None, "3 has the turn");
        let ended = driven.started.pop().unwrap();
        assert!(driven.scheduler.ended(&ended.job.user, false, false).is_none(), "1 is back");
        assert_eq!(back.now_or_never(), Some(()));
    }
    assert_eq!(driven.end("1").as_deref(), Some("2"));
    assert_eq!(driven.end("2").as_deref(), Some("4"));
    assert_eq!(driven.end("4"), None);
    assert_eq!(driven.scheduler.users(), 0);
}

#[test]
fn a_job_that_ends_while_it_pauses_keeps_nobodys_turn() {
    let mut driven = Driven::new(1, 64);
    driven.push("ann", "1", "ann");
    assert!(driven.scheduler.pause(&user("ann")).is_none());
    assert_eq!(driven.push("ann", "2", ""), ["2"]);
    driven.push("ann", "3", "ann");
    let first = driven.take("1");
    let next = driven.scheduler.ended(&first.job.user, true, true);
    assert!(next.is_none(), "2 has the turn");
    assert_eq!(driven.end("2").as_deref(), Some("3"));
}

#[test]
fn one_users_held_jobs_fill_a_quarter_and_the_youngest_go_back() {
    let mut driven = Driven::new(1, 40);
    for n in 0..30 {
        driven.push("ann", &format!("a{n:02}"), "");
    }
    assert!(driven.returned.is_empty(), "they wait for their turn, not for something else");
    let go_back = driven.hold("a00");
    let young: Vec<_> = (10..30).rev().map(|n| format!("a{n:02}")).collect();
    assert_eq!(driven.returned, young, "a quarter of forty stays");
    assert!(!go_back.is_cancelled());
    driven.returned.clear();
    driven.push("ann", "late", "");
    assert_eq!(driven.returned, ["late"], "and none comes in");
    assert_eq!(driven.push("bob", "b", ""), ["b"], "but others'");
    assert_eq!(driven.scheduler.held(), 10);
}

#[test]
fn all_held_jobs_fill_half() {
    let mut driven = Driven::new(1, 8);
    let mut held = Vec::new();
    for n in 0..6 {
        let (name, id) = (format!("u{n}"), format!("j{n}"));
        driven.push(&name, &id, "");
        held.push(driven.hold(&id));
    }
    let back: Vec<_> = held.iter().map(CancellationToken::is_cancelled).collect();
    assert_eq!(back, [false, false, false, false, true, true], "four of eight stay");
}

/// As when one kind of the user's is down, and another is not.
#[test]
fn what_waits_for_a_turn_that_comes_is_not_held() {
    let mut driven = Driven::new(1, 8);
    for id in ["down-0", "down-1"] {
        assert_eq!(driven.push("ann", id, ""), [id]);
        driven.hold_or_pause(id, false);
        assert!(driven.scheduler.pause(&user("ann")).is_none());
    }
    driven.push("ann", "running", "");
    assert!(driven.push("ann", "next", "").is_empty());
    driven.push("ann", "ordered", "ann");
    assert!(driven.returned.is_empty(), "{:?}", driven.returned);
    assert_eq!(driven.scheduler.held(), 2);
    assert_eq!(driven.end("running").as_deref(), Some("next"));
}

#[test]
fn bytes_are_bounded_like_messages() {
    let mut driven = Driven::new(1, 1000);
    driven.scheduler =
        Scheduler::new(Limits { per_user: 1, outstanding: 1000, outstanding_bytes: 400 });
    for n in 0..4 {
        driven.push("ann", &n.to_string(), "");
    }
    driven.hold("0");
    // Each has 34 bytes of data, and ann may fill 100.
    assert_eq!(driven.returned, ["3", "2"]);
}

#[test]
fn everybodys_trouble_gives_nothing_back() {
    let mut driven = Driven::new(1, 4);
    for n in 0..3 {
        driven.push("ann", &n.to_string(), "");
    }
    let queued = &driven.started[0];
    let held = Held {
        number: queued.number,
        bytes: 1,
        keeps_turn: true,
        ordered: queued.is_ordered(),
        go_back: CancellationToken::new(),
    };
    assert!(driven.scheduler.hold(&user("ann"), held, true, driven.now).is_empty());
}

#[test]
fn a_message_that_goes_back_takes_the_later_ones_of_its_key_with_it() {
    let mut driven = Driven::new(1, 64);
    for (id, key) in [("1", "ann"), ("2", "ann"), ("3", ""), ("4", "ann")] {
        driven.push("ann", id, key);
    }
    assert_eq!(driven.give_back("1").as_deref(), Some("3"));
    assert_eq!(driven.take_returned(), ["1", "2", "4"]);
    // Later ones of the key go back as they come, until the first is here again.
    driven.push("ann", "2", "ann");
    assert_eq!(driven.take_returned(), ["2"]);
    driven.pass(10);
    driven.push("ann", "1", "ann");
    driven.push("ann", "2", "ann");
    assert!(driven.returned.is_empty(), "{:?}", driven.returned);
    assert_eq!((driven.end("3").as_deref(), driven.end("1").as_deref()), (Some("1"), Some("2")));
}

/// What has come again has a new number, larger than those of later messages that came before.
#[test]
fn a_key_goes_back_from_its_first_message_on_each_time() {
    let mut driven = Driven::new(1, 64);
    for id in ["1", "2", "3", "4"] {
        driven.push("ann", id, "ann");
    }
    for round in 0..2 {
        let waiting = driven.scheduler.take_waiting(driven.now);
        driven.gave_back(waiting);
        assert_eq!(driven.take_returned(), ["2", "3", "4"], "{round}");
        driven.push("ann", "3", "ann");
        assert_eq!(driven.take_returned(), ["3"], "{round}: it follows 2");
        for id in ["2", "3", "4"] {
            driven.push("ann", id, "ann");
        }
        assert!(driven.returned.is_empty(), "{:?}", driven.returned);
    }
    assert_eq!(driven.end("1").as_deref(), Some("2"));
    driven.give_back("2");
    assert_eq!(driven.take_returned(), ["2", "3", "4"]);
}

#[test]
fn of_a_held_key_only_the_tail_goes_back_and_its_order_stays() {
    let mut driven = Driven::new(1, 16);
    for n in 1..=6 {
        driven.push("ann", &format!("a{n}"), "ann");
    }
    let go_back = driven.hold("a1");
    assert_eq!(driven.take_returned(), ["a6", "a5"], "a quarter of sixteen stays");
    assert!(!go_back.is_cancelled());
    // The sixth comes first, then the fifth: there is no more room than before.
    for id in ["a6", "a5", "a6"] {
        driven.push("ann", id, "ann");
        assert_eq!(driven.take_returned(), [id]);
    }
    driven.scheduler.release(&user("ann"), driven.started[0].number);
    assert_eq!(driven.end("a1").as_deref(), Some("a2"));
    driven.push("ann", "a6", "ann");
    assert_eq!(driven.take_returned(), ["a6"], "it follows a5");
    for id in ["a5", "a6"] {
        driven.push("ann", id, "ann");
    }
    assert!(driven.returned.is_empty(), "{:?}", driven.returned);
    for (ended, next) in [("a2", "a3"), ("a3", "a4"), ("a4", "a5"), ("a5", "a6")] {
        assert_eq!(driven.end(ended).as_deref(), Some(next));
    }
}

#[test]
fn a_key_does_not_go_back_for_ever() {
    let mut driven = Driven::new(1, 64);
    driven.push("ann", "1", "ann");
    driven.give_back("1");
    driven.take_returned();
    driven.pass(59);
    driven.push("ann", "2", "ann");
    assert_eq!(driven.take_returned(), ["2"]);
    driven.pass(1);
    assert_eq!(driven.push("ann", "2", "ann"), ["2"], "the first went to another replica");
}

#[test]
fn a_subscription_without_a_retry_policy_is_noticed() {
    let mut driven = Driven::new(1, 64);
    for wait in [6, 4] {
        driven.push("ann", "1", "");
        assert!(!driven.scheduler.is_unpaced());
        driven.give_back("1");
        driven.pass(wait);
    }
    driven.push("ann", "1", "");
    assert!(driven.scheduler.is_unpaced());
}

#[test]
fn what_has_not_begun_goes_back_as_a_whole() {
    let mut driven = Driven::new(1, 64);
    for (name, id, key) in
        [("ann", "1", "ann"), ("ann", "2", "ann"), ("ann", "3", "ann"), ("bob", "4", "")]
    {
        driven.push(name, id, key);
    }
    let waiting = driven.scheduler.take_waiting(driven.now);
    driven.gave_back(waiting);
    assert_eq!(driven.take_returned(), ["2", "3"]);
    driven.push("ann", "3", "ann");
    assert_eq!(driven.returned, ["3"], "it follows the second");
    assert!(driven.push("ann", "2", "ann").is_empty());
    assert_eq!(driven.end("1").as_deref(), Some("2"));
}

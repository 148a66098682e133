//! What to do about a service that says nothing.
//!
//! The client keeps silent about a connection that is of no use: it opens another one
//! without a pause, or waits for ever. So while nothing comes, the reader asks the service
//! something on a connection of its own (a *look*). This module decides when, and what
//! follows from the answers; it does no I/O and takes no time.

use std::time::Duration;

use shared::Schedule;
use shared::ports::Monotonic;

/// A look follows so much silence, and so long after the last look.
pub(super) const QUIET: Duration = Duration::from_secs(10);
/// A look that has no answer by then has failed.
pub(super) const LOOK_LIMIT: Duration = Duration::from_secs(10);
/// A subscriber that has been silent for so long is replaced, although looks succeed: its
/// own connection may be useless.
pub(super) const REPLACE_AFTER: Duration = Duration::from_secs(180);
/// So many wake-ups of a stream without a message call for a look soon: the client may be
/// opening connections one after another, about a thousand a second. (A message of 10 MB
/// that arrives slowly causes as many; a look does no harm.)
const STIRS: u32 = 50;
/// A look because of wake-ups follows so much silence, and so long after the last look.
const STIRRED: Duration = Duration::from_millis(250);
/// Pauses between looks while the service cannot be reached.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What the messages in hand mean for a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// As many are in hand as may be: the service owes nothing.
    None,
    /// Messages may come.
    Some,
    /// The subscriber was opened with a small window because many messages of an older one
    /// were in hand, and they no longer are.
    Grown,
}

/// What the reader does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Look at the service, on a fresh connection.
    Look,
    /// Open a subscriber.
    Open,
    /// Empty the subscriber, drop it, and open another one.
    Replace,
    /// Nothing before this time, unless something happens.
    Wait(Monotonic),
}

/// What a look has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// The service is reached; go on.
    Reached,
    /// The service cannot be reached: empty the subscriber and drop it.
    Unreached,
    /// The look failed, but a message came meanwhile: the look was wrong.
    Contradicted,
}

/// How a reader stands with the service.
#[derive(Debug, Clone)]
pub(super) struct Silence {
    state: State,
    /// Pauses between looks that fail.
    pauses: Schedule,
    /// When the look began that is under way.
    looking: Option<Monotonic>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// No subscriber; a look is due at this time.
    Closed { look_at: Monotonic },
    /// No subscriber; the service was reached just now.
    Reached,
    /// A subscriber is open.
    Open {
        /// When it was opened.
        since: Monotonic,
        /// When a message came last, or the subscriber was opened.
        heard: Monotonic,
        /// Since when the service could have sent a message and has not.
        silent: Monotonic,
        /// When a look ended last.
        looked: Monotonic,
        /// Wake-ups without a message since.
        stirs: u32,
    },
}

impl Silence {
    /// No subscriber yet; looks before it opens the first.
    pub(super) fn new(now: Monotonic) -> Self {
        Self {
            state: State::Closed { look_at: now },
            pauses: Schedule::new(PAUSE_MIN, PAUSE_MAX),
            looking: None,
        }
    }

    /// What to do at `now`.
    pub(super) fn step(&mut self, now: Monotonic, room: Room) -> Step {
        let State::Open { since, heard, silent, looked, stirs } = &mut self.state else {
            return match self.state {
                State::Closed { look_at } => self.look_at(look_at, now),
                _ => Step::Open,
            };
        };
        if room == Room::None {
            *silent = now;
        }
        let is_stuck = now.since(*silent) >= REPLACE_AFTER && looked > silent;
        let has_grown = room == Room::Grown && now.since(*since) >= QUIET;
        if is_stuck || has_grown {
            return Step::Replace;
        }
        let pause = if *stirs >= STIRS { STIRRED } else { QUIET };
        let at = (*looked).max(*heard).plus(pause);
        self.look_at(at, now)
    }

    fn look_at(&self, at: Monotonic, now: Monotonic) -> Step {
        match self.looking {
            // The look that is under way ends by itself.
            Some(began) => Step::Wait(began.plus(LOOK_LIMIT * 2)),
            None if at <= now => Step::Look,
            None => Step::Wait(at),
        }
    }

    /// Whether the stream is left alone until the look has ended: the client opens
    /// connections only while its stream is read.
    pub(super) fn holds_back(&self) -> bool {
        let stirs_much = matches!(self.state, State::Open { stirs, .. } if stirs >= STIRS);
        stirs_much && self.looking.is_some()
    }

    /// A look begins.
    pub(super) fn looks(&mut self, now: Monotonic) {
        self.looking = Some(now);
    }

    /// The look has ended; `unit` in `0.0..1.0` places the next pause within its jitter.
    pub(super) fn looked(&mut self, now: Monotonic, reached: bool, unit: f64) -> Shown {
        let began = self.looking.take().unwrap_or(now);
        if let State::Open { heard, looked, stirs, .. } = &mut self.state {
            let contradicted = !reached && *heard >= began;
            if reached || contradicted {
                *looked = now;
                *stirs = 0;
                return if reached { Shown::Reached } else { Shown::Contradicted };
            }
        }
        if reached {
            self.pauses.reset();
            self.state = State::Reached;
            Shown::Reached
        } else {
            self.state = State::Closed { look_at: now.plus(self.pauses.next(unit)) };
            Shown::Unreached
        }
    }

    /// A subscriber was opened.
    pub(super) fn opened(&mut self, now: Monotonic) {
        self.state = State::Open { since: now, heard: now, silent: now, looked: now, stirs: 0 };
    }

    /// The subscriber is gone, and the service can be reached.
    pub(super) fn closed(&mut self) {
        self.state = State::Reached;
    }

    /// A message came.
    pub(super) fn heard(&mut self, now: Monotonic) {
        if let State::Open { heard, silent, stirs, .. } = &mut self.state {
            *heard = now;
            *silent = now;
            *stirs = 0;
        }
    }

    /// The stream woke the reader without a message.
    pub(super) fn stirred(&mut self) {
        if let State::Open { stirs, .. } = &mut self.state {
            *stirs = stirs.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    fn open(now: u64) -> Silence {
        let mut silence = Silence::new(at(now));
        assert_eq!(silence.step(at(now), Room::Some), Step::Look, "before it opens");
        silence.looks(at(now));
        assert_eq!(silence.looked(at(now), true, 0.0), Shown::Reached);
        assert_eq!(silence.step(at(now), Room::Some), Step::Open);
        silence.opened(at(now));
        silence
    }

    fn wait(silence: &mut Silence, now: u64, until: u64) {
        assert_eq!(silence.step(at(now), Room::Some), Step::Wait(at(until)));
    }

    /// A look at `now` that shows `reached`.
    fn look(silence: &mut Silence, now: u64, reached: bool) -> Shown {
        assert_eq!(silence.step(at(now), Room::Some), Step::Look);
        silence.looks(at(now));
        silence.looked(at(now), reached, 0.0)
    }

    #[test]
    fn looks_while_nothing_comes_and_not_while_something_does() {
        let mut silence = open(0);
        wait(&mut silence, 0, 10);
        silence.heard(at(8));
        wait(&mut silence, 10, 18);
        assert_eq!(look(&mut silence, 18, true), Shown::Reached);
        wait(&mut silence, 18, 28);
    }

    #[test]
    fn one_look_at_a_time() {
        let mut silence = open(0);
        assert_eq!(silence.step(at(10), Room::Some), Step::Look);
        silence.looks(at(10));
        wait(&mut silence, 15, 30);
    }

    #[test]
    fn a_failed_look_closes_and_looks_again_with_growing_pauses() {
        let mut silence = open(0);
        let mut now = 10;
        assert_eq!(look(&mut silence, now, false), Shown::Unreached);
        let mut pauses = Vec::new();
        for _ in 0..20 {
            let Step::Wait(until) = silence.step(at(now), Room::Some) else { panic!("no pause") };
            pauses.push(until.since(at(now)).as_secs());
            now += until.since(at(now)).as_secs() + 1;
            assert_eq!(look(&mut silence, now, false), Shown::Unreached);
        }
        assert_eq!((pauses[0], pauses[19]), (1, 30), "{pauses:?}");
        assert!(pauses.is_sorted(), "{pauses:?}");
        now += 31;
        assert_eq!(look(&mut silence, now, true), Shown::Reached);
        assert_eq!(silence.step(at(now), Room::Some), Step::Open);
        silence.opened(at(now));
        assert_eq!(look(&mut silence, now + 10, false), Shown::Unreached);
        wait(&mut silence, now + 10, now + 11);
    }

    #[test]
    fn a_message_during_a_look_contradicts_its_failure() {
        let mut silence = open(0);
        assert_eq!(silence.step(at(10), Room::Some), Step::Look);
        silence.looks(at(10));
        silence.heard(at(12));
        assert_eq!(silence.looked(at(20), false, 0.0), Shown::Contradicted);
        wait(&mut silence, 20, 30);
    }

    #[test]
    fn a_subscriber_that_stays_silent_is_replaced() {
        let mut silence = open(0);
        for now in (10..180).step_by(10) {
            assert_eq!(look(&mut silence, now, true), Shown::Reached);
        }
        assert_eq!(silence.step(at(180), Room::Some), Step::Replace);
        silence.closed();
        assert_eq!(silence.step(at(180), Room::Some), Step::Open, "the service was reached");
        silence.opened(at(180));
        wait(&mut silence, 180, 190);
    }

    #[test]
    fn a_full_window_is_no_silence() {
        let mut silence = open(0);
        for now in (10..10_000).step_by(10) {
            assert_eq!(silence.step(at(now), Room::None), Step::Look);
            silence.looks(at(now));
            assert_eq!(silence.looked(at(now), true, 0.0), Shown::Reached);
        }
        assert_eq!(silence.step(at(10_000), Room::Some), Step::Look, "it has room from now on");
    }

    #[test]
    fn a_small_window_is_replaced_when_it_may_be_larger() {
        let mut silence = open(0);
        assert_eq!(silence.step(at(9), Room::Grown), Step::Wait(at(10)));
        assert_eq!(silence.step(at(10), Room::Grown), Step::Replace);
    }

    #[test]
    fn a_stream_that_keeps_waking_is_looked_at_soon() {
        let mut silence = open(0);
        for _ in 1..STIRS {
            silence.stirred();
        }
        wait(&mut silence, 1, 10);
        silence.stirred();
        assert!(!silence.holds_back());
        assert_eq!(silence.step(at(1), Room::Some), Step::Look);
        silence.looks(at(1));
        assert!(silence.holds_back());
        assert_eq!(silence.looked(at(1), true, 0.0), Shown::Reached);
        assert!(!silence.holds_back());
        wait(&mut silence, 1, 11);
        for _ in 0..STIRS {
            silence.stirred();
        }
        assert_eq!(silence.step(at(1), Room::Some), Step::Wait(at(1).plus(STIRRED)));
        silence.heard(at(2));
        wait(&mut silence, 2, 12);
        assert_eq!(look(&mut silence, 12, false), Shown::Unreached);
    }
}

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
/// So many wake-ups of a stream without a message call for a look at once: the client is
/// opening connections one after another.
pub(super) const STIRS: u32 = 200;
/// A look because of wake-ups follows so long after the last look at the earliest.
const STIRRED: Duration = Duration::from_secs(1);
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
        let at = match *stirs {
            STIRS.. => looked.plus(STIRRED),
            _ => (*looked).max(*heard).plus(QUIET),
        };
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

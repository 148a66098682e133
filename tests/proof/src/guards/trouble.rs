//! What goes wrong in a run, one thing at a time.

use std::time::Duration;

use crate::simulation::dice::Dice;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    Nothing,
    /// Processes die when something they asked for has happened and they do not know yet.
    Crash,
    /// At such a moment they stand still, for longer than a lock lasts.
    Pause,
    /// Their clocks are up to a minute and a half ahead or behind.
    Skew,
    /// The lock service has outages of some minutes.
    LockServiceDown,
    /// A third of the provider's answers come later than a lock lasts.
    LateAnswer,
    /// Replies to writes, to the lock service and to the provider's callers are lost.
    LostReply,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Nothing,
        Self::Crash,
        Self::Pause,
        Self::Skew,
        Self::LockServiceDown,
        Self::LateAnswer,
        Self::LostReply,
    ];

    /// What it is, in the table's words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Nothing => "nothing wrong",
            Self::Crash => "crash",
            Self::Pause => "pause past its time",
            Self::Skew => "clock skew",
            Self::LockServiceDown => "lock service down",
            Self::LateAnswer => "late answer",
            Self::LostReply => "lost reply",
        }
    }

    /// The error of a process's clock, in milliseconds.
    pub(super) fn clock_error(self, dice: &mut Dice) -> i64 {
        let drawn = i64::try_from(dice.between(0, 180_000)).unwrap_or(0) - 90_000;
        if self == Self::Skew { drawn } else { 0 }
    }

    /// When the lock service is down: from and to, in milliseconds.
    pub(super) fn outages(self, dice: &mut Dice, end: u64) -> Vec<(u64, u64)> {
        let mut outages = Vec::new();
        let mut at = 0;
        while self == Self::LockServiceDown && at < end {
            let from = at + dice.between(60_000, 600_000);
            at = from + dice.between(60_000, 400_000);
            outages.push((from, at.min(end)));
        }
        outages
    }

    /// What befalls one request.
    pub(super) fn fate(self, request: Request, dice: &mut Dice) -> Fate {
        let late = Duration::from_millis(dice.between(35_000, 70_000));
        let draw = dice.between(0, 999);
        let often = match request {
            Request::Read => 5,
            Request::Write | Request::Lock => 100,
            Request::Refresh => 60,
        };
        match self {
            Self::Crash if draw < often => Fate::SenderDies,
            Self::Pause if draw < often => Fate::SenderPauses(late),
            Self::LateAnswer if request == Request::Refresh && draw < 333 => Fate::Late(late),
            Self::LostReply if request != Request::Read && draw < often => Fate::ReplyLost,
            _ => Fate::Answered,
        }
    }
}

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Read,
    Write,
    Lock,
    Refresh,
}

/// What befalls a request that is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Answered,
    /// The answer comes so much later.
    Late(Duration),
    ReplyLost,
    /// Its sender dies before it has the reply.
    SenderDies,
    /// Its sender stands still before it has the reply.
    SenderPauses(Duration),
}

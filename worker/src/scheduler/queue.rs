//! One user's jobs: which wait, which have started, and which of these are held.

use std::collections::VecDeque;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Queued;

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) waiting: VecDeque<Queued>,
    /// Jobs that have been started and have not ended.
    pub(super) started: usize,
    /// Those of them that have the user's turn; the others pause.
    pub(super) turns: usize,
    /// One of the started jobs has an ordering key.
    pub(super) ordered_started: bool,
    /// Jobs that have paused and want their turn back.
    pub(super) coming_back: VecDeque<oneshot::Sender<()>>,
    pub(super) held: Vec<Held>,
}

/// A started job that waits for something known.
#[derive(Debug)]
pub(crate) struct Held {
    /// [`Queued::number`].
    pub(crate) number: u64,
    /// How much data its message has.
    pub(crate) bytes: usize,
    /// It keeps its user's turn meanwhile.
    pub(crate) keeps_turn: bool,
    /// It has an ordering key.
    pub(crate) ordered: bool,
    /// Cancelled when it has to go back instead.
    pub(crate) go_back: CancellationToken,
}

impl Queue {
    /// The first job that may start, which gets the turn.
    pub(super) fn next(&mut self, per_user: usize) -> Option<Queued> {
        if self.turns >= per_user {
            return None;
        }
        let may_start = |queued: &Queued| !(self.ordered_started && queued.is_ordered());
        let at = self.waiting.iter().position(may_start)?;
        let queued = self.waiting.remove(at)?;
        self.ordered_started |= queued.is_ordered();
        self.started += 1;
        self.turns += 1;
        Some(queued)
    }

    /// Whether a waiting job cannot start before a held one goes on.
    fn is_behind(&self, queued: &Queued) -> bool {
        let blocks = |held: &Held| held.keeps_turn || (held.ordered && queued.is_ordered());
        self.held.iter().any(blocks)
    }

    /// How many messages are held, and how many bytes they have: those behind a held job
    /// wait as well.
    pub(super) fn held(&self) -> (usize, usize) {
        let behind = self.waiting.iter().filter(|queued| self.is_behind(queued));
        let bytes = self.held.iter().map(|held| held.bytes).chain(behind.map(Queued::bytes));
        bytes.fold((0, 0), |(messages, all), bytes| (messages + 1, all + bytes))
    }

    /// Where the last one is that waits behind a held job.
    pub(super) fn last_behind(&self) -> Option<usize> {
        self.waiting.iter().rposition(|queued| self.is_behind(queued))
    }

    /// The number of the youngest message that is held.
    pub(super) fn youngest(&self) -> Option<u64> {
        let held = self.held.iter().map(|held| held.number).max()?;
        Some(self.last_behind().map_or(held, |at| self.waiting[at].number.max(held)))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.started == 0 && self.waiting.is_empty()
    }
}

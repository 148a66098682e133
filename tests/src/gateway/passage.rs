//! What became of a request.

use tokio::time::Instant;

/// A request for a refresh, as a script sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Asked {
    /// Whose refresh token it presents; `None` for one that was never issued.
    pub user: Option<String>,
    /// How many requests came before it.
    pub before: usize,
    /// How many of these presented a token of the same user.
    pub before_of_user: usize,
}

/// A request and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Passage {
    /// When it arrived.
    pub at: Instant,
    /// Whose refresh token it presented.
    pub user: Option<String>,
    /// What its client says about itself.
    pub agent: String,
    /// Its place among the emulator's calls, when it was carried out.
    pub carried_out: Option<usize>,
    /// What the client got.
    pub end: End,
}

/// What a client got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nothing so far.
    Pending,
    /// A whole answer with this status.
    Answered(u16),
    /// A closed connection.
    Closed,
    /// It left before its answer.
    Left,
}

impl Passage {
    /// The client got what leaves open whether the work was done: it may send once more.
    pub fn ended_open(&self) -> bool {
        matches!(self.end, End::Closed | End::Answered(408 | 500..=502 | 504..))
    }

    /// The client was told that the work was not done.
    pub fn said_not_now(&self) -> bool {
        self.carried_out.is_none() && !self.ended_open() && matches!(self.end, End::Answered(_))
    }
}

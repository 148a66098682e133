//! Ways to guard a refresh, side by side on one simulated network.
//!
//! Four replicas get bursts of jobs of three users for two hours; access tokens live for ten
//! minutes, each refresh brings a new refresh token, and the provider takes a spent one that
//! comes back for stolen and ends the grant. One thing goes wrong at a time ([`Trouble`]).
//! Fleet runs as it is, over its ports; the other ways are the models of
//! [`unguarded::guards`]. Everything is drawn from the seed and happens in virtual time, so
//! that a [`table`] is the same on every machine.
//!
//! What no client can help is counted apart: a process that dies or stands still between the
//! provider's answer and the save, and an answer that is lost on its way.

mod play;
mod ports;
mod table;
mod trouble;
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

pub use table::{Cell, Row, rows, table};
pub use trouble::Trouble;
use unguarded::guards::Guard;

/// A way to guard a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A model of how others do it.
    Model(Guard),
    /// Fleet itself.
    Fleet,
}

impl Way {
    /// What it is, in the table's words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Model(guard) => guard.describe(),
            Self::Fleet => "**Fleet**",
        }
    }
}

/// What one run came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Users.
    pub users: usize,
    /// Grants that ended, or were thrown away, though every process that had a part in it
    /// was alive and had its answers. The user had to consent again.
    pub lost: u64,
    /// Users to whom that happened at least once.
    pub locked_out: BTreeSet<String>,
    /// Grants that no client could have kept.
    pub cut_off: u64,
    /// Calls of the token endpoint for grants that had not ended.
    pub refreshes: u64,
    /// Times that a token had to be refreshed.
    pub expiries: u64,
}

/// Runs one seed to its end.
///
/// # Panics
/// When the runtime cannot be built.
pub fn run(way: Way, trouble: Trouble, seed: u64) -> Figures {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let world = Arc::new(world::World::new(seed, trouble, play::LENGTH));
        play::Play::new(way, Arc::clone(&world)).run().await;
        world.with(|s| std::mem::take(&mut s.figures))
    })
}

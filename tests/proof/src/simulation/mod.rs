//! Deterministic simulation of the whole token store.
//!
//! One seed is one run: replicas, users, callers, latencies, faults and the
//! provider's ways are drawn from it, and everything happens on one thread in
//! virtual time. The ports of each replica go through a process that can stand
//! still or die, over a network that delays, reorders and loses, into a bucket
//! and a provider that note every effect. The ledger holds each of them against
//! the protocol's invariants as it happens, and the end of the run, when
//! everything has been healed and has come to rest, against the rest.
//!
//! The same seed gives the same run, event for event: [`run`] returns the trace
//! so that this can be tested.

mod callers;
pub(crate) mod dice;
mod fleet;
mod ledger;
mod ports;
pub(crate) mod process;
pub(crate) mod provider;
mod scenario;
mod world;

use std::sync::Arc;

pub use scenario::Scenario;
pub use world::Totals;

/// What came of one seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The seed and what was drawn from it.
    pub scenario: Scenario,
    /// Broken invariants, each by name; none is as it should be.
    pub violations: Vec<String>,
    /// What was counted.
    pub totals: Totals,
    /// Every event with its time in milliseconds.
    pub trace: Vec<String>,
}

/// Runs one seed to its end.
///
/// # Panics
/// When the runtime cannot be built.
pub fn run(seed: u64) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let scenario = Scenario::of(seed);
    runtime.block_on(async {
        let world = Arc::new(world::World::new(scenario.clone()));
        fleet::Fleet::new(Arc::clone(&world)).run().await;
        world.with(|s| Report {
            scenario,
            violations: std::mem::take(&mut s.ledger.violations),
            totals: s.totals,
            trace: std::mem::take(&mut s.trace),
        })
    })
}

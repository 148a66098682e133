//! A model check of the refresh protocol's decisions.
//!
//! The model is the world around the decisions: a bucket with generations, a
//! provider, replicas that crash and stand still, a clock, people. What a replica
//! decides is the production code's word: each replica *is* a
//! [`shared::protocol::Flight`] with its [`shared::protocol::Memory`], and so is whoever
//! re-seals; a login is a [`shared::protocol::Granting`] and a deletion a
//! [`shared::protocol::Deletion`]. Every move of the model answers the last action of one
//! of them with one event. The checker tries
//! all moves in all orders within the stated budgets.
//!
//! * A request reaches the bucket or the provider at one moment, and its reply
//!   is handed over at the same or, for a budgeted fault, at a later one; before
//!   that a request may be held back for as long as one likes.
//! * The clock moves in steps of a third of the ttl, and only when nobody can do
//!   anything before: delay is a fault and counted as one.
//! * Writes may be refused, lost on their way back, conflict with themselves, or
//!   arrive after their sender gave up.
//!
//! Two reductions keep the check complete: replicas begin alike, so their first
//! calls come in one order only; and identifiers depend on their drawer's own
//! past, so independent events in either order lead to one state.
//!

mod bucket;
mod course;
mod driving;
mod invariants;
mod moves;
mod mutants;
mod people;
mod provider;
mod replica;
mod serving;
mod setup;
mod world;

use stateright::{Checker as _, HasDiscoveries, Model, Property};

pub use invariants::INVARIANTS;
pub use moves::{Fate, Move};
pub use setup::{Mutant, Setup, TICK};
pub use world::World;

/// A [`Setup`] as the checker takes it.
#[derive(Clone, Debug)]
pub struct Protocol(pub Setup);

impl Model for Protocol {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.0)]
    }

    fn actions(&self, world: &World, moves: &mut Vec<Move>) {
        world.moves(&self.0, moves);
    }

    fn next_state(&self, world: &World, next: Move) -> Option<World> {
        let mut after = world.clone();
        after.apply(&self.0, next);
        (after != *world).then_some(after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(INVARIANTS[0], |_, w: &World| !w.watch.broken.contains(&0)),
            Property::always(INVARIANTS[1], |_, w: &World| !w.watch.broken.contains(&1)),
            Property::always(INVARIANTS[2], |_, w: &World| !w.watch.broken.contains(&2)),
            Property::always(INVARIANTS[3], |_, w: &World| !w.watch.broken.contains(&3)),
            Property::always(INVARIANTS[4], |_, w: &World| !w.watch.broken.contains(&4)),
            Property::always(INVARIANTS[5], |_, w: &World| !w.watch.broken.contains(&5)),
            Property::always(INVARIANTS[6], |_, w: &World| !w.watch.broken.contains(&6)),
        ]
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Distinct states.
    pub states: usize,
    /// The longest way from the start.
    pub depth: usize,
    /// Broken invariants by name, each with the moves that lead there.
    pub broken: Vec<(&'static str, String)>,
}

/// Explores everything, or until `expected` breaks; without one, until any
/// invariant does.
pub fn check(setup: &Setup, expected: Option<&'static str>) -> Outcome {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let enough = expected.map_or(HasDiscoveries::AnyFailures, |name| {
        HasDiscoveries::AllOf(std::iter::once(name).collect())
    });
    let checker =
        Protocol(setup.clone()).checker().threads(threads).finish_when(enough).spawn_bfs().join();
    let mut broken: Vec<_> = checker
        .discoveries()
        .into_iter()
        .map(|(name, path)| (name, format!("{:?}", path.into_actions())))
        .collect();
    broken.sort();
    Outcome { states: checker.unique_state_count(), depth: checker.max_depth(), broken }
}

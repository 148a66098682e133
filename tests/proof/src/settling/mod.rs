//! A model check of how deliveries end.
//!
//! The model is the world around the decisions: a subscription that delivers at least once,
//! a bucket, two topics, replicas that crash and are drained, people who consent and
//! redrive. What a replica decides is the production code's word: each delivery *is* a
//! [`worker::settlement::Settlement`], each sweep of the outbox a
//! [`worker::outbox::clearing::Clearing`], whoever publishes parked jobs again a
//! [`worker::parking::resumption::Resumption`], and each dead letter the work of
//! [`worker::dead_letter::dead_letter`]. Every move of the model answers the last step of
//! one of them with one event. The checker tries all moves in all orders within the stated
//! budgets.
//!
//! * One job has one identity. Its runs follow a script; without consent it needs that.
//! * A rest lasts a quarter of an hour, so that the second refusal leads to the outbox.
//!   After three rests a delivery rests until all that refused it takes something again.
//! * A claim is taken over only after its claimant has died: standing still for ten minutes
//!   is a window that the specification leaves open.
//!
//! That everything ends is checked in the graph of all states: from each of them, moves
//! without a further fault must lead to one in which nothing is left to do.

mod delivering;
mod moves;
mod properties;
mod setup;
mod sweeping;
mod world;
mod writing;

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use stateright::{Checker as _, HasDiscoveries, Model, Property};

pub use moves::{Fate, Move};
pub use properties::PROPERTIES;
pub use setup::{Dedupe, Fault, Mutant, Place, Setup};
pub use world::World;

use crate::model::Outcome;

/// A [`Setup`] as the checker takes it.
#[derive(Clone, Debug)]
pub struct Settling(pub Setup);

impl Model for Settling {
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
        let mut all = vec![
            Property::always(PROPERTIES[0], |_, w: &World| w.keeps(0)),
            Property::always(PROPERTIES[1], |_, w: &World| w.keeps(1)),
            Property::always(PROPERTIES[2], |_, w: &World| w.keeps(2)),
            Property::always(PROPERTIES[3], |_, w: &World| w.keeps(3)),
            Property::always(PROPERTIES[5], |_, w: &World| w.keeps(5)),
            Property::always(PROPERTIES[6], |_, w: &World| w.keeps(6)),
            Property::always(PROPERTIES[7], |_, w: &World| w.keeps(7)),
        ];
        all.push(Property::always(PROPERTIES[4], |model: &Self, w: &World| {
            let mut moves = Vec::new();
            w.is_settled() || {
                w.moves(&model.0, &mut moves);
                !moves.is_empty()
            }
        }));
        all
    }
}

/// Explores everything, or until `expected` breaks; without one, until any property does.
pub fn check(setup: &Setup, expected: Option<&'static str>) -> Outcome {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let enough = expected.map_or(HasDiscoveries::AnyFailures, |name| {
        HasDiscoveries::AllOf(std::iter::once(name).collect())
    });
    let checker =
        Settling(setup.clone()).checker().threads(threads).finish_when(enough).spawn_bfs().join();
    let mut broken: Vec<_> = checker
        .discoveries()
        .into_iter()
        .map(|(name, path)| (name, format!("{:?}", path.into_actions())))
        .collect();
    broken.sort();
    Outcome { states: checker.unique_state_count(), depth: checker.max_depth(), broken }
}

/// The moves to a state from which no moves without a further fault lead to one in which
/// everything has ended, and how many states there are.
pub fn stranded(setup: &Setup) -> (usize, Option<String>) {
    let model = Settling(setup.clone());
    let first = World::new(setup);
    let mut numbers = HashMap::from([(digest(&first), 0)]);
    let mut came = vec![(0, None)];
    let (mut before, mut exits) = (vec![Vec::new()], VecDeque::new());
    let mut open = VecDeque::from([(0, first)]);
    let mut moves = Vec::new();
    while let Some((number, world)) = open.pop_front() {
        if world.is_settled() {
            exits.push_back(number);
        }
        world.moves(setup, &mut moves);
        for next in moves.drain(..) {
            let Some(after) = model.next_state(&world, next) else { continue };
            let free = after.faults == world.faults;
            let known = numbers.len();
            let found = *numbers.entry(digest(&after)).or_insert(known);
            if found == known {
                came.push((number, Some(next)));
                before.push(Vec::new());
                open.push_back((found, after));
            }
            if free {
                before[found].push(number);
            }
        }
    }
    let mut leads_out = vec![false; came.len()];
    while let Some(number) = exits.pop_front() {
        if !std::mem::replace(&mut leads_out[number], true) {
            exits.extend(&before[number]);
        }
    }
    let Some(mut at) = leads_out.iter().position(|out| !out) else { return (came.len(), None) };
    let mut path = Vec::new();
    while let (from, Some(next)) = came[at] {
        path.push(next);
        at = from;
    }
    path.reverse();
    (came.len(), Some(format!("{path:?}")))
}

fn digest(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

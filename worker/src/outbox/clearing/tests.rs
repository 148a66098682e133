//! Every order in which two processes can write one stored end, with everything that can
//! fail.

use std::collections::HashSet;

use crate::claim::TAKEOVER;

use super::*;

/// How many parts the end has.
const PARTS: usize = 2;
/// So often everybody sweeps: after each fault once to see a claim, and once to take it over.
const SWEEPS: u32 = 7;

/// The object as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Stored {
    generation: i64,
    claimed: bool,
    written: usize,
}

/// One process: what it does, the step that it is at, and what it holds of the object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Process {
    clearing: Clearing,
    step: Step,
    /// How many parts of the end it believes to be written.
    written: usize,
    remembers: Option<Sighting>,
    dead: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    object: Option<Stored>,
    last_generation: i64,
    now: Duration,
    /// How often each part was written.
    parts: [u8; PARTS],
    processes: Vec<Process>,
    faults: u8,
    /// A process died, or an answer was lost: a part may be written twice.
    excused: bool,
}

/// A wrong version of the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    None,
    WritesWithoutClaim,
    ClaimsWithoutCondition,
    IgnoresClaims,
    DeletesFirst,
    ForgetsToRewrite,
}

impl Process {
    fn new() -> Self {
        let mut clearing = Clearing::new(None);
        let step = clearing.step(&Event::Start, Monotonic(Duration::ZERO));
        Self { clearing, step, written: 0, remembers: None, dead: false }
    }

    fn is_over(&self) -> bool {
        self.dead || matches!(self.step, Step::End(_))
    }
}

/// What the process of this number can meet at its next step: the event, and the world after
/// it.
fn successors(world: &World, n: usize, mutant: Mutant) -> Vec<(Event, World)> {
    let process = &world.processes[n];
    let now = Monotonic(world.now);
    let put = |world: &World, expected: Generation, claimed: bool, written: usize| {
        let mut world = world.clone();
        let found = world.object.map_or(Generation::ABSENT, |o| Generation(o.generation));
        if found != expected || world.object.is_none() {
            return (Event::Conflict, world);
        }
        world.last_generation += 1;
        let generation = world.last_generation;
        world.object = Some(Stored { generation, claimed, written });
        (Event::Saved(Generation(generation), now), world)
    };
    let noted = match (mutant, world.object) {
        (Mutant::ForgetsToRewrite, Some(object)) => object.written,
        _ => process.written,
    };
    // A write may also fail, with and without having been applied.
    let faulty = |(event, after): (Event, World)| {
        let mut all = Vec::new();
        if world.faults > 0 {
            let mut failed = World { faults: world.faults - 1, ..world.clone() };
            all.push((Event::NotSaved, failed.clone()));
            failed = World { faults: world.faults - 1, excused: true, ..after.clone() };
            all.push((Event::NotSaved, failed));
        }
        all.push((event, after));
        all
    };
    match process.step {
        Step::Read => {
            let mut after = world.clone();
            let event = match world.object {
                None => Event::NotFound,
                Some(Stored { generation, claimed, written }) => {
                    after.processes[n].written = written;
                    Event::Found {
                        generation: Generation(generation),
                        claimed: claimed && mutant != Mutant::IgnoresClaims,
                        parts: PARTS - written,
                        may_be_written: true,
                    }
                }
            };
            vec![(event, after)]
        }
        Step::Claim(expected) => match mutant {
            Mutant::WritesWithoutClaim => {
                vec![(Event::Saved(expected, now), world.clone())]
            }
            Mutant::ClaimsWithoutCondition => {
                let found = world.object.map_or(expected, |o| Generation(o.generation));
                vec![put(world, found, true, process.written)]
            }
            _ => faulty(put(world, expected, true, process.written)),
        },
        Step::Write => {
            let mut after = world.clone();
            let part = process.written;
            after.parts[part] += 1;
            after.processes[n].written += 1;
            let mut all = vec![(Event::Written, after)];
            if world.faults > 0 {
                let refused = World { faults: world.faults - 1, ..world.clone() };
                all.push((Event::Unwritten, refused.clone()));
                all.push((Event::Refused, refused));
            }
            all
        }
        Step::Wait(_) => vec![(Event::Waited, world.clone())],
        Step::Rewrite(expected) => faulty(put(world, expected, true, noted)),
        Step::Release { expected, .. } => faulty(put(world, expected, false, noted)),
        Step::Delete(expected) => {
            let mut after = world.clone();
            let found = world.object.map(|o| Generation(o.generation));
            let event = match found {
                None => Event::Deleted,
                Some(found) if found == expected => {
                    after.object = None;
                    Event::Deleted
                }
                Some(_) => Event::Conflict,
            };
            faulty((event, after))
        }
        Step::End(_) => Vec::new(),
    }
}

/// Tries everything; what went wrong first.
fn explore(mutant: Mutant, faults: u8) -> (usize, Option<String>) {
    let first = World {
        object: Some(Stored { generation: 1, claimed: false, written: 0 }),
        last_generation: 1,
        now: Duration::ZERO,
        parts: [0; PARTS],
        processes: vec![Process::new(), Process::new()],
        faults,
        excused: false,
    };
    let (mut seen, mut open) = (HashSet::from([first.clone()]), vec![first]);
    while let Some(world) = open.pop() {
        if let Some(wrong) = check(&world) {
            return (seen.len(), Some(wrong));
        }
        let mut next = Vec::new();
        for n in 0..world.processes.len() {
            if world.processes[n].is_over() {
                continue;
            }
            for (event, mut after) in successors(&world, n, mutant) {
                let process = &mut after.processes[n];
                process.step = process.clearing.step(&event, Monotonic(world.now));
                if mutant == Mutant::DeletesFirst
                    && let (Step::Write, Event::Saved(generation, _)) = (process.step, &event)
                {
                    // Deletes the object and then publishes.
                    after.object = after.object.filter(|o| o.generation != generation.0);
                }
                let process = &mut after.processes[n];
                if let Step::End(ended) = process.step {
                    if let Ended::Held(sighting) = ended {
                        process.remembers = Some(sighting);
                    }
                    // What is over is over, however it came to that.
                    process.clearing = Clearing::new(None);
                    process.step = Step::End(Ended::Lost);
                    process.written = 0;
                }
                next.push(after);
            }
            if world.faults > 0 {
                let mut after = World { faults: world.faults - 1, excused: true, ..world.clone() };
                after.processes[n].dead = true;
                next.push(after);
            }
        }
        if next.is_empty() && world.now < TAKEOVER * SWEEPS {
            // Everybody has ended: the next sweeps, the claims long unchanged.
            let mut after = World { now: world.now + TAKEOVER, ..world.clone() };
            for process in &mut after.processes {
                let remembers = process.remembers;
                *process = Process { remembers, ..Process::new() };
                process.clearing = Clearing::new(remembers);
                process.step = process.clearing.step(&Event::Start, Monotonic(after.now));
            }
            next.push(after);
        }
        open.extend(next.into_iter().filter(|world| seen.insert(world.clone())));
    }
    (seen.len(), None)
}

fn check(world: &World) -> Option<String> {
    let wrong = |why: &str| Some(format!("{why}: {world:?}"));
    if !world.excused && world.parts.iter().any(|count| *count > 1) {
        return wrong("a part is written twice though nobody died");
    }
    if world.object.is_none() && world.parts.contains(&0) {
        return wrong("the object is gone and a part was never written");
    }
    if world.parts[1] > 0 && world.parts[0] == 0 {
        return wrong("the second part is written before the first");
    }
    let is_over = world.now >= TAKEOVER * SWEEPS && world.processes.iter().all(Process::is_over);
    if is_over && world.object.is_some() {
        return wrong("nobody ever writes the rest");
    }
    None
}

#[test]
fn two_processes_write_every_part_and_none_twice() {
    for faults in 0..=2 {
        let (worlds, wrong) = explore(Mutant::None, faults);
        assert_eq!(wrong, None);
        assert!(worlds > 50, "{worlds} worlds with {faults} faults");
    }
}

#[test]
fn each_wrong_version_of_the_rule_is_found() {
    for (mutant, why) in [
        (Mutant::WritesWithoutClaim, "twice"),
        (Mutant::ClaimsWithoutCondition, "twice"),
        (Mutant::IgnoresClaims, "twice"),
        (Mutant::DeletesFirst, "never written"),
        (Mutant::ForgetsToRewrite, "twice"),
    ] {
        let found = (0..=2).find_map(|faults| explore(mutant, faults).1);
        assert!(found.as_ref().is_some_and(|found| found.contains(why)), "{mutant:?}: {found:?}");
    }
}

fn found(generation: i64, claimed: bool, parts: usize) -> Event {
    let generation = Generation(generation);
    Event::Found { generation, claimed, parts, may_be_written: true }
}

const AT_ONCE: Monotonic = Monotonic(Duration::ZERO);

/// The object is written at most once a second.
#[test]
fn a_pause_lies_between_two_writes_of_the_object() {
    let mut clearing = Clearing::new(None);
    let saved = |generation| Event::Saved(Generation(generation), AT_ONCE);
    let steps: Vec<Step> = [
        Event::Start,
        found(1, false, 2),
        saved(2),
        Event::Written,
        Event::Waited,
        Event::NotSaved,
        Event::Waited,
        saved(3),
        Event::Written,
        Event::Waited,
        Event::Deleted,
    ]
    .iter()
    .map(|event| clearing.step(event, AT_ONCE))
    .collect();
    assert_eq!(
        steps,
        [
            Step::Read,
            Step::Claim(Generation(1)),
            Step::Write,
            Step::Wait(PAUSE),
            Step::Rewrite(Generation(2)),
            Step::Wait(PAUSE),
            Step::Rewrite(Generation(2)),
            Step::Write,
            Step::Wait(PAUSE),
            Step::Delete(Generation(3)),
            Step::End(Ended::Cleared),
        ]
    );
}

/// To give a write of the object up would publish again what was published.
#[test]
fn the_object_is_written_until_the_process_ends() {
    let mut clearing = Clearing::new(None);
    clearing.step(&Event::Start, AT_ONCE);
    clearing.step(&found(1, false, 2), AT_ONCE);
    clearing.step(&Event::Saved(Generation(2), AT_ONCE), AT_ONCE);
    assert_eq!(clearing.step(&Event::Written, AT_ONCE), Step::Wait(PAUSE));
    for doublings in [0, 1, 2, 3, 4, 5, 5, 5] {
        let rewrite = clearing.step(&Event::Waited, AT_ONCE);
        assert_eq!(rewrite, Step::Rewrite(Generation(2)));
        let pause = PAUSE * 2_u32.pow(doublings);
        assert_eq!(clearing.step(&Event::NotSaved, AT_ONCE), Step::Wait(pause));
    }
    assert_eq!(clearing.step(&Event::Stopped, AT_ONCE), Step::End(Ended::Unwritten));
}

/// A process that stood still must not meet whoever takes its claim over.
#[test]
fn nothing_is_written_under_an_old_claim() {
    let mut clearing = Clearing::new(None);
    clearing.step(&Event::Start, AT_ONCE);
    clearing.step(&found(1, false, 1), AT_ONCE);
    let late = Monotonic(STOP_AFTER);
    let step = clearing.step(&Event::Saved(Generation(2), AT_ONCE), late);
    assert_eq!(step, Step::End(Ended::Lost));
}

#[test]
fn what_is_not_to_be_written_is_left() {
    let mut clearing = Clearing::new(None);
    clearing.step(&Event::Start, AT_ONCE);
    let event =
        Event::Found { generation: Generation(1), claimed: false, parts: 1, may_be_written: false };
    assert_eq!(clearing.step(&event, AT_ONCE), Step::End(Ended::Skipped));
}

/// It is released, so that it is tried again; and what is refused says so.
#[test]
fn what_is_not_taken_is_released() {
    for (event, refused, ended) in
        [(Event::Unwritten, false, Ended::Unwritten), (Event::Refused, true, Ended::Refused)]
    {
        let mut clearing = Clearing::new(None);
        clearing.step(&Event::Start, AT_ONCE);
        clearing.step(&found(1, false, 1), AT_ONCE);
        clearing.step(&Event::Saved(Generation(2), AT_ONCE), AT_ONCE);
        assert_eq!(clearing.step(&event, AT_ONCE), Step::Wait(PAUSE));
        let expected = Generation(2);
        assert_eq!(clearing.step(&Event::Waited, AT_ONCE), Step::Release { expected, refused });
        let step = clearing.step(&Event::Saved(Generation(3), AT_ONCE), AT_ONCE);
        assert_eq!(step, Step::End(ended));
    }
}

//! One way to measure every part beside its reference: by criterion, or as a number of
//! calls and nothing else, for a tool that counts instructions.
//!
//! `cargo bench -p shared --bench record` prints times; `… --bench record -- count NAME
//! CALLS` makes that many calls. `.ci/instructions` counts all parts that way.
#![allow(dead_code, reason = "no bench needs all of it")]

use std::time::{Duration, Instant};

use criterion::Criterion;

/// A name, and what makes so many calls of it.
pub(crate) struct Measured {
    name: &'static str,
    calls: Box<dyn Fn(u64)>,
}

impl Measured {
    /// Makes many calls at once.
    pub(crate) fn many(name: &'static str, calls: impl Fn(u64) + 'static) -> Self {
        Self { name, calls: Box::new(calls) }
    }

    /// One call after another.
    pub(crate) fn each(name: &'static str, call: impl Fn() + 'static) -> Self {
        Self::many(name, move |count| (0..count).for_each(|_| call()))
    }
}

/// Makes the calls that the command line asks for and returns `true`, if it does.
pub(crate) fn counted(all: &[Measured]) -> bool {
    let words: Vec<String> = std::env::args().collect();
    let Some(at) = words.iter().position(|word| word == "count") else {
        return false;
    };
    let [name, calls] = &words[at + 1..] else {
        panic!("`count` takes a name and a number of calls");
    };
    let Some(measured) = all.iter().find(|measured| measured.name == name) else {
        let known: Vec<_> = all.iter().map(|measured| measured.name).collect();
        panic!("{name:?} is none of {known:?}");
    };
    (measured.calls)(calls.parse().expect("a number of calls"));
    true
}

/// Short, so that all benches together take a few minutes.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args()
}

/// Counts if the command line asks for it, else prints times of each.
pub(crate) fn run(group: &str, all: &[Measured]) {
    if counted(all) {
        return;
    }
    let mut criterion = criterion();
    let mut times = criterion.benchmark_group(group);
    for measured in all {
        times.bench_function(measured.name, |b| {
            b.iter_custom(|count| timed(|| (measured.calls)(count)));
        });
    }
    times.finish();
    criterion.final_summary();
}

/// How long something takes.
#[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
pub(crate) fn timed(what: impl FnOnce()) -> Duration {
    let started = Instant::now();
    what();
    started.elapsed()
}

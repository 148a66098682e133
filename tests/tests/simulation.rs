//! The whole store under seeded chaos: thousands of runs, each checked against
//! the invariants. `SEED=n` runs one seed and prints its trace; `SEEDS=n` runs
//! that many.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tests::report::say;
use tests::simulation::{Report, Totals, run};

/// How many seeds run unless `SEEDS` says otherwise.
const SEEDS: u64 = 2000;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// The end of a failed run, and how to see all of it.
fn show(report: &Report) -> String {
    let seed = report.scenario.seed;
    let last = report.trace.len().saturating_sub(40);
    format!(
        "SEED={seed} {:?}\n{}\n...\n{}\nrun `SEED={seed} cargo test -p tests --test simulation` \
         for the whole trace",
        report.scenario,
        report.violations.join("\n"),
        report.trace[last..].join("\n"),
    )
}

#[test]
fn every_seed_keeps_the_invariants() {
    if let Some(seed) = number("SEED") {
        let report = run(seed);
        say(format!("{}\n{:?}", report.trace.join("\n"), report.totals));
        assert!(report.violations.is_empty(), "{}", show(&report));
        return;
    }
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    let sum = Mutex::new(Totals::default());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let report = run(seed);
                    sum.lock().unwrap().add(&report.totals);
                    if !report.violations.is_empty() {
                        failed.lock().unwrap().push(show(&report));
                    }
                }
            });
        }
    });
    let sum = *sum.lock().unwrap();
    say(format!("{seeds} seeds: {sum:?}"));
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    assert!(
        failed.is_empty(),
        "{} of {seeds} seeds failed\n{}",
        failed.len(),
        failed[..failed.len().min(3)].join("\n\n")
    );
    // A simulation in which nothing goes wrong proves nothing.
    assert!(sum.refreshes > seeds && sum.crashes > 0 && sum.throttled > 0);
    assert!(sum.windows > 0, "no crash, pause or lost answer ever hit a refresh");
}

#[test]
fn a_seed_stands_for_one_run() {
    for seed in 0..24 {
        let (first, second) = (run(seed), run(seed));
        for (a, b) in first.trace.iter().zip(&second.trace) {
            assert_eq!(a, b, "SEED={seed}");
        }
        assert_eq!(first, second, "SEED={seed}");
        assert!(first.trace.len() > 100, "SEED={seed}: {} events", first.trace.len());
    }
    assert_ne!(run(1).trace, run(2).trace);
}

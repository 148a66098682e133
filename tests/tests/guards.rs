//! The table of `tests/unguarded/README.md` is what a run gives. `WRITE=1` writes it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use tests::guards::{Row, Trouble, Way, rows, run, table};
use tests::report::say;

/// Runs of each way in each trouble.
const SEEDS: u64 = 30;
/// How the table begins, on the page.
const HEAD: &str = "| how the refresh is guarded |";

fn cell(row: &Row, trouble: Trouble) -> &tests::guards::Cell {
    &row.cells[Trouble::ALL.iter().position(|t| *t == trouble).unwrap()]
}

#[test]
fn fleet_loses_nothing_in_any_trouble_and_the_page_says_what_others_lose() {
    let rows = rows(SEEDS);
    let table = table(&rows);
    say(format!("{table}users: {}", rows[0].cells[0].users));
    let (fleet, models) = rows.split_last().unwrap();
    assert_eq!(fleet.way, Way::Fleet);
    for (trouble, cell) in Trouble::ALL.iter().zip(&fleet.cells) {
        assert_eq!((cell.lost, cell.locked_out), (0, 0), "{trouble:?}: {cell:?}");
    }
    // The troubles reach Fleet, too: what no client can help has happened to it.
    for trouble in [Trouble::Crash, Trouble::Pause, Trouble::LostReply] {
        assert!(cell(fleet, trouble).cut_off > 0, "{trouble:?} cut nothing off");
    }
    let calm = cell(fleet, Trouble::Nothing);
    assert_eq!((calm.refreshes, calm.cut_off), (calm.expiries, 0), "{calm:?}");
    // A trouble that hurts no model, and a model that nothing hurts, would show nothing.
    for row in models {
        assert!(row.cells.iter().any(|cell| cell.lost > 0), "{:?} loses nothing", row.way);
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("unguarded/README.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(HEAD).unwrap();
    let (on_page, after) = rest.split_once("\n\n").unwrap();
    if std::env::var_os("WRITE").is_some() {
        std::fs::write(&page, format!("{before}{table}\n{after}")).unwrap();
        return;
    }
    assert_eq!(
        format!("{HEAD}{on_page}\n"),
        table,
        "the page has another table; `WRITE=1 cargo test -p tests --test guards` writes this one"
    );
}

#[test]
fn a_seed_stands_for_one_run() {
    for trouble in Trouble::ALL {
        for seed in 0..3 {
            assert_eq!(
                run(Way::Fleet, trouble, seed),
                run(Way::Fleet, trouble, seed),
                "{trouble:?}, seed {seed}"
            );
        }
    }
}

//! The table of what calls come to, read from `calls.md`: what the documentation says is what
//! the tests expect.

use crate::conclusion::Conclusion;
use crate::outcome::Verdict;

const TEXT: &str = include_str!("calls.md");

/// What a call comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) verdict: &'static str,
    pub(super) effect: &'static str,
}

/// What came of a call, and what that means.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) came: &'static str,
    /// Of a call that may be repeated.
    pub(super) again: Cell,
    /// Of one that may not.
    pub(super) once: Cell,
}

/// The rows of the table.
pub(super) fn rows() -> Vec<Row> {
    TEXT.lines()
        .skip(2)
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [came, again, once] = cells[..] else { panic!("{line}") };
            Row { came, again: Cell::read(again), once: Cell::read(once) }
        })
        .collect()
}

/// The one row that begins so.
pub(super) fn row(came: &str) -> Row {
    let found: Vec<Row> = rows().into_iter().filter(|row| row.came.starts_with(came)).collect();
    let [row] = found[..] else { panic!("{came:?}: {found:?}") };
    row
}

impl Cell {
    /// Reads words and an effect; after a semicolon stands what kind `api` does instead.
    fn read(text: &'static str) -> Self {
        let told = text.split(';').next().unwrap();
        let (words, effect) = told.rsplit_once(", ").unwrap();
        let verdict = match words {
            "`done`" => "done",
            "`done` with a warning" => "warned",
            "tried again" => "retry",
            "`rejected`" => "rejected",
            "`parked`" => "missing",
            "renewed once" => "unauthorized",
            words if words.starts_with("the user pauses") => "limited",
            words => panic!("{words:?}"),
        };
        Self { verdict, effect: effect.trim_matches('`') }
    }

    /// What a run came to. One that must not be repeated is never tried again.
    pub(super) fn of(conclusion: &Conclusion) -> Self {
        let verdict = match &conclusion.verdict {
            Verdict::Done { warning: None, .. } => "done",
            Verdict::Done { warning: Some(_), result, .. } => {
                assert!(result.is_null(), "{conclusion:?}");
                "warned"
            }
            Verdict::Unauthorized => "unauthorized",
            Verdict::RateLimited { .. } => "limited",
            Verdict::Retry { .. } => "retry",
            Verdict::MissingScopes { .. } => "missing",
            Verdict::Reject { .. } => "rejected",
            Verdict::NeedsConsent(_) => "consent",
            Verdict::Unasked { .. } => "unasked",
            Verdict::Stated { .. } => "stated",
        };
        let known = conclusion.knowledge;
        let ends = ["done", "warned", "rejected"].contains(&verdict);
        assert!(ends || !known.is_spent(), "{conclusion:?}");
        Self { verdict, effect: known.effect.as_str() }
    }
}

#[test]
fn the_readme_has_the_same_table() {
    assert!(include_str!("../../docs/api.md").contains(TEXT), "kinds/calls.md is not in it");
    assert!(rows().len() > 15);
}

//! Jobs as a table for people, or as JSON lines.

use std::io::IsTerminal as _;

use crate::status::{age, seconds_since};
use jiff::Timestamp;

use super::super::output::{self, plain};
use super::letter::Letter;

const HEADINGS: [&str; COLUMNS] = ["AGE", "WHERE", "JOB", "USER", "KIND", "EFFECT", "REASON"];
const COLUMNS: usize = 7;
/// The columns before it are cut on a terminal.
const EFFECT: usize = COLUMNS - 2;
/// The last column, which takes what is left of a terminal's width.
const LAST: usize = COLUMNS - 1;
/// On a terminal a name is cut to this share of its width.
const SHARE: usize = 8;

/// Shows jobs on stdout.
pub(super) fn show(letters: &[&Letter], now: Timestamp, json: bool) -> anyhow::Result<()> {
    if json {
        for letter in letters {
            output::line(letter.to_json(now).to_string())?;
        }
        return Ok(());
    }
    if letters.is_empty() {
        output::note("no parked jobs, dead letters or waiting ends that match");
        return Ok(());
    }
    let width = std::io::stdout().is_terminal().then(output::terminal_width);
    for line in lines(letters, now, width) {
        output::line(line)?;
    }
    Ok(())
}

fn lines(letters: &[&Letter], now: Timestamp, width: Option<usize>) -> Vec<String> {
    let mut rows: Vec<[String; COLUMNS]> = vec![HEADINGS.map(str::to_owned)];
    for letter in letters {
        let mut row = [
            age(seconds_since(letter.since, now)),
            letter.place.as_str().to_owned(),
            plain(&letter.job),
            plain(letter.user.as_deref().unwrap_or("-")),
            plain(letter.kind.as_deref().unwrap_or("-")),
            letter.effect().to_owned(),
            plain(&letter.reason),
        ];
        if letter.redrives > 0 {
            row[LAST] = format!("{} (redriven {}×)", row[LAST], letter.redrives);
        }
        if let Some(width) = width {
            for cell in &mut row[..EFFECT] {
                *cell = cut(cell, width / SHARE);
            }
        }
        rows.push(row);
    }
    let widths: Vec<usize> = (0..LAST)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    rows.iter()
        .map(|row| {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.push_str(&" ".repeat(width - cell.chars().count() + 2));
            }
            let left = width.map(|width| width.saturating_sub(line.chars().count()).max(10));
            line.push_str(&left.map_or_else(|| row[LAST].clone(), |left| cut(&row[LAST], left)));
            line
        })
        .collect()
}

fn cut(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    let mut kept: String = text.chars().take(longest.saturating_sub(1)).collect();
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::super::letter::Whereabouts;
    use super::*;

    fn letter(job: &str, reason: &str) -> Letter {
        let at = "2026-01-01T00:00:00Z".parse().unwrap();
        Letter {
            place: Whereabouts::Dead,
            since: at,
            published: at,
            job: job.into(),
            user: Some("1097".into()),
            kind: None,
            reason: reason.into(),
            known: None,
            run: 0,
            redrives: 1,
            malformed: None,
            has_no_room: false,
            is_sealed: false,
            source: None,
            name: "m".into(),
        }
    }

    #[test]
    fn a_table_fits_the_terminal_and_cannot_be_hijacked() {
        let now = "2026-01-04T04:05:06Z".parse().unwrap();
        let hostile = letter("\u{1b}[2J\u{9b}31m", "HTTP status 404");
        let long = letter(&"j".repeat(100), &"reason ".repeat(40));
        let fitted = lines(&[&hostile, &long], now, Some(80));
        for line in &fitted {
            assert!(line.chars().count() <= 80, "{line}");
            assert!(!line.chars().any(char::is_control), "{line}");
        }
        assert!(fitted[1].starts_with("3d 4h  dead"), "{}", fitted[1]);
        let whole = lines(&[&hostile, &long], now, None);
        assert!(whole[2].contains(&"j".repeat(100)), "nothing is cut in a pipe");
        assert!(whole[2].ends_with("(redriven 1×)"));
    }
}

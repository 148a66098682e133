//! The screen: it fits 80 columns and needs no colour.

use crate::backlog::Backlog;
use crate::status::{
    ByAge, Known, Replicas, Status, Users, WaitingJobs, age, grouped, seconds_since,
};
use jiff::Timestamp;

use super::super::output::plain;

/// A label, and behind it a number that ends at a fixed column.
const LABEL: usize = 20;
const NUMBER: usize = 11;
const WIDTH: usize = 80;
/// More replicas than this make no screen.
const REPLICAS: usize = 12;

/// The lines, none of which is longer than [`WIDTH`].
pub(super) fn lines(status: &Status) -> Vec<String> {
    let mut lines =
        vec![cut(&format!("fleet of bucket {}, {:.0}", plain(&status.bucket), status.at))];
    users(&status.users, &mut lines);
    waiting(&status.waiting, status.at, &mut lines);
    let endings = &status.endings;
    let since = endings.since.map(|since| age(seconds_since(since, status.at)));
    let told = since.map(|age| format!("the first for {age}")).unwrap_or_default();
    lines.push(String::new());
    lines.push(row("Ends to be written", endings.total, endings.more, &told));
    backlog("Backlog", &status.backlog, &mut lines);
    backlog("Dead letters", &status.dead_letters, &mut lines);
    replicas(&status.replicas, status.at, &mut lines);
    lines
}

fn users(users: &Users, lines: &mut Vec<String>) {
    let read = match users.read {
        0 => String::new(),
        read => format!("{} records read, of which no listing tells the state", grouped(read)),
    };
    lines.push(String::new());
    lines.push(row("Users", users.total, users.more, &read));
    for (state, count, is_shown) in [
        ("active", users.active, true),
        ("blocked", users.blocked, true),
        ("revoked", users.revoked, true),
        ("unreadable", users.unreadable, users.unreadable > 0),
        ("not read", users.not_read, users.not_read > 0),
    ] {
        if is_shown {
            lines.push(row(&format!("  {state}"), count, false, ""));
        }
    }
}

fn waiting(waiting: &WaitingJobs, now: Timestamp, lines: &mut Vec<String>) {
    let told = match (waiting.users, waiting.since) {
        (0, _) => String::new(),
        (users, None) => format!("of {} users", grouped(users)),
        (users, Some(since)) => {
            format!("of {} users, the first for {}", grouped(users), age(seconds_since(since, now)))
        }
    };
    lines.push(String::new());
    lines.push(row("Waiting jobs", waiting.total, waiting.more, &told));
    if waiting.reasons.is_empty() {
        return;
    }
    let columns = ["up to 1 h", "up to 1 d", "up to 7 d", "longer"];
    lines.push(cells("", columns.map(str::to_owned)));
    for (reason, ages) in &waiting.reasons {
        let ByAge { total, up_to_an_hour, up_to_a_day, up_to_a_week, longer } = *ages;
        let counts = [up_to_an_hour, up_to_a_day, up_to_a_week, longer].map(grouped);
        lines.push(cells(&row(&format!("  {}", plain(reason)), total, false, ""), counts));
    }
}

fn cells(begin: &str, cells: [String; 4]) -> String {
    let mut line = format!("{begin:<width$}", width = LABEL + NUMBER);
    for cell in cells {
        line = format!("{line}{cell:>12}");
    }
    cut(&line)
}

fn backlog(label: &str, backlog: &Known<Backlog>, lines: &mut Vec<String>) {
    match backlog {
        Known::Yes(Backlog { messages, oldest_seconds }) => {
            let told = match messages {
                0 => String::new(),
                _ => format!("the oldest unacknowledged for {}", age(*oldest_seconds)),
            };
            lines.push(row(label, *messages, false, &told));
        }
        Known::No { not_known } => {
            let begin = format!("{label:<LABEL$}{:>NUMBER$}  ", "not known");
            wrapped(&begin, &plain(not_known), lines);
        }
    }
}

fn replicas(replicas: &Replicas, now: Timestamp, lines: &mut Vec<String>) {
    let Replicas { seen, leases, read, more } = replicas;
    let told = match (leases, read) {
        (0, _) => "no lease was taken within the last hour".to_owned(),
        (leases, read) if leases == read => {
            format!("in the last hour, by {} leases", grouped(*leases))
        }
        (leases, read) => {
            format!("by the {} newest of {} leases of an hour", grouped(*read), grouped(*leases))
        }
    };
    lines.push(String::new());
    lines.push(row("Replicas seen", seen.len() as u64, *more, &told));
    for replica in seen.iter().take(REPLICAS) {
        let ago = age(seconds_since(replica.last_seen, now));
        let leases = grouped(replica.leases);
        lines.push(cut(&format!("  {:<28} {ago:>8} ago {leases:>8} leases", plain(&replica.name))));
    }
    if seen.len() > REPLICAS {
        lines.push(format!("  and {} more (--json)", seen.len() - REPLICAS));
    }
}

/// A label, its number, and what is told of it. `more`: there are more than were counted.
fn row(label: &str, number: u64, more: bool, told: &str) -> String {
    let number = format!("{}{}", grouped(number), if more { "+" } else { "" });
    cut(format!("{label:<LABEL$}{number:>NUMBER$}  {told}").trim_end())
}

/// The text behind `begin`, in as many lines as it needs, under each other.
fn wrapped(begin: &str, text: &str, lines: &mut Vec<String>) {
    let indent = begin.chars().count();
    let mut line = begin.to_owned();
    for word in text.split(' ') {
        let has_room = line.chars().count() + word.chars().count() <= WIDTH;
        if !has_room && line.chars().count() > indent {
            lines.push(cut(line.trim_end()));
            line = " ".repeat(indent);
        }
        line.push_str(word);
        line.push(' ');
    }
    lines.push(cut(line.trim_end()));
}

fn cut(line: &str) -> String {
    if line.chars().count() <= WIDTH {
        return line.to_owned();
    }
    line.chars().take(WIDTH - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::status::{Endings, Replica};

    fn status() -> Status {
        let at: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        let since = Some("2026-01-28T08:00:00Z".parse().unwrap());
        let ages = ByAge {
            total: 12_345,
            up_to_an_hour: 1,
            up_to_a_day: 300,
            up_to_a_week: 12_044,
            longer: 0,
        };
        let seen = (0..20).map(|n| Replica {
            name: format!("replica-\u{1b}[2J-{n}"),
            last_seen: "2026-01-31T11:58:00Z".parse().unwrap(),
            leases: 25,
        });
        Status {
            at,
            bucket: "b".repeat(100),
            users: Users {
                total: 1_000_000,
                active: 999_000,
                blocked: 2,
                revoked: 998,
                not_read: 7,
                read: 2000,
                more: true,
                ..Users::default()
            },
            waiting: WaitingJobs {
                total: 12_345,
                users: 1000,
                since,
                reasons: BTreeMap::from([("session_expired".to_owned(), ages)]),
                more: false,
            },
            endings: Endings::default(),
            backlog: Known::Yes(Backlog { messages: 1023, oldest_seconds: 250 }),
            dead_letters: Known::no("this account may not read \u{1b}[31m ".repeat(6)),
            replicas: Replicas { seen: seen.collect(), leases: 87_120, read: 500, more: false },
        }
    }

    #[test]
    fn the_screen_fits_and_cannot_be_hijacked() {
        let lines = lines(&status());
        for line in &lines {
            assert!(line.chars().count() <= WIDTH, "{line}");
            assert!(!line.chars().any(char::is_control), "{line}");
        }
        assert!(lines.len() <= 48, "{}", lines.len());
        let text = lines.join("\n");
        for part in [
            "Users                1,000,000+",
            "  active                999,000",
            "Waiting jobs             12,345  of 1,000 users, the first for 3d 4h",
            "  session_expired        12,345           1         300      12,044           0",
            "Backlog                   1,023  the oldest unacknowledged for 4m 10s",
            "Dead letters          not known  this account may not read",
            "Replicas seen                20  by the 500 newest of 87,120 leases of an hour",
            "  and 8 more (--json)",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
    }
}

//! An outcome as a line for people.

use crate::outcome::Status;
use crate::told::Told;

use super::super::output::plain;

/// When, how it ended, which job of whom, and why or how fast.
pub(super) fn line(told: &Told) -> String {
    let outcome = &told.outcome;
    let at = told.at.map(|at| format!("{at:.0}  ")).unwrap_or_default();
    let reason = outcome.error.as_deref().or(outcome.warning.as_deref());
    let detail = match (outcome.status, reason) {
        (Status::Done, None) => format!("{} ms", outcome.duration_ms),
        (_, reason) => reason.unwrap_or_default().to_owned(),
    };
    let line = format!(
        "{at}{:8}  {}  {}  {}  {}",
        outcome.status.as_str(),
        plain(&outcome.job),
        plain(&outcome.user),
        plain(&outcome.kind),
        plain(&detail)
    );
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(outcome: &serde_json::Value) -> String {
        let outcome = serde_json::from_value(outcome.clone()).unwrap();
        line(&Told {
            line: String::new(),
            at: Some("2026-01-02T03:04:05.6Z".parse().unwrap()),
            outcome,
        })
    }

    #[test]
    fn a_line_says_how_a_job_ended_and_why() {
        let mut outcome = serde_json::json!({
            "job": "job-1", "user": "1097", "kind": "api", "status": "done", "duration_ms": 41,
        });
        assert_eq!(shown(&outcome), "2026-01-02T03:04:05Z  done      job-1  1097  api  41 ms");
        outcome["status"] = "rejected".into();
        outcome["error"] = "HTTP status 404\nforged\u{1b}[2J".into();
        let told = shown(&outcome);
        assert!(told.ends_with("rejected  job-1  1097  api  HTTP status 404\\nforged\\u{1b}[2J"));
    }
}

//! What a check found, and how it is shown.

use std::io::IsTerminal as _;

use console::{Style, style};
use serde_json::{Value, json};

use super::super::output::{self, plain};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    Warning,
    Failure,
    /// It could not be made, or does not apply.
    Skipped,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
            Self::Skipped => "skipped",
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Ok => Style::new().green(),
            Self::Warning => Style::new().yellow(),
            Self::Failure => Style::new().red().bold(),
            Self::Skipped => Style::new().dim(),
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// Of what, `bucket my-tokens`.
    pub(super) object: String,
    pub(super) check: &'static str,
    pub(super) status: Status,
    /// What was found, or why nothing was.
    pub(super) found: String,
    /// What to do.
    pub(super) fix: Option<String>,
}

/// Checks of one object, in the order in which they are shown.
#[derive(Debug)]
pub(super) struct Checks {
    object: String,
    pub(super) findings: Vec<Finding>,
}

impl Checks {
    pub(super) fn of(object: impl Into<String>) -> Self {
        Self { object: object.into(), findings: Vec::new() }
    }

    fn push(&mut self, check: &'static str, status: Status, found: String, fix: Option<String>) {
        let object = self.object.clone();
        self.findings.push(Finding { object, check, status, found, fix });
    }

    /// Whether this check has failed.
    pub(super) fn failed(&self, check: &str) -> bool {
        self.findings.iter().any(|f| f.check == check && f.status == Status::Failure)
    }

    /// Whether any check has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.findings.iter().any(|f| f.status == Status::Failure)
    }

    pub(super) fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.push(check, Status::Ok, found.into(), None);
    }

    pub(super) fn warn(
        &mut self,
        check: &'static str,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.push(check, Status::Warning, found.into(), Some(fix.into()));
    }

    pub(super) fn fail(
        &mut self,
        check: &'static str,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.push(check, Status::Failure, found.into(), Some(fix.into()));
    }

    pub(super) fn skip(&mut self, check: &'static str, why: impl Into<String>) {
        self.push(check, Status::Skipped, why.into(), None);
    }

    /// Skipped, and how it would not be.
    pub(super) fn skip_for(
        &mut self,
        check: &'static str,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.push(check, Status::Skipped, why.into(), Some(fix.into()));
    }
}

/// Where the text of a check begins.
const INDENT: usize = 11;

/// Lines that fit into a terminal of `width` columns behind the indent.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let room = width.saturating_sub(INDENT).max(20);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.len() - 1;
        let used = lines[line].chars().count();
        if used == 0 {
            lines[line].push_str(word);
        } else if used + 1 + word.chars().count() <= room {
            lines[line].push(' ');
            lines[line].push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// Everything that was found.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) findings: Vec<Finding>,
}

impl Report {
    pub(super) fn count(&self, status: Status) -> usize {
        self.findings.iter().filter(|finding| finding.status == status).count()
    }

    fn summary(&self) -> String {
        let count = |status| self.count(status);
        format!(
            "{} ok, {} warning(s), {} failure(s), {} skipped",
            count(Status::Ok),
            count(Status::Warning),
            count(Status::Failure),
            count(Status::Skipped)
        )
    }

    fn to_json(&self) -> Value {
        let check = |f: &Finding| {
            json!({
                "object": f.object,
                "check": f.check,
                "status": f.status.as_str(),
                "found": f.found,
                "fix": f.fix,
            })
        };
        json!({
            "checks": self.findings.iter().map(check).collect::<Vec<_>>(),
            "failures": self.count(Status::Failure),
            "warnings": self.count(Status::Warning),
            "skipped": self.count(Status::Skipped),
        })
    }

    /// On stdout, for people or scripts.
    pub(super) fn show(&self, json: bool) -> anyhow::Result<()> {
        if json {
            return output::json(&self.to_json());
        }
        self.show_those(|_| true)
    }

    /// The same of what is wrong alone, for people.
    pub(super) fn show_trouble(&self) -> anyhow::Result<()> {
        self.show_those(|finding| matches!(finding.status, Status::Failure | Status::Warning))
    }

    fn show_those(&self, shown: impl Fn(&Finding) -> bool) -> anyhow::Result<()> {
        let terminal = std::io::stdout().is_terminal();
        let width = if terminal { output::terminal_width() } else { usize::MAX };
        let mut object = "";
        for finding in self.findings.iter().filter(|finding| shown(finding)) {
            if finding.object != object {
                object = &finding.object;
                output::line(style(object).bold().to_string())?;
            }
            // Padded before it is styled: colours have no width.
            let status = format!("{:<8}", finding.status.as_str());
            let (status, check) = (finding.status.style().apply_to(status), finding.check);
            let mut lines =
                wrapped(&format!("{check}: {}", plain(&finding.found)), width).into_iter();
            output::line(format!("  {status} {}", lines.next().unwrap_or_default()))?;
            for line in lines {
                output::line(format!("{:INDENT$}{line}", ""))?;
            }
            if let Some(fix) = &finding.fix {
                // In one line, so that it can be copied.
                output::line(format!("{:INDENT$}→ {}", "", plain(fix)))?;
            }
        }
        output::line(self.summary())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_between_words() {
        let text = "a check: this was found and that was not found anywhere";
        let lines = wrapped(text, INDENT + 24);
        assert!(lines.len() > 2 && lines.iter().all(|line| line.len() <= 24), "{lines:?}");
        assert_eq!(lines.join(" "), text);
        assert_eq!(wrapped(text, usize::MAX), [text]);
    }
}

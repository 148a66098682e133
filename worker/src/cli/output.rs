//! What goes to stdout and stderr, and how the process ends.

use std::io::Write as _;
use std::process::ExitCode;

use serde_json::Value;
use shared::profile::ProfileError;

use crate::forward::BrokerError;
pub(crate) use crate::plain::plain;

/// The command line or the environment is wrong: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Users must consent before it goes on: exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct MustConsent(pub(crate) String);

/// The exit code for "the user must consent".
const CONSENT: u8 = 3;

/// Writes a line to stdout.
pub(crate) fn line(text: impl AsRef<str>) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{}", text.as_ref())?;
    Ok(())
}

/// Writes texts to stdout for programs, each with a NUL behind it, as they are.
pub(crate) fn null_terminated<'a>(texts: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for text in texts {
        anyhow::ensure!(!text.contains('\0'), "{text:?} holds a NUL itself: use --json");
        write!(out, "{text}\0")?;
    }
    Ok(out.flush()?)
}

/// Writes indented JSON with sorted keys to stdout.
pub(crate) fn json(value: &Value) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?)
}

/// How many columns the terminal has.
pub(crate) fn terminal_width() -> usize {
    usize::from(console::Term::stdout().size().1)
}

/// Writes a line for people to stderr; a closed stderr is not worth an error.
pub(crate) fn note(text: impl AsRef<str>) {
    drop(writeln!(std::io::stderr().lock(), "{}", text.as_ref()));
}

/// What a flag names does not exist. Bucket and Pub/Sub are asked deep below the command line,
/// and say so in these words.
fn names_nothing(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.to_string().contains("or correct --"))
}

/// Tells an error with its causes in one line, and how the process ends.
pub(crate) fn fail(error: &anyhow::Error) -> ExitCode {
    let closed = error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe);
    if closed {
        // `fleet users list | head` is no failure.
        return ExitCode::SUCCESS;
    }
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // A transparent cause repeats what is said already.
        if !text.ends_with(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    // A usage error may be a list of steps.
    let steps = error.is::<Usage>();
    note(format!("fleet: {}", if steps { text } else { plain(&text.replace('\n', " ")) }));
    let consent = |e: &shared::Error| matches!(e, shared::Error::NeedsConsent(_));
    let must_consent = error.chain().any(|cause| {
        cause.is::<MustConsent>()
            || cause.downcast_ref().is_some_and(consent)
            || matches!(cause.downcast_ref(), Some(ProfileError::Credentials(e)) if consent(e))
            || matches!(cause.downcast_ref(), Some(BrokerError::NeedsConsent { .. }))
    });
    if must_consent {
        ExitCode::from(CONSENT)
    } else if error.chain().any(<dyn std::error::Error>::is::<Usage>) || names_nothing(error) {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

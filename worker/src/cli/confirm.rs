//! Questions before what cannot be undone.

use std::io::IsTerminal as _;

use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::output::{self, Usage};

/// Refuses to begin what has to be confirmed where nobody can do so; `without` says what to
/// add then.
pub(super) fn somebody_can_be_asked(not_needed: bool, without: &str) -> Result<(), Usage> {
    if not_needed || std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(Usage(format!("nobody can be asked: add {without}")))
}

/// Whether a person, or `--yes`, says so.
pub(super) async fn confirmed(yes: bool, question: &str) -> anyhow::Result<bool> {
    if yes {
        return Ok(true);
    }
    output::note(format!("{question} [y/N]"));
    let mut answer = String::new();
    BufReader::new(tokio::io::stdin()).read_line(&mut answer).await?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

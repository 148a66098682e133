//! Figures and omissions that a reader of a passing run should see.

use std::io::Write as _;

/// Writes a line to stderr, past the test harness's capture of printed output.
pub fn say(text: impl AsRef<str>) {
    // A closed stderr is no reason for a test to fail.
    drop(writeln!(std::io::stderr(), "{}", text.as_ref()));
}

//! The program's own help: which flags and variables a command knows.

use std::collections::BTreeSet;
use std::process::Command;

/// Flags (`--name`) and variables of one command.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) flags: BTreeSet<String>,
    pub(crate) variables: BTreeSet<String>,
    /// The whole text, in one line.
    pub(crate) text: String,
}

/// What `fleet COMMAND --help` shows; an error if there is no such command.
pub(crate) fn known(command: &[&str]) -> Result<Known, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_fleet"))
        .args(command)
        .arg("--help")
        .env_clear()
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    if !output.status.success() {
        return Err(format!("fleet {} --help failed", command.join(" ")));
    }
    let flags = help
        .lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .flat_map(|line| line.split([' ', ',', '=', '[']))
        .filter(|word| word.starts_with("--"))
        .map(str::to_owned)
        .collect();
    // Long lines are wrapped.
    let text = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let variables = text
        .split("[env: ")
        .skip(1)
        .filter_map(|rest| rest.split(['=', ']']).next())
        .map(str::to_owned)
        .collect();
    Ok(Known { flags, variables, text })
}

#[test]
fn help_is_understood() {
    let worker = known(&["worker"]).unwrap();
    assert!(worker.flags.contains("--subscription"), "{worker:?}");
    assert!(worker.variables.contains("FLEET_DRAIN"), "{worker:?}");
    assert!(!worker.flags.contains("--session-key"));
    assert!(known(&["web"]).unwrap().variables.contains("FLEET_SESSION_KEY"));
    assert!(known(&["no-such-command"]).is_err());
}

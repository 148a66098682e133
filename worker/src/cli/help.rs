//! The command line as people see it: commands in groups, tunables where they matter, and
//! empty variables as good as none.

use std::fmt::Write as _;

use clap::builder::Resettable;
use clap::{Arg, Command, CommandFactory as _};

use super::Cli;

/// Commands by what people want to do, in the order in which they are shown.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Run", &["worker", "web", "broker", "dev", "demo"]),
    ("People", &["login", "users", "profile", "token"]),
    ("Jobs", &["publish", "outcomes", "dead"]),
    ("Operate", &["status", "setup", "doctor", "keyring", "completions", "help"]),
];
/// Heading of the token store's tunables, which are hidden unless [`command`] shows them.
pub(super) const TUNABLES: &str = "Tunables";
/// Commands that run long enough for the tunables to matter.
const TUNED: [&str; 2] = ["worker", "web"];

/// The whole command line.
pub(super) fn command() -> Command {
    let command = TUNED.into_iter().fold(Cli::command(), |command, name| {
        command.mut_subcommand(name, |command| command.mut_args(shown_when_long))
    });
    let command = without_empty_variables(command);
    let (groups, options) = (groups(&command), *command.get_styles().get_header());
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{groups}{options}Options:{options:#}\n{{options}}{{after-help}}"
    ))
}

/// Tunables are part of `--help`, and not of `-h`.
fn shown_when_long(arg: Arg) -> Arg {
    if arg.get_help_heading() == Some(TUNABLES) {
        arg.hide(false).hide_short_help(true)
    } else {
        arg
    }
}

/// A variable that is empty, as manifests leave them, gives no flag a value.
pub(super) fn without_empty_variables(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let is_empty =
            |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
        if arg.get_env().is_some_and(is_empty) { arg.env(Resettable::Reset) } else { arg }
    });
    let names: Vec<String> =
        command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    names
        .into_iter()
        .fold(command, |command, name| command.mut_subcommand(name, without_empty_variables))
}

fn groups(command: &Command) -> String {
    const HELP: &str = "Print this message or the help of a command";
    let commands: Vec<(&str, String)> = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .map(|command| {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            (command.get_name(), about)
        })
        .chain([("help", HELP.to_owned())])
        .collect();
    let width = commands.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let (heading, literal) =
        (command.get_styles().get_header(), command.get_styles().get_literal());
    let mut text = String::new();
    for (group, names) in GROUPS {
        writeln!(text, "{heading}{group}:{heading:#}").expect("a string takes everything");
        for name in names {
            let found = commands.iter().find(|(known, _)| known == name);
            if let Some((name, about)) = found {
                writeln!(text, "  {literal}{name:width$}{literal:#}  {about}")
                    .expect("a string takes everything");
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_one_group() {
        let command = command();
        let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
        for command in shown {
            let is_in = |(_, names): &&(&str, &[&str])| names.contains(&command.get_name());
            assert_eq!(GROUPS.iter().filter(is_in).count(), 1, "{}", command.get_name());
        }
    }

    #[test]
    fn tunables_are_shown_where_they_matter() {
        fn check(command: &Command, path: &str) {
            for inner in command.get_subcommands() {
                check(inner, &format!("{path} {}", inner.get_name()));
            }
            let (short, long) = (
                command.clone().render_help().to_string(),
                command.clone().render_long_help().to_string(),
            );
            let matters = [" worker", " web"].contains(&path);
            assert!(!short.contains("--lease-ttl"), "{path}");
            assert_eq!(long.contains("--lease-ttl"), matters, "{path}");
            let tunables: Vec<&Arg> = command
                .get_arguments()
                .filter(|arg| arg.get_help_heading() == Some(TUNABLES))
                .collect();
            for arg in tunables {
                let name = arg.get_long().unwrap();
                let known = ["lease-ttl", "refresh-ahead", "min-ttl", "wait-limit"];
                assert!(known.contains(&name), "{path} --{name} is no tunable");
            }
        }
        let mut command = command();
        command.build();
        check(&command, "");
    }
}

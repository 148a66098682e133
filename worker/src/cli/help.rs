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
    use std::collections::BTreeSet;

    use clap::error::ErrorKind;

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

    /// The commands that the page's row of `name` lists after its colon.
    fn listed(name: &str) -> Option<BTreeSet<&'static str>> {
        let named = format!("`{name}`");
        let cells = |row: &'static str| row.split('|').map(str::trim).collect::<Vec<_>>();
        let mut rows = include_str!("../../docs/commands.md").lines().map(cells);
        let row = rows.find(|cells| cells.len() > 2 && cells[1].contains(&named))?;
        let (_, names) = row[2].split(" (").next()?.rsplit_once(": ")?;
        Some(names.split(", ").collect())
    }

    #[test]
    fn the_page_of_commands_lists_what_each_consists_of() {
        let mut consisting = 0;
        for command in command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let inner = command.get_subcommands().filter(|command| !command.is_hide_set());
            let inner: BTreeSet<&str> = inner.map(Command::get_name).collect();
            if inner.is_empty() {
                continue;
            }
            assert_eq!(listed(command.get_name()), Some(inner), "{}", command.get_name());
            consisting += 1;
        }
        assert!(consisting > 3, "{consisting}");
    }

    #[cfg(feature = "dev")]
    #[test]
    fn the_page_of_the_local_stack_has_each_of_its_flags() {
        let page = include_str!("../../docs/dev.md");
        let command = command();
        let dev = command.find_subcommand("dev").unwrap();
        let flags: Vec<&str> = dev
            .get_arguments()
            .filter(|arg| !arg.is_hide_set())
            .filter_map(Arg::get_long)
            .filter(|flag| *flag != "help")
            .collect();
        assert!(flags.len() > 9, "{flags:?}");
        for flag in flags {
            assert!(page.contains(&format!("`--{flag}")), "--{flag}");
        }
    }

    /// They are written for a shell in which `FLEET_KEYRING` is not set.
    #[test]
    fn the_page_of_credentials_names_the_keyrings_file() {
        let page = include_str!("../../docs/credentials.md").replace('\n', " ");
        let shown = page.split('`').filter(|text| text.starts_with("fleet keyring "));
        let mut commands = 0;
        for text in shown {
            let error = command().try_get_matches_from(text.split_whitespace()).err();
            let missing = error.filter(|e| e.kind() == ErrorKind::MissingRequiredArgument);
            assert!(missing.is_none(), "{text}: {missing:?}");
            commands += 1;
        }
        assert!(commands > 4, "{commands}");
    }
}

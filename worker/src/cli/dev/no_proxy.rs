//! A stack is on this machine: a proxy of the environment has no way to it.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;

/// Programs read the one or the other.
const NAMES: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// A stack's hosts.
const HOSTS: [&str; 2] = ["127.0.0.1", "localhost"];
const PROXIES: [&str; 6] =
    ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// The variables that keep a stack's hosts from the proxy, with what they say already.
pub(super) fn variables() -> [(&'static str, String); 2] {
    with_hosts(set)
}

/// Begins this program anew with these variables where a proxy is set and they are not: the
/// clients of a stack's own process find them in the environment alone. Call it before anything
/// else is begun.
///
/// # Errors
/// When the program cannot be started.
pub(super) fn begin_anew_without() -> anyhow::Result<()> {
    let variables = variables();
    let is_set = variables.iter().all(|(name, value)| set(name).as_ref() == Some(value));
    if is_set || PROXIES.iter().all(|name| set(name).is_none()) {
        return Ok(());
    }
    let program = env::current_exe().context("this program's own path is unknown")?;
    let error = Command::new(program).args(env::args_os().skip(1)).envs(variables).exec();
    Err(error).context("this program cannot be started anew without the proxy")
}

fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn with_hosts(set: impl Fn(&str) -> Option<String>) -> [(&'static str, String); 2] {
    let [upper, lower] = NAMES.map(set);
    let values = [upper.clone().or_else(|| lower.clone()), lower.or(upper)];
    let [upper, lower] = values.map(|value| {
        let mut hosts: Vec<&str> = value.iter().flat_map(|value| value.split(',')).collect();
        for host in HOSTS {
            // A star stands for every host, and only by itself.
            if !hosts.iter().any(|named| [host, "*"].contains(&named.trim())) {
                hosts.push(host);
            }
        }
        hosts.join(",")
    });
    [(NAMES[0], upper), (NAMES[1], lower)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_stays() {
        let own = "127.0.0.1,localhost";
        for (upper, lower, upper_then, lower_then) in [
            (None, None, own, own),
            (Some("a.test"), None, "a.test,127.0.0.1,localhost", "a.test,127.0.0.1,localhost"),
            (None, Some("b.test"), "b.test,127.0.0.1,localhost", "b.test,127.0.0.1,localhost"),
            (Some("a.test"), Some("*"), "a.test,127.0.0.1,localhost", "*"),
            (Some("localhost, 127.0.0.1"), Some(own), "localhost, 127.0.0.1", own),
        ] {
            let set = |name: &str| if name == "NO_PROXY" { upper } else { lower };
            let then = with_hosts(|name| set(name).map(str::to_owned));
            let expected = [("NO_PROXY", upper_then), ("no_proxy", lower_then)];
            assert_eq!(then, expected.map(|(name, value)| (name, value.to_owned())));
        }
    }
}

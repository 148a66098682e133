//! Kubernetes' manifests and the commands that pages show.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::commands::known;
use super::{list, read, text, yaml};

const MANIFESTS: [&str; 2] =
    ["deploy/kubernetes/base/worker.yaml", "deploy/kubernetes/base/web.yaml"];

/// Every container, and the arguments after `fleet`. The image's entry point is
/// `fleet worker`.
fn containers() -> Vec<(Value, Vec<String>, Value)> {
    let words = |value: &Value, name: &str| -> Vec<String> {
        list(value, name).iter().map(|w| w.as_str().unwrap().to_owned()).collect()
    };
    let mut found = Vec::new();
    for deployment in MANIFESTS.iter().flat_map(|path| yaml(path)) {
        for container in list(&deployment, "/spec/template/spec/containers") {
            let mut command = words(container, "/command");
            if command.is_empty() {
                command = entry_point();
            }
            assert_eq!(command.remove(0), "/usr/local/bin/fleet");
            command.extend(words(container, "/args"));
            let pod = deployment.pointer("/spec/template/spec").unwrap().clone();
            found.push((container.clone(), command, pod));
        }
    }
    found
}

fn entry_point() -> Vec<String> {
    let dockerfile = read("deploy/Dockerfile");
    let line = dockerfile.lines().find_map(|line| line.strip_prefix("ENTRYPOINT ")).unwrap();
    serde_json::from_str(line).unwrap()
}

fn variable(container: &Value, name: &str) -> Option<String> {
    let all = list(container, "/env");
    let found = all.iter().find(|v| text(v, "/name") == name)?;
    Some(text(found, "/value").to_owned())
}

#[test]
fn every_flag_and_variable_of_a_container_exists() {
    let containers = containers();
    let commands: Vec<&str> = containers.iter().map(|(_, words, _)| words[0].as_str()).collect();
    assert_eq!(commands, ["worker", "web"]);
    for (container, words, _) in &containers {
        let command = words[0].as_str();
        let known = known(&[command]).unwrap();
        for flag in words[1..].iter().filter(|w| w.starts_with("--")) {
            let name = flag.split('=').next().unwrap();
            assert!(known.flags.contains(name), "fleet {command} has no {name}");
        }
        for variable in list(container, "/env") {
            let name = text(variable, "/name");
            assert!(known.variables.contains(name), "fleet {command} has no {name}");
        }
    }
}

/// What browsers ask for reaches the pages, and what operators ask for does not.
#[test]
fn every_page_is_routed() {
    let routes = yaml("deploy/kubernetes/overlays/example/gateway.yaml");
    let routes = routes.iter().find(|one| text(one, "/kind") == "HTTPRoute").unwrap();
    let routed: Vec<(&str, &str)> = list(routes, "/spec/rules")
        .iter()
        .flat_map(|rule| list(rule, "/matches"))
        .map(|found| (text(found, "/path/type"), text(found, "/path/value")))
        .collect();
    let router = read("worker/src/web/router/mod.rs");
    let pages = router.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let mut count = 0;
    for page in pages {
        let is_routed = routed.iter().any(|(kind, path)| {
            page == *path || *kind == "PathPrefix" && page.starts_with(&format!("{path}/"))
        });
        let is_ours = ["/healthz", "/readyz", "/metrics"].contains(&page);
        assert_eq!(is_routed, !is_ours, "{page}");
        count += 1;
    }
    assert!(count > 10, "{count}");
}

#[test]
fn every_variable_that_must_be_set_is() {
    for (container, words, _) in &containers() {
        let names: BTreeSet<&str> =
            list(container, "/env").iter().map(|v| text(v, "/name")).collect();
        for name in ["GOOGLE_CLOUD_PROJECT", "FLEET_BUCKET", "FLEET_OAUTH_CLIENT", "FLEET_KEYRING"]
        {
            assert!(names.contains(name), "fleet {}: {name}", words[0]);
        }
        let emulator = names.iter().find(|n| n.contains("EMULATOR"));
        assert_eq!(emulator, None, "production talks to Google");
    }
}

#[test]
fn settings_are_those_that_containers_and_rules_take() {
    let settings = read("deploy/kubernetes/overlays/example/settings.env");
    let given: BTreeSet<&str> = settings
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split('=').next().unwrap())
        .collect();
    let containers = containers();
    let mut taken: BTreeSet<&str> = containers
        .iter()
        .flat_map(|(container, _, _)| list(container, "/env"))
        .filter_map(|v| v.pointer("/valueFrom/configMapKeyRef/key")?.as_str())
        .collect();
    // For the alert on dead letters.
    taken.insert("FLEET_DEAD_SUBSCRIPTION");
    assert_eq!(given, taken);
    let terraform = read("deploy/terraform/outputs.tf");
    // Nothing that Terraform makes.
    let decided = [
        "FLEET_PUBLIC_URL",
        "FLEET_ALLOW_HOSTS",
        "FLEET_OFFER_SCOPES",
        "FLEET_PARK_UNKNOWN",
        "FLEET_KEEP_ALIVE",
        "FLEET_DEDUPE",
    ];
    for name in given.iter().filter(|name| !decided.contains(name)) {
        assert!(terraform.contains(&format!("{name}=")), "terraform output settings: {name}");
    }
}

/// Whoever deploys the example without a thought gets what a worker does without the setting.
#[test]
fn settings_that_nobody_has_to_decide_are_the_defaults() {
    let settings = read("deploy/kubernetes/overlays/example/settings.env");
    let help = known(&["worker"]).unwrap().text;
    for (name, default) in
        [("FLEET_PARK_UNKNOWN", "7d"), ("FLEET_KEEP_ALIVE", ""), ("FLEET_DEDUPE", "off")]
    {
        assert!(settings.lines().any(|line| line == format!("{name}={default}")), "{name}");
        let after = help.split(&format!("[env: {name}=]")).nth(1).unwrap().trim_start();
        let said = after.strip_prefix("[default: ").and_then(|rest| rest.split(']').next());
        assert_eq!(said.unwrap_or_default(), default, "{name}");
    }
}

#[test]
fn names_in_settings_and_alerts_are_those_that_terraform_makes() {
    let settings = read("deploy/kubernetes/overlays/example/settings.env");
    let setting = |name: &str| {
        let found = settings.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        found.unwrap_or_else(|| panic!("{name}")).to_owned()
    };
    let (pubsub, variables) =
        (read("deploy/terraform/pubsub.tf"), read("deploy/terraform/variables.tf"));
    let topic = setting("FLEET_TOPIC");
    assert!(variables.contains(&format!("default     = \"{topic}\"")), "{topic}");
    for (name, suffix) in [
        ("FLEET_SUBSCRIPTION", "\"${var.topic}-workers\""),
        ("FLEET_DEAD_TOPIC", "\"${var.topic}-dead\""),
        ("FLEET_DEAD_SUBSCRIPTION", "\"${local.dead_topic}-review\""),
        ("FLEET_OUTCOMES_TOPIC", "\"${var.topic}-outcomes\""),
        ("FLEET_EVENTS_TOPIC", "\"${var.topic}-events\""),
    ] {
        assert!(pubsub.contains(suffix), "{suffix}");
        let made = suffix
            .trim_matches('"')
            .replace("${var.topic}", &topic)
            .replace("${local.dead_topic}", &setting("FLEET_DEAD_TOPIC"));
        assert_eq!(setting(name), made);
    }
    let alerts = read("deploy/monitoring/alerts.yaml");
    for name in ["FLEET_SUBSCRIPTION", "FLEET_DEAD_SUBSCRIPTION"] {
        assert!(alerts.contains(&format!("subscription_id=\"{}\"", setting(name))), "{name}");
    }
}

/// Seconds of a text like `120s` or `5m`.
fn seconds(text: &str) -> u64 {
    let text: jiff::SignedDuration = text.parse().unwrap();
    Duration::try_from(text).unwrap().as_secs()
}

/// The default of `flag`, as help shows it.
fn default_of(help: &str, variable: &str) -> u64 {
    let after = help.split(&format!("[env: {variable}=]")).nth(1).unwrap();
    let default = after.trim_start().strip_prefix("[default: ").unwrap();
    seconds(default.split(']').next().unwrap())
}

#[test]
fn the_grace_period_covers_the_longest_job_and_the_refresh_after_it() {
    // As `worker::replica` winds up: jobs that were cut, then messages that are given back.
    const RELEASES: u64 = 2 * 5;
    let containers = containers();
    let (container, _, pod) = containers.iter().find(|(_, words, _)| words[0] == "worker").unwrap();
    let help = known(&["worker"]).unwrap().text;
    let drain = seconds(&variable(container, "FLEET_DRAIN").unwrap());
    let lease_ttl = default_of(&help, "FLEET_LEASE_TTL");
    let wait_limit = default_of(&help, "FLEET_WAIT_LIMIT");
    // A request of an `api` job may take 60 s.
    assert!(drain >= wait_limit + 60, "{drain}");
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace >= drain + RELEASES + 4 * lease_ttl, "{grace}");
    let (container, _, pod) = containers.iter().find(|(_, words, _)| words[0] == "web").unwrap();
    let pause = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace >= pause + RELEASES + 4 * lease_ttl, "{grace}");
}

/// Words of the `fleet` commands in a page's console blocks, continued lines joined.
fn shown(page: &str) -> Vec<Vec<String>> {
    let joined = page.replace("\\\n", " ");
    let mut in_commands = false;
    joined
        .lines()
        .filter(move |line| {
            if let Some(block) = line.trim_start().strip_prefix("```") {
                in_commands = !block.is_empty() && block != "text";
            }
            in_commands
        })
        .map(|line| line.trim_start().trim_start_matches("$ "))
        // `fleet … | xargs … fleet …` shows two.
        .flat_map(|line| line.split_inclusive(" | ").map(|part| part.trim_end_matches(" | ")))
        .filter_map(|part| {
            part.strip_prefix("xargs ")
                .map_or(Some(part), |args| args.find("fleet ").map(|at| &args[at..]))
        })
        .filter_map(|part| part.strip_prefix("fleet "))
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect()
}

#[test]
fn every_command_that_the_run_book_shows_exists() {
    let mut commands = 0;
    for page in ["deploy/RUNBOOK.md", "README.md"] {
        let text = read(page);
        for words in shown(&text) {
            let name: Vec<&str> = words
                .iter()
                .take_while(|w| w.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
                .take_while(|w| !w.starts_with('-'))
                .map(String::as_str)
                .collect();
            // `users list` is a command, `login me` would not be.
            let known = (1..=name.len().min(2))
                .rev()
                .find_map(|n| known(&name[..n]).ok())
                .unwrap_or_else(|| panic!("{page}: fleet {}", words.join(" ")));
            commands += 1;
            for flag in words.iter().filter(|w| w.starts_with("--") && w.len() > 2) {
                let flag = flag.split('=').next().unwrap();
                assert!(known.flags.contains(flag), "{page}: fleet {}: {flag}", words.join(" "));
            }
        }
    }
    assert!(commands > 10, "{commands}");
}

#[test]
fn the_image_runs_as_it_is_described() {
    let dockerfile = read("deploy/Dockerfile");
    assert_eq!(entry_point(), ["/usr/local/bin/fleet", "worker"]);
    for part in [
        "cargo build --release --locked -p worker --bin fleet --no-default-features",
        "FROM gcr.io/distroless/cc-debian12:nonroot",
        "USER 65532:65532",
        "org.opencontainers.image.licenses=\"Apache-2.0\"",
    ] {
        assert!(dockerfile.contains(part), "{part}");
    }
    let toolchain = read("rust-toolchain.toml");
    let channel = toolchain.lines().find_map(|l| l.strip_prefix("channel = ")).unwrap();
    let channel = channel.trim_matches('"');
    assert!(dockerfile.contains(&format!("FROM rust:{channel}-bookworm ")), "{channel}");
    assert!(dockerfile.contains(&format!("RUSTUP_TOOLCHAIN={channel}\n")), "{channel}");
}

//! Kubernetes' manifests and the commands that pages show.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::commands::known;
use super::{PAGES, list, read, text, yaml};

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

/// A line of the example's settings.
fn setting(name: &str) -> String {
    let settings = read("deploy/kubernetes/overlays/example/settings.env");
    let found = settings.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
    found.unwrap_or_else(|| panic!("{name}")).to_owned()
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

/// The overlay's handler is the image's, and the worker forwards to it as many jobs as it serves.
#[test]
fn the_example_of_a_handler_is_forwarded_to() {
    let patch = yaml("deploy/kubernetes/overlays/forwarded/handler.yaml").remove(0);
    let worker = &list(&patch, "/spec/template/spec/containers")[0];
    let known = known(&["worker"]).unwrap();
    for variable in list(worker, "/env") {
        let name = text(variable, "/name");
        assert!(known.variables.contains(name), "fleet worker has no {name}");
    }
    let dockerfile = read("deploy/handler/Dockerfile");
    let line = dockerfile.lines().find_map(|line| line.strip_prefix("ENTRYPOINT ")).unwrap();
    let words: Vec<String> = serde_json::from_str(line).unwrap();
    let flag = |name: &str| words[words.iter().position(|word| word == name).unwrap() + 1].clone();
    let value = |name: &str| {
        let found = list(worker, "/env").iter().find(|variable| text(variable, "/name") == name);
        text(found.unwrap(), "/value")
    };
    assert_eq!(value("FLEET_FORWARD"), format!("greet=http://{}/", flag("--bind")));
    assert_eq!(value("FLEET_FORWARD_CONCURRENCY"), flag("--threads"));
    assert_eq!(flag("--timeout"), "0");
    let handler = &list(&patch, "/spec/template/spec/initContainers")[0];
    let user = handler["securityContext"]["runAsUser"].as_u64().unwrap();
    assert!(dockerfile.contains(&format!("USER {user}:{user}\n")), "{user}");
    // What the README shows and the tests run.
    let (_, application) = words.last().unwrap().split_once(':').unwrap();
    assert!(read("tests/clients/python/app.py").contains(&format!("{application} = Flask(")));
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
    let kustomization = read("deploy/kubernetes/overlays/example/kustomization.yaml");
    let replaced = kustomization.split("fieldPath: data.").skip(1);
    taken.extend(replaced.filter_map(|rest| rest.split(['}', ',']).next()));
    assert_eq!(given, taken);
    let terraform = read("deploy/terraform/outputs.tf");
    let by_hand = [
        "FLEET_ALLOW_HOSTS",
        "FLEET_OFFER_SCOPES",
        "FLEET_PARK_UNKNOWN",
        "FLEET_KEEP_ALIVE",
        "FLEET_DEDUPE",
        "FLEET_DRAIN",
        "FLEET_OPERATORS",
    ];
    for name in &given {
        let made = terraform.contains(&format!("    {name}="));
        assert_ne!(made, by_hand.contains(name), "terraform output settings: {name}");
    }
    // Those that the program must be told to allow anything at all.
    for name in ["FLEET_ALLOW_HOSTS", "FLEET_ALLOW_BUCKETS"] {
        assert!(known(&["worker"]).unwrap().variables.contains(name) && taken.contains(name));
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
    let pubsub = read("deploy/terraform/pubsub.tf");
    let topic = setting("FLEET_TOPIC");
    assert!(pubsub.contains(&format!("var.name == \"fleet\" ? \"{topic}\" :")), "{topic}");
    for (name, suffix) in [
        ("FLEET_SUBSCRIPTION", "\"${local.topic}-workers\""),
        ("FLEET_DEAD_TOPIC", "\"${local.topic}-dead\""),
        ("FLEET_DEAD_SUBSCRIPTION", "\"${local.dead_topic}-review\""),
        ("FLEET_OUTCOMES_TOPIC", "\"${local.topic}-outcomes\""),
        ("FLEET_EVENTS_TOPIC", "\"${local.topic}-events\""),
    ] {
        assert!(pubsub.contains(suffix), "{suffix}");
        let made = suffix
            .trim_matches('"')
            .replace("${local.topic}", &topic)
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
    // As `worker::kinds::api` has them, and what the drain keeps to write the ends.
    const JOB: u64 = 5 * 60;
    const EXPORT: u64 = 30 * 60;
    const ENDS: u64 = 5;
    let containers = containers();
    let (_, _, pod) = containers.iter().find(|(_, words, _)| words[0] == "worker").unwrap();
    let help = known(&["worker"]).unwrap().text;
    let lease_ttl = default_of(&help, "FLEET_LEASE_TTL");
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    let long = &yaml("deploy/kubernetes/overlays/long-jobs/kustomization.yaml")[0];
    let long = text(long, "/configMapGenerator/0/literals/0");
    let drains = [
        (JOB, setting("FLEET_DRAIN")),
        (EXPORT, long.strip_prefix("FLEET_DRAIN=").unwrap().to_owned()),
    ];
    for (job, drain) in drains {
        let drain = seconds(&drain);
        assert!(drain >= job + ENDS, "{drain}");
        assert!(grace >= drain + RELEASES + 4 * lease_ttl, "{grace} for {drain}");
    }
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
fn every_command_that_the_pages_show_exists() {
    let mut commands = 0;
    for page in PAGES {
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
    assert!(commands > 40, "{commands}");
}

/// Each `kubectl scale`: what is scaled, and to how many.
fn scaled(section: &str) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    for command in section.split("kubectl ").skip(1) {
        let command = command.split(['\n', '`']).next().unwrap();
        let Some((_, to)) = command.split_once("--replicas=") else { continue };
        let to = to.split_whitespace().next().unwrap().parse().unwrap();
        let names = command.split_whitespace().filter(|word| word.starts_with("deploy/"));
        found.extend(names.map(|name| (name.to_owned(), to)));
    }
    found
}

#[test]
fn what_the_run_book_scales_to_none_it_lifts_again_in_the_same_section() {
    let runbook = read("deploy/RUNBOOK.md");
    let mut stopped = 0;
    for section in runbook.split("\n## ") {
        let scaled = scaled(section);
        for (at, (name, _)) in scaled.iter().enumerate().filter(|(_, (_, to))| *to == 0) {
            stopped += 1;
            let lifted = scaled[at..].iter().any(|(other, to)| other == name && *to > 0);
            assert!(lifted, "{}: {name} stays at none", section.lines().next().unwrap());
            // KEDA goes on scaling, unlike the HorizontalPodAutoscaler.
            for told in ["paused-replicas=0`", "paused-replicas-`"] {
                assert!(section.contains(told), "KEDA would start {name}, or never again: {told}");
            }
        }
    }
    assert_eq!(stopped, 3);
}

#[test]
fn nothing_in_the_run_book_brings_keys_to_operators() {
    let runbook = read("deploy/RUNBOOK.md");
    let runs_in_a_pod = "fleet() { kubectl -n fleet exec -i deploy/fleet-worker --";
    assert!(runbook.contains(runs_in_a_pod));
    for section in runbook.split("\n## ").flat_map(|s| s.split("\n### ")) {
        let name = section.lines().next().unwrap();
        if section.contains("versions access") {
            assert!(section.contains("custodian"), "{name}: who may read a secret?");
        }
    }
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

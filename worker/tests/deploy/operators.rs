//! What the run book has people do with `kubectl` is what they may do.

use serde_json::Value;

use super::{list, read, yaml};

const RUNBOOK: &str = "deploy/RUNBOOK.md";

/// The calls of `kubectl` in blocks and in sentences, word by word.
fn calls(text: &str) -> Vec<Vec<&str>> {
    let calls = text.split("kubectl -n fleet ").skip(1);
    calls
        .map(|call| call.split(['\n', '`', '|', ')']).next().unwrap_or_default())
        .map(|call| call.split_whitespace().collect())
        .collect()
}

/// The name of a resource by one of those that `kubectl` takes.
fn resource(kind: &str) -> &str {
    match kind {
        "pod" => "pods",
        "deploy" => "deployments",
        "hpa" => "horizontalpodautoscalers",
        "scaledobject" => "scaledobjects",
        whole => whole,
    }
}

/// What a call asks of Kubernetes: verbs on resources.
fn asked<'a>(call: &[&'a str]) -> Vec<(&'static str, &'a str)> {
    match call {
        ["get" | "describe", kinds, ..] => {
            kinds.split(',').map(|kind| ("get", resource(kind))).collect()
        }
        ["logs", ..] => vec![("get", "pods/log")],
        ["exec", ..] => vec![("create", "pods/exec")],
        ["port-forward", ..] => vec![("create", "pods/portforward")],
        ["scale", ..] => vec![("patch", "deployments/scale")],
        ["rollout", "restart" | "pause", ..] => vec![("patch", "deployments")],
        ["rollout", "undo", ..] => vec![("patch", "deployments"), ("list", "replicasets")],
        ["rollout", "status", ..] => vec![("watch", "deployments")],
        ["rollout", "history", ..] => vec![("list", "replicasets")],
        ["wait", _, kind, ..] => vec![("watch", resource(kind))],
        ["annotate" | "edit", kind, ..] => vec![("patch", resource(kind))],
        _ => panic!("kubectl {}: what does it ask for?", call.join(" ")),
    }
}

#[test]
fn operators_may_do_what_the_run_book_has_them_do() {
    let role = yaml("deploy/kubernetes/base/operators.yaml").remove(0);
    let has = |rule: &Value, names: &str, name: &str| list(rule, names).iter().any(|n| n == name);
    let runbook = read(RUNBOOK);
    let mut count = 0;
    for call in calls(&runbook) {
        for (verb, resource) in asked(&call) {
            let may = list(&role, "/rules")
                .iter()
                .any(|rule| has(rule, "/verbs", verb) && has(rule, "/resources", resource));
            assert!(may, "kubectl {}: no {verb} on {resource}", call.join(" "));
            count += 1;
        }
    }
    assert!(count > 40, "{count}");
}

/// Operators may change Deployments and make no `ConfigMap`, so that new pods of what they apply
/// would wait for settings that are not there.
#[test]
fn whoever_applies_an_overlay_may_make_all_of_it() {
    let runbook = read(RUNBOOK);
    for section in runbook.split("\n## ").flat_map(|section| section.split("\n### ")) {
        let name = section.lines().next().unwrap();
        for changed in ["kubectl apply -k", "`settings.env`", "FLEET_ACCEPT_UNSEALED="] {
            let says = section.to_lowercase().contains("whoever deploys");
            assert!(!section.contains(changed) || says, "{name}: who applies {changed}?");
        }
    }
}

#[test]
fn a_new_key_seals_once_every_pod_can_open_what_it_seals() {
    let runbook = read(RUNBOOK);
    let parts: Vec<&str> = runbook.split("--promote KEY_ID").collect();
    assert_eq!(parts.len(), 3);
    for before in &parts[..2] {
        let waits = before.rsplit("rollout restart deployment").next().unwrap();
        for deployment in ["fleet-worker", "fleet-web"] {
            let waits_for = format!("rollout status deploy/{deployment}\n");
            assert!(waits.contains(&waits_for), "{deployment} may not have the new key yet");
        }
    }
}

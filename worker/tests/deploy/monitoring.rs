//! Alerts and the run book.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{list, query, read, text, yaml};

const ALERTS: &str = "deploy/monitoring/alerts.yaml";

fn groups() -> Vec<Value> {
    let files = yaml(ALERTS);
    list(&files[0], "/groups").to_vec()
}

fn rules() -> Vec<Value> {
    groups().iter().flat_map(|group| list(group, "/rules").to_vec()).collect()
}

#[test]
fn every_metric_of_an_alert_exists() {
    let rules = rules();
    assert!(rules.len() >= 8, "{}", rules.len());
    for rule in rules {
        let faults = query::faults(text(&rule, "/expr"));
        assert!(faults.is_empty(), "{}: {faults:?}", text(&rule, "/alert"));
    }
}

#[test]
fn managed_prometheus_has_the_same_alerts() {
    let by_name = |groups: Vec<Value>| -> BTreeMap<String, Value> {
        groups.into_iter().map(|group| (text(&group, "/name").to_owned(), group)).collect()
    };
    let resources = yaml("deploy/kubernetes/base/alerts.yaml");
    let embedded = resources.iter().flat_map(|r| list(r, "/spec/groups").to_vec()).collect();
    assert_eq!(by_name(embedded), by_name(groups()));
}

/// As GitHub makes anchors of headings.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_alert_has_its_section_in_the_run_book_and_the_other_way_round() {
    let runbook = read("deploy/RUNBOOK.md");
    let headings: BTreeSet<&str> =
        runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let anchors: BTreeSet<String> = headings.iter().map(|h| anchor(h)).collect();
    for rule in rules() {
        let name = text(&rule, "/alert");
        let link = text(&rule, "/annotations/runbook");
        let (file, section) = link.split_once('#').unwrap();
        assert_eq!(file, "deploy/RUNBOOK.md", "{name}");
        assert_eq!(section, anchor(name), "{name}");
        assert!(anchors.contains(section), "{name} has no section in the run book");
        for part in ["/annotations/summary", "/annotations/description"] {
            assert!(!text(&rule, part).is_empty(), "{name}");
        }
        let severity = text(&rule, "/labels/severity");
        assert!(["page", "ticket"].contains(&severity), "{name}: {severity}");
    }
    let alerts: BTreeSet<String> = rules().iter().map(|r| text(r, "/alert").to_owned()).collect();
    for heading in headings.iter().filter(|h| h.starts_with("Fleet")) {
        assert!(alerts.contains(*heading), "the run book explains {heading}, which is no alert");
    }
}

#[test]
fn the_run_book_answers_every_alert_in_the_same_way() {
    let runbook = read("deploy/RUNBOOK.md");
    for section in runbook.split("\n### ").filter(|s| s.starts_with("Fleet")) {
        let name = section.lines().next().unwrap();
        for part in ["**Means.**", "**Look at.**", "**Do.**"] {
            assert!(section.contains(part), "{name}: {part}");
        }
    }
}

#[test]
fn every_metric_that_the_run_book_names_exists() {
    let pages = read("deploy/RUNBOOK.md") + &read("deploy/SIZING.md");
    let names = pages.split(|c: char| !c.is_alphanumeric() && c != '_');
    let ours = names.filter(|n| n.starts_with("fleet_"));
    for name in ours {
        let exists = worker::metrics::ALL.iter().any(|m| m.name == name);
        assert!(exists, "no metric is named {name}");
    }
}

#[test]
fn every_alert_is_tested() {
    let tests = read("deploy/monitoring/alerts_test.yaml");
    for rule in rules() {
        let name = text(&rule, "/alert");
        let fires = tests.split("alertname: ").skip(1).any(|t| {
            t.starts_with(name) && t.lines().nth(2).is_some_and(|l| l.contains("exp_labels"))
        });
        assert!(fires, "no test makes {name} fire");
    }
}

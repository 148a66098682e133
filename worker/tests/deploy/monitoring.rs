//! Alerts and the run book.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{list, query, read, text, yaml};

const ALERTS: &str = "deploy/monitoring/alerts.yaml";

fn groups() -> Vec<Value> {
    let files = yaml(ALERTS);
    list(&files[0], "/groups").to_vec()
}

/// Every alert; those whose severity depends on how bad it is are there twice.
fn rules() -> Vec<Value> {
    let rules = groups().into_iter().flat_map(|group| list(&group, "/rules").to_vec());
    rules.filter(|rule| rule.get("alert").is_some()).collect()
}

/// What rules record, by name and query.
fn recorded() -> Vec<(String, String)> {
    let rules = groups().into_iter().flat_map(|group| list(&group, "/rules").to_vec());
    let texts = |rule: Value| {
        let name = rule.get("record")?.as_str()?.to_owned();
        Some((name, text(&rule, "/expr").to_owned()))
    };
    rules.filter_map(texts).collect()
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
fn what_alerts_and_dashboards_take_from_rules_is_recorded() {
    let recorded = recorded();
    let names: BTreeSet<&str> = recorded.iter().map(|(name, _)| name.as_str()).collect();
    for (name, query) in &recorded {
        assert_eq!(query::faults(query), Vec::<String>::new(), "{name}");
    }
    let alerts = rules().into_iter().map(|rule| text(&rule, "/expr").to_owned());
    let takers = alerts.chain([read("deploy/monitoring/tiles.json")]).collect::<String>();
    let word = |c: char| !c.is_ascii_alphanumeric() && !['_', ':'].contains(&c);
    let taken: BTreeSet<&str> = takers.split(word).filter(|w| w.starts_with("slo:")).collect();
    assert_eq!(taken, names);
}

#[test]
fn every_alert_says_whose_it_is() {
    for rule in rules() {
        assert_eq!(text(&rule, "/labels/environment"), "fleet", "{rule}");
    }
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

/// In the rig, which is run by hand.
#[test]
fn every_alert_has_a_cause_that_fires_it() {
    let rig = read("deploy/checks/alerts");
    for rule in rules() {
        let (name, severity) = (text(&rule, "/alert"), text(&rule, "/labels/severity"));
        let fired = format!("(\"{name}\", {}, ", severity.to_uppercase());
        assert!(rig.contains(&fired), "{name} ({severity}) has no cause");
    }
}

#[test]
fn every_alert_is_tested() {
    let tests = ["alerts", "levels"].map(|t| read(&format!("deploy/monitoring/{t}_test.yaml")));
    let tests = tests.concat();
    for rule in rules() {
        let (name, severity) = (text(&rule, "/alert"), text(&rule, "/labels/severity"));
        let fires = tests.split("alertname: ").skip(1).any(|t| {
            let labels = t.lines().nth(2).filter(|line| line.contains("exp_labels"));
            t.lines().next() == Some(name) && labels.is_some_and(|l| l.contains(severity))
        });
        assert!(fires, "no test makes {name} fire as a {severity}");
    }
}

//! What the documents name exists.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The text of a suite: a file of that name, or the files of a folder.
fn suite(package: &str, name: &str) -> String {
    let tests = root().join(package).join("tests");
    let file = tests.join(format!("{name}.rs"));
    if file.exists() {
        return std::fs::read_to_string(file).unwrap();
    }
    let folder = tests.join(name);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect()
}

/// Each claim of the threat page stands beside a test that can be run.
#[test]
fn the_threat_page_names_tests_that_are_there() {
    let page = std::fs::read_to_string(root().join("shared/docs/threats.md")).unwrap();
    let mut named = 0;
    for quoted in page.split('`').skip(1).step_by(2) {
        let Some((package, rest)) = quoted.split_once('/') else { continue };
        if !["tests", "worker", "shared"].contains(&package) {
            continue;
        }
        let (name, test) = rest.split_once("::").map_or((rest, None), |(n, t)| (n, Some(t)));
        let text = suite(package, name);
        named += 1;
        if let Some(test) = test {
            assert!(text.contains(&format!("fn {test}(")), "{quoted} is no test");
        }
    }
    assert!(named > 20, "{named} tests are named");
}

/// So do its metrics and alerts.
#[test]
fn the_threat_page_names_metrics_and_alerts_that_are_there() {
    let page = std::fs::read_to_string(root().join("shared/docs/threats.md")).unwrap();
    let metrics = std::fs::read_to_string(root().join("worker/src/metrics/list.rs")).unwrap();
    let alerts = std::fs::read_to_string(root().join("deploy/monitoring/alerts.yaml")).unwrap();
    let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    for name in page.split(word) {
        if name.starts_with("fleet_") {
            assert!(metrics.contains(&format!("\"{name}\"")), "{name} is no metric");
        } else if name.starts_with("Fleet") && name.len() > "Fleet".len() {
            assert!(alerts.contains(&format!("alert: {name}")), "{name} is no alert");
        }
    }
}

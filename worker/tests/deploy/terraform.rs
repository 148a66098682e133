//! Roles and settings in Terraform.

use std::collections::BTreeSet;
use std::fs;

use worker::roles::{ROLES, Role};

use super::root;

/// Roles that are never right here: they reach over a project, or over more than a fleet needs.
const NEVER: [&str; 6] =
    ["owner", "editor", "viewer", "storage.admin", "pubsub.admin", "pubsub.editor"];

fn lines() -> Vec<String> {
    let folder = root().join("deploy/terraform");
    let mut lines = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "tf") {
            lines.extend(fs::read_to_string(path).unwrap().lines().map(str::to_owned));
        }
    }
    lines
}

/// Every role that is granted, with the comment above it.
fn roles() -> Vec<(String, String)> {
    let lines = lines();
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["role", "=", role] = words[..] {
            let above: Vec<&str> = lines[..i]
                .iter()
                .rev()
                .map(|l| l.trim())
                .take_while(|l| l.starts_with('#'))
                .collect();
            let comment = above.into_iter().rev().collect::<Vec<_>>().join(" ");
            found.push((role.trim_matches('"').to_owned(), comment));
        }
    }
    found
}

#[test]
fn every_role_is_one_that_doctor_checks_or_a_comment_explains() {
    let roles = roles();
    assert!(roles.len() > 10, "{roles:?}");
    for (role, comment) in &roles {
        let explained = comment.strip_prefix("# why: ").is_some_and(|why| why.len() > 20);
        assert!(
            ROLES.iter().any(|checked| checked.role == role) || explained,
            "{role}: say `# why: …` above it"
        );
        let name = role.trim_start_matches("roles/");
        assert!(!NEVER.contains(&name), "{role} is too much");
    }
    let granted: BTreeSet<&str> = roles.iter().map(|(role, _)| role.as_str()).collect();
    for Role { role, .. } in ROLES {
        assert!(granted.contains(role), "{role}, which doctor looks for, is granted to nobody");
    }
}

#[test]
fn nothing_expires_versions_or_is_deleted_by_itself() {
    let text = lines().join("\n");
    let subscriptions = text.matches("resource \"google_pubsub_subscription\" ").count();
    assert_eq!(subscriptions, 2);
    assert_eq!(text.matches("ttl = \"\"").count(), subscriptions);
    for setting in [
        "enable_message_ordering    = true",
        "minimum_backoff = \"10s\"",
        "maximum_backoff = \"600s\"",
        "max_delivery_attempts = 100",
        "uniform_bucket_level_access = true",
        "public_access_prevention    = \"enforced\"",
        "retention_duration_seconds = 0",
    ] {
        assert!(text.contains(setting), "{setting}");
    }
    // Jobs that were done may be forgotten after a message's life; nothing else of the token
    // bucket goes by itself.
    let tokens = fs::read_to_string(root().join("deploy/terraform/storage.tf")).unwrap();
    assert_eq!(tokens.matches("lifecycle_rule {").count(), 1);
    assert_eq!(tokens.matches("matches_prefix = [\"done/\"]").count(), 1);
    let versioning = text.split("versioning {").nth(1).unwrap();
    assert!(versioning.trim_start().starts_with("enabled = false"), "{versioning}");
    for never in [
        "google_secret_manager_secret_version\"",
        "google_service_account_key",
        // Of a condition on a grant, which would break listing.
        "expression",
    ] {
        assert!(!text.contains(never), "{never}");
    }
}

#[test]
fn every_variable_is_documented() {
    let text = lines().join("\n");
    for variable in text.split("\nvariable ").skip(1) {
        let name = variable.lines().next().unwrap();
        let body = variable.split("\n}").next().unwrap();
        let description = body.split("description = \"").nth(1).unwrap_or_else(|| panic!("{name}"));
        assert!(description.len() > 20, "{name}");
        assert!(body.contains("  type "), "{name}");
    }
}

//! What may be secret is neither committed nor uploaded nor copied into an image.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::{PAGES, read, root};

const START: &str = "# What may be secret.";

/// The patterns for secrets in one of the lists, without comments.
fn patterns(file: &str) -> Vec<String> {
    let text = read(file);
    let (_, secrets) = text.split_once(START).unwrap_or_else(|| panic!("{file}"));
    let lines = secrets.lines().skip(1).filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// The files that the commands of a page make, or read as secrets: `client.json` and the like.
fn made(page: &str) -> BTreeSet<String> {
    let text = read(page);
    let mut found = BTreeSet::new();
    let mut in_commands = false;
    for line in text.lines() {
        if let Some(block) = line.trim_start().strip_prefix("```") {
            in_commands = block == "console";
            continue;
        }
        if !in_commands || line.contains("gcloud monitoring") {
            continue;
        }
        let words = line.split(|c: char| c.is_whitespace() || "=\"'`();".contains(c));
        for word in words {
            let name = word.rsplit('/').next().unwrap();
            let kind = Path::new(name).extension().and_then(|kind| kind.to_str());
            if kind.is_some_and(|kind| ["json", "key", "tfvars"].contains(&kind)) {
                found.insert(name.to_owned());
            }
        }
    }
    found
}

#[test]
fn the_lists_are_one() {
    let ours = patterns(".gitignore");
    assert_eq!(patterns(".gcloudignore"), ours);
    let for_docker = |line: &String| match line.strip_prefix('!') {
        Some(kept) => format!("!**/{kept}"),
        None => format!("**/{}", line.trim_end_matches('/')),
    };
    assert_eq!(patterns(".dockerignore"), ours.iter().map(for_docker).collect::<Vec<_>>());
}

#[test]
fn what_the_pages_make_is_ignored() {
    let mut names: BTreeSet<String> = PAGES.iter().flat_map(|page| made(page)).collect();
    for expected in ["client.json", "keyring.json", "session.key", "me.json", "terraform.tfvars"] {
        assert!(names.contains(expected), "{expected} is in no command: {names:?}");
    }
    // What programs write beside them.
    let written =
        ["terraform.tfstate", "terraform.tfstate.backup", "broker.key", "client_secret_1.json"];
    names.extend(written.map(str::to_owned));
    // It is in the repository.
    names.remove("example.tfvars");
    for name in names {
        for path in [name.clone(), format!("deploy/terraform/{name}")] {
            let ignored = Command::new("git")
                .args(["check-ignore", "--quiet", "--no-index", &path])
                .current_dir(root())
                .status()
                .unwrap();
            assert!(ignored.success(), "{path} can be committed");
        }
    }
}

#[test]
fn what_belongs_to_the_repository_is_not_ignored() {
    let ignored = Command::new("git")
        .args(["ls-files", "--cached", "--ignored", "--exclude-standard"])
        .current_dir(root())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(ignored.stdout).unwrap(), "");
}

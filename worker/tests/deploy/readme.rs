//! The lines of Rust in the documentation are an example's, and those for a shell can be run as
//! they stand, one after another.

use super::{PAGES, read};

/// The blocks of Rust.
fn quoted(page: &str) -> Vec<&str> {
    let blocks = page.split("```rust\n").skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn what_is_quoted_stands_in_an_example() {
    let page = read("worker/docs/languages.md");
    let examples = ["official_client", "own_parts"].map(|name| {
        assert!(page.contains(&format!("`worker/examples/{name}.rs`")), "{name} is not named");
        read(&format!("worker/examples/{name}.rs"))
    });
    let blocks = quoted(&page);
    assert!(blocks.len() > 2, "{blocks:?}");
    for block in blocks {
        assert!(
            examples.iter().any(|example| example.contains(block)),
            "these lines are in no example:\n{block}"
        );
    }
    let lines = examples[0].lines().count();
    assert!(lines < 40, "official_client.rs has {lines} lines");
    assert!(page.contains(&format!("a whole program of {lines} lines")), "it has {lines}");
}

/// The lines for a shell, continued ones joined.
fn lines(page: &str) -> Vec<String> {
    let joined = page.replace("\\\n", " ");
    let lines = joined.lines().filter_map(|line| line.trim_start().strip_prefix("$ "));
    lines.map(str::to_owned).collect()
}

/// The way from an empty project to a fleet.
fn path_to_gke() -> String {
    read("deploy/README.md").split("\n## Without a cluster").next().unwrap().to_owned()
}

#[test]
fn the_path_to_gke_names_the_programs_that_it_runs() {
    const OF_EVERY_SHELL: [&str; 5] = ["cp", "eval", "export", "rm", "umask"];
    let path = path_to_gke();
    let needed = path.split("Needed here:").nth(1).unwrap().split("\n\n").next().unwrap();
    let mut programs = 0;
    for line in lines(&path) {
        for part in line.trim_start_matches('(').split("; ") {
            let program = part.split_whitespace().next().unwrap();
            if !OF_EVERY_SHELL.contains(&program) {
                assert!(needed.contains(&format!("`{program}`")), "{program}: {line}");
                programs += 1;
            }
        }
    }
    assert!(programs > 20, "{programs}");
}

#[test]
fn the_path_to_gke_logs_in_before_what_needs_it() {
    let lines = lines(&path_to_gke());
    let at = |text: &str| lines.iter().position(|line| line.starts_with(text)).unwrap();
    let login = at("gcloud auth application-default login");
    for needs in ["terraform ", "fleet keyring new "] {
        assert!(login < at(needs), "{needs}");
    }
}

/// Without it `fleet doctor` warns that the fleet has none, and cannot read what is sealed.
#[test]
fn the_doctor_is_shown_with_the_keyring_of_the_fleet() {
    let mut shown = 0;
    for page in ["deploy/README.md", "worker/docs/jobs.md"] {
        for section in read(page).split("\n## ") {
            let lines = lines(section);
            for (at, line) in lines.iter().enumerate().filter(|(_, l)| l.contains("fleet doctor")) {
                let in_a_pod = line.contains("exec deploy/fleet-worker -- ");
                let exported = lines[..at].iter().any(|l| l.contains("FLEET_KEYRING="));
                assert!(in_a_pod || exported || line.contains("--keyring "), "{page}: {line}");
                shown += 1;
            }
        }
    }
    assert_eq!(shown, 3);
}

/// A login leaves an active grant, which an import does not replace.
#[test]
fn no_block_brings_a_grant_in_twice() {
    for page in PAGES {
        for block in read(page).split("```console\n").skip(1) {
            let block = block.split("```").next().unwrap();
            let twice = block.contains("$ fleet login") && block.contains("$ fleet users import");
            assert!(!twice, "{page}:\n{block}");
        }
    }
}

#[test]
fn the_readme_ends_a_stack_before_it_starts_another_one() {
    let page = read("README.md");
    let stacks: Vec<&str> = page.split("$ fleet dev ").collect();
    assert_eq!(stacks.len(), 3);
    assert!(stacks[1].contains("Ctrl-C"), "`fleet dev env` would ask the first one");
    let before = page.split("```python").next().unwrap();
    assert!(before.trim_end().ends_with("`greet.py`:"), "the file that is started has that name");
}

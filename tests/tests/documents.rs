//! What the documents name exists, and their figures have a source.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use worker::job::{MAX_DATA_BYTES, MAX_JOB_ID_BYTES};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
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

/// Every file under a folder, but for what is built or installed there.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !path.is_dir() {
            found.push(path);
        } else if !["target", "node_modules", ".git"].contains(&name) {
            found.extend(files(&path));
        }
    }
    found
}

/// The pages that people read, by their path in the repository.
fn pages() -> Vec<(String, String)> {
    let pages =
        files(&root()).into_iter().filter(|path| path.extension().is_some_and(|e| e == "md"));
    let named = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(&path).unwrap())
    };
    let found: Vec<_> = pages.map(named).collect();
    assert!(found.len() > 12, "{} pages", found.len());
    found
}

/// The text of every file under these folders that ends so.
fn sources(folders: &[&str], ends: &[&str]) -> String {
    let all = folders.iter().flat_map(|folder| files(&root().join(folder)));
    let wanted = all.filter(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        ends.iter().any(|end| name.ends_with(end))
    });
    // Some are no text on purpose: credential files of other programs.
    wanted.map(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()).collect()
}

/// How GitHub names a heading in a link.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

fn anchors(page: &str) -> Vec<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

/// Links that leave the repository are not followed.
#[test]
fn every_link_leads_somewhere() {
    let mut followed = 0;
    for (name, text) in pages() {
        let folder = root().join(&name).parent().unwrap().to_owned();
        for link in text.split("](").skip(1) {
            let Some((target, _)) = link.split_once(')') else { continue };
            if target.contains("://") || target.starts_with("mailto:") || target.contains(' ') {
                continue;
            }
            let (path, part) = target.split_once('#').unwrap_or((target, ""));
            let file = if path.is_empty() { root().join(&name) } else { folder.join(path) };
            assert!(file.exists(), "{name} links to {target}, which is not there");
            if !part.is_empty() {
                let there = anchors(&std::fs::read_to_string(&file).unwrap());
                assert!(there.iter().any(|a| a == part), "{name}: no heading {target}");
            }
            followed += 1;
        }
    }
    assert!(followed > 30, "{followed} links");
}

/// One page that is read to its end.
#[test]
fn the_readme_is_short() {
    let page = std::fs::read_to_string(root().join("README.md")).unwrap();
    assert!(page.len() < 12 * 1024, "{} bytes", page.len());
}

#[test]
fn every_error_that_is_explained_is_said_somewhere() {
    let page = std::fs::read_to_string(root().join("worker/docs/errors.md")).unwrap();
    let places = ["worker/src", "shared/src", "tests/emulators/src"];
    let said = sources(&places, &[".rs"]);
    // Long texts are written in several lines.
    let said = said.replace("\\\n", "");
    let said: String = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut explained = 0;
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let text = row.split('`').nth(1).unwrap();
        assert!(said.contains(text), "nothing says {text:?}");
        explained += 1;
    }
    assert!(explained > 20, "{explained} errors are explained");
}

#[test]
fn every_variable_and_metric_that_is_named_exists() {
    let places = ["worker/src", "worker/tests", "shared/src", "tests", "deploy", ".ci"];
    let code = sources(&places, &[".rs", ".tf", ".yaml", ".env", ".py", "run", ".json", ".sh"]);
    let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let known: HashSet<&str> = code.split(word).collect();
    let mut named = 0;
    for (page, text) in pages() {
        for name in text.split(word).filter(|name| name.len() > "FLEET_".len()) {
            if name.starts_with("FLEET_") || name.starts_with("fleet_") {
                let exists = known.contains(name)
                    // A histogram's or summary's own series.
                    || ["_bucket", "_count", "_sum"].iter().any(|end| {
                        name.strip_suffix(end).is_some_and(|name| known.contains(name))
                    });
                assert!(exists, "{page} names {name}, which is nowhere");
                named += 1;
            }
        }
    }
    assert!(named > 40, "{named} names");
}

/// Each command has a row, and no row is without a command.
#[test]
fn every_command_is_listed() {
    let page = std::fs::read_to_string(root().join("worker/docs/commands.md")).unwrap();
    let rows = page.lines().skip_while(|line| !line.starts_with("| command")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let mut listed: Vec<&str> =
        rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2)).collect();
    listed.sort_unstable();
    let help = std::fs::read_to_string(root().join("worker/src/cli/help.rs")).unwrap();
    let groups = help.split("const GROUPS").nth(1).unwrap().split("];\n").next().unwrap();
    let mut there: Vec<&str> = groups
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter(|name| !["help", "completions"].contains(name))
        .collect();
    there.sort_unstable();
    assert_eq!(listed, there);
}

/// The numbers of a text, without commas between thousands.
fn numbers(text: &str) -> HashSet<String> {
    let parts = text.split(|c: char| !c.is_ascii_digit() && c != '.' && c != ',');
    let numbers = parts.map(|part| part.trim_matches(['.', ',']).replace(',', ""));
    numbers.filter(|number| !number.is_empty()).collect()
}

/// Whoever doubts one can measure it again.
#[test]
fn every_figure_of_the_readme_is_on_the_page_that_says_how_it_was_measured() {
    let measured = numbers(&(read("tests/bench/README.md") + &read("tests/unguarded/README.md")));
    let page = read("README.md");
    let section = page.split("\n## How fast it is\n").nth(1).unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    let mut figures = 0;
    for row in rows.take_while(|line| line.starts_with('|')) {
        for number in numbers(row) {
            assert!(measured.contains(&number), "{number} is on neither page: {row}");
            figures += 1;
        }
    }
    assert!(figures > 15, "{figures} figures");
}

#[test]
fn every_part_of_the_bench_that_is_named_exists() {
    let code = read("tests/bench/sections/mod.rs");
    let list = code.split("enum Section {").nth(1).unwrap().split('}').next().unwrap();
    let parts: HashSet<String> = list
        .lines()
        .filter_map(|line| line.trim().strip_suffix(','))
        .filter(|part| !part.starts_with('/'))
        .map(str::to_lowercase)
        .collect();
    let mut named = 0;
    let written = |path: &PathBuf| path.extension().is_some_and(|e| e == "md" || e == "json");
    for path in files(&root()).into_iter().filter(written) {
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        for (at, flag) in text.match_indices("--only ") {
            if !path.ends_with("tests/bench/README.md") && !text[..at].ends_with("bench ") {
                continue;
            }
            let told = text[at + flag.len()..].split([' ', '`', '\n']).next().unwrap();
            for part in told.split(',') {
                assert!(parts.contains(part), "{}: --only {part}", path.display());
                named += 1;
            }
        }
    }
    assert!(named > 1, "{named} parts are named, of {parts:?}");
}

#[test]
fn the_page_of_jobs_has_the_programs_defaults_and_limits() {
    let page = read("worker/docs/jobs.md");
    let flags = read("worker/src/cli/worker/jobs.rs");
    for (flag, told, default) in
        [("--retry-budget", "60 s", "60s"), ("--ordered-retry", "6 h", "6h")]
    {
        let variable = format!("FLEET_{}", flag[2..].to_uppercase().replace('-', "_"));
        let given = format!("env = \"{variable}\", default_value = \"{default}\"");
        assert!(flags.contains(&given), "{given}");
        assert!(page.contains(&format!("`{flag}` ({told})")), "{flag} is {told}");
    }
    let kind = format!("MAX_KIND_BYTES: usize = {MAX_JOB_ID_BYTES};");
    assert!(read("worker/src/job.rs").contains(&kind), "{kind}");
    let limits = format!(
        "at most {} MiB of data; `id` and `kind` have at most {MAX_JOB_ID_BYTES} bytes",
        MAX_DATA_BYTES / 1024 / 1024
    );
    assert!(page.contains(&limits), "{limits}");
    assert!(read("worker/src/dedupe/memory.rs").contains("const ENDS: usize = 100_000;"));
    assert!(page.contains("(the last 100,000)"));
}

#[test]
fn the_page_of_the_kind_api_has_its_limits() {
    let page = read("worker/docs/api.md");
    let answer = read("worker/src/kinds/answer.rs");
    for list in ["RATE_LIMITS", "QUOTAS"] {
        let names = answer.split(&format!("const {list}: ")).nth(1).unwrap();
        for name in names.split("];").next().unwrap().split('"').skip(1).step_by(2) {
            assert!(page.contains(&format!("`{name}`")), "{name} of {list}");
        }
    }
    let limits = read("worker/src/kinds/api/limits.rs");
    for (limit, told) in [
        ("INLINE: Duration = Duration::from_secs(5 * 60);", "1 to 300,"),
        ("OUTPUT: Duration = Duration::from_secs(30 * 60);", "with `output` 1 to 1800,"),
        ("REDIRECTS: u32 = 5;", "follow redirects, five at most"),
        ("MAX_PAGES: u32 = 10_000;", "at most 10,000;"),
    ] {
        assert!(limits.contains(limit), "{limit}");
        assert!(page.contains(told), "{told}");
    }
}

/// Help shows those that a flag has; these are nowhere else.
#[test]
fn every_variable_that_no_flag_has_is_on_the_page_of_commands() {
    let page = read("worker/docs/commands.md");
    let code = sources(&["worker/src/cli", "worker/src/telemetry"], &[".rs"]);
    let mut names = HashSet::new();
    for call in ["secret_url(\"", "get(\"", "var(\"", "var_os(\""] {
        let read = code.split(call).skip(1).map(|rest| rest.split('"').next().unwrap());
        names.extend(read.filter(|name| name.starts_with("FLEET_")));
    }
    assert!(names.len() > 4, "{names:?}");
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "{name}");
    }
}

/// Each was a second word for a thing, or no word at all.
#[test]
fn no_page_goes_back_to_words_that_were_given_up() {
    for (page, text) in pages() {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for words in ["main job", "looks whether", "Look whether", "no two clocks", "so long yet"] {
            assert!(!text.contains(words), "{page}: {words}");
        }
    }
}

/// What `tests/README.md` says of files; the unit tests in them do not count.
#[test]
fn no_production_file_has_more_than_400_lines() {
    let packages = ["shared", "worker", "tests", "tests/proof", "tests/unguarded"];
    let mut counted = 0;
    for path in packages.iter().flat_map(|package| files(&root().join(package).join("src"))) {
        if path.extension().is_none_or(|e| e != "rs") || path.ends_with("tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = code.lines().count();
        assert!(lines <= 400, "{} has {lines} lines: find its second room", path.display());
        counted += 1;
    }
    assert!(counted > 300, "{counted} files were counted");
}

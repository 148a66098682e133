//! What stands under `deploy/` agrees with the program: metrics, flags,
//! variables, roles, run book.
//!
//! Whether the files are valid for Kubernetes, Terraform and Prometheus is for
//! those tools to say: `.ci/deploy`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod commands;
mod dashboard;
mod ignored;
mod manifests;
mod monitoring;
mod operators;
mod query;
mod readme;
mod sizing;
mod terraform;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The pages that show commands.
const PAGES: [&str; 12] = [
    "README.md",
    "deploy/README.md",
    "deploy/RUNBOOK.md",
    "tests/README.md",
    "tests/bench/README.md",
    "worker/docs/api.md",
    "worker/docs/commands.md",
    "worker/docs/credentials.md",
    "worker/docs/dev.md",
    "worker/docs/errors.md",
    "worker/docs/jobs.md",
    "worker/docs/languages.md",
];

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file by its path from the root.
fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The documents of a YAML file.
fn yaml(path: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// A list, which may be absent.
fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A text that must be there.
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer}: {value}"))
}

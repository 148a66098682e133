//! A message's data to a job, beside `serde_json` of the same bytes into a struct of
//! the same fields, which checks nothing.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench fails by panicking")]

#[path = "../../../shared/benches/measuring/mod.rs"]
mod measuring;

use std::hint::black_box;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use worker::Job;

use measuring::Measured;

#[derive(Deserialize)]
#[expect(dead_code, reason = "parsed, and not looked at")]
struct Plain {
    id: String,
    user: String,
    kind: String,
    params: Map<String, Value>,
}

fn small() -> Value {
    json!({ "id": "job-17", "user": "109700000000000000007", "kind": "profile", "params": {} })
}

fn api() -> Value {
    json!({
        "id": "nightly-report-2026-01-01-000017",
        "user": "109700000000000000007",
        "kind": "api",
        "params": {
            "method": "POST",
            "url": "https://sheets.googleapis.com/v4/spreadsheets/fake-sheet/values/A1:append",
            "query": { "valueInputOption": "RAW", "fields": "updates" },
            "headers": { "x-goog-user-project": "my-project" },
            "body": { "values": [["2026-01-01", 17, true], ["2026-01-02", 18.5, null]] },
        },
    })
}

fn decoding(name: &'static str, job: &Value) -> Measured {
    let data = job.to_string();
    Measured::each(name, move || {
        black_box(Job::decode(black_box(data.as_bytes()), "message")).unwrap();
    })
}

fn plain(name: &'static str, job: &Value) -> Measured {
    let data = job.to_string();
    Measured::each(name, move || {
        black_box(serde_json::from_slice::<Plain>(black_box(data.as_bytes()))).unwrap();
    })
}

fn main() {
    measuring::run(
        "job",
        &[
            decoding("profile", &small()),
            plain("profile: serde_json", &small()),
            decoding("api", &api()),
            plain("api: serde_json", &api()),
        ],
    );
}

//! The sizing page's inputs that the program or a manifest decides.

use serde_json::Value;
use shared::Policy;

use super::commands::known;
use super::{list, read, text, yaml};

fn input(name: &str) -> f64 {
    let inputs: Value = serde_json::from_str(&read("deploy/sizing/inputs.json")).unwrap();
    inputs[name]["value"].as_f64().unwrap_or_else(|| panic!("{name}"))
}

fn assert_is(name: &str, value: f64) {
    assert!((input(name) - value).abs() < 1e-9, "{name} is {}, but really {value}", input(name));
}

#[test]
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn inputs_are_the_programs_defaults() {
    let policy = Policy::default();
    assert_is("refresh_ahead_s", policy.refresh_ahead.as_secs_f64());
    assert_is("lease_ttl_s", policy.lease_ttl.as_secs_f64());
    assert_is("cached_users", shared::DEFAULT_CACHED_USERS as f64);
    let help = known(&["worker"]).unwrap().text;
    let concurrency = format!("[default: {}]", input("concurrency"));
    let after = help.split("[env: FLEET_CONCURRENCY=]").nth(1).unwrap();
    assert!(after.trim_start().starts_with(&concurrency), "{concurrency}");
    assert_is("body_memory_bytes", worker::kinds::BODY_MEMORY as f64);
}

#[test]
fn inputs_are_the_manifests() {
    let worker = &yaml("deploy/kubernetes/base/worker.yaml")[0];
    let resources = &list(worker, "/spec/template/spec/containers")[0]["resources"];
    let memory = text(resources, "/limits/memory").strip_suffix("Mi").unwrap();
    assert_is("replica_memory_bytes", memory.parse::<f64>().unwrap() * 1024.0 * 1024.0);
    let cpu = text(resources, "/requests/cpu").strip_suffix('m').unwrap();
    assert_is("replica_vcpu", cpu.parse::<f64>().unwrap() / 1000.0);
    // More than it runs at once would take replicas from a busy fleet: sizing/autoscaler.py.
    let per_replica = 0.75 * input("concurrency");
    let scaler = &yaml("deploy/kubernetes/base/autoscaler.yaml")[0];
    let target = text(scaler, "/spec/metrics/0/external/target/averageValue");
    let keda = &yaml("deploy/kubernetes/overlays/keda/scaled-object.yaml")[0];
    for found in [target, text(keda, "/spec/triggers/0/metadata/threshold")] {
        assert_eq!(found, per_replica.to_string(), "three quarters of what a replica runs");
    }
}

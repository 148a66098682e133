//! An API call is exactly what the job says: real replicas before an API of which every byte
//! is known.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod calls;
mod jobs;
#[cfg(target_os = "linux")]
mod memory;
mod pages;
mod server;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tests::stage::{Cloud, Stage, full};
use worker::pubsub::{Outgoing, Publisher};

use server::Server;

const EXPORTS: &str = "stage-exports";

/// A stage whose APIs are `Server`, with the users `ann`, `bob`, `eve` and `joe`.
struct Scene {
    stage: Stage,
    api: Server,
}

impl Scene {
    async fn set() -> anyhow::Result<Self> {
        let mut stage = Stage::set(Cloud::embedded().await?).await?;
        let api = Server::start().await;
        stage.cloud.create_bucket(EXPORTS).await?;
        stage.variables.push(("FLEET_ALLOW_BUCKETS".to_owned(), EXPORTS.to_owned()));
        stage.variables.push(("FLEET_API_ROOT".to_owned(), api.origin.clone()));
        for user in ["ann", "bob", "eve", "joe"] {
            stage.write_user(user, Duration::from_secs(3600)).await?;
        }
        Ok(Self { stage, api })
    }

    /// Publishes messages as they are, without a check.
    async fn publish(&self, messages: impl IntoIterator<Item = Bytes>) -> anyhow::Result<()> {
        let jobs = Publisher::open(&self.stage.connection(), &full("topics", "jobs")).await?;
        for data in messages {
            let (attributes, ordering_key) = (HashMap::new(), String::new());
            jobs.publish(Outgoing { data, attributes, ordering_key }).await?;
        }
        Ok(())
    }

    /// What became of jobs, each as the bytes of its outcome, by ID.
    async fn outcomes(
        &self,
        jobs: &[String],
        flags: &[&str],
    ) -> anyhow::Result<BTreeMap<String, Told>> {
        let mut inbox = self.stage.inbox("outcomes").await?;
        let mut worker = self.stage.worker(flags).await?;
        self.publish(jobs.iter().cloned().map(Bytes::from)).await?;
        let mut told = BTreeMap::new();
        while told.len() < jobs.len() {
            let next = inbox.next_bytes().await;
            let (data, _) = next.with_context(|| format!("{:?}", told.keys()))?;
            let members: HashMap<String, &RawValue> = serde_json::from_slice(&data)?;
            // What is nested too deep for a `Value` is looked at as text.
            let member = |raw: &RawValue| serde_json::from_str(raw.get()).unwrap_or(Value::Null);
            let members = members.into_iter().map(|(name, raw)| (name, member(raw)));
            let outcome: Value = Value::Object(members.collect());
            let text = String::from_utf8(data.to_vec())?;
            told.insert(outcome["job"].as_str().unwrap().to_owned(), Told { text, outcome });
        }
        assert_eq!(worker.terminate().await?, 0, "{}", worker.log_text());
        let log = worker.log_text();
        assert!(!log.contains("ya29."), "{log}");
        Ok(told)
    }
}

/// An outcome as bytes and as JSON.
struct Told {
    text: String,
    outcome: Value,
}

impl Told {
    fn assert_done(&self, result: &str) {
        assert_eq!(self.outcome["status"], "done", "{}", self.text);
        assert!(self.text.contains(&format!("\"result\":{result},")), "{}", self.text);
    }

    fn assert_warned(&self, says: &str) {
        self.assert_done("null");
        assert_eq!(self.outcome["effect"], "done", "{}", self.text);
        assert!(self.outcome["warning"].as_str().unwrap().contains(says), "{}", self.text);
    }

    fn assert_rejected(&self, says: &str) {
        assert_eq!(self.outcome["status"], "rejected", "{}", self.text);
        assert!(self.outcome["error"].as_str().unwrap().contains(says), "{}", self.text);
    }
}

/// A job of `ann`'s with these parameters as they stand.
fn job(id: &str, params: &str) -> String {
    format!(r#"{{"id":"{id}","user":"ann","kind":"api","params":{params}}}"#)
}

/// A job of a path of `www.googleapis.com`, with more parameters.
fn call(id: &str, path: &str, more: &Value) -> String {
    let mut params = json!({"url": format!("https://www.googleapis.com{path}")});
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    job(id, &params.to_string())
}

//! Messages of a stage: jobs that are published, and what comes of them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use worker::pubsub::{Intake, IntakeSettings, OUTSTANDING_BYTES, Outgoing, Publisher, Source as _};

use super::{PATIENCE, Stage, full};

impl Stage {
    /// Publishes jobs, one JSON line each, ordered by user.
    ///
    /// # Errors
    /// When the command fails.
    pub async fn publish(&self, jobs: &[Value], flags: &[&str]) -> anyhow::Result<()> {
        let file = self.path("jobs.jsonl");
        let lines: Vec<String> = jobs.iter().map(ToString::to_string).collect();
        std::fs::write(&file, lines.join("\n"))?;
        let file = file.display().to_string();
        let mut args = vec!["publish", "--file", &file];
        args.extend(flags);
        let output = self.fleet(&args).await?;
        ensure!(output.code == 0, "publish failed: {}", output.stderr);
        Ok(())
    }

    /// Publishes jobs, ordered by user or not, as another program than `fleet publish` does,
    /// which refuses what a worker would reject.
    ///
    /// # Errors
    /// When Pub/Sub does not take one.
    pub async fn publish_unchecked(&self, jobs: &[Value], ordered: bool) -> anyhow::Result<()> {
        let publisher = Publisher::open(&self.connection(), &full("topics", "jobs")).await?;
        for job in jobs {
            let user = job["user"].as_str().filter(|_| ordered);
            let ordering_key = user.unwrap_or_default().to_owned();
            let data = job.to_string().into();
            let attributes = HashMap::new();
            publisher.publish(Outgoing { data, attributes, ordering_key }).await?;
        }
        Ok(())
    }

    /// Messages of a subscription.
    ///
    /// # Errors
    /// When the client cannot be built.
    pub async fn inbox(&self, subscription: &str) -> anyhow::Result<Inbox> {
        let settings = IntakeSettings {
            subscription: full("subscriptions", subscription),
            max_outstanding: 1000,
            max_outstanding_bytes: OUTSTANDING_BYTES,
            ack_extension: Duration::from_secs(60),
        };
        Ok(Inbox(Intake::open(&self.connection(), settings).await?))
    }
}

/// Messages, acknowledged as they are read.
#[derive(Debug)]
pub struct Inbox(Intake);

/// A message's data as JSON (or text) and its attributes.
pub type Letter = (Value, HashMap<String, String>);

impl Inbox {
    /// The next message.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn next(&mut self) -> anyhow::Result<Letter> {
        let (data, attributes) = self.next_bytes().await?;
        let value = serde_json::from_slice(&data)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&data).into_owned()));
        Ok((value, attributes))
    }

    /// The next message, its data as it is.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn next_bytes(&mut self) -> anyhow::Result<(bytes::Bytes, HashMap<String, String>)> {
        // What Google's emulator has given to a stream that ended comes again when its lease
        // of a minute is over, and not before.
        let delivery = tokio::time::timeout(2 * PATIENCE, self.0.next())
            .await
            .context("no message came in time")??;
        let data = delivery.received.data.clone();
        let attributes = delivery.received.attributes.clone();
        delivery.settle.ack().await;
        Ok((data, attributes))
    }

    /// Outcomes of so many different jobs, by job ID.
    ///
    /// # Errors
    /// When they do not come in time.
    pub async fn outcomes(&mut self, jobs: usize) -> anyhow::Result<BTreeMap<String, Value>> {
        let mut seen = BTreeMap::new();
        while seen.len() < jobs {
            let (outcome, _) = self.next().await.with_context(|| {
                format!("{} of {jobs} outcomes came: {:?}", seen.len(), seen.keys())
            })?;
            let job = outcome["job"].as_str().unwrap_or_default().to_owned();
            seen.entry(job).or_insert(outcome);
        }
        Ok(seen)
    }
}

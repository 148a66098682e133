//! A small program and its test, as a workspace beside this one would have them: it stores a
//! note in Cloud Storage and tells of it by Pub/Sub.
//!
//! ```text
//! cargo test -p emulators --example in_a_test
//! ```

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::StatusCode;
use serde_json::json;

const TOPIC: &str = "projects/my-project/topics/notes";
const BUCKET: &str = "my-notes";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let [storage, pubsub] = ["STORAGE_EMULATOR_HOST", "PUBSUB_EMULATOR_HOST"]
        .map(|name| std::env::var(name).with_context(|| format!("{name} is not set")));
    note(&storage?, &pubsub?, "hello.txt", "Hello.").await
}

/// Stores a note and tells of it.
async fn note(storage: &str, pubsub: &str, name: &str, text: &str) -> anyhow::Result<()> {
    let http = reqwest::Client::new();
    let objects = format!("{storage}/upload/storage/v1/b/{BUCKET}/o");
    let store = http.post(objects).query(&[("uploadType", "media"), ("name", name)]);
    let store = store.body(text.to_owned());
    let mut stored = store.try_clone().context("a text can be sent again")?.send().await?;
    if stored.status() == StatusCode::SERVICE_UNAVAILABLE {
        stored = store.send().await?;
    }
    stored.error_for_status()?;
    let message = json!({"data": BASE64_STANDARD.encode(name)});
    let publish = http.post(format!("http://{pubsub}/v1/{TOPIC}:publish"));
    publish.json(&json!({"messages": [message]})).send().await?.error_for_status()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use emulators::faults::Fault;
    use emulators::pubsub::{self, PubSub};
    use emulators::storage::{self, Operation, Storage};

    use super::*;

    #[tokio::test]
    async fn a_note_is_stored_and_told_of_though_the_service_fails_once() -> anyhow::Result<()> {
        let storage = Storage::start(storage::Config::default()).await?;
        storage.create_bucket(BUCKET)?;
        let pubsub = PubSub::start(pubsub::Config::default()).await?;
        pubsub.create_topic(TOPIC)?;
        let once = Fault::refusal(StatusCode::SERVICE_UNAVAILABLE).on(Operation::Write).times(1);
        let failed = storage.inject(once);

        let (origin, host) = (storage.http_origin(), pubsub.address().to_string());
        note(&origin, &host, "hello.txt", "Hello.").await?;

        assert_eq!(failed.count(), 1);
        let stored = storage.object(BUCKET, "hello.txt").context("it is stored")?;
        assert_eq!(stored.content, "Hello.");
        assert_eq!(storage.stats().writes, 1);
        pubsub.wait_for(|stats| stats.published == 1).await;
        Ok(())
    }
}

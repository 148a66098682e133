//! `fleet` with a kind of its own: `storage.read` reads an object with Google's official client.

use google_cloud_storage::client::Storage;
use serde_json::json;
use worker::{Job, Session, Verdict};

#[derive(serde::Deserialize)]
struct Params {
    bucket: String,
    object: String,
}

async fn read(job: &Job, session: &Session<'_>) -> Verdict {
    let Ok(Params { bucket, object }) = job.params.read() else {
        return Verdict::reject("`bucket` and `object` must be strings");
    };
    // The client asks these credentials before each request, so its token is fresh.
    let client = Storage::builder().with_credentials(session.google_credentials());
    let emulator = std::env::var("STORAGE_EMULATOR_HOST");
    let endpoint = emulator.as_deref().unwrap_or("https://storage.googleapis.com");
    let Ok(client) = client.with_endpoint(endpoint).build().await else {
        return Verdict::reject("the client cannot be built");
    };
    let reading = client.read_object(format!("projects/_/buckets/{bucket}"), object).send();
    match reading.await {
        Ok(content) => Verdict::done(json!({ "bytes": content.object().size })),
        // Reading has no effect, so it may be repeated.
        Err(error) => Verdict::of_google_error(&error, true),
    }
}

fn main() -> std::process::ExitCode {
    worker::fleet(|kinds| {
        kinds.handle("storage.read", read);
    })
}

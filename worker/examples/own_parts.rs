//! A program that brings its own parts: everything is connected as the environment says, and
//! the kind `greet`, the number of jobs at once and the end are its own.

use serde_json::json;
use worker::replica::Stop;
use worker::{Job, Session, Verdict, Worker};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let worker = Worker::from_env().await?.concurrency(4).handler(
        "greet",
        async |job: &Job, session: &Session| {
            Verdict::done(json!({ "hello": session.user().as_str(), "params": &job.params }))
        },
    );
    Ok(worker.build()?.run(Stop::by_signals()?).await?)
}

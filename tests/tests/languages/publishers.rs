//! Programs of other people on `fleet dev`, as the pages print them and by nothing but the
//! variables that it prints: they publish, and copy a file up and down.

use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;
use tests::dev::Dev;
use tests::stage::{PATIENCE, find_gcloud, fleet_binary, leave_out};
use tokio::process::Command;

use crate::programs::{Clients, clients, source};

/// The lines of a page's console blocks that begin so, in order, without their prompt.
fn printed(page: &str, begins: &str) -> anyhow::Result<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/docs");
    let text = std::fs::read_to_string(root.join(page))?;
    let lines = text.lines().filter_map(|line| line.strip_prefix("$ "));
    let found: Vec<String> =
        lines.filter(|line| line.starts_with(begins)).map(str::to_owned).collect();
    anyhow::ensure!(!found.is_empty(), "{page} has no {begins:?}");
    Ok(found)
}

/// A shell command or a program that knows the stack's variables and nothing else of this machine.
async fn run(
    dev: &Dev,
    folder: &Path,
    clients: Option<&Clients>,
    words: &[&str],
) -> anyhow::Result<()> {
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder)
        .env("CLOUDSDK_CORE_DISABLE_PROMPTS", "1")
        .env("NO_PROXY", "127.0.0.1,localhost")
        .envs(dev.variables.iter().map(|(name, value)| (name, value)))
        .envs(clients.map(Clients::libraries).into_iter().flatten())
        .current_dir(folder)
        .kill_on_drop(true);
    let done = tokio::time::timeout(PATIENCE, command.output())
        .await
        .with_context(|| format!("{words:?} does not end"))??;
    let said = String::from_utf8_lossy(&done.stderr);
    anyhow::ensure!(done.status.success(), "{words:?}: {said}");
    Ok(())
}

async fn dev() -> anyhow::Result<Dev> {
    let flags = ["--web", "0", "--users", "1", "--broker", "127.0.0.1:0"];
    Dev::start(&fleet_binary(), &flags).await
}

/// Waits for the outcome of the job that the pages publish.
async fn is_done(dev: &Dev) -> anyhow::Result<()> {
    let outcome: Value = dev.outcome().await?;
    assert_eq!(outcome["status"], "done", "{outcome}");
    assert_eq!(outcome["user"], "user-1");
    assert_eq!(outcome["kind"], "profile");
    Ok(())
}

#[tokio::test]
async fn publishers_in_python_and_node_run_as_printed() -> anyhow::Result<()> {
    let Some(clients) = clients("publishers::clients")? else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let dev = dev().await?;
    for (program, file) in [("python3", "python/publish.py"), ("node", "node/publish.js")] {
        let file = source(file);
        let words = [program, file.to_str().context("no text")?];
        run(&dev, folder.path(), Some(&clients), &words).await?;
        is_done(&dev).await.with_context(|| format!("after {program}"))?;
    }
    assert_eq!(dev.terminate().await?, Some(0));
    Ok(())
}

#[tokio::test]
async fn gcloud_publishes_and_copies_as_printed() -> anyhow::Result<()> {
    if let Err(missing) = find_gcloud() {
        return leave_out("languages::publishers::gcloud", &missing);
    }
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("note.txt"), "hello\n")?;
    let dev = dev().await?;
    for line in printed("jobs.md", "gcloud ")? {
        run(&dev, folder.path(), None, &["sh", "-c", &line]).await?;
        is_done(&dev).await?;
    }
    for line in printed("dev.md", "gcloud storage ")? {
        run(&dev, folder.path(), None, &["sh", "-c", &line]).await?;
    }
    assert_eq!(std::fs::read_to_string(folder.path().join("back.txt"))?, "hello\n");
    assert_eq!(dev.terminate().await?, Some(0));
    Ok(())
}

//! The handlers of the documentation, as they stand there, and as it says that they are started.

use std::path::Path;
use std::time::Duration;

use emulators::google;
use serde_json::{Value, json};

use crate::programs::{Language, clients, free_port, source, stage};
use crate::written::tells_no_secret;

const FILES: [(&str, &str, &str); 5] = [
    ("python/greet.py", "python", "languages.md"),
    ("python/app.py", "python", "languages.md"),
    ("node/index.js", "js", "languages.md"),
    ("python/publish.py", "python", "jobs.md"),
    ("node/publish.js", "js", "jobs.md"),
];

#[test]
fn the_page_shows_the_files_that_are_tested() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (file, language, page) in FILES {
        let name = page;
        let page = std::fs::read_to_string(root.join("worker/docs").join(page))?;
        let text = std::fs::read_to_string(source(file))?;
        let block = format!("```{language}\n{text}```\n");
        assert!(page.contains(&block), "{name} does not show tests/clients/{file} as it is");
    }
    // The README has the first of them, too.
    let page = std::fs::read_to_string(root.join("README.md"))?;
    let shown = page.split("```python\n").nth(1).and_then(|rest| rest.split("```").next());
    let text = std::fs::read_to_string(source("python/greet.py"))?;
    assert_eq!(shown, Some(&*text), "README.md");
    Ok(())
}

/// Each is told by the API to wait first, and passes that on.
#[tokio::test]
async fn the_pages_handlers_do_their_jobs() -> anyhow::Result<()> {
    let Some(clients) = clients("pages")? else { return Ok(()) };
    let stage = stage(google::Config::default()).await?;
    let kinds = ["functions", "flask", "node"];
    for kind in kinds {
        stage.write_user(kind, Duration::from_secs(3600)).await?;
        stage.google.limit_user(kind, 0, Duration::from_secs(1));
    }
    let ports = [free_port().await?, free_port().await?, free_port().await?];
    let handlers = [
        clients.function(&stage, Language::Python, "greet", ports[0]).await?,
        clients.flask(&stage, ports[1]).await?,
        clients.function(&stage, Language::Node, "index", ports[2]).await?,
    ];
    let routes: Vec<String> = kinds
        .iter()
        .zip(ports)
        .flat_map(|(kind, port)| {
            ["--forward".to_owned(), format!("{kind}=http://127.0.0.1:{port}/")]
        })
        .collect();
    let mut outcomes = stage.inbox("outcomes").await?;
    let flags: Vec<&str> = routes.iter().map(String::as_str).collect();
    let mut worker = stage.worker(&flags).await?;
    let job = |kind: &&str| {
        let params = json!({"title": format!("hello, {kind}")});
        json!({"id": kind, "user": kind, "kind": kind, "params": params})
    };
    let jobs: Vec<Value> = kinds.iter().map(job).collect();
    stage.publish(&jobs, &[]).await?;
    let told = outcomes.outcomes(kinds.len()).await?;
    assert!(told.values().all(|outcome| outcome["status"] == "done"), "{told:?}");
    assert_eq!(told["functions"]["result"], Value::Null, "a CloudEvent function returns nothing");
    for kind in ["flask", "node"] {
        let task = told[kind]["result"]["task"].as_str().unwrap_or_default();
        assert!(task.starts_with("task-"), "{:?}", told[kind]);
    }
    let effects = stage.google.effects();
    assert_eq!(effects.len(), kinds.len());
    assert!(effects.iter().all(|effect| effect.title == format!("hello, {}", effect.sub)));
    let stats = stage.google.stats(&google::StatsQuery::default());
    assert_eq!(stats.throttled, 3, "{stats:?}");
    assert_eq!(worker.terminate().await?, 0);
    tells_no_secret(&stage, &[&worker], &handlers.iter().collect::<Vec<_>>());
    Ok(())
}

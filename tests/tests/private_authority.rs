//! APIs and storage behind TLS with a certificate that no public authority has signed: a worker
//! trusts the one that `SSL_CERT_FILE` names, and nobody sends a token where it does not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};
use tests::stage::{Cloud, Stage};
use tests::tls::Tls;
use tokio::net::TcpListener;

const OUTPUTS: &str = "outputs";

/// The origin under which the server at `origin` is reached by TLS.
async fn behind_tls(tls: &Tls, origin: &str) -> anyhow::Result<String> {
    let server: SocketAddr = origin.strip_prefix("http://").unwrap().parse()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("https://{}", listener.local_addr()?);
    let tls = tls.clone();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move { tls.relay(connection, server).await });
        }
    });
    Ok(origin)
}

/// A stage on which storage and every API are behind TLS.
async fn stage(authority: &Path) -> anyhow::Result<Stage> {
    let mut stage = Stage::set(Cloud::embedded().await?).await?;
    stage.cloud.create_bucket(OUTPUTS).await?;
    stage.write_user("ann", std::time::Duration::from_secs(3600)).await?;
    let tls = Tls::of_private_authority(authority)?;
    let storage = behind_tls(&tls, &stage.cloud.storage).await?;
    let apis = behind_tls(&tls, &stage.google.origin()).await?;
    let variables = [
        ("STORAGE_EMULATOR_HOST", storage),
        ("FLEET_API_ROOT", apis),
        ("FLEET_ALLOW_BUCKETS", OUTPUTS.to_owned()),
    ];
    stage.variables.extend(variables.map(|(name, value)| (name.to_owned(), value)));
    Ok(stage)
}

fn jobs() -> [Value; 2] {
    let call = |id: &str, more: Value| {
        let mut params = json!({"method": "GET", "url": "https://www.googleapis.com/v1/userinfo"});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"id": id, "user": "ann", "kind": "api", "params": params})
    };
    [call("inline", json!({})), call("object", json!({"output": format!("gs://{OUTPUTS}/object")}))]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_trusts_the_authority_that_it_is_told_of() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = folder.path().join("authority.pem");
    let mut stage = stage(&authority).await?;
    let file = authority.display().to_string();
    stage.variables.push(("SSL_CERT_FILE".to_owned(), file));
    let mut inbox = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&[]).await?;
    stage.publish(&jobs(), &[]).await?;
    let told = inbox.outcomes(2).await?;
    for id in ["inline", "object"] {
        assert_eq!(told[id]["status"], "done", "{}", told[id]);
    }
    assert_eq!(told["inline"]["result"]["sub"], "ann");
    let stored: Value = serde_json::from_str(&stage.cloud.object(OUTPUTS, "object").await?)?;
    assert_eq!(stored["sub"], "ann");
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}

/// A worker tries again, and no token leaves it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_nobody_named_is_not_trusted() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut stage = stage(&folder.path().join("authority.pem")).await?;
    // Storage is reached as before; the APIs are not.
    let storage = ("STORAGE_EMULATOR_HOST".to_owned(), stage.cloud.storage.clone());
    stage.variables.push(storage);
    let mut worker = stage.worker(&[]).await?;
    stage.publish(&jobs()[..1], &[]).await?;
    worker
        .wait_for_message("the API cannot be reached: invalid peer certificate: UnknownIssuer")
        .await?;
    let calls = stage.google.stats(&emulators::google::StatsQuery::default());
    assert_eq!(calls.api_calls, 0);
    drop(worker);
    Ok(())
}

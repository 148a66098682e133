//! Whom the token endpoint refuses, and settings that are refused.

use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::json;
use tests::stage::{Cloud, Stage};

use crate::acting::job;
use crate::function::{Function, answered};

#[tokio::test]
async fn the_token_endpoint_serves_this_machines_programs_only() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    stage.user("ann", Duration::ZERO).await?;
    let function = Function::start(|event| {
        async move {
            let form = format!(
                "grant_type=refresh_token&client_id=fleet&client_secret={}&refresh_token=ann",
                event.handle()
            );
            for (form, headers, status, error) in [
                (form.clone(), &[("host", "evil.test")][..], 403, "invalid_request"),
                (form.clone(), &[("origin", "http://127.0.0.1")], 403, "invalid_request"),
                (form.clone() + "&refresh_token=ann", &[], 400, "invalid_request"),
                (form.clone() + "&x=1&x=2", &[], 400, "invalid_request"),
                (form.replace("refresh_token&", "password&"), &[], 400, "unsupported_grant_type"),
                (form.replace("client_secret=", "client_secret=x"), &[], 400, "invalid_grant"),
            ] {
                let (said, answer) = event.post(form, headers).await;
                assert_eq!((said, answer["error"].as_str()), (status, Some(error)));
                assert!(answer["access_token"].is_null());
            }
            let (status, answer) = event.post(form, &[]).await;
            assert_eq!((status, &answer["token_type"]), (200, &json!("Bearer")));
            answered(200)
        }
        .boxed()
    })
    .await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let flags = ["--forward", &function.route("greet"), "--forward-once", "greet"];
    let mut worker = stage.worker(&flags).await?;
    stage.publish(&[job("job", "ann")], &[]).await?;
    let told = outcomes.outcomes(1).await?;
    assert_eq!(told["job"]["status"], "done", "{told:?}");
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}

#[tokio::test]
async fn settings_that_would_open_more_are_refused() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    let good = "greet=http://127.0.0.1:1/";
    for (flags, says) in [
        (&["--forward", "greet=http://localhost:1/"][..], "names no server of this machine"),
        (&["--forward", "greet=http://10.0.0.1:1/"], "names no server of this machine"),
        (&["--forward", "Greet=http://127.0.0.1:1/"], "is no kind"),
        (&["--forward", "profile=http://127.0.0.1:1/"], "kind profile is built in"),
        (&["--forward", good, "--forward", good], "names kind greet twice"),
        (&["--forward", good, "--forward-once", "other"], "--forward-once names kind"),
        (&["--forward", good, "--forward-timeout", "56m"], "--forward-timeout is 3360s"),
        (&["--forward", good, "--token-listen", "0.0.0.0:0"], "must be a loopback address"),
    ] {
        let output = stage.fleet(&[&["worker"], flags].concat()).await?;
        assert_eq!(output.code, 2, "{flags:?}: {}", output.stderr);
        assert!(output.stderr.contains(says), "{flags:?}: {}", output.stderr);
    }
    Ok(())
}

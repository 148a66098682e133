//! Messages that are no jobs are refused with what they are, and nothing of them is quoted.

use bytes::Bytes;

use super::{Scene, job};

#[tokio::test]
async fn what_is_no_job_is_told_by_what_it_is() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let good = job("good", r#"{"url":"https://www.googleapis.com/fake-secret"}"#);
    let twice = serde_json::to_string(&good)?;
    let cases: Vec<(Bytes, &str)> = vec![
        (format!("[{good}]").into(), "a JSON array"),
        (r#"["fake-secret","ann","api",{}]"#.into(), "a JSON array"),
        (twice.into(), "encoded twice"),
        (
            r#"{"message":{"data":"fake-secret","messageId":"1"},"subscription":"s"}"#.into(),
            "envelope of a push subscription",
        ),
        (
            r#"{"specversion":"1.0","id":"1","source":"fake-secret","type":"t","data":{}}"#.into(),
            "CloudEvents",
        ),
        (format!("{{\"a\":{}", "[".repeat(200_000)).into(), "more than 512 deep"),
        (good.replace("\"ann\"", "[\"fake-secret\"]").into(), "`user` must be a string"),
        (
            good.replace("{\"url\"", "{\"fake-secret\"").replace("params", "param").into(),
            "unknown field `param`",
        ),
        (good[..good.len() - 2].to_owned().into(), "ends too early"),
    ];
    let mut dead = scene.stage.inbox("jobs-dead-review").await?;
    let mut outcomes = scene.stage.inbox("outcomes").await?;
    let mut worker = scene.stage.worker(&[]).await?;
    for (data, says) in cases {
        scene.publish([data.clone()]).await?;
        let (letter, attributes) = dead.next_bytes().await?;
        assert_eq!(letter, data, "every byte of it");
        let reason = &attributes["reason"];
        assert!(reason.contains(says) && !reason.contains("fake"), "{reason}");
        let (outcome, _) = outcomes.next_bytes().await?;
        assert!(!String::from_utf8_lossy(&outcome).contains("fake"), "{outcome:?}");
    }
    // A byte-order mark in front is none of the publisher's business.
    scene.publish([format!("\u{feff}{good}").into()]).await?;
    assert_eq!(outcomes.outcomes(1).await?["good"]["status"], "done");
    assert_eq!(worker.terminate().await?, 0);
    let log = worker.log_text();
    assert!(!log.contains("fake-secret"), "{log}");
    Ok(())
}

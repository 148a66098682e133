//! Answers that are grants, whatever else is odd in them: nothing in one may cost it.

use emulators::google;
use serde_json::{Value, json};
use tests::gateway::{JSON, Manner, answer};
use tests::stage::Stage;

use crate::job;

/// The emulator's grant, changed.
fn grant(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Manner {
    Manner::edited(move |_, granted| {
        let mut granted = granted.clone();
        change(&mut granted);
        answer(200, &[JSON], granted.to_string().as_bytes())
    })
}

/// The text of the emulator's grant, changed.
fn text(
    status: u16,
    content_type: &'static str,
    change: impl Fn(String) -> String + Send + Sync + 'static,
) -> Manner {
    Manner::edited(move |_, granted| {
        let body = change(granted.to_string());
        answer(status, &[("content-type", content_type)], body.as_bytes())
    })
}

/// A field of the grant; a JSON text that need not be one.
fn field(name: &'static str, value: &'static str) -> Manner {
    text(200, "application/json", move |granted| {
        let open = granted.trim_end_matches('}');
        format!(r#"{open},"{name}":{value}}}"#)
    })
}

/// Each is stored, and the job of its user runs: two jobs one after the other make one call.
#[tokio::test]
async fn a_grant_in_odd_clothes_is_stored_and_its_job_runs() -> anyhow::Result<()> {
    let deep: &'static str = Box::leak(format!("{}1{}", "[".repeat(200), "]".repeat(200)).into());
    let cases: Vec<(&str, Manner)> = vec![
        ("expires_in text", grant(|g| g["expires_in"] = json!("3599"))),
        ("expires_in fraction", grant(|g| g["expires_in"] = json!(3145.327))),
        ("expires_in negative", grant(|g| g["expires_in"] = json!(-1))),
        ("expires_in empty", grant(|g| g["expires_in"] = json!(""))),
        ("expires_in huge", field("expires_in", "9223372036854775807")),
        ("no token_type", grant(|g| drop(g.as_object_mut().unwrap().remove("token_type")))),
        ("scope array", grant(|g| g["scope"] = json!(["openid", "email"]))),
        ("scope empty", grant(|g| g["scope"] = json!(""))),
        ("scope two spaces", grant(|g| g["scope"] = json!("  "))),
        ("byte-order mark", text(200, "application/json", |g| format!("\u{feff}{g}"))),
        ("text/html", text(200, "text/html", |g| g)),
        ("201", text(201, "application/json", |g| g)),
        ("1e400 elsewhere", field("quota", "1e400")),
        ("lone surrogate elsewhere", field("note", r#""\ud800""#)),
        ("depth elsewhere", field("nested", deep)),
        ("something behind it", text(200, "application/json", |g| format!("{g}\n<!-- ok -->"))),
    ];
    let stage = Stage::behind_gateway(google::Config::default()).await?;
    let users: Vec<String> = (0..cases.len()).map(|number| format!("user-{number}")).collect();
    for user in &users {
        stage.write_expired_user(user).await?;
    }
    let manners: Vec<Manner> = cases.iter().map(|(_, manner)| manner.clone()).collect();
    stage.gateway().script(move |asked| {
        let number = asked.user.as_deref().and_then(|user| user.strip_prefix("user-"));
        number
            .and_then(|n| n.parse::<usize>().ok())
            .map_or_else(Manner::honest, |n| manners[n].clone())
    });
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&["--lease-ttl", "6s"]).await?;
    for round in ["first", "second"] {
        let jobs: Vec<Value> =
            users.iter().map(|user| job(&format!("{user}-{round}"), user)).collect();
        stage.publish(&jobs, &["--unordered"]).await?;
        let told = outcomes.outcomes(jobs.len()).await?;
        for ((case, _), user) in cases.iter().zip(&users) {
            let outcome = &told[&format!("{user}-{round}")];
            assert_eq!(outcome["status"], "done", "{case}: {outcome}");
        }
    }
    assert_eq!(worker.terminate().await?, 0);
    let passages = stage.gateway().passages();
    for ((case, _), user) in cases.iter().zip(&users) {
        let calls = passages.iter().filter(|p| p.user.as_ref() == Some(user)).count();
        assert_eq!(calls, 1, "{case}: one refresh for two jobs");
        let record = stage.record(user).await?;
        assert_eq!(record["state"], "active", "{case}");
        let scopes = record["scopes"].as_array().unwrap();
        assert!(!scopes.is_empty() && !scopes.contains(&json!("")), "{case}: {scopes:?}");
        let life = record["expires_in"].as_u64().unwrap_or_default();
        assert!(life <= 24 * 3600, "{case}: {life} s");
    }
    Ok(())
}

/// Without an access token that can be used the grant is stored and its user blocked: the next
/// refresh presents the successor, not the spent one.
#[tokio::test]
async fn a_grant_without_a_usable_access_token_is_kept() -> anyhow::Result<()> {
    let cases: [(&str, Manner); 3] = [
        ("absent", grant(|g| drop(g.as_object_mut().unwrap().remove("access_token")))),
        ("two lines", grant(|g| g["access_token"] = json!("ya29.fake\r\nx: y"))),
        ("empty", grant(|g| g["access_token"] = json!(""))),
    ];
    for (case, odd) in cases {
        let stage = Stage::behind_gateway(google::Config::default()).await?;
        stage.write_expired_user("ann").await?;
        let spent = stage.record("ann").await?["refresh_token"].clone();
        stage.gateway().script(move |_| odd.clone());
        let output = stage.fleet(&["token", "ann"]).await?;
        assert_ne!(output.code, 0, "{case}: {}", output.stdout);
        assert_eq!(output.stdout, "", "{case}");
        let record = stage.record("ann").await?;
        assert_eq!(record["state"], "active", "{case}");
        assert_ne!(record["refresh_token"], spent, "{case}: the successor is stored");
        assert_eq!(record["blocked"]["code"], "no_access_token", "{case}");
    }
    Ok(())
}

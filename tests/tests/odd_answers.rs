//! What a provider answers oddly costs nobody a grant, against the identity emulator,
//! which rotates refresh tokens and ends the grant when one is presented twice.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use emulators::faults::{Answer, Fault};
use emulators::google::{ClientKind, Config, Google, Operation, StatsQuery, User};
use http::StatusCode;
use serde_json::json;
use shared::adapters::{HttpTokenEndpoint, MemoryBucket, http_client};
use shared::ports::{Limits, TokenEndpoint as _};
use shared::{Error, Grant, OAuthClient, Secret, TokenStore, UserId};
use tests::stage::{BUCKET, Cloud, Stage};

struct Scene {
    google: Google,
    endpoint: Arc<HttpTokenEndpoint>,
    store: TokenStore,
    user: UserId,
    /// The user's refresh token and the client's secret, as they were given.
    secrets: [String; 2],
}

impl Scene {
    async fn new() -> anyhow::Result<Self> {
        let google = Google::start(Config { rotate: true, ..Config::default() }).await?;
        let file = google.client_json(ClientKind::Installed, &[]);
        let client = OAuthClient::from_json(file.to_string().as_bytes())?;
        let endpoint = Arc::new(HttpTokenEndpoint::new(&client, http_client("odd-answers")?)?);
        let bucket = Arc::new(MemoryBucket::default());
        let store =
            TokenStore::builder(bucket, Arc::<HttpTokenEndpoint>::clone(&endpoint)).build()?;
        let user = UserId::new("ann")?;
        let granted =
            google.add_user(User { sub: "ann".to_owned(), ..User::default() }, ["openid"]);
        let secret = client.client_secret().unwrap().expose().to_owned();
        let scene = Self {
            google,
            endpoint,
            store,
            user,
            secrets: [granted.refresh_token.clone(), secret],
        };
        let grant = Grant {
            refresh_token: Some(Secret::new(granted.refresh_token)),
            scopes: granted.scopes,
            ..Grant::default()
        };
        scene.store.import(&scene.user, grant, false).await?;
        Ok(scene)
    }

    fn inject(&self, answer: Answer) {
        self.google.inject(Fault::answer(answer).on(Operation::Token).times(1));
    }
}

#[tokio::test]
async fn odd_grants_are_stored_and_used() -> anyhow::Result<()> {
    const TOKENS: &str = r#""access_token":"{access_token}","refresh_token":"{refresh_token}""#;
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for (status, body) in [
        (200, format!(r#"{{{TOKENS},"expires_in":"3599"}}"#)),
        (200, format!(r#"{{{TOKENS},"expires_in":3145.327}}"#)),
        (200, format!(r#"{{{TOKENS},"expires_in":-1}}"#)),
        (200, format!(r#"{{{TOKENS},"expires_in":""}}"#)),
        (200, format!(r#"{{{TOKENS},"expires_in":9223372036854775807}}"#)),
        (200, format!(r#"{{{TOKENS},"scope":["a","b"],"token_type":7}}"#)),
        (200, format!(r#"{{{TOKENS},"scope":""}}"#)),
        (200, format!("\u{feff}{{{TOKENS}}}")),
        (201, format!("{{{TOKENS}}} and more")),
        (203, format!(r#"{{"x":1e400,"y":"\ud800","z":{deep},{TOKENS}}}"#)),
        (200, "access_token={access_token}&refresh_token={refresh_token}&scope=".to_owned()),
    ] {
        let scene = Scene::new().await?;
        let answer = Answer::new(StatusCode::from_u16(status)?, body.clone()).carried_out();
        scene.inject(answer.header("content-type", "text/html"));
        let held = scene.store.get_credentials(&scene.user).await;
        held.map_err(|error| anyhow::anyhow!("{body}: {error}"))?;
        let record = scene.store.read_record(&scene.user).await?;
        assert_ne!(record.refresh_token.expose(), scene.secrets[0], "{body}");
        assert!(record.scopes.iter().all(|scope| !scope.is_empty()), "{body}");
        let life = record.expires_in.unwrap_or_default().as_secs();
        assert!((1..=86_400).contains(&life), "{body}: {life}");
        // What was stored is what the provider will take next.
        let limits = Limits { connect: Duration::from_secs(5), answer: Duration::from_secs(60) };
        let next = scene.endpoint.refresh(&record.refresh_token, limits).await;
        next.map_err(|error| anyhow::anyhow!("{body}: {error}"))?;
        let stats = scene.google.stats(&StatsQuery { sub: Some("ann".to_owned()) });
        assert_eq!((stats.refreshed, stats.reused), (2, 0), "{body}");
    }
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_quotes_the_request_tells_no_secret() -> anyhow::Result<()> {
    for code in ["access_denied", "invalid_grant", "temporarily_unavailable"] {
        let scene = Scene::new().await?;
        let [refresh_token, client_secret] = &scene.secrets;
        let quoted = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("client_secret", client_secret)
            .append_pair("refresh_token", refresh_token)
            .finish();
        let body = json!({"error": code, "error_description": format!("got {quoted}")});
        let answer = Answer::new(StatusCode::BAD_REQUEST, body.to_string());
        scene.google.inject(Fault::answer(answer).on(Operation::Token));
        let error: Error = scene.store.get_credentials(&scene.user).await.unwrap_err();
        let record = scene.store.read_record(&scene.user).await?;
        let told = format!("{error} {error:?} {:?}", record.reason);
        for secret in ["GOCSPX", "1//", "1%2F%2F"] {
            assert!(!told.contains(secret), "{told}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_a_provider_says_by_mistake_is_asked_again() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    let rapt = r#"{"error":"invalid_grant","error_subtype":"invalid_rapt"}"#;
    for retry in [&["users", "retry", "ann"][..], &["users", "retry", "--revoked-since", "1h"]] {
        stage.user_without_access_token("ann").await?;
        let answer = Answer::new(StatusCode::BAD_REQUEST, rapt);
        let mistake = Fault::answer(answer).on(Operation::Token);
        let mistake = stage.google.inject(mistake);
        assert_eq!(stage.fleet(&["token", "ann"]).await?.code, 3);
        let record = stage.record("ann").await?;
        assert_eq!(
            (&record["state"], &record["reason"]),
            (&"revoked".into(), &"session_expired".into())
        );
        let shown = stage.fleet(&["users", "show", "ann"]).await?.stdout;
        assert!(shown.contains("sign in again from time to time"), "{shown}");
        // Still so: nothing has changed, and the exit code says what is needed.
        assert_eq!(stage.fleet(&["users", "retry", "ann"]).await?.code, 3);
        // Of those whom a time finds they are counted, also where it finds one.
        let output = stage.fleet(&["users", "retry", "--revoked-since", "1h", "--json"]).await?;
        assert_eq!(output.code, 0, "{}", output.stderr);
        let counts: serde_json::Value = serde_json::from_str(&output.stdout)?;
        assert_eq!(counts, json!({"active": 0, "rejected": 1, "failed": 0}));
        mistake.lift();
        let output = stage.fleet(retry).await?;
        assert_eq!(output.code, 0, "{}", output.stderr);
        assert_eq!(stage.record("ann").await?["state"], "active");
        assert_eq!(stage.fleet(&["token", "ann"]).await?.code, 0);
        stage.fleet(&["users", "delete", "ann", "--yes"]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_revocation_that_is_not_confirmed_keeps_the_record() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    stage.user_without_access_token("ann").await?;
    for (status, body) in [
        (400, r#"{"error":"unsupported_token_type"}"#),
        (400, r#"{"error":"invalid_client"}"#),
        (400, "<html>The page cannot be displayed</html>"),
        (302, ""),
        (503, ""),
    ] {
        let answer = Answer::new(StatusCode::from_u16(status)?, body);
        stage.google.inject(Fault::answer(answer).on(Operation::Revoke).times(1));
        let output = stage.fleet(&["users", "revoke", "ann", "--yes"]).await?;
        assert_eq!(output.code, 1, "{status} {body}: {}", output.stderr);
        assert!(output.stderr.contains("the record stays"), "{}", output.stderr);
        assert!(output.stderr.contains("fleet users delete"), "{}", output.stderr);
        assert_eq!(stage.record("ann").await?["state"], "active", "{status} {body}");
    }
    assert_eq!(stage.fleet(&["users", "revoke", "ann", "--yes"]).await?.code, 0);
    assert!(stage.cloud.object(BUCKET, "tokens/ann.json").await.is_err(), "it is gone");
    Ok(())
}

//! What is refused, and whose trouble it is: one user's stops that user, the client's stops
//! nobody who has a token, and *not now* is tried later.

use std::time::Duration;

use emulators::google;
use serde_json::Value;
use tests::gateway::{Asked, End, JSON, Manner, Passage};
use tests::stage::{Inbox, Stage, Worker};
use tokio::time::Instant;

use crate::{job, wait_for};

const FLAGS: [&str; 4] = ["--lease-ttl", "6s", "--wait-limit", "30s"];
const HEALTHY: [&str; 12] =
    ["u01", "u02", "u03", "u04", "u05", "u06", "u07", "u08", "u09", "u10", "u11", "u12"];

/// One user of thirteen whom the endpoint answers like this.
struct Scene {
    stage: Stage,
    outcomes: Inbox,
    workers: Vec<Worker>,
    /// Her job is parked.
    parked: bool,
}

impl Scene {
    /// Three replicas; `eve` and twelve others, all without an access token.
    async fn set(eve: impl Fn(&Asked) -> Manner + Send + Sync + 'static) -> anyhow::Result<Self> {
        let stage = Stage::behind_gateway(google::Config::default()).await?;
        for user in HEALTHY.into_iter().chain(["eve"]) {
            stage.write_expired_user(user).await?;
        }
        stage.gateway().script(move |asked| match asked.user.as_deref() {
            Some("eve") | None => eve(asked),
            _ => Manner::honest(),
        });
        let outcomes = stage.inbox("outcomes").await?;
        let (a, b, c) =
            tokio::join!(stage.worker(&FLAGS), stage.worker(&FLAGS), stage.worker(&FLAGS));
        Ok(Self { stage, outcomes, workers: vec![a?, b?, c?], parked: false })
    }

    async fn publish(&self, user: &str, id: &str) -> anyhow::Result<()> {
        self.stage.publish(&[job(id, user)], &["--unordered"]).await
    }

    /// Everybody but `eve` has a job, which is done.
    async fn the_healthy_are_served(&mut self, round: &str) -> anyhow::Result<()> {
        for user in HEALTHY {
            self.publish(user, &format!("{user}-{round}")).await?;
        }
        let mut done = 0;
        while done < HEALTHY.len() {
            let (outcome, _) = self.outcomes.next().await?;
            let id = outcome["job"].as_str().unwrap_or_default();
            if id.starts_with("eve") {
                self.parked = outcome["status"] == "parked";
            } else {
                assert_eq!(outcome["status"], "done", "{outcome}");
                done += 1;
            }
        }
        Ok(())
    }

    /// Her job is parked by now, or soon.
    async fn eve_is_parked(&mut self) -> anyhow::Result<()> {
        if !self.parked {
            let (outcome, _) = self.outcomes.next().await?;
            assert_eq!((&outcome["job"], &outcome["status"]), (&"eve-1".into(), &"parked".into()));
        }
        Ok(())
    }

    /// Calls for `eve` so far.
    fn calls(&self) -> usize {
        let passages = self.stage.gateway().passages();
        passages.iter().filter(|passage| passage.user.as_deref() == Some("eve")).count()
    }

    async fn end(mut self) -> anyhow::Result<Stage> {
        for worker in &mut self.workers {
            assert_eq!(worker.terminate().await?, 0);
            let log = worker.log_text();
            for secret in ["ya29.", "1//", "GOCSPX"] {
                assert!(!log.contains(secret), "{secret} in the log: {log}");
            }
        }
        Ok(self.stage)
    }
}

/// What is refused for one user is not the client's trouble: the others go on, before and after.
/// The made-up question is answered as an unknown token is.
#[tokio::test]
async fn a_user_who_is_refused_stops_nobody_else() -> anyhow::Result<()> {
    let html = &[("content-type", "text/html")];
    let cases: [(&str, Manner); 4] = [
        ("admin_policy", Manner::error(400, "admin_policy_enforced", "blocked by the admin")),
        ("account_restricted", Manner::error(400, "access_denied", "Account restricted")),
        ("blocked", Manner::error(400, "interaction_required", "sign in")),
        ("", Manner::refused(403, html, "<h1>forbidden</h1>")),
    ];
    for (reason, refusal) in cases {
        let mut scene = Scene::set(move |asked| match asked.user {
            Some(_) => refusal.clone(),
            None => Manner::honest(),
        })
        .await?;
        let began = Instant::now();
        scene.publish("eve", "eve-1").await?;
        wait_for(&scene.stage, |passages| {
            passages.iter().any(|p| p.user.as_deref() == Some("eve") && p.end != End::Pending)
        })
        .await?;
        scene.the_healthy_are_served("first").await?;
        scene.the_healthy_are_served("second").await?;
        if !reason.is_empty() {
            scene.eve_is_parked().await?;
        }
        // A block ends the calls; a page is tried again, a few times under each lease.
        let leases = if reason.is_empty() { 1 + began.elapsed().as_secs() / 6 } else { 1 };
        assert!(scene.calls() as u64 <= 3 * leases, "{reason}: {} calls", scene.calls());
        let stage = scene.end().await?;
        let record = stage.record("eve").await?;
        assert_eq!(record["state"], "active", "{reason}");
        assert_eq!(record["blocked"].is_object(), !reason.is_empty(), "{reason}: {record}");
    }
    Ok(())
}

/// Some providers say `invalid_request` or `invalid_client` for a token that is dead or unknown.
#[tokio::test]
async fn a_dead_token_in_the_providers_own_word_stops_only_its_user() -> anyhow::Result<()> {
    for (status, word) in [(400, "invalid_request"), (401, "invalid_client")] {
        let dead = Manner::error(status, word, "the token is not valid");
        let mut scene = Scene::set(move |_| dead.clone()).await?;
        scene.publish("eve", "eve-1").await?;
        scene.the_healthy_are_served("first").await?;
        scene.the_healthy_are_served("second").await?;
        scene.eve_is_parked().await?;
        let stage = scene.end().await?;
        let record = stage.record("eve").await?;
        assert_eq!(record["blocked"]["code"], word, "{record}");
        assert_eq!(record["state"], "active", "{word}");
    }
    Ok(())
}

/// A wait that one user is told is that user's.
#[tokio::test]
async fn who_is_told_to_wait_waits_alone() -> anyhow::Result<()> {
    for status in [429, 503] {
        let wait = [JSON, ("retry-after", "600")];
        let wait = Manner::refused(status, &wait, r#"{"error":"temporarily_unavailable"}"#);
        let mut scene = Scene::set(move |_| wait.clone()).await?;
        scene.publish("eve", "eve-1").await?;
        scene.the_healthy_are_served("first").await?;
        scene.the_healthy_are_served("second").await?;
        assert!(scene.calls() <= 3, "{status}: {} calls by three replicas", scene.calls());
        let stage = scene.end().await?;
        let record = stage.record("eve").await?;
        assert_eq!((&record["state"], record["blocked"].is_null()), (&"active".into(), true));
    }
    Ok(())
}

/// One answer that is odd once: the job is done a little later, and nobody is locked out.
#[tokio::test]
async fn what_is_odd_once_is_tried_later() -> anyhow::Result<()> {
    let html = &[("content-type", "text/html")];
    let busy = "token request is already being processed";
    let cases: [(&str, Manner); 5] = [
        ("overlap", Manner::error(400, "invalid_grant", busy)),
        ("403 page", Manner::refused(403, html, "<h1>Sorry</h1>")),
        ("400 page", Manner::refused(400, html, "<h1>Bad request</h1>")),
        ("short wait", Manner::refused(429, &[JSON, ("retry-after", "1")], "{}")),
        ("redirect", Manner::refused(302, &[("location", "http://127.0.0.1:9/")], "")),
    ];
    for (case, odd) in cases {
        let stage = Stage::behind_gateway(google::Config::default()).await?;
        stage.write_expired_user("ann").await?;
        stage.gateway().script(move |asked| match asked.before {
            0 => odd.clone(),
            _ => Manner::honest(),
        });
        let mut outcomes = stage.inbox("outcomes").await?;
        let mut worker = stage.worker(&FLAGS).await?;
        stage.publish(&[job("only", "ann")], &[]).await?;
        let told = outcomes.outcomes(1).await?;
        assert_eq!(told["only"]["status"], "done", "{case}: {told:?}");
        assert_eq!(worker.terminate().await?, 0, "{case}");
        assert_eq!(stage.gateway().passages().len(), 2, "{case}");
        assert_eq!(stage.record("ann").await?["state"], "active", "{case}");
    }
    Ok(())
}

/// An endpoint that quotes the request: no secret reaches a log, an outcome or a record's reason.
#[tokio::test]
async fn an_endpoint_that_quotes_the_request_tells_nobody_a_secret() -> anyhow::Result<()> {
    for code in ["invalid_grant", "admin_policy_enforced", "server_error"] {
        let mut scene = Scene::set(|_| Manner::honest()).await?;
        let file = scene.stage.path("quoted.json").display().to_string();
        scene.stage.write_authorized_user("eve", &file)?;
        let content: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        let token = content["refresh_token"].as_str().unwrap().to_owned();
        let import = ["users", "import", &file, "--user", "eve", "--replace"];
        assert_eq!(scene.stage.fleet(&import).await?.code, 0);
        let quoted = format!("refresh_token={token} is not acceptable");
        let refusal = Manner::error(400, code, &quoted);
        scene.stage.gateway().script(move |asked| match asked.user {
            Some(_) => refusal.clone(),
            None => Manner::honest(),
        });
        scene.publish("eve", "eve-1").await?;
        wait_for(&scene.stage, |p| p.iter().any(|p| p.user.as_deref() == Some("eve"))).await?;
        if code != "server_error" {
            let (outcome, _) = scene.outcomes.next().await?;
            assert_eq!(outcome["status"], "parked", "{code}: {outcome}");
            assert!(!outcome.to_string().contains(&token), "{code}: {outcome}");
        }
        let stage = scene.end().await?;
        let record = stage.record("eve").await?;
        for field in ["reason", "blocked"] {
            assert!(!record[field].to_string().contains(&token), "{code}: {field} quotes it");
        }
    }
    Ok(())
}

/// The lease keeps the fleet from asking more than once per ttl, whoever asks.
#[tokio::test]
async fn an_endpoint_that_is_busy_is_asked_once_per_lease_by_the_whole_fleet() -> anyhow::Result<()>
{
    let page = Manner::refused(429, &[("retry-after", "60")], "<h1>slow down</h1>");
    let mut scene = Scene::set(move |_| page.clone()).await?;
    for number in 0..9 {
        scene.publish("eve", &format!("eve-{number}")).await?;
    }
    scene.the_healthy_are_served("first").await?;
    let of_eve = |passage: &&Passage| passage.user.as_deref() == Some("eve");
    let passages = wait_for(&scene.stage, |p| p.iter().filter(of_eve).count() == 3).await?;
    let asked: Vec<_> = passages.iter().filter(of_eve).map(|passage| passage.at).collect();
    for pair in asked.windows(2) {
        let apart = pair[1] - pair[0];
        assert!(apart >= Duration::from_millis(5500), "{apart:?} apart, with leases of 6 s");
    }
    scene.end().await?;
    Ok(())
}

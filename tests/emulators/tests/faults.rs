//! Faults, as the clients of both servers meet them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use emulators::faults::{Answer, Fault};
use emulators::google::{self, ClientKind, Google, StatsQuery, User};
use emulators::storage::{self, Operation, Storage};
use google_cloud_auth::credentials::anonymous;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::client::StorageControl;
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;

struct Bucket {
    storage: Storage,
    http: Client,
}

impl Bucket {
    async fn start() -> Result<Self> {
        let storage = Storage::start(storage::Config::default()).await?;
        storage.create_bucket("tokens")?;
        Ok(Self { storage, http: Client::new() })
    }

    async fn put(&self, name: &str) -> reqwest::Result<Response> {
        let origin = self.storage.http_origin();
        let url = format!(
            "{origin}/upload/storage/v1/b/tokens/o?uploadType=media&ifGenerationMatch=0&name={name}"
        );
        self.http.post(url).body("{}").send().await
    }

    async fn get(&self, name: &str) -> reqwest::Result<Response> {
        let origin = self.storage.http_origin();
        let name = name.replace('/', "%2F");
        self.http.get(format!("{origin}/storage/v1/b/tokens/o/{name}?alt=media")).send().await
    }
}

#[tokio::test]
async fn a_lost_reply_leaves_the_write_behind() -> Result<()> {
    let bucket = Bucket::start().await?;
    let fault = Fault::lost_reply().on(Operation::Write).under("leases/").times(1);
    let lost = bucket.storage.inject(fault);
    assert!(bucket.put("tokens/a").await?.status().is_success(), "another name");
    assert_eq!(lost.count(), 0);
    let (reply, ()) = tokio::join!(bucket.put("leases/a"), lost.hits(1));
    assert!(reply.is_err(), "no answer came");
    assert!(bucket.storage.object("tokens", "leases/a").is_some(), "and it was written");
    assert!(bucket.put("leases/b").await?.status().is_success(), "once only");
    assert_eq!(lost.count(), 1);
    Ok(())
}

#[tokio::test]
async fn a_refused_request_keeps_its_reply_and_the_fault_its_time() -> Result<()> {
    let bucket = Bucket::start().await?;
    bucket.put("leases/a").await?;
    let lost = bucket.storage.inject(Fault::lost_reply().on(Operation::Write).times(1));
    assert_eq!(bucket.put("leases/a").await?.status(), StatusCode::PRECONDITION_FAILED);
    assert_eq!(lost.count(), 0);
    assert!(bucket.put("leases/b").await.is_err());
    assert_eq!(lost.count(), 1);
    Ok(())
}

#[tokio::test]
async fn refusals_come_in_bursts_and_change_nothing() -> Result<()> {
    let bucket = Bucket::start().await?;
    let burst = bucket.storage.inject(Fault::refusal(StatusCode::SERVICE_UNAVAILABLE).times(2));
    let throttle =
        bucket.storage.inject(Fault::refusal(StatusCode::TOO_MANY_REQUESTS).on(Operation::Write));
    for expected in [503, 503, 429, 429, 429] {
        let reply = bucket.put("a").await?;
        assert_eq!(reply.status(), expected);
        let body: Value = reply.json().await?;
        assert_eq!(body["error"]["code"], expected);
    }
    assert_eq!(bucket.get("a").await?.status(), StatusCode::NOT_FOUND);
    assert_eq!((burst.count(), throttle.count()), (2, 3));
    throttle.lift();
    assert!(bucket.put("a").await?.status().is_success(), "until told");
    assert_eq!(bucket.storage.stats().writes, 1);
    Ok(())
}

#[tokio::test]
async fn a_stalled_request_waits_until_the_fault_is_lifted() -> Result<()> {
    let bucket = Bucket::start().await?;
    bucket.put("a").await?;
    let stall = bucket.storage.inject(Fault::stall().on(Operation::Read).about("a"));
    let mut stalled = std::pin::pin!(bucket.get("a"));
    tokio::select! {
        _ = &mut stalled => anyhow::bail!("it was answered"),
        () = stall.hits(1) => {}
    }
    assert_eq!(bucket.get("b").await?.status(), StatusCode::NOT_FOUND, "others are served");
    stall.lift();
    assert!(stalled.await.is_err(), "cut, not answered");
    assert_eq!(bucket.get("a").await?.status(), StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_late_answer_tells_what_was_done_in_time() -> Result<()> {
    let bucket = Bucket::start().await?;
    let late = bucket.storage.inject(Fault::latency(Duration::from_hours(1)).times(1));
    let mut put = std::pin::pin!(bucket.put("a"));
    tokio::select! {
        _ = &mut put => anyhow::bail!("it was answered at once"),
        () = late.hits(1) => {}
    }
    assert!(bucket.storage.object("tokens", "a").is_some());
    late.lift();
    assert!(put.await?.status().is_success());
    Ok(())
}

#[tokio::test]
async fn calls_over_grpc_meet_the_same_faults() -> Result<()> {
    let bucket = Bucket::start().await?;
    let control = StorageControl::builder()
        .with_endpoint(format!("http://{}", bucket.storage.grpc_address()))
        .with_credentials(anonymous::Builder::new().build())
        .with_retry_policy(NeverRetry)
        .build()
        .await?;
    bucket.put("a").await?;
    let parent = "projects/_/buckets/tokens";
    let delete = || control.delete_object().set_bucket(parent).set_object("a").send();
    bucket.storage.set_one_mutation_per_second(false);
    bucket.storage.inject(Fault::refusal(StatusCode::SERVICE_UNAVAILABLE).times(1));
    let refused = delete().await.err().context("refused")?;
    assert_eq!(refused.status().map(|status| status.code), Some(Code::Unavailable));
    assert!(bucket.storage.object("tokens", "a").is_some());
    let lost = bucket.storage.inject(Fault::lost_reply().on(Operation::Delete).times(1));
    assert!(delete().await.is_err());
    assert_eq!(lost.count(), 1);
    assert!(bucket.storage.object("tokens", "a").is_none(), "deleted all the same");
    let again = delete().await.err().context("it is gone")?;
    assert_eq!(again.status().map(|status| status.code), Some(Code::NotFound), "reconnected");
    Ok(())
}

struct Identity {
    google: Google,
    http: Client,
}

impl Identity {
    async fn start() -> Result<Self> {
        let config = google::Config { rotate: true, ..google::Config::default() };
        Ok(Self { google: Google::start(config).await?, http: Client::new() })
    }

    fn user(&self, sub: &str) -> google::Grant {
        let user = User { sub: sub.to_owned(), ..User::default() };
        self.google.add_user(user, ["openid"])
    }

    async fn refresh(&self, refresh_token: &str) -> reqwest::Result<Response> {
        let file = self.google.client_json(ClientKind::Installed, &[]);
        let text = |name: &str| file["installed"][name].as_str().unwrap_or_default().to_owned();
        let form = [
            ("grant_type", "refresh_token".to_owned()),
            ("client_id", text("client_id")),
            ("client_secret", text("client_secret")),
            ("refresh_token", refresh_token.to_owned()),
        ];
        self.http.post(format!("{}/token", self.google.origin())).form(&form).send().await
    }

    async fn userinfo(&self, access_token: &str) -> reqwest::Result<Response> {
        self.http.get(self.google.userinfo_url()).bearer_auth(access_token).send().await
    }
}

#[tokio::test]
async fn a_lost_answer_of_the_token_endpoint_has_spent_the_token() -> Result<()> {
    let identity = Identity::start().await?;
    let (ann, bob) = (identity.user("ann"), identity.user("bob"));
    let fault = Fault::lost_reply().on(google::Operation::Token).about("ann").times(1);
    let lost = identity.google.inject(fault);
    assert!(identity.refresh(&bob.refresh_token).await?.status().is_success(), "another user");
    assert!(identity.refresh(&ann.refresh_token).await.is_err());
    assert_eq!(lost.count(), 1);
    let again = identity.refresh(&ann.refresh_token).await?;
    assert_eq!(again.status(), StatusCode::BAD_REQUEST);
    let stats = identity.google.stats(&StatsQuery { sub: Some("ann".to_owned()) });
    assert_eq!((stats.token_calls, stats.refreshed, stats.reused), (2, 1, 1));
    Ok(())
}

#[tokio::test]
async fn a_refused_token_request_has_spent_nothing() -> Result<()> {
    let identity = Identity::start().await?;
    let ann = identity.user("ann");
    let burst = Fault::refusal(StatusCode::SERVICE_UNAVAILABLE).on(google::Operation::Token);
    let burst = identity.google.inject(burst.times(1));
    assert_eq!(identity.refresh(&ann.refresh_token).await?.status(), 503);
    assert!(identity.google.refresh_calls().is_empty(), "it did not get that far");
    assert!(identity.refresh(&ann.refresh_token).await?.status().is_success());
    assert_eq!(burst.count(), 1);
    Ok(())
}

#[tokio::test]
async fn a_made_up_answer_takes_the_place_of_the_real_one() -> Result<()> {
    let identity = Identity::start().await?;
    let ann = identity.user("ann");
    let on = |answer| Fault::answer(answer).on(google::Operation::Token).about("ann").times(1);
    let page = Answer::new(StatusCode::FORBIDDEN, "<html>Sorry</html>")
        .header("content-type", "text/html")
        .header("retry-after", "60");
    identity.google.inject(on(page));
    let refused = identity.refresh(&ann.refresh_token).await?;
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["retry-after"]),
        (403, &"60".parse()?)
    );
    assert_eq!(refused.text().await?, "<html>Sorry</html>");
    assert!(identity.google.refresh_calls().is_empty(), "it did not get that far");

    let body =
        "\u{feff}{\"access_token\":\"{access_token}\",\"refresh_token\":\"{refresh_token}\"}";
    let odd = on(Answer::new(StatusCode::CREATED, body).carried_out());
    identity.google.inject(odd);
    let granted = identity.refresh(&ann.refresh_token).await?;
    assert_eq!(granted.status(), StatusCode::CREATED);
    let text = granted.text().await?;
    let fields: Value = serde_json::from_str(text.trim_start_matches('\u{feff}'))?;
    let access_token = fields["access_token"].as_str().context("an access token")?;
    assert!(identity.userinfo(access_token).await?.status().is_success(), "a real one");
    Ok(())
}

/// As servers that complain of a request and quote it.
#[tokio::test]
async fn a_made_up_answer_can_quote_the_request() -> Result<()> {
    let identity = Identity::start().await?;
    let ann = identity.user("ann");
    let body = "{refresh_token} in {sent}";
    let quoting = Answer::new(StatusCode::BAD_REQUEST, body).header("x-said", "{refresh_token}");
    identity.google.inject(Fault::answer(quoting).on(google::Operation::Token).times(1));
    let refused = identity.refresh(&ann.refresh_token).await?;
    assert_eq!(refused.headers()["x-said"], ann.refresh_token.as_str());
    let text = refused.text().await?;
    assert!(text.starts_with(&format!("{} in ", ann.refresh_token)), "{text}");
    assert!(text.contains("refresh_token=1%2F%2Ffake-") && text.contains("client_secret="));

    let quoting = Answer::new(StatusCode::FORBIDDEN, "{authorization} in {sent}");
    identity.google.inject(Fault::answer(quoting).on(google::Operation::Userinfo).times(1));
    let text = identity.userinfo(&ann.access_token).await?.text().await?;
    let bearer = format!("Bearer {}", ann.access_token);
    assert!(text.starts_with(&format!("{bearer} in ")) && text.matches(&bearer).count() == 2);
    let secrets = identity.google.secrets();
    assert!(secrets.contains(&ann.refresh_token) && secrets.contains(&ann.access_token));
    assert!(secrets.iter().any(|secret| secret.starts_with("GOCSPX-")));
    Ok(())
}

#[tokio::test]
async fn a_made_up_answer_waits_for_a_request_that_is_carried_out() -> Result<()> {
    let identity = Identity::start().await?;
    let ann = identity.user("ann");
    let late = Answer::new(StatusCode::GATEWAY_TIMEOUT, "").carried_out();
    let late = Fault::answer(late.after(Duration::from_hours(1))).on(google::Operation::Token);
    let late = identity.google.inject(late.times(1));
    assert_eq!(identity.refresh("unknown").await?.status(), StatusCode::BAD_REQUEST);
    let mut refresh = std::pin::pin!(identity.refresh(&ann.refresh_token));
    tokio::select! {
        _ = &mut refresh => anyhow::bail!("it was answered at once"),
        () = late.hits(1) => {}
    }
    late.lift();
    assert_eq!(refresh.await?.status(), StatusCode::GATEWAY_TIMEOUT);
    let stats = identity.google.stats(&StatsQuery { sub: Some("ann".to_owned()) });
    assert_eq!(stats.refreshed, 1, "the work was done");
    Ok(())
}

#[tokio::test]
async fn the_apis_have_faults_of_their_own() -> Result<()> {
    let identity = Identity::start().await?;
    let (ann, bob) = (identity.user("ann"), identity.user("bob"));
    let fault = Fault::refusal(StatusCode::TOO_MANY_REQUESTS).on(google::Operation::Userinfo);
    let fault = identity.google.inject(fault.about("ann").times(1));
    assert!(identity.userinfo(&bob.access_token).await?.status().is_success());
    let refused = identity.userinfo(&ann.access_token).await?;
    assert_eq!(refused.status(), 429);
    let body: Value = refused.json().await?;
    assert_eq!(body["error"]["errors"][0]["reason"], "rateLimitExceeded");
    assert!(identity.userinfo(&ann.access_token).await?.status().is_success());
    let echo = |url: String| identity.http.get(url).bearer_auth(&ann.access_token).send();
    identity.google.inject(Fault::lost_reply().on(google::Operation::Api).times(1));
    let url = format!("{}/v1/echo", identity.google.origin());
    assert!(echo(url.clone()).await.is_err());
    assert!(echo(url).await?.status().is_success());
    assert_eq!(fault.count(), 1);
    Ok(())
}

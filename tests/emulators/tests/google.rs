//! The identity provider as a plain HTTP client sees it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use emulators::google::{
    ClientKind, Clock, Config, Fingerprint, Google, Grant, OnReuse, RefreshOutcome, StatsQuery,
    User,
};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

mod dates;

const SUB: &str = "109770000000000000001";
const SCOPES: [&str; 3] = ["openid", "email", "profile"];

fn ada() -> User {
    User {
        sub: SUB.to_owned(),
        email: "ada@example.com".to_owned(),
        name: "Ada King Lovelace".to_owned(),
        picture: "https://example.com/ada.png".to_owned(),
        locale: "en".to_owned(),
    }
}

/// An emulator, its client's credentials, and a user's grant.
struct Stand {
    google: Google,
    http: Client,
    id: String,
    secret: String,
    grant: Grant,
}

impl Stand {
    async fn start(config: Config) -> Result<Self> {
        let google = Google::start(config).await?;
        let file = google.client_json(ClientKind::Installed, &["http://localhost"]);
        let installed = &file["installed"];
        let grant = google.add_user(ada(), SCOPES);
        Ok(Self {
            http: Client::builder().user_agent("replica-1").build()?,
            id: text(installed, "client_id").to_owned(),
            secret: text(installed, "client_secret").to_owned(),
            google,
            grant,
        })
    }

    async fn rotating(on_reuse: OnReuse) -> Result<Self> {
        Self::start(Config { rotate: true, on_reuse, ..Config::default() }).await
    }

    async fn token(&self, form: &[(&str, &str)]) -> Result<Response> {
        let url = format!("{}/token", self.google.origin());
        Ok(self.http.post(url).form(form).send().await?)
    }

    async fn refresh(&self, refresh_token: &str) -> Result<Response> {
        self.token(&[
            ("grant_type", "refresh_token"),
            ("client_id", &self.id),
            ("client_secret", &self.secret),
            ("refresh_token", refresh_token),
        ])
        .await
    }

    async fn userinfo(&self, access_token: &str) -> Result<Response> {
        let request = self.http.get(self.google.userinfo_url());
        Ok(request.bearer_auth(access_token).send().await?)
    }

    async fn revoke(&self, token: &str) -> Result<Response> {
        let request = self.http.post(self.google.revoke_url());
        Ok(request.form(&[("token", token)]).send().await?)
    }
}

/// The status, and the code of an OAuth error.
async fn refusal(response: Response) -> Result<(u16, String)> {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["cache-control"], "no-store");
    let body: Value = response.json().await?;
    assert!(body["error_description"].is_string());
    Ok((status, text(&body, "error").to_owned()))
}

fn text<'a>(answer: &'a Value, key: &str) -> &'a str {
    answer[key].as_str().expect("the answer has this text")
}

#[tokio::test]
async fn the_client_file_has_the_shape_of_googles_console() -> Result<()> {
    let google = Google::start(Config {
        client_id: Some("my-id".to_owned()),
        client_secret: Some("my-secret".to_owned()),
        ..Config::default()
    })
    .await?;
    let origin = google.origin();
    let file = google.client_json(ClientKind::Web, &["http://127.0.0.1:8080/oauth/callback"]);
    assert_eq!(
        file,
        json!({"web": {
            "client_id": "my-id",
            "project_id": "fake-project",
            "auth_uri": format!("{origin}/o/oauth2/auth"),
            "token_uri": format!("{origin}/token"),
            "auth_provider_x509_cert_url": format!("{origin}/oauth2/v1/certs"),
            "client_secret": "my-secret",
            "redirect_uris": ["http://127.0.0.1:8080/oauth/callback"],
        }})
    );
    Ok(())
}

#[tokio::test]
async fn a_refresh_brings_a_live_access_token() -> Result<()> {
    let stand = Stand::start(Config::default()).await?;
    let answer = stand.refresh(&stand.grant.refresh_token).await?;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let answer: Value = answer.json().await?;
    assert_eq!(answer["expires_in"], 3_600);
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!(answer["scope"], "openid email profile");
    assert_eq!(answer.get("refresh_token"), None);
    let access_token = text(&answer, "access_token");
    assert!(access_token.starts_with("ya29.fake-"));
    assert_eq!(stand.userinfo(access_token).await?.status(), 200);
    assert_eq!(stand.userinfo(&stand.grant.access_token).await?.status(), 200);

    let calls = stand.google.refresh_calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].seq, 0);
    assert_eq!(calls[0].user_agent.as_deref(), Some("replica-1"));
    assert_eq!(calls[0].sub.as_deref(), Some(SUB));
    assert_eq!(calls[0].presented, Some(Fingerprint::of(&stand.grant.refresh_token)));
    let RefreshOutcome::Issued(issued) = &calls[0].outcome else {
        panic!("{:?}", calls[0]);
    };
    assert_eq!(issued.access_token, Fingerprint::of(access_token));
    assert_eq!(issued.refresh_token, None);
    let shown = format!("{calls:?} {:?} {:?}", stand.google, stand.grant);
    for secret in [access_token, &stand.grant.refresh_token, &stand.secret] {
        assert!(!shown.contains(secret));
    }
    Ok(())
}

#[tokio::test]
async fn credentials_may_come_as_basic_authentication() -> Result<()> {
    let stand =
        Stand::start(Config { client_secret: Some("a:b c+d/é%".to_owned()), ..Config::default() })
            .await?;
    let encode =
        |text: &str| -> String { url::form_urlencoded::byte_serialize(text.as_bytes()).collect() };
    let url = format!("{}/token", stand.google.origin());
    let ask = |secret: &str| {
        let request = stand.http.post(&url);
        let request = request.basic_auth(encode(&stand.id), Some(encode(secret)));
        let form = [("grant_type", "refresh_token"), ("refresh_token", &stand.grant.refresh_token)];
        request.form(&form).send()
    };
    assert_eq!(ask(&stand.secret).await?.status(), 200);
    let wrong = refusal(ask("wrong").await?).await?;
    assert_eq!(wrong, (401, "invalid_client".to_owned()));
    Ok(())
}

#[tokio::test]
async fn refusals_of_the_token_endpoint() -> Result<()> {
    let stand = Stand::start(Config::default()).await?;
    let good = [
        ("grant_type", "refresh_token"),
        ("client_id", stand.id.as_str()),
        ("client_secret", stand.secret.as_str()),
        ("refresh_token", stand.grant.refresh_token.as_str()),
    ];
    for (field, value, expected) in [
        ("grant_type", None, (400, "invalid_request")),
        ("grant_type", Some("password"), (400, "unsupported_grant_type")),
        ("client_id", None, (400, "invalid_request")),
        ("client_id", Some("x"), (401, "invalid_client")),
        ("client_secret", None, (400, "invalid_request")),
        ("client_secret", Some("x"), (401, "invalid_client")),
        ("refresh_token", None, (400, "invalid_request")),
        ("refresh_token", Some("x"), (400, "invalid_grant")),
        ("scope", Some("openid https://x"), (400, "invalid_scope")),
    ] {
        let mut form: Vec<_> = good.into_iter().filter(|(name, _)| *name != field).collect();
        form.extend(value.map(|value| (field, value)));
        let (status, code) = refusal(stand.token(&form).await?).await?;
        assert_eq!((status, code.as_str()), expected, "{field} = {value:?}");
    }
    let mut narrow = good.to_vec();
    narrow.push(("scope", "email"));
    let narrowed: Value = stand.token(&narrow).await?.json().await?;
    assert_eq!(narrowed["scope"], "email");
    let stats = stand.google.stats(&StatsQuery::default());
    assert_eq!((stats.token_calls, stats.refreshed), (10, 1));
    assert_eq!((stats.invalid_grants, stats.reused), (1, 0));
    // Calls count for a user only where the refresh token tells which.
    let query = StatsQuery { sub: Some(SUB.to_owned()) };
    assert_eq!(stand.google.stats(&query).token_calls, 8);
    Ok(())
}

#[tokio::test]
async fn a_reused_refresh_token_ends_the_grant() -> Result<()> {
    let stand = Stand::rotating(OnReuse::RevokeFamily).await?;
    let spent = &stand.grant.refresh_token;
    let fresh: Value = stand.refresh(spent).await?.json().await?;
    let next = text(&fresh, "refresh_token");
    assert!(next.starts_with("1//fake-"));
    let fresh: Value = stand.refresh(next).await?.json().await?;
    let (next, access_token) = (text(&fresh, "refresh_token"), text(&fresh, "access_token"));
    assert_eq!(stand.userinfo(access_token).await?.status(), 200);

    let reused = refusal(stand.refresh(spent).await?).await?;
    assert_eq!(reused, (400, "invalid_grant".to_owned()));
    let ended = refusal(stand.refresh(next).await?).await?;
    assert_eq!(ended, (400, "invalid_grant".to_owned()));
    assert_eq!(stand.userinfo(access_token).await?.status(), 401);
    let outcomes: Vec<_> =
        stand.google.refresh_calls().into_iter().map(|call| call.outcome).collect();
    assert!(matches!(
        outcomes[..],
        [
            RefreshOutcome::Issued(_),
            RefreshOutcome::Issued(_),
            RefreshOutcome::Reused(None),
            RefreshOutcome::InvalidGrant,
        ]
    ));
    let stats = stand.google.stats(&StatsQuery::default());
    assert_eq!((stats.reused, stats.invalid_grants), (1, 2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_racing_refreshes_one_is_no_reuse() -> Result<()> {
    let stand = Arc::new(Stand::rotating(OnReuse::Accept).await?);
    let mut refreshes = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let stand = Arc::clone(&stand);
        refreshes.spawn(async move { stand.refresh(&stand.grant.refresh_token).await });
    }
    for answer in refreshes.join_all().await {
        assert_eq!(answer?.status(), 200);
    }
    let stats = stand.google.stats(&StatsQuery::default());
    assert_eq!((stats.token_calls, stats.refreshed, stats.reused), (16, 16, 15));
    Ok(())
}

#[tokio::test]
async fn a_caller_that_goes_away_has_spent_its_token() -> Result<()> {
    let stand = Stand::start(Config {
        rotate: true,
        refresh_latency: Duration::from_hours(1),
        ..Config::default()
    })
    .await?;
    tokio::select! {
        answer = stand.refresh(&stand.grant.refresh_token) => panic!("{answer:?}"),
        stats = stand.google.wait_for(|stats| stats.token_calls == 1) => {
            assert_eq!(stats.refreshed, 1);
        }
    }
    let calls = stand.google.refresh_calls();
    assert!(matches!(calls[0].outcome, RefreshOutcome::Issued(_)));
    tokio::select! {
        answer = stand.refresh(&stand.grant.refresh_token) => panic!("{answer:?}"),
        stats = stand.google.wait_for(|stats| stats.token_calls == 2) => {
            assert_eq!(stats.reused, 1);
        }
    }
    Ok(())
}

#[tokio::test]
async fn access_tokens_expire_by_the_clock() -> Result<()> {
    let now = Arc::new(Mutex::new(Instant::now()));
    let start = *now.lock().unwrap();
    let clock = Arc::clone(&now);
    let stand = Stand::start(Config {
        token_lifetime: Duration::from_mins(10),
        clock: Clock::new(move || *clock.lock().unwrap()),
        ..Config::default()
    })
    .await?;
    let first = &stand.grant.access_token;
    *now.lock().unwrap() += Duration::from_secs(599);
    assert_eq!(stand.userinfo(first).await?.status(), 200);
    let second: Value = stand.refresh(&stand.grant.refresh_token).await?.json().await?;
    assert_eq!(second["expires_in"], 600);
    let second = text(&second, "access_token");
    *now.lock().unwrap() += Duration::from_secs(1);
    assert_eq!(stand.userinfo(first).await?.status(), 401);
    assert_eq!(stand.userinfo(second).await?.status(), 200);
    let lifetime = Duration::from_mins(10);
    assert_eq!(stand.google.expiries(lifetime, start + lifetime), 1);
    assert_eq!(stand.google.expiries(lifetime, start + 2 * lifetime), 2);
    stand.google.expire_access_tokens(SUB);
    assert_eq!(stand.userinfo(second).await?.status(), 401);
    Ok(())
}

#[tokio::test]
async fn tokens_are_revoked_by_the_client_or_the_user() -> Result<()> {
    let stand = Stand::start(Config::default()).await?;
    let other = stand.google.add_user(ada(), SCOPES);
    assert_eq!(stand.revoke(&stand.grant.access_token).await?.status(), 200);
    let refused = stand.refresh(&stand.grant.refresh_token).await?;
    assert_eq!(refusal(refused).await?, (400, "invalid_grant".to_owned()));
    let again = stand.revoke(&stand.grant.refresh_token).await?;
    assert_eq!(again.status(), StatusCode::BAD_REQUEST);
    assert_eq!(again.json::<Value>().await?["error"], "invalid_token");
    assert_eq!(stand.refresh(&other.refresh_token).await?.status(), 200);

    let third = stand.google.add_user(ada(), SCOPES);
    let url = format!("{}?token={}", stand.google.revoke_url(), third.access_token);
    assert_eq!(stand.http.post(url).send().await?.status(), 200);
    assert_eq!(stand.google.stats(&StatsQuery::default()).revocations, 2);

    stand.google.revoke_user(SUB);
    assert_eq!(stand.userinfo(&other.access_token).await?.status(), 401);
    let refused = stand.refresh(&other.refresh_token).await?;
    assert_eq!(refusal(refused).await?, (400, "invalid_grant".to_owned()));
    Ok(())
}

#[tokio::test]
async fn userinfo_tells_what_the_scopes_allow() -> Result<()> {
    let stand = Stand::start(Config::default()).await?;
    let get = async |path: &str, token: &str| -> Result<Value> {
        let request = stand.http.get(format!("{}{path}", stand.google.origin()));
        Ok(request.bearer_auth(token).send().await?.json().await?)
    };
    let everything = json!({
        "sub": SUB,
        "email": "ada@example.com",
        "email_verified": true,
        "name": "Ada King Lovelace",
        "given_name": "Ada",
        "family_name": "King Lovelace",
        "picture": "https://example.com/ada.png",
        "locale": "en",
    });
    let token = &stand.grant.access_token;
    assert_eq!(get("/v1/userinfo", token).await?, everything);
    assert_eq!(get("/oauth2/v3/userinfo", token).await?, everything);
    let older = get("/oauth2/v2/userinfo", token).await?;
    assert_eq!(older["id"], SUB);
    assert_eq!(older["verified_email"], true);
    let openid = stand.google.add_user(ada(), ["openid"]);
    let little = get("/v1/userinfo", &openid.access_token).await?;
    assert_eq!(little, json!({"sub": SUB}));
    let email = ["https://www.googleapis.com/auth/userinfo.email"];
    let email = stand.google.add_user(ada(), email);
    let some = get("/v1/userinfo", &email.access_token).await?;
    assert_eq!(some["email"], "ada@example.com");
    assert_eq!(some.get("name"), None);
    Ok(())
}

#[tokio::test]
async fn a_dropped_emulator_is_gone() -> Result<()> {
    let stand =
        Stand::start(Config { api_latency: Duration::from_hours(1), ..Config::default() }).await?;
    let Stand { google, http, grant, .. } = stand;
    let url = google.userinfo_url();
    let waiting = http.get(&url).bearer_auth(&grant.access_token).send();
    let waiting = tokio::spawn(waiting);
    google.wait_for(|stats| stats.api_calls == 1).await;
    drop(google);
    assert!(waiting.await?.is_err());
    assert!(http.get(&url).send().await.is_err());
    Ok(())
}

#[tokio::test]
async fn answers_are_dated_and_the_date_can_be_off() -> Result<()> {
    let stand = Stand::start(Config::default()).await?;
    for (skew, path) in [(0, "/token"), (-900, "/v1/userinfo"), (3_600, "/nothing")] {
        stand.google.set_date_skew(skew);
        let response = stand.http.get(format!("{}{path}", stand.google.origin())).send().await?;
        let dated = response.headers()["date"].to_str()?.to_owned();
        let off = dates::seconds_ahead(&dated)?;
        assert!((off - skew).abs() <= 5, "{dated}: {off} instead of {skew}");
    }
    Ok(())
}

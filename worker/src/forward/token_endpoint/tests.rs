//! Each row of the table, over HTTP's types.

use axum::body::{Body, to_bytes};
use http::Request;
use jiff::SignedDuration;
use serde_json::Value;
use shared::adapters::SystemClock;
use shared::ports::Randomness;
use shared::{Grant, Secret, UserId};
use tower_service::Service as _;

use super::*;
use crate::forward::clients::Users;
use crate::forward::handles::Handle;
use crate::session::stand::carrier;

struct Scene {
    endpoint: TokenEndpoint,
    handle: Handle,
}

fn handed_on() -> HandedOn {
    HandedOn::to_handler(&Arc::default(), &"greet".into())
}

/// The endpoint, and an attempt of `user`. Ann has a token for an hour.
async fn scene(user: &str) -> Scene {
    let (carrier, _) = carrier("http://127.0.0.1:1").await;
    let handles = Arc::new(Handles::default());
    let handle = handles.issue(&UserId::new(user).unwrap(), handed_on(), &Randomness::seeded(1));
    let clock = Arc::new(SystemClock::default());
    let callers = Callers::Attempts(handles);
    Scene { endpoint: TokenEndpoint { callers, store: carrier.store, clock }, handle }
}

/// Ann's grant, with these scopes and so much of its hour left.
async fn grant(store: &TokenStore, scopes: &[&str], left: Duration) {
    let user = UserId::new("ann").unwrap();
    let life = Duration::from_secs(3600);
    let left = SignedDuration::try_from(left).unwrap();
    let grant = Grant {
        refresh_token: Some("fake-refresh".into()),
        access_token: Some("fake-access".into()),
        expires_at: SystemClock::default().wall().checked_add(left).ok(),
        expires_in: Some(life),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        ..Grant::default()
    };
    store.set_credentials(&user, grant).await.unwrap();
}

impl Scene {
    async fn ask(&self, secret: &str, user: &str, more: &str) -> (u16, Value, http::HeaderMap) {
        let form = format!(
            "grant_type=refresh_token&client_id=fleet&client_secret={secret}&refresh_token={user}{more}"
        );
        self.send(&form, "127.0.0.1:1").await
    }

    async fn send(&self, form: &str, host: &str) -> (u16, Value, http::HeaderMap) {
        let request = Request::post("/token")
            .header("host", host)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::from(form.to_owned()))
            .unwrap();
        let response = self.endpoint.clone().routes().call(request).await.unwrap();
        let (head, body) = response.into_parts();
        assert_eq!(head.headers["cache-control"], "no-store");
        assert_eq!(head.headers["content-type"], "application/json");
        let body = to_bytes(body, 1 << 20).await.unwrap();
        (head.status.as_u16(), serde_json::from_slice(&body).unwrap(), head.headers)
    }

    /// What is noted of the attempt so far.
    fn consent(self) -> Option<ConsentReason> {
        self.handle.end().consent
    }
}

fn invalid_grant(answer: &(u16, Value, http::HeaderMap)) -> String {
    assert_eq!((answer.0, answer.1["error"].as_str()), (400, Some("invalid_grant")));
    answer.1["error_description"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_live_handle_opens_its_users_token() {
    let scene = scene("ann").await;
    grant(&scene.endpoint.store, &["openid", "s"], Duration::from_secs(3600)).await;
    let secret = scene.handle.secret.expose().to_owned();
    let (status, token, _) = scene.ask(&secret, "ann", "&scope=openid").await;
    assert_eq!(status, 200, "{token}");
    assert_eq!(
        (&token["access_token"], &token["token_type"]),
        (&"fake-access".into(), &"Bearer".into())
    );
    assert_eq!(token["scope"], "openid s", "all that is granted");
    assert!((3590..=3600).contains(&token["expires_in"].as_u64().unwrap()), "{token}");
    assert_eq!(token.as_object().unwrap().len(), 4, "no refresh token");
    assert_eq!(scene.consent(), None);
}

#[tokio::test]
async fn every_other_handle_is_refused_with_one_text() {
    let mut texts = Vec::new();
    let scene = scene("ann").await;
    let secret = scene.handle.secret.expose().to_owned();
    texts.push(invalid_grant(&scene.ask("unknown", "ann", "").await));
    texts.push(invalid_grant(&scene.ask("", "ann", "").await));
    texts.push(invalid_grant(&scene.ask(&secret, "bob", "").await));
    texts.push(invalid_grant(&scene.ask(&secret, "", "").await));
    let Scene { endpoint, handle } = scene;
    let Callers::Attempts(handles) = &endpoint.callers else { unreachable!() };
    let bob = UserId::new("bob").unwrap();
    let other = handles.issue(&bob, handed_on(), &Randomness::seeded(2));
    handle.end();
    let scene = Scene { endpoint, handle: other };
    texts.push(invalid_grant(&scene.ask(&secret, "ann", "").await));
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert_eq!(scene.consent(), None, "a foreign handle notes nothing");
}

#[tokio::test]
async fn a_user_who_must_consent_is_noted_until_a_token_is_given() {
    let scene = scene("nobody").await;
    let secret = scene.handle.secret.expose().to_owned();
    let text = invalid_grant(&scene.ask(&secret, "nobody", "").await);
    assert_eq!(text, "the user must consent");
    assert_eq!(scene.consent(), Some(ConsentReason::Unknown));
}

#[tokio::test]
async fn a_scope_that_is_not_granted() {
    let auth = |name: &str| format!("https://www.googleapis.com/auth/{name}");
    let granted = [auth("drive"), auth("userinfo.email"), "openid".to_owned()];
    let granted: Vec<&str> = granted.iter().map(String::as_str).collect();
    let asked = async |scope: &str| {
        let scene = scene("ann").await;
        grant(&scene.endpoint.store, &granted, Duration::from_secs(3600)).await;
        let secret = scene.handle.secret.expose().to_owned();
        let (status, answer, _) = scene.ask(&secret, "ann", &format!("&scope={scope}")).await;
        let error = answer["error"].as_str().map(str::to_owned);
        (status, error, scene.consent())
    };
    assert_eq!(asked("email").await, (200, None, None), "by its userinfo URL");
    let refused = Some("invalid_scope".to_owned());
    let missing = |scope: &str| Some(ConsentReason::MissingScopes(vec![scope.to_owned()]));
    assert_eq!(asked("openid+profile").await, (400, refused.clone(), missing("profile")));
    let tasks = auth("tasks");
    assert_eq!(asked(&tasks).await, (400, refused.clone(), missing(&tasks)));
    assert_eq!(
        asked(&auth("drive.readonly")).await,
        (400, refused, None),
        "a wider one is granted"
    );
}

#[tokio::test]
async fn a_broker_knows_programs_by_their_key() {
    let scene = scene("ann").await;
    grant(&scene.endpoint.store, &["openid"], Duration::from_secs(3600)).await;
    let (key, old) = ("k".repeat(32), "o".repeat(32));
    let keys = [Secret::new(&*key), Secret::new(&*old)];
    let clients = Clients::new(&keys, Users::Prefix("an".to_owned()));
    let callers = Callers::Clients(Arc::new(clients), HandedOn::by_broker(&Arc::default()));
    let endpoint = TokenEndpoint { callers, ..scene.endpoint.clone() };
    let scene = Scene { endpoint, ..scene };
    for key in [&key, &old] {
        let (status, token, _) = scene.ask(key, "ann", "").await;
        assert_eq!((status, &token["access_token"]), (200, &"fake-access".into()));
    }
    let wrong = scene.ask("wrong", "ann", "").await;
    assert_eq!((wrong.0, &wrong.1["error"]), (401, &"invalid_client".into()));
    assert!(wrong.2.contains_key("www-authenticate"));
    let handle = scene.handle.secret.expose().to_owned();
    assert_eq!(scene.ask(&handle, "ann", "").await.0, 401, "no handle opens it");
    invalid_grant(&scene.ask(&key, "bob", "").await);
    invalid_grant(&scene.ask(&key, "", "").await);
    assert_eq!(invalid_grant(&scene.ask(&key, "anybody", "").await), "the user must consent");
}

#[tokio::test]
async fn malformed_questions_are_refused() {
    let scene = scene("ann").await;
    for (form, host, status, error) in [
        ("x=1", "127.0.0.1", 400, "invalid_request"),
        ("grant_type=password", "127.0.0.1", 400, "unsupported_grant_type"),
        ("grant_type=refresh_token&a=1&a=1", "127.0.0.1", 400, "invalid_request"),
        ("grant_type=refresh_token", "evil.test", 403, "invalid_request"),
    ] {
        let answer = scene.send(form, host).await;
        assert_eq!((answer.0, answer.1["error"].as_str()), (status, Some(error)), "{form}");
    }
    let large = format!("grant_type=refresh_token&x={}", "x".repeat(16 * 1024));
    assert_eq!(scene.send(&large, "127.0.0.1").await.0, 400);
}

/// The provider is unreachable here, and the token is no good any more.
#[tokio::test]
async fn an_outage_says_when_to_ask_again() {
    let scene = scene("ann").await;
    let told = scene.endpoint.response(&Told::Later(Duration::from_millis(6100)));
    assert_eq!(told.status(), 503);
    assert_eq!(told.headers()["retry-after"], "7");
    let body = to_bytes(told.into_body(), 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["error"], "temporarily_unavailable");
}

/// A broker's client may ask for a token that lasts; a job could have its user refreshed again
/// and again.
#[tokio::test]
async fn a_job_is_given_what_is_at_hand() {
    let scene = scene("ann").await;
    grant(&scene.endpoint.store, &["openid"], Duration::from_secs(600)).await;
    let secret = scene.handle.secret.expose().to_owned();
    let (status, token, _) = scene.ask(&secret, "ann", "&min_ttl=1800").await;
    assert_eq!(status, 200, "{token}");
    assert!(token["expires_in"].as_u64().unwrap() <= 600, "{token}");
}

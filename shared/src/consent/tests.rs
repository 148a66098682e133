//! Consents on memory ports.

mod id_tokens;
mod login;
mod revocation;
mod scopes;

use std::collections::BTreeMap;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::adapters::MemoryBucket;
use crate::error::Error;
use crate::ports::{
    Answer, CodeAnswer, EndpointError, Generation, Limits, Monotonic, Revocation, TokenEndpoint,
};
use crate::profile::ProfileError;
use crate::secret::Secret;

const CLIENT: &str = r#"{"web": {"client_id": "cid", "client_secret": "fake-secret",
    "auth_uri": "https://provider.test/auth", "token_uri": "https://provider.test/token"}}"#;
const REDIRECT: &str = "https://app.test/oauth/callback";

/// A wall clock that the test sets.
#[derive(Debug)]
struct TestClock(Mutex<Timestamp>);

impl TestClock {
    fn pass(&self, by: SignedDuration) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for TestClock {
    fn wall(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(Duration::ZERO)
    }

    fn sleep(&self, _duration: Duration) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}

/// Exchanges every code once, for whatever the test prepared.
#[derive(Debug, Default)]
struct TestProvider {
    refresh_token: Mutex<bool>,
    scopes: Mutex<Option<Vec<String>>>,
    claims: Mutex<BTreeMap<&'static str, Value>>,
    exchanges: Mutex<Vec<(String, String)>>,
    nonce: Mutex<String>,
    now: Mutex<i64>,
    revoked: Mutex<Vec<String>>,
    /// The lifetime is not stated.
    unstated: Mutex<bool>,
    /// Every request is answered with this.
    refusal: Mutex<Option<EndpointError>>,
    sub: Mutex<Option<&'static str>>,
}

impl TestProvider {
    fn subject(&self) -> &'static str {
        self.sub.lock().unwrap().unwrap_or("s1")
    }
}

impl Provider for TestProvider {
    fn exchange<'a>(
        &'a self,
        code: &'a Secret,
        verifier: &'a Secret,
        _redirect_uri: &'a str,
        _limits: Limits,
    ) -> BoxFuture<'a, Result<CodeAnswer, EndpointError>> {
        if let Some(error) = self.refusal.lock().unwrap().clone() {
            return async { Err(error) }.boxed();
        }
        let mut exchanges = self.exchanges.lock().unwrap();
        exchanges.push((code.expose().to_owned(), verifier.expose().to_owned()));
        let serial = exchanges.len();
        let now = *self.now.lock().unwrap();
        let mut claims = json!({
            "iss": "https://provider.test", "aud": "cid", "sub": self.subject(), "iat": now,
            "exp": now + 3600, "nonce": *self.nonce.lock().unwrap(),
        });
        for (name, value) in &*self.claims.lock().unwrap() {
            claims[*name] = value.clone();
        }
        let body = URL_SAFE_NO_PAD.encode(claims.to_string());
        let answer = Answer {
            access_token: Some(Secret::new(format!("fake-access-{serial}"))),
            refresh_token: self
                .refresh_token
                .lock()
                .unwrap()
                .then(|| Secret::new(format!("fake-refresh-{serial}"))),
            expires_in: (!*self.unstated.lock().unwrap()).then(|| Duration::from_secs(3600)),
            scopes: self.scopes.lock().unwrap().clone(),
        };
        let id_token = Some(Secret::new(format!("e30.{body}.sig")));
        async { Ok(CodeAnswer { answer, id_token }) }.boxed()
    }

    fn profile<'a>(
        &'a self,
        _access_token: &'a Secret,
    ) -> BoxFuture<'a, Result<Map<String, Value>, ProfileError>> {
        let profile = json!({"sub": self.subject(), "name": "Name"});
        async move { Ok(profile.as_object().unwrap().clone()) }.boxed()
    }

    fn revoke<'a>(
        &'a self,
        refresh_token: &'a Secret,
        _limits: Limits,
    ) -> BoxFuture<'a, Result<Revocation, EndpointError>> {
        if let Some(error) = self.refusal.lock().unwrap().clone() {
            return async { Err(error) }.boxed();
        }
        self.revoked.lock().unwrap().push(refresh_token.expose().to_owned());
        async { Ok(Revocation::Revoked) }.boxed()
    }
}

#[derive(Debug)]
struct NoEndpoint;

impl TokenEndpoint for NoEndpoint {
    fn refresh<'a>(
        &'a self,
        _refresh_token: &'a Secret,
        _limits: Limits,
    ) -> BoxFuture<'a, Result<Answer, EndpointError>> {
        async { Err(EndpointError::NotReached("not in this test".into())) }.boxed()
    }

    fn client_id(&self) -> &'static str {
        "cid"
    }

    fn token_uri(&self) -> &'static str {
        "https://provider.test/token"
    }
}

/// Every profile is this user's.
#[derive(Debug)]
struct OneUser(UserId);

impl AppUsers for OneUser {
    fn user<'a>(
        &'a self,
        _profile: &'a Map<String, Value>,
    ) -> BoxFuture<'a, Result<UserId, String>> {
        async { Ok(self.0.clone()) }.boxed()
    }
}

struct World {
    bucket: Arc<MemoryBucket>,
    provider: Arc<TestProvider>,
    clock: Arc<TestClock>,
    /// Two replicas with one key.
    replicas: [Consent; 2],
}

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

impl World {
    fn new() -> Self {
        let bucket = Arc::new(MemoryBucket::default());
        let provider = Arc::new(TestProvider::default());
        *provider.refresh_token.lock().unwrap() = true;
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        *provider.now.lock().unwrap() = start.as_second();
        let clock = Arc::new(TestClock(Mutex::new(start)));
        let replicas = [1, 2].map(|seed| {
            let shared: Arc<dyn Bucket> = Arc::<MemoryBucket>::clone(&bucket);
            let store = TokenStore::builder(Arc::clone(&shared), Arc::new(NoEndpoint))
                .clock(Arc::<TestClock>::clone(&clock))
                .build()
                .unwrap();
            Consent::new(
                OAuthClient::from_json(CLIENT.as_bytes()).unwrap(),
                Arc::<TestProvider>::clone(&provider),
                store,
                shared,
                SessionKey::parse(KEY).unwrap(),
                REDIRECT.parse().unwrap(),
            )
            .clock(Arc::<TestClock>::clone(&clock))
            .randomness(Arc::new(Randomness::seeded(seed)))
        });
        Self { bucket, provider, clock, replicas }
    }

    async fn start(&self, start: Start) -> (Started, BTreeMap<String, String>) {
        let started = oauth_start(&self.replicas[0], start).await.unwrap();
        (started.clone(), self.asked(&started))
    }

    /// What the provider is asked; its ID token will repeat the nonce.
    fn asked(&self, started: &Started) -> BTreeMap<String, String> {
        let asked: BTreeMap<_, _> = started.url.query_pairs().into_owned().collect();
        (*self.provider.nonce.lock().unwrap()).clone_from(&asked["nonce"]);
        asked
    }

    async fn answer(
        &self,
        replica: usize,
        started: &Started,
        query: &str,
    ) -> Result<Outcome, CallbackError> {
        let callback = Callback::Query(query);
        oauth_callback(&self.replicas[replica], Some(&started.pending), callback).await
    }

    async fn objects(&self, prefix: &str) -> Vec<String> {
        let listing = self.bucket.list(prefix, None).await.unwrap();
        listing.objects.into_iter().map(|(name, _)| name).collect()
    }

    async fn sign_in(&self, start: Start) -> Result<Outcome, CallbackError> {
        let (started, asked) = self.start(start).await;
        self.answer(1, &started, &format!("code=c&state={}", asked["state"])).await
    }
}

fn signed_in(outcome: Result<Outcome, CallbackError>) -> SignedIn {
    match outcome.unwrap() {
        Outcome::SignedIn(signed_in) => *signed_in,
        Outcome::ConsentAgain(_) | Outcome::MoreConsent(..) => panic!("asks for consent again"),
    }
}

fn user() -> UserId {
    UserId::new("s1").unwrap()
}

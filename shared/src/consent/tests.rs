//! Consents on memory ports.

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
}

impl Provider for TestProvider {
    fn exchange<'a>(
        &'a self,
        code: &'a Secret,
        verifier: &'a Secret,
        _redirect_uri: &'a str,
        _limits: Limits,
    ) -> BoxFuture<'a, Result<CodeAnswer, EndpointError>> {
        let mut exchanges = self.exchanges.lock().unwrap();
        exchanges.push((code.expose().to_owned(), verifier.expose().to_owned()));
        let serial = exchanges.len();
        let now = *self.now.lock().unwrap();
        let mut claims = json!({
            "iss": "https://provider.test", "aud": "cid", "sub": "s1", "iat": now,
            "exp": now + 3600, "nonce": *self.nonce.lock().unwrap(),
        });
        for (name, value) in &*self.claims.lock().unwrap() {
            claims[*name] = value.clone();
        }
        let body = URL_SAFE_NO_PAD.encode(claims.to_string());
        let answer = CodeAnswer {
            access_token: Secret::new(format!("fake-access-{serial}")),
            refresh_token: self
                .refresh_token
                .lock()
                .unwrap()
                .then(|| Secret::new(format!("fake-refresh-{serial}"))),
            id_token: Some(Secret::new(format!("e30.{body}.sig"))),
            expires_in: Some(Duration::from_secs(3600)),
            scopes: self.scopes.lock().unwrap().clone(),
        };
        async { Ok(answer) }.boxed()
    }

    fn profile<'a>(
        &'a self,
        _access_token: &'a Secret,
    ) -> BoxFuture<'a, Result<Map<String, Value>, ProfileError>> {
        let profile = json!({"sub": "s1", "name": "Name"});
        async move { Ok(profile.as_object().unwrap().clone()) }.boxed()
    }

    fn revoke<'a>(
        &'a self,
        refresh_token: &'a Secret,
        _limits: Limits,
    ) -> BoxFuture<'a, Result<Revocation, EndpointError>> {
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
        Outcome::ConsentAgain(_) => panic!("asks for consent again"),
    }
}

fn user() -> UserId {
    UserId::new("s1").unwrap()
}

#[tokio::test]
async fn a_login_on_two_replicas_stores_a_record() {
    let world = World::new();
    let start =
        Start { scopes: vec!["extra".into()], next: "/account?a=b".into(), ..Start::default() };
    let (started, asked) = world.start(start).await;
    assert_eq!(asked["scope"], "openid email profile extra");
    assert_eq!(asked["access_type"], "offline");
    assert_eq!(asked["include_granted_scopes"], "true");
    assert_eq!(asked["code_challenge_method"], "S256");
    assert_eq!(asked["redirect_uri"], REDIRECT);
    assert!(!asked.contains_key("prompt"), "the provider may skip the page");
    let query = format!("code=c%2F1&state={}", asked["state"]);
    let done = signed_in(world.answer(1, &started, &query).await);
    assert_eq!((done.user.as_str(), done.next.as_str()), ("s1", "/account?a=b"));
    assert!(done.stored && done.missing.is_empty());
    let record = world.replicas[0].store.read_record(&user()).await.unwrap();
    assert_eq!(record.refresh_token.expose(), "fake-refresh-1");
    let (code, verifier) = world.provider.exchanges.lock().unwrap()[0].clone();
    assert_eq!(code, "c/1");
    assert!(verifier.len() >= 43);
    assert!(!started.url.as_str().contains(&verifier));
    assert!(!format!("{started:?}{:?}", world.replicas[0]).contains(&asked["state"]));
}

#[tokio::test]
async fn a_state_is_used_once_across_replicas() {
    let world = World::new();
    let (started, asked) = world.start(Start::default()).await;
    let query = format!("code=c&state={}", asked["state"]);
    let (one, two) =
        tokio::join!(world.answer(0, &started, &query), world.answer(1, &started, &query),);
    let replays = [&one, &two].into_iter().filter(|r| matches!(r, Err(CallbackError::Replayed)));
    assert_eq!(replays.count(), 1);
    assert_eq!(world.provider.exchanges.lock().unwrap().len(), 1);
    assert_eq!(world.objects("logins/").await.len(), 1);
    world.clock.pass(SignedDuration::from_hours(2));
    let swept = sweep_logins(&*world.bucket, &*world.clock).await.unwrap();
    assert_eq!((swept, world.objects("logins/").await.len()), (1, 0));
}

#[tokio::test]
async fn what_is_not_this_browsers_login_changes_nothing() {
    let world = World::new();
    let (started, asked) = world.start(Start::default()).await;
    let (other, other_asked) = world.start(Start::default()).await;
    let (state, foreign) = (&asked["state"], &other_asked["state"]);
    assert_ne!(state, foreign);
    for (query, says) in [
        (format!("code=c&state={foreign}"), "not_yours"),
        ("code=c&state=".to_owned(), "not_yours"),
        ("code=c".to_owned(), "malformed"),
        (format!("state={state}"), "malformed"),
        (format!("code=c&code=d&state={state}"), "malformed"),
        (format!("code=c&error=x&state={state}"), "malformed"),
        (format!("code=c&state={state}&iss=https%3A%2F%2Fevil.test"), "malformed"),
        (format!("error=access_denied&state={state}"), "denied"),
        (format!("error=server_error&state={state}"), "refused"),
        (format!("error=%3Cscript%3E&state={state}"), "refused"),
        (String::new(), "malformed"),
    ] {
        let error = world.answer(0, &started, &query).await.unwrap_err();
        assert_eq!(error.name(), says, "{query}");
        assert!(!error.to_string().contains('<'), "{error}");
    }
    let query = format!("code=c&state={state}");
    let none = oauth_callback(&world.replicas[0], None, Callback::Query(&query)).await;
    assert_eq!(none.unwrap_err().name(), "not_yours");
    let elsewhere = format!("https://app.test/elsewhere?{query}");
    let wrong =
        oauth_callback(&world.replicas[0], Some(&started.pending), Callback::Url(&elsewhere));
    assert_eq!(wrong.await.unwrap_err().name(), "wrong_redirect");
    world.clock.pass(SignedDuration::from_mins(16));
    assert_eq!(world.answer(0, &started, &query).await.unwrap_err().name(), "expired");
    assert_eq!(world.objects("").await, Vec::<String>::new());
    assert!(world.provider.exchanges.lock().unwrap().is_empty());
    drop(other);
}

#[tokio::test]
async fn wrong_id_tokens_store_nothing() {
    for (claim, value, says) in [
        ("iss", json!("https://evil.test"), "issuer"),
        ("aud", json!("other"), "aud"),
        ("aud", json!(["cid", "other"]), "azp"),
        ("azp", json!("other"), "azp"),
        ("exp", json!(1), "exp"),
        ("iat", json!(4_000_000_000_u64), "iat"),
        ("nonce", json!("other"), "nonce"),
        ("sub", json!(""), "sub"),
        ("sub", json!("s2"), "different accounts"),
    ] {
        let world = World::new();
        world.provider.claims.lock().unwrap().insert(claim, value);
        let error = world.sign_in(Start::default()).await.unwrap_err();
        assert!(error.to_string().contains(says), "{claim}: {error}");
        assert!(world.objects("tokens/").await.is_empty());
    }
}

#[tokio::test]
async fn without_a_refresh_token_it_asks_once_more() {
    let world = World::new();
    *world.provider.refresh_token.lock().unwrap() = false;
    let Outcome::ConsentAgain(again) = world.sign_in(Start::default()).await.unwrap() else {
        panic!("nothing is stored, so there is nothing to sign in to");
    };
    let asked = world.asked(&again);
    assert_eq!(asked["prompt"], "consent");
    assert_eq!(asked["login_hint"], "s1");
    let query = format!("code=c&state={}", asked["state"]);
    let error = world.answer(0, &again, &query).await.unwrap_err();
    assert_eq!(error.name(), "no_refresh_token");
    assert!(world.objects("tokens/").await.is_empty());

    *world.provider.refresh_token.lock().unwrap() = true;
    assert!(signed_in(world.sign_in(Start::default()).await).stored);
    *world.provider.refresh_token.lock().unwrap() = false;
    let known = signed_in(world.sign_in(Start::default()).await);
    assert!(!known.stored, "known: simply signed in");
    let more = Start { scopes: vec!["extra".into()], ..Start::default() };
    let outcome = world.sign_in(more).await.unwrap();
    assert!(matches!(outcome, Outcome::ConsentAgain(_)), "the stored grant allows less");
}

#[tokio::test]
async fn the_page_is_insisted_on_only_when_scopes_grow() {
    let world = World::new();
    *world.provider.scopes.lock().unwrap() = Some(vec![
        "https://www.googleapis.com/auth/userinfo.email".into(),
        "https://www.googleapis.com/auth/userinfo.profile".into(),
        "openid".into(),
    ]);
    let done = signed_in(world.sign_in(Start::default()).await);
    assert!(done.missing.is_empty(), "the long names mean the same: {:?}", done.missing);
    let mine = || Start { user: Some(user()), ..Start::default() };
    let (_, asked) = world.start(mine()).await;
    assert!(!asked.contains_key("prompt"));
    assert_eq!(asked["login_hint"], "s1");
    let more = Start { scopes: vec!["extra".into()], ..mine() };
    let (started, asked) = world.start(more).await;
    assert_eq!(asked["prompt"], "consent");
    let query = format!("code=c&state={}", asked["state"]);
    let done = signed_in(world.answer(0, &started, &query).await);
    assert_eq!(done.missing, ["extra"], "fewer granted than asked is reported");
    let stranger = Start { user: Some(UserId::new("s2").unwrap()), ..Start::default() };
    assert_eq!(world.sign_in(stranger).await.unwrap_err().name(), "other_account");
}

#[tokio::test]
async fn the_embedding_program_chooses_the_user() {
    let world = World::new();
    let app = UserId::new("app-user-7").unwrap();
    let consent = world.replicas[0].clone().users(Arc::new(OneUser(app.clone())));
    let started = oauth_start(&consent, Start::default()).await.unwrap();
    world.asked(&started);
    let code = Callback::Code(" c \n");
    let done = oauth_callback(&consent, Some(&started.pending), code).await;
    assert_eq!(signed_in(done).user, app);
    assert_eq!(world.objects("tokens/").await, [app.token_object()]);
}

#[tokio::test]
async fn revoking_tells_the_provider_and_then_deletes() {
    let world = World::new();
    signed_in(world.sign_in(Start::default()).await);
    let store = &world.replicas[0].store;
    let revoked = store.revoke(&user(), &*world.provider).await.unwrap();
    assert_eq!(revoked, crate::Revoked::Revoked);
    assert_eq!(*world.provider.revoked.lock().unwrap(), ["fake-refresh-1"]);
    assert!(world.objects("tokens/").await.is_empty());
    let again = store.revoke(&user(), &*world.provider).await.unwrap();
    assert_eq!(again, crate::Revoked::Unknown);
}

#[tokio::test]
async fn a_marker_whose_reply_was_lost_is_recognised() {
    let world = World::new();
    let (started, asked) = world.start(Start::default()).await;
    // The name is known; somebody else's marker there is a replay.
    let query = format!("code=c&state={}", asked["state"]);
    signed_in(world.answer(0, &started, &query).await);
    let marker = world.objects("logins/").await.remove(0);
    let other = bytes::Bytes::from_static(b"{}");
    let generation = world.bucket.get(&marker).await.unwrap().unwrap().generation;
    assert_ne!(generation, Generation::ABSENT);
    world.bucket.put(&marker, other, generation).await.unwrap();
    assert_eq!(world.answer(1, &started, &query).await.unwrap_err().name(), "replayed");
}

#[test]
fn next_is_a_local_path_only() {
    for fine in ["/", "/account", "/a/b?c=d&e=%2F#f", "/a//b"] {
        assert_eq!(start::local_path(fine), fine);
    }
    for bad in [
        "",
        "account",
        "//evil.test",
        "/\\evil.test",
        "\\\\evil.test",
        "https://evil.test",
        "/\t/evil.test",
        "/a\\b",
        "javascript:alert(1)",
        "/ä",
        "/a b",
        "/a\r\nSet-Cookie: x",
    ] {
        assert_eq!(start::local_path(bad), "/", "{bad:?}");
    }
    assert_eq!(start::local_path(&format!("/{}", "x".repeat(600))), "/");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever query arrives: no panic, nothing stored, nothing echoed.
    #[test]
    fn any_query_is_refused_without_a_trace(
        query in prop_oneof![
            "\\PC{0,80}",
            "(code|state|error|iss|scope)=[<>\"'&%=a-zA-Z0-9]{0,40}(&(code|state|error|iss)=[<>\"'%a-z0-9]{0,30}){0,3}",
        ],
        sealed in proptest::option::of("[A-Za-z0-9_-]{0,80}"),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let (started, _) = world.start(Start::default()).await;
            for pending in [sealed.as_deref(), Some(started.pending.as_str())] {
                for callback in [Callback::Query(&query), Callback::Url(&query)] {
                    let error = oauth_callback(&world.replicas[0], pending, callback).await
                        .expect_err("no state was guessed");
                    let text = error.to_string();
                    assert!(!text.contains(['<', '>', '"']), "{text}");
                }
            }
            assert!(world.objects("").await.is_empty());
        });
    }
}

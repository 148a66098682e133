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
        oauth_callback(&world.replicas[0], Some(&started.pending), Callback::Pasted(&elsewhere));
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
        ("exp", json!("4000000000"), "exp"),
        ("exp", json!(-1.5), "exp"),
        ("iat", json!(4.0e9), "iat"),
        ("nbf", json!(4_000_000_000_u64), "nbf"),
        ("nbf", json!("soon"), "nbf"),
        ("sub", json!(""), "sub"),
        ("sub", json!(1.5), "sub"),
        ("sub", json!(1e30), "sub"),
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
async fn times_in_id_tokens_are_numeric_dates() {
    for (claim, value) in [
        ("exp", json!(1_767_229_200.75)),
        ("exp", json!(4.0e9)),
        ("iat", json!(1_767_225_600.25)),
        ("nbf", json!(1_767_225_600.5)),
        ("auth_time", json!("never")),
    ] {
        let world = World::new();
        world.provider.claims.lock().unwrap().insert(claim, value.clone());
        assert!(signed_in(world.sign_in(Start::default()).await).stored, "{claim} {value}");
    }
}

#[test]
fn an_account_is_a_text_or_an_integer() {
    let named = |profile: Value| subject(profile.as_object().unwrap());
    for (profile, name) in [
        (json!({"sub": "s"}), Some("s")),
        (json!({"sub": "s", "id": "i"}), Some("s")),
        (json!({"sub": "", "id": "i"}), Some("i")),
        (json!({"sub": null, "id": 7}), Some("7")),
        (json!({"id": u64::MAX}), Some("18446744073709551615")),
        (json!({"id": 1.5}), None),
        (json!({"id": 1e30}), None),
        (json!({"sub": 1e30, "id": "i"}), None),
        (json!({"sub": true}), None),
        (json!({}), None),
    ] {
        assert_eq!(named(profile.clone()).as_deref(), name, "{profile}");
    }
}

#[tokio::test]
async fn a_lifetime_that_is_not_stated_is_five_minutes_from_when_it_was_asked() {
    let world = World::new();
    *world.provider.unstated.lock().unwrap() = true;
    signed_in(world.sign_in(Start::default()).await);
    let record = world.replicas[0].store.read_record(&user()).await.unwrap();
    assert_eq!(record.expires_in, Some(Duration::from_secs(300)));
    assert_eq!(record.expires_at.unwrap().to_string(), "2026-01-01T00:05:00Z");
    assert!(record.access_token.is_some());
}

#[tokio::test]
async fn what_the_provider_refuses_at_a_login_is_said_in_a_persons_words() {
    let refused = |code: &str, why: &str| EndpointError::Refused {
        code: code.into(),
        why: format!("https://provider.test/token answered ({why})").into(),
    };
    for (error, name, says) in [
        (EndpointError::InvalidGrant("invalid_grant: spent".into()), "code_refused", "spent"),
        (refused("redirect_uri_mismatch", ""), "code_refused", "redirect_uri_mismatch"),
        (refused("invalid_client", "Unauthorized"), "misconfigured", "operator"),
        (refused("admin_policy_enforced", ""), "not_allowed", "Your organization"),
        (refused("access_denied", "Account restricted"), "not_allowed", "your account"),
        (EndpointError::NotReached("refused".into()), "unavailable", "in a while"),
    ] {
        let world = World::new();
        *world.provider.refusal.lock().unwrap() = Some(error);
        let error = world.sign_in(Start::default()).await.unwrap_err();
        assert_eq!(error.name(), name);
        assert!(error.to_string().contains(says), "{error}");
        assert!(world.objects("tokens/").await.is_empty());
    }
}

impl World {
    /// What the provider reports from now on.
    fn report(&self, names: &[&str]) {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        *self.provider.scopes.lock().unwrap() = Some(names);
    }
}

async fn stored_scopes(world: &World) -> Vec<String> {
    world.replicas[0].store.read_record(&user()).await.unwrap().scopes
}

#[tokio::test]
async fn of_a_known_person_everything_is_asked_that_they_allowed_before() {
    let mut world = World::new();
    for replica in &mut world.replicas {
        *replica = replica.clone().listed(vec!["drive".into(), "tasks".into()]);
    }
    world.report(&["openid", "Drive", "retired"]);
    signed_in(world.sign_in(Start::default()).await);
    let more = || Start { scopes: vec!["tasks".into()], ..Start::default() };
    let (_, asked) = world.start(Start { user: Some(user()), ..more() }).await;
    assert_eq!(asked["scope"], "openid email profile tasks Drive", "and nothing retired");
    let (_, asked) = world.start(Start { remembered: Some(user()), ..more() }).await;
    assert_eq!(asked["scope"], "openid email profile tasks Drive");
    assert_eq!(asked["prompt"], "consent", "without the page no refresh token might come");
    let (_, asked) = world.start(Start { remembered: Some(user()), ..Start::default() }).await;
    assert!(!asked.contains_key("prompt"), "somebody else may sign in");
    let (_, asked) = world.start(Start { user: Some(user()), only: true, ..more() }).await;
    assert_eq!(asked["scope"], "openid email profile tasks");
    assert_eq!(asked["prompt"], "consent", "else no new grant would come");
    assert!(!asked.contains_key("include_granted_scopes"), "the provider would add the others");
    let (_, asked) = world.start(more()).await;
    assert_eq!(asked["scope"], "openid email profile tasks", "nobody is known");
}

#[tokio::test]
async fn a_scope_that_is_gone_is_left_out_the_second_time() {
    let world = World::new();
    world.report(&["openid", "email", "profile", "gone"]);
    signed_in(world.sign_in(Start::default()).await);
    let (started, asked) = world.start(Start { user: Some(user()), ..Start::default() }).await;
    assert_eq!(asked["scope"], "openid email profile gone");
    let query = format!("error=invalid_scope&state={}", asked["state"]);
    let Outcome::ConsentAgain(alone) = world.answer(0, &started, &query).await.unwrap() else {
        panic!("it is not repeated");
    };
    let asked = world.asked(&alone);
    assert_eq!(asked["scope"], "openid email profile");
    world.report(&["openid", "email", "profile"]);
    let query = format!("error=invalid_scope&state={}", asked["state"]);
    assert_eq!(world.answer(0, &alone, &query).await.unwrap_err().name(), "refused");
    let query = format!("code=c&state={}", asked["state"]);
    assert!(signed_in(world.answer(0, &alone, &query).await).stored, "and asked no third time");
}

#[tokio::test]
async fn a_login_that_narrows_is_stored_and_repeated_once_with_the_union() {
    let world = World::new();
    world.report(&["openid", "email", "profile", "drive"]);
    signed_in(world.sign_in(Start::default()).await);
    world.report(&["email", "profile"]);
    let outcome = world.sign_in(Start::default()).await.unwrap();
    let Outcome::MoreConsent(done, again) = outcome else { panic!("the wider grant is lost") };
    assert!(done.stored);
    assert_eq!(stored_scopes(&world).await, ["email", "profile"], "always stored");
    let asked = world.asked(&again);
    assert_eq!(asked["scope"], "openid email profile drive");
    assert_eq!((&*asked["prompt"], &*asked["login_hint"]), ("consent", "s1"));
    // What the person declines then is theirs to decline.
    let query = format!("code=c&state={}", asked["state"]);
    assert!(signed_in(world.answer(1, &again, &query).await).stored);
    assert_eq!(stored_scopes(&world).await, ["email", "profile"]);
}

#[tokio::test]
async fn less_by_name_alone_does_not_narrow() {
    let world = World::new();
    world.report(&["openid", "offline_access", "email", "Mail.Read"]);
    signed_in(world.sign_in(Start::default()).await);
    world.report(&["https://www.googleapis.com/auth/userinfo.email", "mail.read"]);
    assert!(signed_in(world.sign_in(Start::default()).await).stored);
    // Told so, a person may allow less.
    world.report(&["email"]);
    let less = Start { user: Some(user()), only: true, ..Start::default() };
    assert!(signed_in(world.sign_in(less).await).stored);
    assert_eq!(stored_scopes(&world).await, ["email"]);
}

/// Browsers keep 4096 bytes of a cookie.
#[tokio::test]
async fn many_scopes_fit_into_a_cookie() {
    let world = World::new();
    let scopes: Vec<String> = (0..52)
        .map(|n| format!("https://www.googleapis.com/auth/service-{n:02}.readonly"))
        .collect();
    let names: Vec<&str> = scopes.iter().map(String::as_str).collect();
    world.report(&[&["openid", "email", "profile"], &names[..]].concat());
    signed_in(world.sign_in(Start { scopes: scopes.clone(), ..Start::default() }).await);
    let start = Start { scopes: scopes[..26].to_vec(), user: Some(user()), ..Start::default() };
    let (started, asked) = world.start(start).await;
    assert_eq!(asked["scope"].split(' ').count(), 55);
    assert!(started.pending.len() < 3_900, "{}", started.pending.len());
    let query = format!("code=c&state={}", asked["state"]);
    assert!(signed_in(world.answer(1, &started, &query).await).missing.is_empty());
}

#[tokio::test]
async fn what_a_person_pastes_is_understood() {
    let state = "STATE";
    for (pasted, code) in [
        ("4%2F0Afake", "4/0Afake"),
        ("4/0Afake+x", "4/0Afake+x"),
        ("code=4%2F0Afake&scope=openid", "4/0Afake"),
        ("?state=STATE&code=4%2F0Afake", "4/0Afake"),
        ("app.test/oauth/callback?state=STATE&code=4%2F0Afake&scope=a%20b", "4/0Afake"),
        ("https://app.test/oauth/callback?code=4%2F0Afake&state=STATE#", "4/0Afake"),
        ("\"https://app.test/oauth/callback?code=4%2F0Afake&state=STATE\"", "4/0Afake"),
        ("'4%2F0Afake'\r\n", "4/0Afake"),
        ("https://app.test/oauth/callback?state=STATE&\n  code=4%2F0Afake", "4/0Afake"),
    ] {
        let world = World::new();
        let (started, asked) = world.start(Start::default()).await;
        // The address without a scheme is taken for http, which is how `fleet login` listens.
        let mut consent = world.replicas[1].clone();
        if pasted.starts_with("app.test") {
            consent.redirect_uri = "http://app.test/oauth/callback".parse().unwrap();
            let pending = pending::Pending::open(&consent.key, &started.pending).unwrap();
            let redirect_uri = consent.redirect_uri.to_string();
            let sealed = pending::Pending { redirect_uri, ..pending }.seal(&consent.key);
            let text = pasted.replace(state, &asked["state"]);
            let done = oauth_callback(&consent, Some(&sealed), Callback::Pasted(&text)).await;
            assert!(signed_in(done).stored, "{pasted}");
        } else {
            let text = pasted.replace(state, &asked["state"]);
            let callback = Callback::Pasted(&text);
            let done = oauth_callback(&consent, Some(&started.pending), callback).await;
            assert!(signed_in(done).stored, "{pasted}");
        }
        assert_eq!(world.provider.exchanges.lock().unwrap()[0].0, code, "{pasted}");
    }
    for (pasted, name) in [
        ("", "malformed"),
        ("  ''  ", "malformed"),
        ("https://app.test/oauth/callback", "malformed"),
        ("scope=openid", "malformed"),
        ("ä", "malformed"),
        ("?state=other&code=c", "not_yours"),
        ("https://evil.test/oauth/callback?code=c", "wrong_redirect"),
        ("error=access_denied", "denied"),
    ] {
        let world = World::new();
        let (started, _) = world.start(Start::default()).await;
        let callback = Callback::Pasted(pasted);
        let error = oauth_callback(&world.replicas[0], Some(&started.pending), callback).await;
        assert_eq!(error.unwrap_err().name(), name, "{pasted}");
        assert!(world.provider.exchanges.lock().unwrap().is_empty(), "{pasted}");
    }
}

#[tokio::test]
async fn another_account_replaces_a_record_only_when_told_to() {
    let mut world = World::new();
    for replica in &mut world.replicas {
        *replica = replica.clone().users(Arc::new(OneUser(user())));
    }
    signed_in(world.sign_in(Start::default()).await);
    *world.provider.sub.lock().unwrap() = Some("s2");
    let error = world.sign_in(Start::default()).await.unwrap_err();
    assert_eq!(error.name(), "stored_for_another");
    let record = world.replicas[0].store.read_record(&user()).await.unwrap();
    assert_eq!(record.sub.as_deref(), Some("s1"));
    let told = Start { replace: true, ..Start::default() };
    assert!(signed_in(world.sign_in(told).await).stored);
    let record = world.replicas[0].store.read_record(&user()).await.unwrap();
    assert_eq!(record.sub.as_deref(), Some("s2"));
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
    let code = Callback::Pasted(" c \n");
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
async fn a_revocation_that_is_not_confirmed_keeps_the_record() {
    let world = World::new();
    signed_in(world.sign_in(Start::default()).await);
    let store = &world.replicas[0].store;
    for (error, misconfigured) in [
        (EndpointError::Refused { code: "unsupported_token_type".into(), why: "x".into() }, false),
        (EndpointError::Refused { code: "invalid_client".into(), why: "x".into() }, true),
        (EndpointError::NotNow { code: None, why: "x".into(), retry_after: None }, false),
        (EndpointError::NotReached("x".into()), false),
    ] {
        *world.provider.refusal.lock().unwrap() = Some(error);
        let error = store.revoke(&user(), &*world.provider).await.unwrap_err();
        assert_eq!(matches!(error, Error::Misconfigured(_)), misconfigured, "{error}");
        assert_eq!(world.objects("tokens/").await.len(), 1);
    }
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
    assert_eq!(start::local_path(&format!("/{}", "x".repeat(1100))), "/");
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
                let callback = Callback::Query(&query);
                let error = oauth_callback(&world.replicas[0], pending, callback).await
                    .expect_err("no state was guessed");
                let text = error.to_string();
                assert!(!text.contains(['<', '>', '"']), "{text}");
            }
            assert!(world.objects("").await.is_empty());
        });
    }
}

//! What a cached user costs, and what the cache may forget.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shared::ports::{Bucket, BucketError, Generation, Hints, Listing, Object, Randomness};
use shared::record::{GrantId, RecordCodec, State, TokenRecord, WriteId};
use shared::{TokenStore, UserId};
use tests::memory::{Fleet, Provider, VirtualClock, pass};

/// Has a record of every user, and keeps none.
#[derive(Debug)]
struct EverybodysBucket {
    /// The record of a user whose ID is as long as the others'.
    example: String,
}

const ACCESS_TOKEN: usize = 220;
const REFRESH_TOKEN: usize = 103;

impl EverybodysBucket {
    fn new() -> Self {
        let stored = RecordCodec::default().encode(&Self::record(user(0)));
        Self { example: String::from_utf8(stored.to_vec()).unwrap() }
    }

    fn record(user: UserId) -> TokenRecord {
        let fake = |length: usize| format!("fake-{}", "x".repeat(length - 5));
        TokenRecord {
            sub: Some(user.as_str().to_owned()),
            user,
            state: State::Active,
            reason: None,
            refresh_token: fake(REFRESH_TOKEN).into(),
            access_token: Some(fake(ACCESS_TOKEN).into()),
            expires_at: Some("2026-01-01T01:00:00Z".parse().unwrap()),
            expires_in: Some(Duration::from_secs(3599)),
            scopes: vec![
                "https://www.googleapis.com/auth/drive.readonly".into(),
                "https://www.googleapis.com/auth/userinfo.email".into(),
                "https://www.googleapis.com/auth/userinfo.profile".into(),
                "openid".into(),
            ],
            token_uri: "https://provider.test/token".into(),
            client_id: "test-client".into(),
            blocked: None,
            later: None,
            grant_id: GrantId("0".repeat(32)).successor(&"0".repeat(32)),
            write_id: WriteId("0".repeat(32)),
            holder: "0".repeat(32),
            lease_generation: Some(Generation(1_700_000_000_000_000)),
            created_at: "2025-01-01T00:00:00Z".parse().unwrap(),
            updated_at: "2026-01-01T00:00:00Z".parse().unwrap(),
        }
    }
}

impl Bucket for EverybodysBucket {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Object>, BucketError>> {
        let id = UserId::of_token_object(name).unwrap();
        let content = self.example.replace(user(0).as_str(), id.as_str()).into();
        let object = Object { content, generation: Generation(1_700_000_000_000_001) };
        async move { Ok(Some(object)) }.boxed()
    }

    fn put_with_hints<'a>(
        &'a self,
        _name: &'a str,
        _content: Bytes,
        _hints: Hints,
        _expected: Generation,
    ) -> BoxFuture<'a, Result<Generation, BucketError>> {
        panic!("a fresh token needs no write")
    }

    fn delete<'a>(
        &'a self,
        _name: &'a str,
        _expected: Generation,
    ) -> BoxFuture<'a, Result<bool, BucketError>> {
        panic!("nobody is deleted")
    }

    fn list<'a>(
        &'a self,
        _prefix: &'a str,
        _page: Option<String>,
    ) -> BoxFuture<'a, Result<Listing, BucketError>> {
        panic!("nobody is listed")
    }
}

fn user(number: usize) -> UserId {
    UserId::new(format!("1097{number:017}")).unwrap()
}

/// Memory of this process that is in RAM, in bytes.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_users_take_less_than_a_kibibyte_each_beyond_their_tokens() {
    const USERS: usize = 100_000;
    let store = TokenStore::builder(
        Arc::new(EverybodysBucket::new()),
        Arc::new(Provider::new(true, Duration::from_secs(3600))),
    )
    .clock(Arc::new(VirtualClock::new(jiff::SignedDuration::ZERO)))
    .randomness(Arc::new(Randomness::seeded(7)))
    // Shards fill unevenly; this leaves room for all.
    .cached_users(USERS + USERS / 4)
    .build()
    .unwrap();
    for number in 0..1000 {
        store.get_credentials(&user(USERS + number)).await.unwrap();
    }
    let (before, cached) = (resident(), store.cached_users());
    for number in 0..USERS {
        store.get_credentials(&user(number)).await.unwrap();
    }
    let grown = resident() - before;
    let users = store.cached_users() - cached;
    assert_eq!(users, USERS, "all of them are kept");
    // The refresh token is not kept in memory.
    let each = grown / users - ACCESS_TOKEN;
    println!("{each} bytes per cached user beyond {ACCESS_TOKEN} of access token");
    assert!(each < 1024, "{each} bytes per cached user");
}

#[tokio::test(start_paused = true)]
async fn the_cache_is_bounded_and_forgotten_users_come_back() {
    let mut fleet = Fleet::new(true);
    fleet.cached_users = 100;
    let mut users = Vec::new();
    for number in 0..1000 {
        users.push(fleet.user(&number.to_string()).await);
    }
    let store = fleet.replica("a");
    for _ in 0..2 {
        for user in &users {
            store.get_credentials(user).await.unwrap();
            assert!(store.cached_users() <= 100, "{}", store.cached_users());
        }
    }
    assert!(store.cached_users() >= 50, "{}", store.cached_users());
    assert_eq!(fleet.provider.calls(), 0, "forgetting costs reads, never a refresh");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_in_flight_is_never_forgotten() {
    let mut fleet = Fleet::new(true);
    fleet.cached_users = 100;
    let refreshed = fleet.user("refreshed").await;
    pass(Duration::from_secs(3601)).await;
    let mut others = Vec::new();
    for number in 0..2000 {
        others.push(fleet.user(&number.to_string()).await);
    }
    fleet.provider.set_latency(Duration::from_secs(5));
    let store = fleet.replica("a");
    let first = tokio::spawn({
        let (store, user) = (store.clone(), refreshed.clone());
        async move { store.get_credentials(&user).await }
    });
    pass(Duration::from_secs(1)).await;
    for user in &others {
        store.get_credentials(user).await.unwrap();
    }
    assert!(store.cached_users() <= 101);
    fleet.bucket.take_requests();
    let second = tokio::spawn({
        let (store, user) = (store.clone(), refreshed.clone());
        async move { store.get_credentials(&user).await }
    });
    pass(Duration::from_secs(1)).await;
    let asked = fleet.bucket.take_requests();
    assert_eq!((asked.reads(), asked.writes()), (0, 0), "it joined the flight");
    let (first, second) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert_eq!(first.grant_id(), second.grant_id());
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (1, 0));
}

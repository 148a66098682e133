//! Values for the tests of this module.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::ports::{Monotonic, Now};
use crate::record::{GrantId, State, TokenRecord, WriteId};
use crate::user_id::UserId;

/// `seconds` after the tests' epoch, on both clocks. The monotonic clock starts
/// well above zero so that it can be compared with earlier points.
pub(crate) fn now_at(seconds: i64) -> Now {
    let epoch: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    Now {
        wall: epoch + SignedDuration::from_secs(seconds),
        monotonic: Monotonic(Duration::from_secs(u64::try_from(1_000_000 + seconds).unwrap())),
    }
}

/// A record with an access token that expires an hour after the epoch.
pub(crate) fn record(user: &str) -> TokenRecord {
    TokenRecord {
        user: UserId::new(user).unwrap(),
        sub: None,
        state: State::Active,
        reason: None,
        refresh_token: "fake-refresh".into(),
        access_token: Some("fake-access".into()),
        expires_at: Some(now_at(3600).wall),
        expires_in: Some(Duration::from_secs(3600)),
        scopes: vec!["openid".into()],
        token_uri: "https://token.test/".into(),
        client_id: "client".into(),
        blocked: None,
        grant_id: GrantId("first".into()),
        write_id: WriteId("first write".into()),
        holder: "somebody".into(),
        lease_generation: None,
        later: None,
        created_at: now_at(-1000).wall,
        updated_at: now_at(-1000).wall,
    }
}

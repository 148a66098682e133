//! Grants outlive the provider, spent tokens stay spent, and no token is made twice.

use std::time::Duration;

use tempfile::tempdir;

use super::*;
use crate::google::exchange::{RefreshRequest, TokenError};
use crate::google::identity::{Client, Policy};
use crate::google::token::Minter;
use crate::google::{Grant, OnReuse};

const SUB: &str = "10977";
const HOUR: Duration = Duration::from_hours(1);

/// A provider on a folder, at a time that the test chooses.
struct World {
    identity: Identity,
    now: Instant,
    data: Data,
}

impl World {
    fn open(folder: &std::path::Path, wall: SystemTime) -> Self {
        let data = Data::open(folder).unwrap();
        let policy = Policy { token_lifetime: HOUR, rotate: true, on_reuse: OnReuse::RevokeFamily };
        let client = Client { id: "id".to_owned(), secret: Secret::new("fake".to_owned()) };
        let minter = Minter::new(runs(&data).unwrap());
        let mut identity = Identity::new(policy, client, minter);
        let now = Instant::now();
        identity.resume(&data, now, wall).unwrap();
        Self { identity, now, data }
    }

    fn grant(&mut self) -> Grant {
        let user = User { sub: SUB.to_owned(), name: "Ann".to_owned(), ..User::default() };
        self.identity.grant(self.now, user, vec!["a".to_owned()])
    }

    fn refresh(&mut self, token: &str) -> Result<(String, String), TokenError> {
        let request = RefreshRequest {
            client_id: Some("id".to_owned()),
            client_secret: Some(Secret::new("fake".to_owned())),
            refresh_token: Some(Secret::new(token.to_owned())),
            scope: None,
        };
        let fresh = self.identity.refresh(self.now, &request).0?;
        let next = fresh.refresh_token.unwrap();
        Ok((fresh.access_token.expose().to_owned(), next.expose().to_owned()))
    }

    fn lives(&mut self, token: &str) -> bool {
        self.identity.authorize(self.now, Some(token), &["a"]).is_ok()
    }

    fn close(mut self) {
        self.data.journal().append(self.identity.take_changes());
    }
}

#[test]
fn grants_and_tokens_outlive_the_provider() {
    let folder = tempdir().unwrap();
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let mut world = World::open(folder.path(), wall);
    let (first, other, revoked) = (world.grant(), world.grant(), world.grant());
    let (access, next) = world.refresh(&first.refresh_token).unwrap();
    world.identity.revoke(world.now, &revoked.refresh_token).unwrap();
    world.close();

    // Half an hour later.
    let mut world = World::open(folder.path(), wall + HOUR / 2);
    assert_eq!(world.identity.user(SUB).unwrap().name, "Ann");
    assert!(world.lives(&access) && world.lives(&other.access_token));
    assert!(!world.lives(&revoked.access_token));
    let ended = world.refresh(&revoked.refresh_token);
    assert_eq!(ended, Err(TokenError::EndedGrant));
    let (later, _) = world.refresh(&other.refresh_token).unwrap();
    assert_ne!(later, access, "tokens are not made twice");
    world.now += HOUR / 2;
    assert!(!world.lives(&access) && world.lives(&later), "the rest of an hour");
    // What was spent before is a reuse now.
    assert_eq!(world.refresh(&first.refresh_token), Err(TokenError::SpentToken));
    assert_eq!(world.refresh(&next), Err(TokenError::EndedGrant));
    world.close();

    let mut world = World::open(folder.path(), wall + HOUR);
    assert!(world.lives(&later));
    assert_eq!(world.refresh(&next), Err(TokenError::EndedGrant));
    world.identity.expire_access_tokens(SUB);
    world.close();
    let mut world = World::open(folder.path(), wall + HOUR);
    assert!(!world.lives(&later), "expired by hand");
    assert!(world.refresh(&other.refresh_token).is_err(), "it was spent");
}

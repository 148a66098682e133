//! The provider: which refresh tokens it knows, and what it grants for them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use shared::ports::{Answer, EndpointError};
use shared::{Grant, Secret};

/// A refresh token's place in its family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) user: String,
    /// The consent that it goes back to; later consents have higher numbers.
    pub(crate) family: u64,
    /// Rotations since then.
    pub(crate) depth: u64,
    spent: bool,
}

#[derive(Debug)]
pub(crate) struct Provider {
    rotating: bool,
    family_revocation: bool,
    lifetime: Duration,
    serial: u64,
    places: BTreeMap<String, Place>,
    dead_families: BTreeSet<u64>,
    /// Refresh tokens that were rejected at least once.
    rejected: BTreeSet<String>,
    /// Access token → its number; later ones are higher.
    issued: BTreeMap<String, u64>,
    withdrawn: BTreeSet<u64>,
    pub(crate) calls: u64,
    pub(crate) reuse: u64,
}

impl Provider {
    pub(crate) fn new(rotating: bool, family_revocation: bool, lifetime: Duration) -> Self {
        Self {
            rotating,
            family_revocation,
            lifetime,
            serial: 0,
            places: BTreeMap::new(),
            dead_families: BTreeSet::new(),
            rejected: BTreeSet::new(),
            issued: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            calls: 0,
            reuse: 0,
        }
    }

    fn access_token(&mut self) -> Secret {
        self.serial += 1;
        let token = format!("fake-access-{}", self.serial);
        self.issued.insert(token.clone(), self.serial);
        Secret::new(token)
    }

    /// The user consents at `now`.
    pub(crate) fn consent(&mut self, user: &str, now: Timestamp) -> Grant {
        let access_token = self.access_token();
        let token = format!("fake-refresh-{}-0", self.serial);
        let place = Place { user: user.to_owned(), family: self.serial, depth: 0, spent: false };
        self.places.insert(token.clone(), place);
        Grant {
            refresh_token: Some(Secret::new(token)),
            access_token: Some(access_token),
            expires_at: now.checked_add(self.lifetime).ok(),
            expires_in: Some(self.lifetime),
            scopes: vec![format!("consent-{}", self.serial), "openid".into()],
            sub: Some(user.to_owned()),
            ended: None,
        }
    }

    /// The user withdraws every consent.
    pub(crate) fn withdraw(&mut self, user: &str) {
        let families = self.places.values().filter(|p| p.user == user).map(|p| p.family);
        let families: BTreeSet<_> = families.collect();
        self.dead_families.extend(&families);
        self.withdrawn.extend(families);
    }

    /// Carries a refresh out.
    pub(crate) fn refresh(&mut self, presented: &str) -> Result<Answer, EndpointError> {
        self.calls += 1;
        let place = self.places.get(presented).cloned();
        let granted = place.filter(|place| {
            if place.spent {
                self.reuse += 1;
                if self.family_revocation {
                    self.dead_families.insert(place.family);
                }
            }
            !place.spent && !self.dead_families.contains(&place.family)
        });
        let Some(place) = granted else {
            self.rejected.insert(presented.to_owned());
            return Err(EndpointError::InvalidGrant("invalid_grant".into()));
        };
        let access_token = Some(self.access_token());
        let refresh_token = self.rotating.then(|| {
            let next = format!("fake-refresh-{}-{}", place.family, self.serial);
            self.places.insert(next.clone(), Place { depth: place.depth + 1, ..place.clone() });
            self.places.insert(presented.to_owned(), Place { spent: true, ..place });
            Secret::new(next)
        });
        let expires_in = Some(self.lifetime);
        Ok(Answer { access_token, refresh_token, expires_in, scopes: None })
    }

    pub(crate) fn place(&self, refresh_token: &str) -> Option<&Place> {
        self.places.get(refresh_token)
    }

    /// Whether a refresh with it would be granted.
    pub(crate) fn accepts(&self, refresh_token: &str) -> bool {
        self.places
            .get(refresh_token)
            .is_some_and(|p| !p.spent && !self.dead_families.contains(&p.family))
    }

    pub(crate) fn was_withdrawn(&self, refresh_token: &str) -> bool {
        self.places.get(refresh_token).is_some_and(|p| self.withdrawn.contains(&p.family))
    }

    pub(crate) fn has_rejected(&self, refresh_token: &str) -> bool {
        self.rejected.contains(refresh_token)
    }

    /// The number under which an access token was issued.
    pub(crate) fn number(&self, access_token: &str) -> Option<u64> {
        self.issued.get(access_token).copied()
    }
}

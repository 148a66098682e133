//! The provider of the model: consents, each with its chain of refresh tokens.

use std::time::Duration;

use shared::Secret;
use shared::ports::{Answer, EndpointError};
use shared::record::TokenRecord;

use super::setup::Setup;

/// One consent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Family {
    /// Refreshes that were granted; the newest refresh token has this number
    /// where they rotate.
    granted: u32,
    dead: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Provider {
    families: Vec<Family>,
    rejected: Vec<(usize, u32)>,
}

/// Access tokens outlive every check.
pub(super) const LIFE: Duration = Duration::from_secs(100_000);

fn name(kind: &str, family: usize, number: u32) -> Secret {
    Secret::new(format!("{kind} {family} {number}"))
}

/// The family and number in a token's name.
pub(super) fn place(token: &Secret) -> (usize, u32) {
    let mut parts = token.expose().split(' ').skip(1);
    let mut number = || parts.next().and_then(|part| part.parse::<u32>().ok()).unwrap_or(0);
    (usize::try_from(number()).unwrap_or(0), number())
}

/// The number of a record's access token: later ones are higher.
pub(super) fn issued(record: &TokenRecord) -> Option<u32> {
    record.access_token.as_ref().map(|token| place(token).1)
}

impl Provider {
    /// A new consent's refresh and access token.
    pub(super) fn consent(&mut self) -> (Secret, Secret) {
        let family = self.families.len();
        self.families.push(Family::default());
        (name("refresh", family, 0), name("access", family, 0))
    }

    pub(super) fn refresh(
        &mut self,
        presented: &Secret,
        setup: &Setup,
    ) -> Result<Answer, EndpointError> {
        let (index, number) = place(presented);
        let family = &mut self.families[index];
        let spent = setup.rotating && number < family.granted;
        if spent && setup.family_revocation {
            family.dead = true;
        }
        if spent || family.dead {
            if !self.rejected.contains(&(index, number)) {
                self.rejected.push((index, number));
            }
            return Err(EndpointError::InvalidGrant("invalid_grant".into()));
        }
        family.granted += 1;
        let granted = family.granted;
        Ok(Answer {
            access_token: Some(name("access", index, granted)),
            refresh_token: setup.rotating.then(|| name("refresh", index, granted)),
            expires_in: Some(LIFE),
            scopes: None,
        })
    }

    /// The newest consent ends, by the provider's own decision.
    pub(super) fn end(&mut self) {
        if let Some(family) = self.families.last_mut() {
            family.dead = true;
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.families.last().is_none_or(|family| family.dead)
    }

    pub(super) fn has_rejected(&self, refresh_token: &Secret) -> bool {
        self.rejected.contains(&place(refresh_token))
    }
}

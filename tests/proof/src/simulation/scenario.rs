//! What one seed stands for.

use std::time::Duration;

use shared::Policy;

use super::dice::Dice;

/// The shape of one run: sizes, the provider's ways, and how much goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each switch stands for itself")]
pub struct Scenario {
    /// The seed that it was drawn from.
    pub seed: u64,
    /// Worker replicas at once.
    pub replicas: u64,
    /// Users.
    pub users: u64,
    /// Callers on each replica.
    pub callers: u64,
    /// Whether each refresh brings a new refresh token and spends the old one.
    pub rotating: bool,
    /// Whether a spent refresh token that comes back kills its whole family.
    pub family_revocation: bool,
    /// Lifetime of access tokens, in seconds.
    pub lifetime: u64,
    /// How long the fleet runs before everything is healed, in seconds.
    pub length: u64,
    /// Requests per thousand that meet a fault of their own.
    pub request_faults: u64,
    /// Replicas crash.
    pub crashes: bool,
    /// Replicas stand still for up to two ttls.
    pub freezes: bool,
    /// Wall clocks are off by up to ten minutes and drift.
    pub bad_clocks: bool,
    /// Bucket and endpoint have outages.
    pub outages: bool,
    /// Logins, imports, deletions and withdrawn consent.
    pub people: bool,
}

impl Scenario {
    /// Draws one. Every eighth seed has no faults at all: there, every user is
    /// refreshed exactly once per expiry.
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "scenario");
        let calm = seed.is_multiple_of(8);
        let lifetime = dice.pick(&[90, 300, 900, 3600]);
        Self {
            seed,
            replicas: dice.between(1, 6),
            users: dice.between(1, 3),
            callers: dice.between(1, 3),
            rotating: dice.chance(700),
            family_revocation: dice.chance(500),
            lifetime,
            length: (lifetime * 3).clamp(400, 3 * 3600),
            request_faults: if calm { 0 } else { dice.pick(&[0, 5, 30, 120]) },
            crashes: !calm && dice.chance(500),
            freezes: !calm && dice.chance(500),
            bad_clocks: !calm && dice.chance(500),
            outages: !calm && dice.chance(400),
            people: !calm && dice.chance(500),
        }
    }

    /// Whether nothing at all goes wrong.
    pub fn is_calm(&self) -> bool {
        self.request_faults == 0
            && !(self.crashes || self.freezes || self.bad_clocks || self.outages || self.people)
    }

    /// The policy of every replica. Its times are the defaults; the
    /// refresh-ahead is shorter so that short-lived tokens rest in between.
    pub fn policy(&self) -> Policy {
        Policy { refresh_ahead: Duration::from_secs(60), ..Policy::default() }
    }
}

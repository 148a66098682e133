//! What a way of refreshing cost, from the provider's own record.

use std::collections::HashMap;
use std::time::Duration;

use emulators::google::{RefreshCall, RefreshOutcome};
use tokio::time::Instant;

/// A failed job is tried again after this, or later.
const RETRY: Duration = Duration::from_secs(1);

/// What a provider saw of a fleet, whichever way it works.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Times that the token of a user who was not locked out had to be refreshed. A call
    /// for a user opens an expiry; those within half a token's lifetime after it belong to
    /// the same one.
    pub expiries: u64,
    /// Calls of the token endpoint.
    pub refresh_calls: u64,
    /// Calls that presented a spent refresh token.
    pub reused: u64,
    /// Calls for users who had been locked out for a while: their jobs were tried again.
    pub vain: u64,
    /// Users whose refresh token the provider no longer takes.
    pub locked_out_users: u64,
}

impl Tally {
    /// Of these calls, in their order, for tokens of this lifetime.
    pub fn of(calls: &[RefreshCall], lifetime: Duration) -> Self {
        let mut tally = Self { refresh_calls: calls.len() as u64, ..Self::default() };
        let mut began: HashMap<&str, Instant> = HashMap::new();
        let mut locked_out: HashMap<&str, Instant> = HashMap::new();
        for call in calls {
            tally.reused += u64::from(matches!(call.outcome, RefreshOutcome::Reused(_)));
            let Some(sub) = call.sub.as_deref() else { continue };
            if locked_out.get(sub).is_some_and(|since| call.at >= *since + RETRY) {
                tally.vain += 1;
                continue;
            }
            if began.get(sub).is_none_or(|begin| call.at >= *begin + lifetime / 2) {
                began.insert(sub, call.at);
                tally.expiries += 1;
            }
            if matches!(call.outcome, RefreshOutcome::Reused(None) | RefreshOutcome::InvalidGrant) {
                locked_out.entry(sub).or_insert(call.at);
            }
        }
        tally.locked_out_users = locked_out.len() as u64;
        tally
    }

    /// How often the token endpoint was called for one expiry, without the calls in vain;
    /// ideally once.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub fn calls_per_expiry(&self) -> f64 {
        (self.refresh_calls - self.vain) as f64 / self.expiries.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use emulators::google::{ClientKind, Config, Google, User};

    use super::*;

    /// Real calls: three times with one token, and once with that of somebody else.
    #[tokio::test]
    async fn tells_expiries_reuse_and_lock_outs() -> Result<(), Box<dyn std::error::Error>> {
        let lifetime = Duration::from_secs(3600);
        let google = Google::start(Config { rotate: true, ..Config::default() }).await?;
        let client = google.client_json(ClientKind::Installed, &[]);
        let http = reqwest::Client::new();
        let refresh = async |token: &str| {
            let form = [
                ("grant_type", "refresh_token"),
                ("refresh_token", token),
                ("client_id", client["installed"]["client_id"].as_str().unwrap_or_default()),
                (
                    "client_secret",
                    client["installed"]["client_secret"].as_str().unwrap_or_default(),
                ),
            ];
            let token_uri = client["installed"]["token_uri"].as_str().unwrap_or_default();
            http.post(token_uri).form(&form).send().await
        };
        let user = |sub: &str| User { sub: sub.to_owned(), ..User::default() };
        let (ann, bob) =
            (google.add_user(user("ann"), ["openid"]), google.add_user(user("bob"), ["openid"]));
        for token in
            [&ann.refresh_token, &ann.refresh_token, &ann.refresh_token, &bob.refresh_token]
        {
            refresh(token).await?;
        }
        let mut calls = google.refresh_calls();
        let tally = Tally::of(&calls, lifetime);
        let expected =
            Tally { expiries: 2, refresh_calls: 4, reused: 2, vain: 0, locked_out_users: 1 };
        assert_eq!(tally, expected);
        assert!((tally.calls_per_expiry() - 2.0).abs() < 0.001);
        // The third call comes when the user has long been locked out.
        calls[2].at += lifetime;
        let tally = Tally::of(&calls, lifetime);
        assert_eq!(tally, Tally { vain: 1, ..expected });
        assert!((tally.calls_per_expiry() - 1.5).abs() < 0.001);
        calls[1].at += lifetime / 2;
        assert_eq!(Tally::of(&calls, lifetime), Tally { expiries: 3, vain: 1, ..expected });
        Ok(())
    }
}

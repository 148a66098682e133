//! What is kept of accounts, grants and tokens across restarts, and how it comes back.
//!
//! Access tokens that have expired are not taken over. Codes that were not exchanged, limits
//! and what the APIs hold end with the process.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::identity::{AccessToken, Family, Identity};
use super::token::Secret;
use super::user::User;
use crate::data::{Change, Data, parse, record};

const RUNS: &str = "google/runs";
const ACCOUNT: &str = "google/account/";
const FAMILY: &str = "google/family/";
const REFRESH_TOKEN: &str = "google/refresh-token/";
const ACCESS_TOKEN: &str = "google/access-token/";

/// An access token, by the time of day: instants mean nothing to the next process.
#[derive(Deserialize, Serialize)]
struct KeptAccess {
    family: usize,
    scopes: Vec<String>,
    expires_at: SystemTime,
}

/// How many times a provider has begun on this folder. Each time makes other tokens.
pub(super) fn runs(data: &Data) -> io::Result<u64> {
    data.read(RUNS)?.first().map_or(Ok(0), |(_, runs)| parse(runs))
}

impl Identity {
    /// Takes over what was kept; what changes from now on is collected. `now` and `wall` are
    /// one moment.
    pub(super) fn resume(&mut self, data: &Data, now: Instant, wall: SystemTime) -> io::Result<()> {
        self.changes.collect();
        self.started = Some((now, wall));
        let runs = runs(data)? + 1;
        self.changes.put(|| (RUNS.to_owned(), record(&runs)));
        for (_, user) in data.read(ACCOUNT)? {
            let user: User = parse(&user)?;
            let sub = user.sub.clone();
            self.account(&sub).user = Arc::new(user);
        }
        for (index, (_, family)) in data.read(FAMILY)?.into_iter().enumerate() {
            let family: Family = parse(&family)?;
            if !family.ended {
                self.account(&family.sub).families.push_back(index);
            }
            self.families.push(family);
        }
        for (token, kept) in data.read(REFRESH_TOKEN)? {
            self.refresh_tokens.insert(Secret::new(token), parse(&kept)?);
        }
        for (token, kept) in data.read(ACCESS_TOKEN)? {
            let KeptAccess { family, scopes, expires_at } = parse(&kept)?;
            let left = expires_at.duration_since(wall).unwrap_or_default();
            let ended = self.families.get(family).is_none_or(|family| family.ended);
            if left.is_zero() || ended {
                self.changes.add(|| Change::Delete(format!("{ACCESS_TOKEN}{token}")));
                continue;
            }
            let scopes = self.scope_set(scopes);
            let serial = self.issued.len();
            self.issued.push(now);
            let kept = AccessToken { family, scopes, expires_at: now + left, serial };
            self.access_tokens.insert(Secret::new(token), kept);
        }
        Ok(())
    }

    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        self.changes.take()
    }

    pub(super) fn account_changed(&mut self, sub: &str) {
        if let Some(account) = self.accounts.get(sub) {
            self.changes.put(|| (format!("{ACCOUNT}{sub}"), record(&*account.user)));
        }
    }

    pub(super) fn family_changed(&mut self, index: usize) {
        let family = &self.families[index];
        // In the order of their numbers.
        self.changes.put(|| (format!("{FAMILY}{index:020}"), record(family)));
    }

    pub(super) fn refresh_token_changed(&mut self, token: &Secret) {
        if let Some(kept) = self.refresh_tokens.get(token) {
            self.changes.put(|| (format!("{REFRESH_TOKEN}{}", token.expose()), record(kept)));
        }
    }

    pub(super) fn access_token_issued(&mut self, token: &Secret) {
        if let (Some(access), Some((then, wall))) = (self.access_tokens.get(token), self.started) {
            let expires_at = wall + access.expires_at.saturating_duration_since(then);
            let scopes = access.scopes.to_vec();
            let kept = KeptAccess { family: access.family, scopes, expires_at };
            self.changes.put(|| (format!("{ACCESS_TOKEN}{}", token.expose()), record(&kept)));
        }
    }

    /// What a test or a person has expired stays so.
    pub(super) fn access_tokens_expired(&mut self, sub: &str) {
        for (token, access) in &self.access_tokens {
            if self.families[access.family].sub == sub {
                self.changes.add(|| Change::Delete(format!("{ACCESS_TOKEN}{}", token.expose())));
            }
        }
    }
}

#[cfg(test)]
mod tests;

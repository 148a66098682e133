//! What was asked and what came of it.

use std::collections::HashMap;

use tokio::time::Instant;

use super::token::Fingerprint;

/// How often things happened, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Requests to the token endpoint, refused ones included.
    pub token_calls: u64,
    /// Token requests answered with an access token.
    pub refreshed: u64,
    /// Token requests that presented a refresh token spent before, whatever the answer.
    pub reused: u64,
    /// Token requests answered `invalid_grant`.
    pub invalid_grants: u64,
    /// Authorization codes exchanged for tokens.
    pub exchanged: u64,
    /// Revocations asked for by a client and carried out.
    pub revocations: u64,
    /// Requests to the APIs, refused ones and userinfo included.
    pub api_calls: u64,
    /// API requests answered 401: no token, or one that is unknown, expired or revoked.
    pub unauthorized: u64,
    /// API requests answered 403: a live token without the scope.
    pub forbidden: u64,
    /// API requests answered 429: see `Google::limit_user`.
    pub throttled: u64,
    /// Tasks inserted.
    pub effects: u64,
}

/// Whose numbers to report; the default is everybody's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatsQuery {
    /// Count only what is known to have been done for this user.
    pub sub: Option<String>,
}

/// One request to the token endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefreshCall {
    /// Its place among the calls, from 0.
    pub seq: u64,
    /// When it arrived.
    pub at: Instant,
    /// The header, which tells replicas apart.
    pub user_agent: Option<String>,
    /// Whose refresh token it presented, if that is known.
    pub sub: Option<String>,
    /// What it presented.
    pub presented: Option<Fingerprint>,
    /// What came of it.
    pub outcome: RefreshOutcome,
}

/// What came of a token request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshOutcome {
    /// Answered with a fresh access token.
    Issued(Issued),
    /// The refresh token had been spent before. Answered all the same where the
    /// configuration accepts that; otherwise the grant has ended.
    Reused(Option<Issued>),
    /// `invalid_grant`: never issued, or its grant has ended.
    InvalidGrant,
    /// `invalid_client`.
    InvalidClient,
    /// `invalid_scope`: more was asked for than had been granted.
    InvalidScope,
    /// `invalid_request` or `unsupported_grant_type`.
    Malformed,
}

/// What a token request was answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The access token.
    pub access_token: Fingerprint,
    /// The new refresh token, where they rotate.
    pub refresh_token: Option<Fingerprint>,
}

/// One thing done on a user's behalf: a task inserted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Effect {
    /// The header `x-effect-id`: the job that asked for it.
    pub id: Option<String>,
    /// The title of the task.
    pub title: String,
    /// On whose behalf.
    pub sub: String,
    /// The header `User-Agent`: the replica that asked.
    pub user_agent: Option<String>,
    /// Its place among the effects, from 0.
    pub seq: u64,
    /// When.
    pub at: Instant,
}

/// All of the above.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    total: Stats,
    by_user: HashMap<String, Stats>,
    pub(super) refresh_calls: Vec<RefreshCall>,
    pub(super) effects: Vec<Effect>,
}

impl Ledger {
    pub(super) fn stats(&self, query: &StatsQuery) -> Stats {
        match &query.sub {
            None => self.total,
            Some(sub) => self.by_user.get(sub).copied().unwrap_or_default(),
        }
    }

    /// Counts for everybody and, if known, for one user.
    pub(super) fn count(&mut self, sub: Option<&str>, count: impl Fn(&mut Stats)) {
        count(&mut self.total);
        let Some(sub) = sub else {
            return;
        };
        if let Some(stats) = self.by_user.get_mut(sub) {
            count(stats);
        } else {
            count(self.by_user.entry(sub.to_owned()).or_default());
        }
    }

    pub(super) fn refresh(
        &mut self,
        at: Instant,
        user_agent: Option<String>,
        sub: Option<String>,
        presented: Option<Fingerprint>,
        outcome: RefreshOutcome,
    ) {
        self.count(sub.as_deref(), |stats| {
            stats.token_calls += 1;
            match &outcome {
                RefreshOutcome::Issued(_) => stats.refreshed += 1,
                RefreshOutcome::Reused(Some(_)) => {
                    stats.reused += 1;
                    stats.refreshed += 1;
                }
                RefreshOutcome::Reused(None) => {
                    stats.reused += 1;
                    stats.invalid_grants += 1;
                }
                RefreshOutcome::InvalidGrant => stats.invalid_grants += 1,
                RefreshOutcome::InvalidClient
                | RefreshOutcome::InvalidScope
                | RefreshOutcome::Malformed => {}
            }
        });
        let seq = self.refresh_calls.len() as u64;
        self.refresh_calls.push(RefreshCall { seq, at, user_agent, sub, presented, outcome });
    }

    pub(super) fn effect(
        &mut self,
        at: Instant,
        id: Option<String>,
        title: &str,
        sub: &str,
        user_agent: Option<String>,
    ) {
        self.count(Some(sub), |stats| stats.effects += 1);
        let seq = self.effects.len() as u64;
        let title = title.to_owned();
        self.effects.push(Effect { id, title, sub: sub.to_owned(), user_agent, seq, at });
    }
}

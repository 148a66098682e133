//! Accounts, grants and tokens: every decision, and no I/O.
//!
//! A **family** is what one consent leads to: the refresh token it brought, those that
//! replaced it, and all their access tokens. It ends as a whole. Time is passed in and
//! does not go back.

mod grants;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::OnReuse;
use super::exchange::{AccessError, Caller, Fresh, RefreshRequest, Refused, TokenError};
use super::ledger::{Issued, RefreshOutcome};
use super::limit::Limit;
use super::token::{Fingerprint, Minter, Secret};
use super::user::User;
use crate::data::Changes;

/// How many grants of one account a client may have; the oldest ends silently.
const MAX_GRANTS: usize = 100;

/// How tokens behave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    pub(super) token_lifetime: Duration,
    pub(super) rotate: bool,
    pub(super) on_reuse: OnReuse,
}

/// The OAuth client that the grants are for.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) id: String,
    pub(super) secret: Secret,
}

/// Everything that the identity provider knows.
#[derive(Debug)]
pub(super) struct Identity {
    policy: Policy,
    client: Client,
    minter: Minter,
    pub(super) accounts: HashMap<String, Account>,
    pub(super) families: Vec<Family>,
    pub(super) refresh_tokens: HashMap<Secret, RefreshToken>,
    pub(super) access_tokens: HashMap<Secret, AccessToken>,
    /// Each set of scopes that an access token has, once: most tokens have the same.
    scope_sets: HashSet<Arc<[String]>>,
    /// When each access token was issued, in order.
    pub(super) issued: Vec<Instant>,
    /// What is to be kept of the present step.
    pub(super) changes: Changes,
    /// One moment on both clocks, where something is kept.
    pub(super) started: Option<(Instant, SystemTime)>,
}

#[derive(Debug)]
pub(super) struct Account {
    pub(super) user: Arc<User>,
    /// Live families, oldest first.
    pub(super) families: VecDeque<usize>,
    /// Access tokens issued before this many had been, over all accounts, are expired.
    expired_before: usize,
    limit: Option<Limit>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Family {
    pub(super) sub: String,
    scopes: Vec<String>,
    pub(super) ended: bool,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct RefreshToken {
    family: usize,
    spent: bool,
}

#[derive(Debug)]
pub(super) struct AccessToken {
    pub(super) family: usize,
    pub(super) scopes: Arc<[String]>,
    pub(super) expires_at: Instant,
    /// How many had been issued before.
    pub(super) serial: usize,
}

impl Identity {
    pub(super) fn new(policy: Policy, client: Client, minter: Minter) -> Self {
        Self {
            policy,
            client,
            minter,
            accounts: HashMap::new(),
            families: Vec::new(),
            refresh_tokens: HashMap::new(),
            access_tokens: HashMap::new(),
            scope_sets: HashSet::new(),
            issued: Vec::new(),
            changes: Changes::default(),
            started: None,
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn user(&self, sub: &str) -> Option<&Arc<User>> {
        self.accounts.get(sub).map(|account| &account.user)
    }

    /// Whose address it is.
    pub(super) fn by_email(&self, email: &str) -> Option<&str> {
        let mut accounts = self.accounts.iter();
        let found = accounts.find(|(_, account)| account.user.email.eq_ignore_ascii_case(email));
        found.map(|(sub, _)| sub.as_str())
    }

    pub(super) fn secrets(&self) -> Vec<String> {
        let tokens = self.refresh_tokens.keys().chain(self.access_tokens.keys());
        tokens.chain([&self.client.secret]).map(|secret| secret.expose().to_owned()).collect()
    }

    /// Whose refresh token this is, if it ever was one.
    pub(super) fn owner(&self, refresh_token: &str) -> Option<&str> {
        let token = self.refresh_tokens.get(refresh_token)?;
        Some(&self.families[token.family].sub)
    }

    /// Whose access or refresh token it is, living or not.
    pub(super) fn holder(&self, token: &str) -> Option<&str> {
        let access = self.access_tokens.get(token);
        access.map(|access| self.families[access.family].sub.as_str()).or_else(|| self.owner(token))
    }

    /// Answers a refresh, and says for the record what came of it.
    pub(super) fn refresh(
        &mut self,
        now: Instant,
        request: &RefreshRequest,
    ) -> (Result<Fresh, TokenError>, RefreshOutcome) {
        let answer = self.try_refresh(now, request);
        let issued = |fresh: &Fresh| Issued {
            access_token: Fingerprint::of(fresh.access_token.expose()),
            refresh_token: fresh
                .refresh_token
                .as_ref()
                .map(|token| Fingerprint::of(token.expose())),
        };
        match answer {
            Ok((fresh, false)) => {
                let outcome = RefreshOutcome::Issued(issued(&fresh));
                (Ok(fresh), outcome)
            }
            Ok((fresh, true)) => {
                let outcome = RefreshOutcome::Reused(Some(issued(&fresh)));
                (Ok(fresh), outcome)
            }
            Err(error) => (Err(error), error.outcome()),
        }
    }

    /// The answer, and whether the token had been spent before.
    fn try_refresh(
        &mut self,
        now: Instant,
        request: &RefreshRequest,
    ) -> Result<(Fresh, bool), TokenError> {
        self.check_client(request)?;
        let presented = request
            .refresh_token
            .as_ref()
            .ok_or(TokenError::InvalidRequest("Missing required parameter: refresh_token"))?;
        let token = self.refresh_tokens.get(presented).ok_or(TokenError::UnknownToken)?;
        let (family, spent) = (token.family, token.spent);
        if spent && self.policy.on_reuse == OnReuse::RevokeFamily {
            self.end_family(family);
            return Err(TokenError::SpentToken);
        }
        if self.families[family].ended {
            return Err(TokenError::EndedGrant);
        }
        let scopes = self.narrowed(family, request.scope.as_deref())?;
        let refresh_token = self.policy.rotate.then(|| {
            if let Some(token) = self.refresh_tokens.get_mut(presented) {
                token.spent = true;
            }
            self.refresh_token_changed(presented);
            self.issue_refresh_token(family)
        });
        let fresh = Fresh {
            access_token: self.issue_access_token(now, family, scopes.clone()),
            refresh_token,
            expires_in: self.policy.token_lifetime.as_secs(),
            scopes,
        };
        Ok((fresh, spent))
    }

    pub(super) fn check_client(&self, request: &RefreshRequest) -> Result<(), TokenError> {
        let id = request
            .client_id
            .as_ref()
            .ok_or(TokenError::InvalidRequest("Could not determine client ID from request."))?;
        if *id != self.client.id {
            return Err(TokenError::UnknownClient);
        }
        match &request.client_secret {
            None => Err(TokenError::InvalidRequest("client_secret is missing.")),
            Some(secret) if *secret == self.client.secret => Ok(()),
            Some(_) => Err(TokenError::WrongSecret),
        }
    }

    fn narrowed(&self, family: usize, asked: Option<&str>) -> Result<Vec<String>, TokenError> {
        let granted = &self.families[family].scopes;
        let Some(asked) = asked else {
            return Ok(granted.clone());
        };
        let asked: Vec<String> = asked.split_whitespace().map(ToOwned::to_owned).collect();
        if asked.is_empty() || asked.iter().any(|scope| !granted.contains(scope)) {
            return Err(TokenError::InvalidScope);
        }
        Ok(asked)
    }

    /// Checks a bearer token and uses up one call of the user's limit. Any one of
    /// `scopes` will do; none at all means that every live token will.
    pub(super) fn authorize(
        &mut self,
        now: Instant,
        token: Option<&str>,
        scopes: &[&'static str],
    ) -> Result<Caller, Refused> {
        let unknown = |error| Refused { sub: None, error };
        let token = token.ok_or(unknown(AccessError::MissingToken))?;
        let token = self.access_tokens.get(token).ok_or(unknown(AccessError::InvalidToken))?;
        let family = &self.families[token.family];
        let sub = family.sub.clone();
        let refuse = |error| Refused { sub: Some(sub.clone()), error };
        let account =
            self.accounts.get_mut(&sub).ok_or_else(|| refuse(AccessError::InvalidToken))?;
        let live =
            !family.ended && now < token.expires_at && token.serial >= account.expired_before;
        if !live {
            return Err(refuse(AccessError::InvalidToken));
        }
        let held = |scope: &&str| token.scopes.iter().any(|held| held == *scope);
        if let Some(first) = scopes.first()
            && !scopes.iter().any(held)
        {
            return Err(refuse(AccessError::MissingScope(first)));
        }
        if let Some(limit) = &mut account.limit
            && let Err(wait) = limit.take(now)
        {
            return Err(refuse(AccessError::Limited(wait)));
        }
        Ok(Caller { scopes: Arc::clone(&token.scopes), sub })
    }

    /// Ends the family of a refresh or access token, as its client may ask; returns whose
    /// it was. Nothing is revoked by a token that does not live.
    pub(super) fn revoke(&mut self, now: Instant, token: &str) -> Option<String> {
        let family = match self.refresh_tokens.get(token) {
            Some(refresh) => refresh.family,
            None => self
                .access_tokens
                .get(token)
                .filter(|access| now < access.expires_at)
                .map(|access| access.family)?,
        };
        self.end_family(family).then(|| self.families[family].sub.clone())
    }

    /// Ends all grants of an account.
    pub(super) fn revoke_user(&mut self, sub: &str) {
        let families: Vec<usize> = match self.accounts.get(sub) {
            Some(account) => account.families.iter().copied().collect(),
            None => Vec::new(),
        };
        for family in families {
            self.end_family(family);
        }
    }

    /// Expires every access token issued to an account so far.
    pub(super) fn expire_access_tokens(&mut self, sub: &str) {
        if let Some(account) = self.accounts.get_mut(sub) {
            account.expired_before = self.issued.len();
        }
        self.access_tokens_expired(sub);
    }

    pub(super) fn limit_user(&mut self, sub: &str, limit: Limit) {
        if let Some(account) = self.accounts.get_mut(sub) {
            account.limit = Some(limit);
        }
    }

    /// How many access tokens ever issued had reached `age` at `until`.
    pub(super) fn expiries(&self, age: Duration, until: Instant) -> u64 {
        let aged = |issued: &Instant| issued.checked_add(age).is_some_and(|at| at <= until);
        self.issued.partition_point(aged) as u64
    }

    /// True if the family lived until now.
    fn end_family(&mut self, family: usize) -> bool {
        let ended = &mut self.families[family];
        if ended.ended {
            return false;
        }
        ended.ended = true;
        if let Some(account) = self.accounts.get_mut(&ended.sub) {
            account.families.retain(|live| *live != family);
        }
        self.family_changed(family);
        true
    }

    fn issue_refresh_token(&mut self, family: usize) -> Secret {
        let token = self.minter.refresh_token();
        let kept = RefreshToken { family, spent: false };
        self.refresh_tokens.insert(token.clone(), kept);
        self.refresh_token_changed(&token);
        token
    }

    pub(super) fn scope_set(&mut self, scopes: Vec<String>) -> Arc<[String]> {
        if let Some(known) = self.scope_sets.get(scopes.as_slice()) {
            return Arc::clone(known);
        }
        let new: Arc<[String]> = scopes.into();
        self.scope_sets.insert(Arc::clone(&new));
        new
    }

    fn issue_access_token(&mut self, now: Instant, family: usize, scopes: Vec<String>) -> Secret {
        let token = self.minter.access_token();
        let kept = AccessToken {
            family,
            scopes: self.scope_set(scopes),
            expires_at: now + self.policy.token_lifetime,
            serial: self.issued.len(),
        };
        self.issued.push(now);
        self.access_tokens.insert(token.clone(), kept);
        self.access_token_issued(&token);
        token
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::google::user::Grant;

    const SUB: &str = "10977";
    const HOUR: Duration = Duration::from_hours(1);

    /// An identity provider with one user, at a time that the test moves.
    struct World {
        identity: Identity,
        now: Instant,
        grant: Grant,
    }

    impl World {
        fn new(rotate: bool, on_reuse: OnReuse) -> Self {
            let policy = Policy { token_lifetime: HOUR, rotate, on_reuse };
            let mut minter = Minter::new(7);
            let client = Client { id: minter.client_id(), secret: minter.client_secret() };
            let mut identity = Identity::new(policy, client, minter);
            let now = Instant::now();
            let grant = identity.grant(now, user(), scopes(&["a", "b"]));
            Self { identity, now, grant }
        }

        fn request(&self, refresh_token: &str) -> RefreshRequest {
            let client = self.identity.client();
            RefreshRequest {
                client_id: Some(client.id.clone()),
                client_secret: Some(client.secret.clone()),
                refresh_token: Some(Secret::new(refresh_token.to_owned())),
                scope: None,
            }
        }

        fn refresh(&mut self, refresh_token: &str) -> (Result<Fresh, TokenError>, RefreshOutcome) {
            let request = self.request(refresh_token);
            self.identity.refresh(self.now, &request)
        }

        fn access(&mut self, token: &str, scopes: &[&'static str]) -> Result<(), AccessError> {
            let access = self.identity.authorize(self.now, Some(token), scopes);
            access.map(|_| ()).map_err(|refused| refused.error)
        }
    }

    fn user() -> User {
        User { sub: SUB.to_owned(), ..User::default() }
    }

    fn scopes(scopes: &[&str]) -> Vec<String> {
        scopes.iter().map(|scope| (*scope).to_owned()).collect()
    }

    #[test]
    fn a_refresh_token_that_does_not_rotate_serves_for_ever() {
        let mut world = World::new(false, OnReuse::RevokeFamily);
        let refresh_token = world.grant.refresh_token.clone();
        let first = world.grant.access_token.clone();
        for _ in 0..3 {
            world.now += HOUR;
            let (answer, outcome) = world.refresh(&refresh_token);
            let fresh = answer.unwrap();
            assert!(fresh.refresh_token.is_none());
            assert_eq!(fresh.expires_in, 3_600);
            assert_eq!(fresh.scopes, ["a", "b"]);
            assert!(matches!(outcome, RefreshOutcome::Issued(_)));
            assert_eq!(world.access(fresh.access_token.expose(), &["a"]), Ok(()));
        }
        assert_eq!(world.access(&first, &["a"]), Err(AccessError::InvalidToken));
    }

    #[test]
    fn a_reuse_ends_the_family() {
        let mut world = World::new(true, OnReuse::RevokeFamily);
        let spent = world.grant.refresh_token.clone();
        let fresh = world.refresh(&spent).0.unwrap();
        let next = fresh.refresh_token.unwrap();
        assert_ne!(next.expose(), spent);
        let (answer, outcome) = world.refresh(&spent);
        assert_eq!(answer.unwrap_err(), TokenError::SpentToken);
        assert_eq!(outcome, RefreshOutcome::Reused(None));
        // The successor and every access token have died with it.
        let (answer, outcome) = world.refresh(next.expose());
        assert_eq!(answer.unwrap_err(), TokenError::EndedGrant);
        assert_eq!(outcome, RefreshOutcome::InvalidGrant);
        let access = world.access(fresh.access_token.expose(), &[]);
        assert_eq!(access, Err(AccessError::InvalidToken));
        // A second reuse is one, too.
        assert_eq!(world.refresh(&spent).1, RefreshOutcome::Reused(None));
    }

    #[test]
    fn a_reuse_may_be_accepted_and_is_told() {
        let mut world = World::new(true, OnReuse::Accept);
        let spent = world.grant.refresh_token.clone();
        let first = world.refresh(&spent).0.unwrap();
        let (answer, outcome) = world.refresh(&spent);
        let second = answer.unwrap();
        assert!(matches!(outcome, RefreshOutcome::Reused(Some(_))));
        for fresh in [first, second] {
            assert_eq!(world.access(fresh.access_token.expose(), &[]), Ok(()));
            let next = fresh.refresh_token.unwrap();
            assert!(world.refresh(next.expose()).0.is_ok());
        }
    }

    #[test]
    fn families_end_alone() {
        let mut world = World::new(false, OnReuse::RevokeFamily);
        let other = world.identity.grant(world.now, user(), scopes(&["a"]));
        let first = world.grant.clone();
        let now = world.now;
        // An access token revokes its family; once.
        assert_eq!(world.identity.revoke(now, &first.access_token).as_deref(), Some(SUB));
        assert_eq!(world.identity.revoke(now, &first.refresh_token), None);
        assert_eq!(world.refresh(&first.refresh_token).0.unwrap_err(), TokenError::EndedGrant);
        assert!(world.refresh(&other.refresh_token).0.is_ok());
        world.identity.revoke_user(SUB);
        assert!(world.refresh(&other.refresh_token).0.is_err());
        assert!(world.access(&other.access_token, &[]).is_err());
    }

    #[test]
    fn the_oldest_of_too_many_grants_ends() {
        let mut world = World::new(false, OnReuse::RevokeFamily);
        let oldest = world.grant.refresh_token.clone();
        for _ in 1..MAX_GRANTS {
            world.identity.grant(world.now, user(), scopes(&["a"]));
        }
        assert!(world.refresh(&oldest).0.is_ok());
        let newest = world.identity.grant(world.now, user(), scopes(&["a"]));
        assert_eq!(world.refresh(&oldest).0.unwrap_err(), TokenError::EndedGrant);
        assert!(world.refresh(&newest.refresh_token).0.is_ok());
    }

    #[test]
    fn clients_are_checked_before_tokens() {
        let mut world = World::new(true, OnReuse::RevokeFamily);
        let refresh_token = world.grant.refresh_token.clone();
        let mut refuse = |change: fn(&mut RefreshRequest)| {
            let mut request = world.request(&refresh_token);
            change(&mut request);
            let (answer, _) = world.identity.refresh(world.now, &request);
            answer.unwrap_err()
        };
        let unknown = refuse(|request| request.client_id = Some("x".to_owned()));
        assert_eq!(unknown, TokenError::UnknownClient);
        let wrong = refuse(|request| request.client_secret = Some(Secret::new("x".to_owned())));
        assert_eq!(wrong, TokenError::WrongSecret);
        for missing in [
            refuse(|request| request.client_id = None),
            refuse(|request| request.client_secret = None),
            refuse(|request| request.refresh_token = None),
        ] {
            assert!(matches!(missing, TokenError::InvalidRequest(_)));
        }
        let unknown = refuse(|request| request.refresh_token = Some(Secret::new("x".to_owned())));
        assert_eq!(unknown, TokenError::UnknownToken);
        // None of this has spent it.
        assert!(world.refresh(&refresh_token).0.is_ok());
    }

    #[test]
    fn scopes_narrow_and_never_widen() {
        let mut world = World::new(true, OnReuse::RevokeFamily);
        let refresh_token = world.grant.refresh_token.clone();
        let mut request = world.request(&refresh_token);
        request.scope = Some("b c".to_owned());
        let (answer, _) = world.identity.refresh(world.now, &request);
        assert_eq!(answer.unwrap_err(), TokenError::InvalidScope);
        request.scope = Some("b".to_owned());
        let fresh = world.identity.refresh(world.now, &request).0.unwrap();
        assert_eq!(fresh.scopes, ["b"]);
        let token = fresh.access_token.expose();
        assert_eq!(world.access(token, &["b"]), Ok(()));
        assert_eq!(world.access(token, &["a", "x"]), Err(AccessError::MissingScope("a")));
        // The grant keeps what it had.
        let fresh = world.refresh(fresh.refresh_token.unwrap().expose()).0.unwrap();
        assert_eq!(fresh.scopes, ["a", "b"]);
    }

    #[test]
    fn access_tokens_expire_with_time_or_when_told() {
        let mut world = World::new(false, OnReuse::RevokeFamily);
        let (first, refresh_token) =
            (world.grant.access_token.clone(), world.grant.refresh_token.clone());
        world.now += HOUR;
        assert!(world.access(&first, &[]).is_err());
        world.now -= Duration::from_millis(1);
        assert_eq!(world.access(&first, &[]), Ok(()));
        world.now += Duration::from_millis(1);
        assert_eq!(world.access(&first, &[]), Err(AccessError::InvalidToken));
        let second = world.refresh(&refresh_token).0.unwrap().access_token;
        world.identity.expire_access_tokens(SUB);
        let third = world.refresh(&refresh_token).0.unwrap().access_token;
        assert!(world.access(second.expose(), &[]).is_err());
        assert_eq!(world.access(third.expose(), &[]), Ok(()));
    }

    #[test]
    fn expiries_count_every_token_ever_issued() {
        let mut world = World::new(false, OnReuse::RevokeFamily);
        let start = world.now;
        let refresh_token = world.grant.refresh_token.clone();
        for _ in 0..3 {
            world.now += Duration::from_mins(10);
            world.refresh(&refresh_token).0.unwrap();
        }
        let expiries = |age, until| {
            let (age, until) = (Duration::from_secs(age), Duration::from_secs(until));
            world.identity.expiries(age, start + until)
        };
        assert_eq!(expiries(3_600, 3_599), 0);
        assert_eq!(expiries(3_600, 3_600), 1);
        assert_eq!(expiries(600, 1_800), 3);
        assert_eq!(expiries(0, 1_800), 4);
        assert_eq!(world.identity.expiries(Duration::MAX, start), 0);
    }

    #[test]
    fn a_limit_lifts_when_the_wait_that_it_named_is_over() {
        let mut world = World::new(false, OnReuse::RevokeFamily);
        let token = world.grant.access_token.clone();
        let wait = Duration::from_secs(30);
        world.identity.limit_user(SUB, Limit::new(2, wait));
        // A refused request does not count against the limit.
        assert!(world.access(&token, &["x"]).is_err());
        assert_eq!(world.access(&token, &[]), Ok(()));
        assert_eq!(world.access(&token, &[]), Ok(()));
        assert_eq!(world.access(&token, &[]), Err(AccessError::Limited(wait)));
        world.now += Duration::from_secs(29);
        let rest = Duration::from_secs(1);
        assert_eq!(world.access(&token, &[]), Err(AccessError::Limited(rest)));
        world.now += rest;
        assert_eq!(world.access(&token, &[]), Ok(()));
    }

    #[test]
    fn debug_shows_no_token() {
        let world = World::new(true, OnReuse::RevokeFamily);
        let shown = format!("{:?} {:?}", world.identity, world.grant);
        for secret in [
            &world.grant.access_token,
            &world.grant.refresh_token,
            world.identity.client().secret.expose(),
        ] {
            assert!(!shown.contains(secret));
        }
        assert!(!shown.contains("Xoshiro"));
    }
}

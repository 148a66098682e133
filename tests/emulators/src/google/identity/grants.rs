//! Accounts, and what consents lead to.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Account, Family, Identity, MAX_GRANTS};
use crate::google::exchange::Fresh;
use crate::google::token::Secret;
use crate::google::user::{Grant, User};

impl Identity {
    /// The accounts, by `sub`, at most `limit`.
    pub(in crate::google) fn accounts(&self, limit: usize) -> Vec<User> {
        let mut users: Vec<&User> = self.accounts.values().map(|account| &*account.user).collect();
        users.sort_by(|a, b| a.sub.cmp(&b.sub));
        users.into_iter().take(limit).cloned().collect()
    }

    /// Makes an account or brings it up to date; nothing is granted.
    pub(in crate::google) fn add_account(&mut self, user: User) {
        let sub = user.sub.clone();
        self.account(&sub).user = Arc::new(user);
        self.account_changed(&sub);
    }

    /// Everything that live grants of an account allow.
    pub(in crate::google) fn granted_scopes(&self, sub: &str) -> Vec<String> {
        let families = self.accounts.get(sub).map(|account| &account.families);
        let live = families.into_iter().flatten();
        live.flat_map(|family| self.families[*family].scopes.clone()).collect()
    }

    /// A code for the client.
    pub(in crate::google) fn mint_code(&mut self) -> Secret {
        self.minter.code()
    }

    /// What a consent of an existing account leads to: a new family with a refresh token,
    /// or an access token in the newest one, whose scopes grow to `scopes`.
    pub(in crate::google) fn consent(
        &mut self,
        now: Instant,
        sub: &str,
        scopes: Vec<String>,
        refresh: bool,
    ) -> Option<Fresh> {
        let account = self.accounts.get(sub)?;
        let newest = account.families.back().copied();
        let family = match newest {
            Some(family) if !refresh => {
                self.families[family].scopes.extend(scopes.iter().cloned());
                self.families[family].scopes.sort();
                self.families[family].scopes.dedup();
                self.family_changed(family);
                family
            }
            _ => self.begin_family(sub, scopes.clone()),
        };
        Some(Fresh {
            refresh_token: refresh.then(|| self.issue_refresh_token(family)),
            access_token: self.issue_access_token(now, family, scopes.clone()),
            expires_in: self.policy.token_lifetime.as_secs(),
            scopes,
        })
    }

    pub(in crate::google) fn account(&mut self, sub: &str) -> &mut Account {
        self.accounts.entry(sub.to_owned()).or_insert_with(|| Account {
            user: Arc::default(),
            families: VecDeque::new(),
            expired_before: 0,
            limit: None,
        })
    }

    fn begin_family(&mut self, sub: &str, scopes: Vec<String>) -> usize {
        let family = self.families.len();
        let account = self.account(sub);
        account.families.push_back(family);
        let oldest =
            if account.families.len() > MAX_GRANTS { account.families.pop_front() } else { None };
        if let Some(oldest) = oldest {
            self.families[oldest].ended = true;
            self.family_changed(oldest);
        }
        self.families.push(Family { sub: sub.to_owned(), scopes, ended: false });
        self.family_changed(family);
        family
    }

    /// Records a consent: the account is made or brought up to date, and a new family
    /// begins beside those that it has.
    pub(in crate::google) fn grant(
        &mut self,
        now: Instant,
        user: User,
        scopes: Vec<String>,
    ) -> Grant {
        let family = self.begin_family(&user.sub, scopes.clone());
        self.add_account(user);
        let refresh_token = self.issue_refresh_token(family);
        let access_token = self.issue_access_token(now, family, scopes.clone());
        Grant {
            refresh_token: refresh_token.expose().to_owned(),
            access_token: access_token.expose().to_owned(),
            expires_in: self.policy.token_lifetime.as_secs(),
            scopes,
        }
    }
}

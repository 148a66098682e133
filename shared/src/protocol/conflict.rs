//! What to do when a write met another one. The rules that keep a loser from
//! destroying a winner's grant, and a winner's grant from being thrown away.

use crate::record::{GrantId, TokenRecord, WriteId};
use crate::secret::Secret;

use super::freshness::Rejected;

/// A commit that met a moved record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommitStep {
    /// The stored record is my write, or a later one that kept my grant, and active.
    Done,
    /// My answer succeeds the stored record: write it on top of what was read.
    Merge,
    /// A newer grant than mine is stored: use it.
    Adopt,
    /// The user was deleted: write nothing.
    GiveUp,
}

/// The commit that met it.
#[derive(Debug)]
pub struct Commit<'a> {
    /// The record that I tried to replace.
    pub replaced: &'a TokenRecord,
    /// The record that I tried to write.
    pub mine: &'a TokenRecord,
}

impl Commit<'_> {
    /// Decides from the record that is stored now (`None`: deleted). A 200 of the
    /// provider is never thrown away because the lease was lost: while the
    /// refresh token that I spent is still the stored one, my answer is its
    /// successor, unless another replica's answer to the very same refresh token
    /// got there first (a provider that does not rotate).
    pub fn on_conflict(&self, stored: Option<&TokenRecord>) -> CommitStep {
        let Some(stored) = stored else {
            return CommitStep::GiveUp;
        };
        if stored.write_id == self.mine.write_id || stored.grant_id == self.mine.grant_id {
            // Revoked: the reply to my write was lost, and the grant ended meanwhile.
            return if stored.is_active() { CommitStep::Done } else { CommitStep::Adopt };
        }
        let spent = &self.replaced.refresh_token;
        if stored.refresh_token == *spent {
            let rotated = self.mine.refresh_token != *spent;
            let untouched =
                stored.state == self.replaced.state && stored.grant_id == self.replaced.grant_id;
            if rotated || untouched {
                return CommitStep::Merge;
            }
        }
        CommitStep::Adopt
    }

    /// My answer on top of the record just read: its scopes, account and
    /// history; active again.
    pub fn merged_onto(&self, stored: &TokenRecord, write_id: WriteId) -> TokenRecord {
        TokenRecord {
            sub: stored.sub.clone(),
            scopes: stored.scopes.clone(),
            created_at: stored.created_at,
            later: stored.later.clone(),
            write_id,
            ..self.mine.clone()
        }
    }
}

/// A record that somebody else wrote, read while my own attempt is over or
/// cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Adoption {
    /// Return its token.
    Use,
    /// The user must consent.
    NeedsConsent,
    /// It does not answer this call: start again at step 1.
    Again,
}

/// Decides whether a record that was just read ends the call that began with
/// (and tried to replace) `began_with`.
pub fn adopt(record: &TokenRecord, began_with: &GrantId, rejected: &Rejected) -> Adoption {
    if !record.is_active() {
        Adoption::NeedsConsent
    } else if record.access_token.is_some()
        && record.grant_id != *began_with
        && !rejected.contains(&record.grant_id)
    {
        Adoption::Use
    } else {
        Adoption::Again
    }
}

/// What to do after `invalid_grant`, from the record that is stored now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectionStep {
    /// The stored refresh token is another one: I lost a race; adopt.
    Adopt,
    /// The provider rejected exactly what is stored, and it says so already.
    AlreadyRevoked,
    /// The provider rejected exactly what is stored: write `revoked`, once the
    /// earlier holder of a lease that I took over had its time.
    Revoke,
    /// The user was deleted: write nothing.
    Gone,
}

/// Decides; `sent` is the refresh token that the provider rejected.
pub fn on_invalid_grant(sent: &Secret, stored: Option<&TokenRecord>) -> RejectionStep {
    match stored {
        None => RejectionStep::Gone,
        Some(stored) if stored.refresh_token != *sent => RejectionStep::Adopt,
        Some(stored) if !stored.is_active() => RejectionStep::AlreadyRevoked,
        Some(_) => RejectionStep::Revoke,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::testing::record;
    use crate::record::State;

    fn step(rotating: bool, change: impl FnOnce(&mut TokenRecord)) -> CommitStep {
        let replaced = record("u");
        let mut mine = record("u");
        mine.grant_id = GrantId("mine".into());
        mine.write_id = WriteId("my write".into());
        if rotating {
            mine.refresh_token = "my successor".into();
        }
        let mut stored = record("u");
        stored.write_id = WriteId("other write".into());
        change(&mut stored);
        Commit { replaced: &replaced, mine: &mine }.on_conflict(Some(&stored))
    }

    #[test]
    fn own_writes_are_recognised() {
        assert_eq!(step(true, |s| s.write_id = WriteId("my write".into())), CommitStep::Done);
        assert_eq!(step(true, |s| s.grant_id = GrantId("mine".into())), CommitStep::Done);
    }

    #[test]
    fn an_own_write_that_was_revoked_meanwhile_is_not_done() {
        for rotating in [true, false] {
            let ended = step(rotating, |s| {
                s.refresh_token = if rotating { "my successor" } else { "fake-refresh" }.into();
                s.grant_id = GrantId("mine".into());
                s.state = State::Revoked;
            });
            assert_eq!(ended, CommitStep::Adopt);
        }
    }

    #[test]
    fn a_revoked_record_that_is_presented_again_counts_as_untouched() {
        let replaced = TokenRecord { state: State::Revoked, ..record("u") };
        let mut mine = record("u");
        mine.grant_id = GrantId("mine".into());
        mine.write_id = WriteId("my write".into());
        let stored = TokenRecord { write_id: WriteId("re-sealed".into()), ..replaced.clone() };
        let commit = Commit { replaced: &replaced, mine: &mine };
        assert_eq!(commit.on_conflict(Some(&stored)), CommitStep::Merge);
    }

    #[test]
    fn a_successor_is_never_thrown_away() {
        assert_eq!(step(true, |s| s.state = State::Revoked), CommitStep::Merge);
        assert_eq!(step(true, |s| s.scopes = vec!["more".into()]), CommitStep::Merge);
        assert_eq!(step(false, |s| s.scopes = vec!["more".into()]), CommitStep::Merge);
    }

    #[test]
    fn a_newer_grant_is_never_overwritten() {
        let login = |s: &mut TokenRecord| {
            s.refresh_token = "login".into();
            s.grant_id = GrantId("login".into());
        };
        assert_eq!(step(true, login), CommitStep::Adopt);
        // Without rotation, the same refresh token with another grant is a
        // winner's answer, and a revoked record is the provider's later word.
        assert_eq!(step(false, |s| s.grant_id = GrantId("winner".into())), CommitStep::Adopt);
        assert_eq!(step(false, |s| s.state = State::Revoked), CommitStep::Adopt);
    }

    #[test]
    fn a_deleted_user_stays_deleted() {
        let (replaced, mine) = (record("u"), record("u"));
        let commit = Commit { replaced: &replaced, mine: &mine };
        assert_eq!(commit.on_conflict(None), CommitStep::GiveUp);
        assert_eq!(on_invalid_grant(&"x".into(), None), RejectionStep::Gone);
    }

    #[test]
    fn only_the_stored_refresh_token_can_be_revoked() {
        let mut stored = record("u");
        let sent = stored.refresh_token.clone();
        assert_eq!(on_invalid_grant(&sent, Some(&stored)), RejectionStep::Revoke);
        stored.refresh_token = "newer".into();
        assert_eq!(on_invalid_grant(&sent, Some(&stored)), RejectionStep::Adopt);
    }

    #[test]
    fn adoption_needs_another_live_grant() {
        let mut stored = record("u");
        let began = stored.grant_id.clone();
        let mut rejected = Rejected::default();
        assert_eq!(adopt(&stored, &began, &rejected), Adoption::Again);
        stored.grant_id = GrantId("newer".into());
        assert_eq!(adopt(&stored, &began, &rejected), Adoption::Use);
        rejected.insert(&stored.grant_id);
        assert_eq!(adopt(&stored, &began, &rejected), Adoption::Again);
        stored.state = State::Revoked;
        assert_eq!(adopt(&stored, &began, &rejected), Adoption::NeedsConsent);
    }
}

//! Who did what to a user's grant, for whoever has to answer for it later.

use std::fmt;

use crate::user_id::UserId;

/// What was done to a user's grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Act {
    /// The person consented, and what that brought is stored.
    Granted,
    /// A grant that was obtained elsewhere is stored.
    Imported,
    /// The provider exchanged the refresh token, and what that brought is stored.
    Refreshed,
    /// The provider refuses the user for now, and the record says so.
    Blocked,
    /// The grant has ended: by the provider's word, or asked for here.
    Revoked,
    /// The record is gone.
    Deleted,
    /// The record is sealed with another key, or for the first time.
    Resealed,
    /// Somebody was shown the secrets of the record.
    Exported,
}

impl Act {
    /// How audit lines call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Imported => "imported",
            Self::Refreshed => "refreshed",
            Self::Blocked => "blocked",
            Self::Revoked => "revoked",
            Self::Deleted => "deleted",
            Self::Resealed => "resealed",
            Self::Exported => "exported",
        }
    }
}

/// One entry of the audit trail. It holds no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditEntry<'a> {
    /// What was done.
    pub act: Act,
    /// To whose grant.
    pub user: &'a UserId,
    /// The grant that is meant, where it is known: an ID that says nothing.
    pub grant: Option<&'a str>,
    /// Why the user must consent, where that is what happened.
    pub reason: Option<&'a str>,
    /// Whether storage confirmed it. A write whose reply was lost may have happened; it is
    /// told so rather than not at all.
    pub confirmed: bool,
}

impl<'a> AuditEntry<'a> {
    /// That this was done, as storage confirmed.
    pub fn new(act: Act, user: &'a UserId) -> Self {
        Self { act, user, grant: None, reason: None, confirmed: true }
    }
}

/// Where the audit trail goes.
pub trait Audit: Send + Sync + fmt::Debug {
    /// Takes an entry; called once for each write, and for each secret that is shown. It
    /// must not block.
    fn note(&self, entry: &AuditEntry<'_>);
}

/// Keeps no trail.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAudit;

impl Audit for NoAudit {
    fn note(&self, _entry: &AuditEntry<'_>) {}
}

//! What the store tells the audit trail: every write of a record, and every end of one.

use crate::ports::{Act, AuditEntry, BucketError, Generation};
use crate::protocol::PutFault;
use crate::record::TokenRecord;
use crate::user_id::UserId;

use super::Inner;

impl Inner {
    /// A record was written, or may have been. A flight's record says itself what became of
    /// the refresh.
    pub(super) fn note_write(
        &self,
        act: Act,
        record: &TokenRecord,
        put: &Result<Generation, PutFault>,
    ) {
        let confirmed = match put {
            Ok(_) => true,
            // A write that was tried again below may have met its own first try.
            Err(PutFault::Unknown(_) | PutFault::Conflict) => false,
            Err(_) => return,
        };
        let trouble = record.trouble();
        let act = match (act, record.is_active()) {
            (Act::Refreshed, false) => Act::Revoked,
            (Act::Refreshed, true) if record.blocked.is_some() => Act::Blocked,
            _ => act,
        };
        self.audit.note(&AuditEntry {
            grant: Some(&record.grant_id.0),
            reason: trouble.as_ref().map(|why| why.reason().as_str()),
            confirmed,
            ..AuditEntry::new(act, &record.user)
        });
    }

    /// The provider ended the grant of this record because it was asked to here.
    pub(super) fn note_end(&self, user: &UserId, record: &TokenRecord) {
        let grant = Some(&*record.grant_id.0);
        self.audit.note(&AuditEntry { grant, ..AuditEntry::new(Act::Revoked, user) });
    }

    /// A record was deleted, or may have been.
    pub(super) fn note_deletion(&self, user: &UserId, deleted: &Result<bool, BucketError>) {
        let confirmed = match deleted {
            Ok(true) => true,
            Err(BucketError::Unavailable(_)) => false,
            Ok(false) | Err(_) => return,
        };
        self.audit.note(&AuditEntry { confirmed, ..AuditEntry::new(Act::Deleted, user) });
    }
}

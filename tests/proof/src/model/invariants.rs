//! The protocol's invariants, held against every effect.

use std::collections::BTreeSet;
use std::sync::Arc;

use shared::ports::{Answer, Generation};
use shared::protocol::{Freshness, Held, Lease, Rejected};
use shared::record::{GrantId, TokenRecord};

use super::bucket::Bucket;
use super::provider::{Provider, issued, place};
use super::replica::{Deeds, Sent, Series, at};
use super::setup::Setup;

/// The names under which they are checked and broken.
pub const INVARIANTS: [&str; 7] = [
    "I1 single refresh",
    "I2 no lost grant",
    "I3 no destructive loser",
    "I4 no resurrection",
    "I5 freshness",
    "I6 progress",
    "I7 bounded load",
];

/// The lease's ttl, in steps.
pub(super) const TTL: u64 = 3;

/// A refresh that reached the provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Spend {
    /// The record that it was to replace, by its grant.
    replaces: GrantId,
    attempt: String,
    /// The step from which the ttl counts of the lease under which it was sent.
    first_sent: u64,
    lost: bool,
    access: Option<(usize, u32)>,
    in_time: bool,
    guards: Generation,
    /// Its holder stood still, or one of its writes met a fault.
    stumbled: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Watch {
    /// Broken ones, by their place in [`INVARIANTS`].
    pub(super) broken: BTreeSet<usize>,
    spends: Vec<Spend>,
    /// Generations that a re-seal replaced which was sent in time and arrived too late.
    moved_late: Vec<Generation>,
    /// Every version of the token, by its generation.
    versions: Vec<Arc<TokenRecord>>,
    /// The last lease: what it guards, whose it is, and when it was written.
    lease: Option<(i64, String, u64)>,
    deletions: u8,
    /// Since when a renewal is wanted, and steps in which someone stood still.
    pub(super) wanted: Option<u64>,
    pub(super) stalled: u64,
    pub(super) faults: u64,
    /// Requests that hung and answers that came late.
    pub(super) hung: u64,
}

impl Watch {
    pub(super) fn breaks(&mut self, invariant: usize) {
        self.broken.insert(invariant - 1);
    }

    /// The record at a generation, if there ever was one.
    pub(super) fn version(&self, generation: Generation) -> Option<&Arc<TokenRecord>> {
        let index = usize::try_from(generation.0 - 1).ok()?;
        self.versions.get(index)
    }

    /// I7: two series for one generation begin at least a ttl apart. A renewal goes on
    /// with its series.
    pub(super) fn lease_written(&mut self, lease: &Lease, now: u64) {
        let another = |(before, attempt, at): &(i64, String, u64)| {
            *before == lease.guards && *attempt != lease.attempt && now < at + TTL
        };
        if self.lease.as_ref().is_some_and(another) {
            self.breaks(7);
        }
        self.lease = Some((lease.guards, lease.attempt.clone(), now));
    }

    /// A lease was renewed by a PUT that was sent at `sent`.
    pub(super) fn renewed(&mut self, attempt: &str, sent: u64) {
        for spend in self.spends.iter_mut().filter(|s| s.attempt == attempt) {
            spend.first_sent = spend.first_sent.max(sent);
        }
    }

    /// The holder of a lease met a fault.
    pub(super) fn stumbled(&mut self, attempt: &str) {
        for spend in self.spends.iter_mut().filter(|s| s.attempt == attempt) {
            spend.stumbled = true;
        }
    }

    /// The lease went with its user; whoever writes it again finds no token.
    pub(super) fn lease_deleted(&mut self) {
        self.lease = None;
    }

    /// I1: a refresh under `series`, decided upon at `asked_at`, reached the provider. A
    /// second spend is excused by an answer that was lost, by a holder that stumbled and
    /// did not commit within its ttl, or by being held up on its own way. One that was
    /// *sent* late is not, nor is one while a living holder waits for its answer.
    pub(super) fn spent(
        &mut self,
        series: &Series,
        asked_at: u64,
        answer: Option<&Answer>,
        lost: bool,
        now: u64,
    ) {
        let Some(base) = self.version(series.guards).cloned() else {
            return self.breaks(1);
        };
        let moved = &self.moved_late;
        let late = |first_sent: u64| now >= first_sent + TTL;
        let held_up = late(series.first_sent) && asked_at < series.first_sent + TTL;
        // After a lost answer a rejection is asked for once more, under the same lease or,
        // where that has no room, under the next.
        let has_lost = |attempt: &str| self.spends.iter().any(|s| s.lost && s.attempt == attempt);
        let in_doubt = |s: &Spend| s.access.is_none() && has_lost(&s.attempt);
        let again = self.spends.iter().any(|earlier| {
            let excused = earlier.lost
                || in_doubt(earlier)
                || moved.contains(&earlier.guards)
                || moved.contains(&series.guards)
                || (late(earlier.first_sent) && !earlier.in_time && earlier.stumbled)
                || (held_up && earlier.attempt != series.attempt);
            earlier.replaces == base.grant_id && !excused
        });
        if again {
            self.breaks(1);
        }
        self.spends.push(Spend {
            replaces: base.grant_id.clone(),
            attempt: series.attempt.clone(),
            first_sent: series.first_sent,
            lost,
            access: answer.and_then(|a| a.access_token.as_ref()).map(place),
            in_time: false,
            guards: series.guards,
            stumbled: series.stumbled,
        });
    }

    /// I2 and I3: a login wrote `record` over `before`. What was stored gives way to it,
    /// but not to nothing, and not to what it itself became meanwhile.
    pub(super) fn login(&mut self, record: &TokenRecord, before: Option<&TokenRecord>) {
        if record.refresh_token.expose().is_empty() {
            self.breaks(2);
        }
        if before.is_some_and(|before| is_older(record, before)) {
            self.breaks(3);
        }
        self.versions.push(Arc::new(record.clone()));
        self.wanted = None;
    }

    /// I3 and I4: a re-seal wrote `record` over `before`, which was at `replaced`. One that
    /// was sent within its ttl and arrives after it is a holder that failed to commit
    /// within the ttl: it excuses a second spend if one of the two guards what it moved.
    pub(super) fn resealed(
        &mut self,
        record: &TokenRecord,
        before: Option<&TokenRecord>,
        replaced: Generation,
        sent: Sent,
        now: u64,
    ) {
        match before {
            None => self.breaks(4),
            Some(before) => {
                let again = TokenRecord {
                    write_id: record.write_id.clone(),
                    holder: record.holder.clone(),
                    lease_generation: record.lease_generation,
                    ..before.clone()
                };
                if again != *record {
                    self.breaks(3);
                }
            }
        }
        let ends = sent.lease_first_sent + TTL;
        if sent.asked_at < ends && now >= ends {
            self.moved_late.push(replaced);
        }
        self.versions.push(Arc::new(record.clone()));
    }

    pub(super) fn deleted(&mut self) {
        self.deletions += 1;
        self.wanted = None;
    }

    /// I3 and I4: `record` was written by the refresh protocol over `before`.
    pub(super) fn written(
        &mut self,
        record: &TokenRecord,
        before: Option<&TokenRecord>,
        provider: &Provider,
        now: u64,
    ) {
        match before {
            None => self.breaks(4),
            Some(before) if destroys(record, before, provider) => self.breaks(3),
            Some(_) => {}
        }
        let access = record.access_token.as_ref().map(place);
        for spend in &mut self.spends {
            if access.is_some() && spend.access == access && now < spend.first_sent + TTL {
                spend.in_time = true;
            }
        }
        self.versions.push(Arc::new(record.clone()));
        self.wanted = None;
    }

    /// I2: a flight that received an answer is over.
    pub(super) fn landed(&mut self, deeds: &Deeds, bucket: &Bucket, setup: &Setup) {
        let (Some(received), Some(series)) = (deeds.received, &deeds.series) else {
            return;
        };
        let stored = |r: &Arc<TokenRecord>| r.access_token.as_ref().map(place) == Some(received);
        if self.versions.iter().any(stored) {
            return;
        }
        let base = self.version(series.guards).map(|r| r.grant_id.clone());
        let gave_way = match &bucket.token {
            None => self.deletions > 0,
            Some((record, _)) => {
                place(&record.refresh_token).0 != received.0
                    || (!setup.rotating && Some(&record.grant_id) != base.as_ref())
            }
        };
        if !gave_way && self.deletions == 0 {
            self.breaks(2);
        }
    }

    /// I5: a flight handed a token out.
    pub(super) fn handed_out(
        &mut self,
        held: &Held,
        rejected: &[GrantId],
        deeds: &Deeds,
        setup: &Setup,
        now: u64,
    ) {
        let usable = || {
            let freshness = held.freshness(&setup.policy(), &Rejected::default(), at(now, 0));
            freshness != Freshness::Unusable
        };
        let had_by_this_call = Some(&held.record.grant_id) != deeds.began_with.as_ref();
        if !held.record.is_active()
            || held.record.access_token.is_none()
            || rejected.contains(&held.record.grant_id)
            || !(had_by_this_call || usable())
        {
            self.breaks(5);
        }
    }

    /// I6, after each step of the clock.
    pub(super) fn time_passed(&mut self, now: u64) {
        let ttls = self.faults + 1;
        let allowed = ttls * TTL + self.stalled + 4 * TTL * self.hung + 1;
        if self.wanted.is_some_and(|since| now - since > allowed) {
            self.breaks(6);
        }
    }
}

/// Whether a write of the protocol makes the record worse: revokes what the
/// provider did not reject, or puts an older grant, older scopes or an older
/// login over newer ones.
fn destroys(record: &TokenRecord, before: &TokenRecord, provider: &Provider) -> bool {
    if !record.is_active() {
        return record.refresh_token != before.refresh_token
            || !provider.has_rejected(&record.refresh_token);
    }
    let (mine, theirs) = (place(&record.refresh_token), place(&before.refresh_token));
    mine.0 != theirs.0 || record.scopes != before.scopes || is_older(record, before)
}

/// Whether both are of one consent, and `record` is the earlier.
fn is_older(record: &TokenRecord, before: &TokenRecord) -> bool {
    let (mine, theirs) = (place(&record.refresh_token), place(&before.refresh_token));
    mine.0 == theirs.0
        && (mine.1 < theirs.1 || (mine.1 == theirs.1 && issued(record) < issued(before)))
}

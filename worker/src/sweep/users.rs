//! Which users have parked jobs, and what is to be done about them, from listings alone.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use shared::UserId;
use shared::ports::{Bucket, BucketError, Generation};
use shared::record::{HintedState, RecordHints};
use tracing::warn;

use crate::parking::hints::may_be_unknown;
use crate::parking::{PREFIX, is_claim, prefix_of, user_of};

use super::AT_ONCE;
use super::memory::{Memory, Version};

/// Up to so many users, their records are listed one by one; with more, all records are listed.
const FEW: usize = 100;
/// How many users are kept in memory at a time.
const MOST: usize = 100_000;

/// A user with parked jobs.
#[derive(Debug)]
pub(super) struct ParkedUser {
    pub(super) user: UserId,
    /// How many jobs are parked.
    pub(super) jobs: u64,
    /// The newest of their objects.
    pub(super) newest: Generation,
    /// How many of them have been parked for too long if the user is unknown.
    pub(super) old: u64,
}

/// The record of a user, as a listing shows it.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) generation: Generation,
    hints: Option<RecordHints>,
}

/// What there is to be done about a user's jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing: no record, or none that jobs can go on with, or nothing has changed since all
    /// was read.
    Wait,
    /// Read the record, and what may go on by it.
    Look,
    /// Reject those of an unknown user that lie there for too long.
    End,
}

impl ParkedUser {
    /// What a listing shows of them and of their record.
    pub(super) fn version(&self, record: Option<Generation>) -> Version {
        Version { record, jobs: self.jobs, newest: self.newest, old: self.old }
    }

    pub(super) fn plan(&self, record: Option<&Listed>, memory: &Memory, now: Timestamp) -> Plan {
        let Some(record) = record else {
            let is_read = memory.has_read(&self.user, self.version(None));
            return if self.old > 0 && !is_read { Plan::End } else { Plan::Wait };
        };
        let Some(RecordHints { state, next, .. }) = record.hints else { return Plan::Look };
        let waits = match state {
            HintedState::Revoked => true,
            HintedState::Blocked => next.is_some_and(|next| next > now),
            HintedState::Active => {
                memory.has_read(&self.user, self.version(Some(record.generation)))
            }
        };
        if waits { Plan::Wait } else { Plan::Look }
    }
}

/// Whether an object was created `after` ago or earlier. Where storage does not tell, it was not.
pub(super) fn is_older(created: Option<&Timestamp>, after: Duration, now: Timestamp) -> bool {
    let age = created.map(|created| Duration::try_from(now.duration_since(*created)));
    age.is_some_and(|age| age.is_ok_and(|age| age >= after))
}

/// Lists the users of whom jobs are parked, in the order of their prefixes, from the prefix
/// `from` on; and the prefix at which there are more, when there are very many. Objects of
/// unknown users may end when they are older than `ends_after`.
pub(super) async fn list_parked(
    bucket: &dyn Bucket,
    from: &str,
    ends_after: Option<Duration>,
    now: Timestamp,
) -> Result<(Vec<ParkedUser>, Option<String>), BucketError> {
    let is_old =
        |created: Option<&Timestamp>| ends_after.is_some_and(|after| is_older(created, after, now));
    let (mut users, mut page): (Vec<ParkedUser>, _) = (Vec::new(), None);
    loop {
        let listing = bucket.list(PREFIX, page).await?;
        for (name, generation) in &listing.objects {
            if is_claim(name) || name.as_str() < from {
                continue;
            }
            let Some(user) = user_of(name) else {
                warn!(object = name, "this is no parked job's name; it stays");
                continue;
            };
            let may_end =
                may_be_unknown(listing.hints.get(name)) && is_old(listing.created.get(name));
            let old = u64::from(may_end);
            if let Some(last) = users.last_mut().filter(|last| last.user == user) {
                last.jobs += 1;
                last.newest = last.newest.max(*generation);
                last.old += old;
                continue;
            }
            if users.len() >= MOST {
                return Ok((users, Some(prefix_of(&user))));
            }
            users.push(ParkedUser { user, jobs: 1, newest: *generation, old });
        }
        page = listing.next_page;
        if page.is_none() {
            return Ok((users, None));
        }
    }
}

/// Lists the records of these users.
pub(super) async fn list_records(
    bucket: &dyn Bucket,
    users: &[ParkedUser],
) -> Result<HashMap<UserId, Listed>, BucketError> {
    if users.len() > FEW {
        return list_all_records(bucket, users).await;
    }
    let mut records = HashMap::new();
    for users in users.chunks(AT_ONCE) {
        let listed = join_all(users.iter().map(|parked| list_record(bucket, &parked.user))).await;
        for (parked, listed) in users.iter().zip(listed) {
            records.extend(listed?.map(|listed| (parked.user.clone(), listed)));
        }
    }
    Ok(records)
}

async fn list_record(bucket: &dyn Bucket, user: &UserId) -> Result<Option<Listed>, BucketError> {
    let name = user.token_object();
    let listing = bucket.list(&name, None).await?;
    let found = listing.objects.iter().find(|(found, _)| *found == name);
    let hints = listing.hints.get(&name).and_then(RecordHints::read);
    Ok(found.map(|(_, generation)| Listed { generation: *generation, hints }))
}

async fn list_all_records(
    bucket: &dyn Bucket,
    users: &[ParkedUser],
) -> Result<HashMap<UserId, Listed>, BucketError> {
    let wanted: HashSet<&UserId> = users.iter().map(|parked| &parked.user).collect();
    let (mut records, mut page) = (HashMap::new(), None);
    loop {
        let listing = bucket.list("tokens/", page).await?;
        for (name, generation) in &listing.objects {
            if let Some(user) = UserId::of_token_object(name)
                && wanted.contains(&user)
            {
                let hints = listing.hints.get(name).and_then(RecordHints::read);
                records.insert(user, Listed { generation: *generation, hints });
            }
        }
        page = listing.next_page;
        if page.is_none() {
            return Ok(records);
        }
    }
}

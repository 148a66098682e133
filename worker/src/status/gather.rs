//! Gathers how a fleet stands.

use std::collections::HashMap;

use futures_util::StreamExt as _;
use futures_util::stream;
use jiff::{SignedDuration, Timestamp};
use shared::ports::{Bucket, BucketError};
use shared::protocol::SeenLease;
use shared::record::{HintedState, RecordHints};
use shared::{Reason, TokenStore, UserId};

use super::listing::{Listed, Progress, each};
use super::{Endings, Known, Replica, Replicas, Status, Users, WaitingJobs};
use crate::backlog::{Backlog, Backlogs};
use crate::outbox;
use crate::parking::hints::reason_of;
use crate::parking::{self, is_claim, user_of};
use crate::stored_users::{AT_ONCE, State, StoredUser};

/// So many records are read of which the listing tells no state, and so many leases.
const MOST_READ: usize = 2000;
const MOST_LEASES: usize = 500;
const HOUR: SignedDuration = SignedDuration::from_hours(1);
/// What stands for a reason that is not noted beside the object.
const NOT_NOTED: &str = "not_noted";

/// Where it is looked.
#[derive(Debug)]
pub(crate) struct Gathering {
    pub(crate) store: TokenStore,
    pub(crate) bucket_name: String,
    /// Full name of the job subscription.
    pub(crate) subscription: Option<String>,
    /// Full name of the subscription that keeps dead letters.
    pub(crate) dead_subscription: Option<String>,
    /// Who tells of the two, or why nobody does.
    pub(crate) backlogs: Result<Backlogs, String>,
}

impl Gathering {
    /// How the fleet stands at `now`. Reads only, and may be cancelled.
    ///
    /// # Errors
    /// When the bucket does not answer.
    pub(crate) async fn run(
        &self,
        now: Timestamp,
        progress: &Progress,
    ) -> Result<Status, BucketError> {
        let bucket = self.store.bucket();
        let bucket = &*bucket;
        let (users, waiting, endings, replicas, backlog, dead_letters) = tokio::join!(
            users(&self.store, bucket, progress),
            waiting(bucket, now, progress),
            endings(bucket, progress),
            replicas(bucket, now, progress),
            self.backlog(self.subscription.as_deref(), "--subscription (FLEET_SUBSCRIPTION)", now),
            self.backlog(self.dead_subscription.as_deref(), "--dead-topic (FLEET_DEAD_TOPIC)", now),
        );
        Ok(Status {
            at: now,
            bucket: self.bucket_name.clone(),
            users: users?,
            waiting: waiting?,
            endings: endings?,
            backlog,
            dead_letters,
            replicas: replicas?,
        })
    }

    async fn backlog(&self, name: Option<&str>, flag: &str, now: Timestamp) -> Known<Backlog> {
        let Some(name) = name else { return Known::no(format!("set {flag}")) };
        match &self.backlogs {
            Ok(backlogs) => backlogs.of(name, now).await.into(),
            Err(why) => Known::no(why),
        }
    }
}

async fn users(
    store: &TokenStore,
    bucket: &dyn Bucket,
    progress: &Progress,
) -> Result<Users, BucketError> {
    let (mut users, mut to_read) = (Users::default(), Vec::new());
    users.more = each(bucket, "tokens/", progress, |Listed { name, hints, .. }| {
        let Some(user) = UserId::of_token_object(name) else { return };
        users.total += 1;
        match hints.and_then(RecordHints::read).map(|hints| hints.state) {
            Some(HintedState::Active) => users.active += 1,
            Some(HintedState::Blocked) => users.blocked += 1,
            Some(HintedState::Revoked) => users.revoked += 1,
            None if to_read.len() < MOST_READ => to_read.push(user),
            None => users.not_read += 1,
        }
    })
    .await?;
    let reading = to_read.into_iter().map(|user| StoredUser::read(store, user));
    let mut reading = stream::iter(reading).buffer_unordered(AT_ONCE);
    while let Some(found) = reading.next().await {
        progress.note_read();
        users.read += 1;
        match found.map(|found| found.state) {
            Some(State::Active) => users.active += 1,
            Some(State::Blocked) => users.blocked += 1,
            Some(State::Revoked) => users.revoked += 1,
            Some(State::Unreadable) => users.unreadable += 1,
            // Deleted since it was listed.
            None => users.total -= 1,
        }
    }
    Ok(users)
}

async fn waiting(
    bucket: &dyn Bucket,
    now: Timestamp,
    progress: &Progress,
) -> Result<WaitingJobs, BucketError> {
    let (mut waiting, mut last) = (WaitingJobs::default(), None);
    waiting.more =
        each(bucket, parking::PREFIX, progress, |Listed { name, hints, created, .. }| {
            if is_claim(name) {
                return;
            }
            let Some(user) = user_of(name) else { return };
            waiting.total += 1;
            if last.as_ref() != Some(&user) {
                // One user's objects follow each other.
                waiting.users += 1;
                last = Some(user);
            }
            waiting.since = earlier(waiting.since, created);
            let reason = hints.and_then(reason_of).map_or(NOT_NOTED, Reason::as_str);
            waiting.reasons.entry(reason.to_owned()).or_default().note(created, now);
        })
        .await?;
    Ok(waiting)
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    [one, other].into_iter().flatten().min()
}

async fn endings(bucket: &dyn Bucket, progress: &Progress) -> Result<Endings, BucketError> {
    let mut endings = Endings::default();
    endings.more = each(bucket, outbox::PREFIX, progress, |Listed { created, .. }| {
        endings.total += 1;
        endings.since = earlier(endings.since, created);
    })
    .await?;
    Ok(endings)
}

/// A lease stays after it was used, so that the newest ones tell who is at work.
async fn replicas(
    bucket: &dyn Bucket,
    now: Timestamp,
    progress: &Progress,
) -> Result<Replicas, BucketError> {
    let since = now.checked_sub(HOUR).unwrap_or(now);
    let mut recent = Vec::new();
    let more = each(bucket, "leases/", progress, |Listed { name, generation, created, .. }| {
        if let Some(created) = created.filter(|created| *created >= since) {
            recent.push((created, name.to_owned(), generation));
        }
    })
    .await?;
    let leases = recent.len() as u64;
    recent.sort_by(|a, b| b.cmp(a));
    recent.truncate(MOST_LEASES);
    let reading = recent.into_iter().map(|(created, name, generation)| async move {
        (created, generation, bucket.get(&name).await)
    });
    let mut reading = stream::iter(reading).buffered(AT_ONCE);
    let (mut seen, mut read): (HashMap<String, Replica>, u64) = (HashMap::new(), 0);
    while let Some((created, generation, object)) = reading.next().await {
        progress.note_read();
        read += 1;
        // One that was taken anew meanwhile tells who is at work as well.
        let Some(object) = object? else { continue };
        let Some(lease) = SeenLease::decode(&object.content, generation).body else { continue };
        let replica = seen.entry(lease.holder.clone()).or_insert_with(|| Replica {
            name: lease.holder,
            last_seen: created,
            leases: 0,
        });
        replica.leases += 1;
        replica.last_seen = replica.last_seen.max(created);
    }
    let mut seen: Vec<Replica> = seen.into_values().collect();
    seen.sort_by(|a, b| b.last_seen.cmp(&a.last_seen).then_with(|| a.name.cmp(&b.name)));
    Ok(Replicas { seen, leases, read, more })
}

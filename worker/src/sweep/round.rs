//! One sweep: several users at a time, each by what the listings say of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use shared::UserId;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::claim::Sighting;
use crate::events::state::Occasion;
use crate::parking::prefix_of;
use crate::resuming::{Finish, ResumeError};

use super::marker::Progress;
use super::memory::Memory;
use super::users::{Listed, ParkedUser, Plan, list_parked, list_records};
use super::{AT_ONCE, Sweep, Swept};

/// After so many users in a row at whom the topic or the bucket failed, the rest waits for the
/// next turn.
const MAX_FAILURES: u32 = 3;

/// What became of one user.
struct Acted {
    published: u64,
    ended: u64,
    /// Jobs that stay parked.
    waiting: u64,
    finish: Result<Finish, ResumeError>,
    /// The change of consent has been published.
    is_told: bool,
}

/// How far the sweep has come among the users of one listing. Users end in any order; what counts
/// are those before whom all have ended.
struct Course<'a> {
    progress: &'a Mutex<Progress>,
    users: &'a [ParkedUser],
    /// How many users have ended, counted up to the first that has not.
    before: usize,
    /// Jobs that stay parked, of users who have ended and come later.
    ended: BTreeMap<usize, u64>,
}

pub(super) fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Course<'_> {
    fn note(&mut self, index: usize, waiting: u64) {
        self.ended.insert(index, waiting);
        let mut progress = lock(self.progress);
        while let Some(waiting) = self.ended.remove(&self.before) {
            progress.jobs += waiting;
            progress.users += u64::from(waiting > 0);
            progress.next = behind(&self.users[self.before].user);
            self.before += 1;
        }
    }
}

/// Sorts behind the names of the user's parked jobs and before those of the next user.
fn behind(user: &UserId) -> String {
    let mut prefix = prefix_of(user);
    prefix.pop();
    // The character after the slash that was there.
    prefix.push('0');
    prefix
}

impl Sweep {
    /// Publishes what was not told, then goes through all parked jobs, from where `progress`
    /// says. It ends after the users that it is at when `stop` is cancelled; what it found then
    /// is not all that there is.
    pub(super) async fn round(
        &self,
        memory: &mut Memory,
        progress: &Mutex<Progress>,
        stop: &CancellationToken,
    ) -> Result<Swept, ResumeError> {
        let (mut swept, mut needed) = (Swept::default(), HashSet::new());
        if let Some(events) = &self.events {
            match events.sweep(&mut memory.events, stop).await {
                Ok(found) => (swept.untold, needed) = (found.untold, found.needed),
                // Jobs go on, whether somebody can be told or not.
                Err(why) => warn!("what was not told waits for the next turn: {why}"),
            }
        }
        let ends_after = self.unknown.as_ref().map(|unknown| unknown.after);
        loop {
            let (bucket, from) = (&*self.bucket, lock(progress).next.clone());
            let (users, more) = list_parked(bucket, &from, ends_after, self.clock.wall()).await?;
            let records = list_records(bucket, &users).await?;
            if from.is_empty() && more.is_none() {
                let listed: HashSet<_> = users.iter().map(|parked| &parked.user).collect();
                memory.keep_read(|user| listed.contains(user));
            }
            let course = Course { progress, users: &users, before: 0, ended: BTreeMap::new() };
            self.go_through(course, &records, &needed, memory, stop, &mut swept).await?;
            match more {
                Some(next) if !stop.is_cancelled() => lock(progress).next = next,
                _ => break,
            }
        }
        let Progress { jobs, users, .. } = *lock(progress);
        Ok(Swept { jobs, users, ..swept })
    }

    async fn go_through(
        &self,
        mut course: Course<'_>,
        records: &HashMap<UserId, Listed>,
        needed: &HashSet<UserId>,
        memory: &mut Memory,
        stop: &CancellationToken,
        swept: &mut Swept,
    ) -> Result<(), ResumeError> {
        let mut queue = course.users.iter().enumerate();
        let mut acting = FuturesUnordered::new();
        let (mut failures, mut failed) = (0, None);
        loop {
            while acting.len() < AT_ONCE && failures < MAX_FAILURES && !stop.is_cancelled() {
                let Some((index, parked)) = queue.next() else { break };
                let record = records.get(&parked.user);
                let plan = parked.plan(record, memory, self.clock.wall());
                let is_told = needed.contains(&parked.user);
                if plan == Plan::Wait && (is_told || !self.tells_waiting(record)) {
                    course.note(index, parked.jobs);
                    continue;
                }
                let seen = memory.parked.get(&parked.user).copied();
                let version = parked.version(record.map(|record| record.generation));
                acting.push(async move {
                    (index, version, self.act(parked, plan, seen, is_told).await)
                });
            }
            // What is under way is never dropped: it may have published what it has to delete.
            let Some((index, version, acted)) = acting.next().await else { break };
            let user = &course.users[index].user;
            course.note(index, acted.waiting);
            swept.resumed += acted.published;
            swept.ended += acted.ended;
            if acted.published + acted.ended > 0 || acted.finish.is_ok() {
                failures = 0;
            }
            match acted.finish {
                Ok(finish) => {
                    memory.note_claim(user, &finish);
                    let is_quiet = acted.published + acted.ended == 0;
                    if is_quiet && acted.is_told && matches!(finish, Finish::Done) {
                        memory.note_read(user, version);
                    }
                }
                Err(error) => {
                    let replica = self.store.holder();
                    warn!(user = %user.digest(), replica, "parked jobs wait: {error}");
                    if error.concerns_everybody() {
                        failures += 1;
                        failed = Some(error);
                    }
                }
            }
        }
        match failed {
            Some(error) if failures >= MAX_FAILURES => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether applications are told of a user whose jobs wait and of whom they do not know it.
    fn tells_waiting(&self, record: Option<&Listed>) -> bool {
        self.events.as_ref().is_some_and(|events| record.is_some() || events.unknown_users)
    }

    /// Does what is planned for one user. A failure ends the user's turn, so that order is kept.
    /// `is_told`: applications know that the user is needed.
    async fn act(
        &self,
        parked: &ParkedUser,
        plan: Plan,
        mut seen: Option<Sighting>,
        is_told: bool,
    ) -> Acted {
        let ParkedUser { user, jobs, .. } = parked;
        let (mut ended, mut failed) = (0, None);
        if let (Plan::End, Some(unknown)) = (plan, &self.unknown) {
            match self.end_unknown(unknown, user, seen).await {
                Ok((count, Finish::Done)) => ended = count,
                Ok((_, held)) => failed = Some(Ok(held)),
                Err(error) => failed = Some(Err(error)),
            }
            // The claim was had, and is released.
            seen = None;
        }
        let mut resuming = self.resuming(user);
        let finish = match (failed, plan) {
            (Some(finish), _) => finish,
            (None, Plan::Wait) => Ok(Finish::Done),
            // Also after an end: whoever logs in meanwhile has met the claim.
            (None, Plan::Look | Plan::End) => resuming.run(seen).await,
        };
        let published = resuming.published;
        let waiting = jobs.saturating_sub(published + ended);
        let mut is_told_now = true;
        if matches!(finish, Ok(Finish::Done)) {
            let waits = resuming.waits();
            is_told_now = self.tell_found(user, published, waiting, waits, is_told).await;
        }
        Acted { published, ended, waiting, finish, is_told: is_told_now }
    }

    /// Tells what was found of a user whose jobs are parked, or were: the process that parked
    /// them, or stored the new grant, may not have told it. Whether nothing is left to tell.
    async fn tell_found(
        &self,
        user: &UserId,
        published: u64,
        waiting: u64,
        waits: Occasion,
        is_told: bool,
    ) -> bool {
        let Some(events) = &self.events else { return true };
        let occasion = match (published, waiting) {
            (0, 0) => return true,
            (0, _) if is_told => return true,
            (_, 0) => Occasion::Changed,
            _ => waits,
        };
        match events.tell(user, &occasion, None).await {
            Ok(_) => true,
            Err(why) => {
                warn!(user = %user.digest(), "a change of consent is not told yet: {why}");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_goes_on_behind_the_users_before_whom_all_have_ended() {
        let user = |id: &str| UserId::new(id).unwrap();
        let generation = shared::ports::Generation(1);
        let users = ["a", "a-b", "a0"].map(|id| ParkedUser {
            user: user(id),
            jobs: 1,
            newest: generation,
            old: 0,
        });
        let progress = Mutex::new(Progress::default());
        let (before, ended) = (0, BTreeMap::new());
        let mut course = Course { progress: &progress, users: &users, before, ended };
        course.note(1, 2);
        assert_eq!(*lock(&progress), Progress::default(), "the first has not ended");
        course.note(0, 0);
        let so_far = Progress { next: "parked/a-b0".to_owned(), jobs: 2, users: 1 };
        assert_eq!(*lock(&progress), so_far);
        assert!(behind(&user("a")) > format!("{}~", prefix_of(&user("a"))));
        assert!(behind(&user("a")) <= prefix_of(&user("a0")));
    }
}

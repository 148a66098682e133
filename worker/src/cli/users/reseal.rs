//! `fleet users reseal`: brings over what is not sealed with the primary key yet.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::outbox::StoredEnding;
use crate::parking::{Claim, Claimed, ParkedJob, is_claim, user_of};
use crate::{dedupe, outbox, parking};
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use serde_json::json;
use shared::adapters::SystemClock;
use shared::ports::{Bucket, BucketError, Clock as _, Hints};
use shared::sealing::Sealing;
use shared::{Error, Resealed, TokenStore, UserId};

use super::super::connect::{Connected, StoreArgs, user_id};
use super::super::environment::Place;
use super::super::output;
use super::every_user;

/// So many records or objects are rewritten at a time.
const AT_ONCE: usize = 16;
/// The name of this process in claims.
const HOLDER: &str = "fleet users reseal";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fleet users reseal --all --bucket my-tokens --client client.json --keyring keyring.json
  fleet users reseal 1097 --bucket my-tokens --client client.json --keyring keyring.json

Each record is written under its lease, so it can run beside the workers. A user whose
token is being renewed is waited for. With --all, parked jobs and what is remembered of
ended ones are sealed too: run it when every worker is of this release.")]
pub(crate) struct Args {
    /// The users' IDs
    #[arg(value_name = "USER_ID", value_parser = user_id, required_unless_present = "all")]
    users: Vec<UserId>,
    /// Every stored user, and all that is stored about jobs
    #[arg(long, conflicts_with = "users")]
    all: bool,
    #[command(flatten)]
    store: StoreArgs,
    /// The counts as JSON
    #[arg(long)]
    json: bool,
}

/// What became of the records and objects that were looked at.
#[derive(Default)]
struct Counts {
    resealed: u64,
    unchanged: u64,
    failed: u64,
}

pub(super) async fn run(args: Args, place: &Place) -> anyhow::Result<()> {
    let Connected { store, .. } = args.store.connect(place).await?;
    let users = if args.all { every_user(&store).await? } else { args.users };
    let bar = indicatif::ProgressBar::new(users.len() as u64);
    let mut counts = Counts::default();
    let mut resealing = stream::iter(&users)
        .map(async |user| (user, record(&store, user).await))
        .buffer_unordered(AT_ONCE);
    while let Some((user, resealed)) = resealing.next().await {
        match resealed {
            Ok(Resealed::Done) => counts.resealed += 1,
            // Deleted since it was listed: nothing left to seal.
            Ok(_) | Err(Error::NeedsConsent(_)) => counts.unchanged += 1,
            Err(error) => {
                counts.failed += 1;
                bar.suspend(|| output::note(format!("user {:?}: {error}", user.as_str())));
            }
        }
        bar.inc(1);
    }
    if args.all {
        let objects = Objects { bucket: store.bucket(), store: &store, bar: &bar };
        for prefix in [parking::PREFIX, dedupe::PREFIX, outbox::PREFIX] {
            objects.reseal(prefix, &mut counts).await?;
        }
    }
    bar.finish_and_clear();
    let Counts { resealed, unchanged, failed } = counts;
    if args.json {
        output::json(&json!({"resealed": resealed, "unchanged": unchanged, "failed": failed}))?;
    } else {
        output::line(format!("{resealed} resealed, {unchanged} unchanged, {failed} failed"))?;
    }
    anyhow::ensure!(
        failed == 0,
        "{failed} object(s) are not sealed with the primary key; those above stay as they are, \
         and running this again tries them again"
    );
    Ok(())
}

async fn record(store: &TokenStore, user: &UserId) -> Result<Resealed, Error> {
    loop {
        match store.reseal(user).await {
            Ok(Resealed::Busy { retry_after }) => {
                SystemClock::default().sleep(retry_after).await;
            }
            other => return other,
        }
    }
}

/// Everything in the bucket that is sealed and no record.
struct Objects<'a> {
    bucket: Arc<dyn Bucket>,
    store: &'a TokenStore,
    bar: &'a indicatif::ProgressBar,
}

impl Objects<'_> {
    async fn reseal(&self, prefix: &str, counts: &mut Counts) -> anyhow::Result<()> {
        let mut page = None;
        let mut claims = Claims::default();
        loop {
            let listing = self.bucket.list(prefix, page).await?;
            let names = listing.objects.iter().map(|(name, _)| name);
            let names: Vec<&String> = names.filter(|name| !is_claim(name)).collect();
            self.bar.inc_length(names.len() as u64);
            for names in names.chunks(AT_ONCE) {
                let users = names.iter().filter_map(|name| user_of(name)).collect();
                claims.take(&*self.bucket, users).await?;
                let sealing = names.iter().map(|&name| {
                    let (hints, claims) = (listing.hints.get(name), &claims);
                    async move {
                        let is_ours = user_of(name).is_none_or(|user| claims.has(&user));
                        anyhow::ensure!(is_ours, "another process resumes this user's parked jobs");
                        self.one(name, hints).await
                    }
                    .map(move |sealed| (name, sealed))
                });
                for (name, sealed) in join_all(sealing).await {
                    match sealed {
                        Ok(true) => counts.resealed += 1,
                        Ok(false) => counts.unchanged += 1,
                        Err(error) => {
                            counts.failed += 1;
                            self.bar.suspend(|| output::note(format!("{name:?}: {error:#}")));
                        }
                    }
                }
                self.bar.inc(names.len() as u64);
            }
            page = listing.next_page;
            if page.is_none() {
                claims.take(&*self.bucket, HashSet::new()).await?;
                return Ok(());
            }
        }
    }

    /// Seals one object anew. Whether it was not sealed as it should be.
    async fn one(&self, name: &str, hints: Option<&Hints>) -> anyhow::Result<bool> {
        let Some(object) = self.bucket.get(name).await? else { return Ok(false) };
        let Some(content) = resealed(name, &object.content, self.store.sealing())? else {
            return Ok(false);
        };
        let hints = hints.cloned().unwrap_or_default();
        match self.bucket.put_with_hints(name, content, hints, object.generation).await {
            Ok(_) => Ok(true),
            // Whoever wrote it meanwhile has sealed it, or deleted it.
            Err(BucketError::PreconditionFailed) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// The content sealed anew; `None` when it is as it should be.
fn resealed(name: &str, content: &[u8], sealing: &Sealing) -> anyhow::Result<Option<Bytes>> {
    if name.starts_with(parking::PREFIX) {
        return Ok(ParkedJob::resealed(name, content, sealing)?.map(Bytes::from));
    }
    if name.starts_with(outbox::PREFIX) && StoredEnding::is_claimed(name, content, sealing)? {
        // Its claimant writes it again in a moment, or deletes it.
        return Ok(None);
    }
    Ok(sealing.resealed_whole(name, content)?)
}

/// The users whose parked jobs are rewritten now. That is done under their claims only: whoever
/// resumes them deletes the version that it has published, and a newer one would be published
/// again.
#[derive(Default)]
struct Claims {
    mine: HashMap<UserId, Claim>,
    /// Users whose jobs somebody else is resuming: what is left of them goes through their hands.
    held: HashSet<UserId>,
}

impl Claims {
    /// Claims these users, and releases all others.
    async fn take(&mut self, bucket: &dyn Bucket, users: HashSet<UserId>) -> anyhow::Result<()> {
        let over = self.mine.extract_if(|user, _| !users.contains(user));
        join_all(over.map(|(_, claim)| claim.release(bucket))).await;
        let clock = SystemClock::default();
        let is_new = |user: &UserId| !self.mine.contains_key(user) && !self.held.contains(user);
        let new: Vec<UserId> = users.into_iter().filter(is_new).collect();
        let taking = new.iter().map(|user| Claim::take(bucket, &clock, user, HOLDER, None));
        let taken = join_all(taking).await;
        for (user, claimed) in new.into_iter().zip(taken) {
            match claimed? {
                Claimed::Mine(claim) => drop(self.mine.insert(user, claim)),
                Claimed::Held(_) => drop(self.held.insert(user)),
            }
        }
        Ok(())
    }

    fn has(&self, user: &UserId) -> bool {
        self.mine.contains_key(user)
    }
}

//! `fleet users reseal`: brings over what is not sealed with the primary key yet.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use shared::adapters::SystemClock;
use shared::ports::{Bucket, BucketError, Clock as _};
use shared::sealing::Sealing;
use shared::{Error, Resealed, TokenStore, UserId};
use worker::outbox::StoredEnding;
use worker::parking::{Claim, Claimed, ParkedJob, is_claim, user_of};
use worker::{dedupe, outbox, parking};

use super::super::connect::{Connected, Place, StoreArgs, user_id};
use super::super::output;
use super::every_user;

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
    for user in &users {
        match record(&store, user).await {
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
        // Users whose parked jobs somebody else is resuming: what is left of them goes
        // through their hands.
        let mut held = HashSet::new();
        let mut claim: Option<(UserId, Claim)> = None;
        loop {
            let listing = self.bucket.list(prefix, page).await?;
            self.bar.inc_length(listing.objects.len() as u64);
            for (name, _) in listing.objects {
                self.bar.inc(1);
                if is_claim(&name) {
                    continue;
                }
                if let Some(user) = user_of(&name)
                    && !self.holds(&mut claim, &user, &mut held).await?
                {
                    counts.failed += 1;
                    let why = "another process resumes this user's parked jobs";
                    self.bar.suspend(|| output::note(format!("{name:?}: {why}")));
                    continue;
                }
                match self.one(&name).await {
                    Ok(true) => counts.resealed += 1,
                    Ok(false) => counts.unchanged += 1,
                    Err(error) => {
                        counts.failed += 1;
                        self.bar.suspend(|| output::note(format!("{name:?}: {error:#}")));
                    }
                }
            }
            page = listing.next_page;
            if page.is_none() {
                break;
            }
        }
        if let Some((_, claim)) = claim {
            claim.release(&*self.bucket).await;
        }
        Ok(())
    }

    /// A parked job is rewritten under its user's claim only: whoever resumes them deletes
    /// the version that it has published, and a newer one would be published again.
    async fn holds(
        &self,
        claim: &mut Option<(UserId, Claim)>,
        user: &UserId,
        held: &mut HashSet<UserId>,
    ) -> anyhow::Result<bool> {
        if claim.as_ref().is_some_and(|(claimed, _)| claimed == user) {
            return Ok(true);
        }
        if let Some((_, claim)) = claim.take() {
            claim.release(&*self.bucket).await;
        }
        if held.contains(user) {
            return Ok(false);
        }
        match Claim::take(&*self.bucket, &SystemClock::default(), user, HOLDER, None).await? {
            Claimed::Mine(mine) => {
                *claim = Some((user.clone(), mine));
                Ok(true)
            }
            Claimed::Held(_) => {
                held.insert(user.clone());
                Ok(false)
            }
        }
    }

    /// Seals one object anew. Whether it was not sealed as it should be.
    async fn one(&self, name: &str) -> anyhow::Result<bool> {
        let Some(object) = self.bucket.get(name).await? else { return Ok(false) };
        let Some(content) = resealed(name, &object.content, self.store.sealing())? else {
            return Ok(false);
        };
        match self.bucket.put(name, content, object.generation).await {
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

//! `fleet publish --wait`: waits for what becomes of the jobs that it has published.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use crate::outcome::Status;
use crate::replica::Stop;
use crate::told::{Outcomes, Told, ToldOutcome};
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use shared::UserId;
use shared::adapters::SystemClock;
use shared::ports::Clock as _;
use tokio_util::sync::CancellationToken;

use super::super::connect::{ProjectArgs, duration};
use super::super::environment::Place;
use super::super::output::{self, MustConsent, Usage};
use super::{close, open, table};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct WaitArgs {
    /// Wait for the outcomes of the jobs and show them: exit code 0 if all are done, 3 if users
    /// must consent, 1 if any was rejected or has not ended in time
    #[arg(long)]
    wait: bool,
    /// Where workers publish outcomes; for --wait
    #[arg(long, env = "FLEET_OUTCOMES_TOPIC")]
    outcomes_topic: Option<String>,
    /// How long the next outcome is waited for
    #[arg(long, default_value = "5m", value_parser = duration, requires = "wait")]
    timeout: Duration,
}

/// A job that was published, whose outcome may be waited for.
#[derive(Debug)]
pub(in crate::cli) struct Awaited {
    /// On whose behalf.
    pub(in crate::cli) user: UserId,
    /// Its kind.
    pub(in crate::cli) kind: String,
    /// Its ID, or its message's if it has none.
    pub(in crate::cli) job: String,
    /// Its message's ID.
    pub(in crate::cli) message: String,
}

/// Reads outcomes while jobs are published and run.
pub(in crate::cli) struct Waiting {
    outcomes: Outcomes,
    timeout: Duration,
    /// Whether outcomes are shown as JSON.
    json: bool,
    stop: CancellationToken,
}

impl WaitArgs {
    /// Begins to read the outcomes of these users' jobs, if they are waited for. From now on
    /// signals end the waiting, and the process with it.
    pub(in crate::cli) async fn begin<'a>(
        &self,
        place: &Place,
        project: &ProjectArgs,
        users: impl IntoIterator<Item = &'a UserId>,
        json: bool,
    ) -> anyhow::Result<Option<Waiting>> {
        if !self.wait {
            return Ok(None);
        }
        let topic = project.optional_topic("--outcomes-topic", self.outcomes_topic.as_ref())?;
        let topic = topic.ok_or_else(|| {
            Usage("--wait needs --outcomes-topic (FLEET_OUTCOMES_TOPIC), where the workers publish outcomes".to_owned())
        })?;
        let stop = Stop::by_signals().context("signals cannot be watched")?.drain;
        let outcomes = open(place, &topic, users).await?;
        Ok(Some(Waiting { outcomes, timeout: self.timeout, json, stop }))
    }
}

impl Waiting {
    /// Waits for what `publish` publishes, shows it, and stops reading: when all has ended, when
    /// nothing comes in time, at a signal and at an error.
    pub(in crate::cli) async fn for_jobs(
        mut self,
        publish: impl Future<Output = anyhow::Result<Vec<Awaited>>>,
    ) -> anyhow::Result<()> {
        let stop = self.stop.clone();
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => Err(anyhow::anyhow!(
                "stopped; jobs that were published go on, and their outcomes come to the topic"
            )),
            ended = async {
                let jobs = publish.await?;
                self.all_of(jobs).await
            } => ended,
        };
        close(self.outcomes).await;
        ended
    }

    async fn all_of(&mut self, jobs: Vec<Awaited>) -> anyhow::Result<()> {
        let is_single = jobs.len() == 1;
        // Jobs that are one and the same have one outcome.
        let identity = |job: Awaited| (job.user.as_str().to_owned(), job.kind, job.job);
        let mut awaited: BTreeSet<_> = jobs.into_iter().map(identity).collect();
        let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
        let bar = bar(if is_single { 0 } else { awaited.len() });
        let clock = SystemClock::default();
        // What becomes of other jobs is no sign of these.
        let mut late = clock.sleep(self.timeout);
        while !awaited.is_empty() {
            let told = tokio::select! {
                told = self.outcomes.next() => told?,
                () = &mut late => {
                    bar.finish_and_clear();
                    return Err(anyhow::anyhow!(
                        "{} job(s) have not ended, and none of them did within {:?}: they are published and go on. Does a worker take them (`fleet doctor`)? Give more time with --timeout, or look with `fleet outcomes --follow`",
                        awaited.len(), self.timeout
                    ));
                }
            };
            let ToldOutcome { user, kind, job, .. } = &told.outcome;
            if !awaited.remove(&(user.clone(), kind.clone(), job.clone())) {
                continue;
            }
            late = clock.sleep(self.timeout);
            *ends.entry(told.outcome.status.as_str()).or_default() += 1;
            bar.inc(1);
            bar.suspend(|| self.show(&told, is_single))?;
        }
        bar.finish_and_clear();
        if !is_single {
            let summary = summary(&ends);
            if self.json { output::note(summary) } else { output::line(summary)? }
        }
        verdict(&ends)
    }

    /// Of many jobs those are shown that are not done, and programs see all.
    fn show(&self, told: &Told, is_single: bool) -> anyhow::Result<()> {
        if self.json {
            return output::line(&told.line);
        }
        if is_single || told.outcome.status != Status::Done {
            output::line(table::line(told))?;
        }
        let result = &told.outcome.result;
        if is_single && !result.is_null() { output::line(result.text()) } else { Ok(()) }
    }
}

/// How many have ended, on a terminal.
fn bar(jobs: usize) -> ProgressBar {
    if jobs == 0 {
        return ProgressBar::hidden();
    }
    if !std::io::stderr().is_terminal() {
        output::note(format!("waiting for the outcomes of {jobs} job(s)"));
    }
    ProgressBar::new(jobs as u64).with_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} ended, {per_sec}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    )
}

fn summary(ends: &BTreeMap<&str, usize>) -> String {
    if ends.is_empty() {
        return "no jobs".to_owned();
    }
    let mut text = String::new();
    for (status, count) in ends {
        let comma = if text.is_empty() { "" } else { ", " };
        write!(text, "{comma}{count} {status}").expect("a string takes everything");
    }
    text
}

/// How the command ends.
fn verdict(ends: &BTreeMap<&str, usize>) -> anyhow::Result<()> {
    let count = |status: Status| ends.get(status.as_str()).copied().unwrap_or_default();
    let (rejected, parked) = (count(Status::Rejected), count(Status::Parked));
    if rejected > 0 {
        anyhow::bail!("{rejected} job(s) were rejected; `fleet dead list` shows them");
    }
    if parked > 0 {
        return Err(MustConsent(format!(
            "{parked} job(s) are parked until their users consent (`fleet users connect-link USER_ID`), and go on then"
        ))
        .into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejected_job_fails_the_command_and_a_parked_one_asks_for_consent() {
        assert!(verdict(&BTreeMap::from([("done", 2)])).is_ok());
        let parked = verdict(&BTreeMap::from([("done", 2), ("parked", 1)])).unwrap_err();
        assert!(parked.is::<MustConsent>());
        let rejected = verdict(&BTreeMap::from([("parked", 1), ("rejected", 1)])).unwrap_err();
        assert!(!rejected.is::<MustConsent>());
        let ends = BTreeMap::from([("done", 2), ("parked", 1)]);
        assert_eq!(summary(&ends), "2 done, 1 parked");
        assert_eq!(summary(&BTreeMap::new()), "no jobs");
    }
}

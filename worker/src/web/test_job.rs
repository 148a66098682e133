//! The account page's test job, and what became of it.
//!
//! Whichever replica of the pages gets the form publishes the job and reads its outcome itself,
//! by a subscription that is there for this one job: no replica has to know what another one
//! has queued, and nothing is read while nobody tests.

use std::time::Duration;

use serde_json::json;
use shared::{Reason, UserId};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::account::name_of;
use super::session::Notice;
use super::{OutcomesTopic, Site};
use crate::outcome::Status;
use crate::pubsub::Outgoing;
use crate::told::{Outcomes, Told, ToldOutcome};

/// A person waits so long for the subscription, and then for the outcome: load balancers give a
/// request up after 30 s.
const OPEN_WITHIN: Duration = Duration::from_secs(5);
const TOLD_WITHIN: Duration = Duration::from_secs(10);

/// Publishes a `profile` job for this person, and says what becomes of it. `stop` ends the
/// waiting.
///
/// Cancelling it may leave a subscription behind, for a day.
pub(super) async fn run(site: &Site, user: &UserId, stop: &CancellationToken) -> Notice {
    let mut outcomes = open(site, user).await;
    let notice = match (queue(site, user).await, &mut outcomes) {
        (Err(notice), _) => notice,
        (Ok(id), None) => Notice::good(format!(
            "A test job is queued. Its message ID is {id}. What becomes of it is not shown here."
        )),
        (Ok(id), Some(outcomes)) => tokio::select! {
            biased;
            told = outcome_of(outcomes, user, &id) => told.as_ref().map_or_else(|| waits(&id), about),
            () = site.clock.sleep(TOLD_WITHIN) => waits(&id),
            () = stop.cancelled() => waits(&id),
        },
    };
    if let Some(outcomes) = outcomes
        && let Err(left) = outcomes.close().await
    {
        warn!("{left}");
    }
    notice
}

/// Reads the outcomes of this person's jobs, where the pages may.
async fn open(site: &Site, user: &UserId) -> Option<Outcomes> {
    let OutcomesTopic { connection, name } =
        site.outcomes.as_ref().filter(|_| site.jobs.is_some())?;
    let opened = tokio::select! {
        biased;
        opened = Outcomes::open(connection, name, [user]) => opened.map_err(|error| error.to_string()),
        () = site.clock.sleep(OPEN_WITHIN) => Err(format!("no answer within {OPEN_WITHIN:?}")),
    };
    let failed = |error| warn!(error, "people cannot be shown what becomes of their test jobs");
    opened.map_err(failed).ok()
}

/// The ID of the job.
async fn queue(site: &Site, user: &UserId) -> Result<String, Notice> {
    let Some(jobs) = &site.jobs else {
        return Err(Notice::bad("This site has no job topic. Tell the operator: set --topic."));
    };
    let job = json!({"user": user.as_str(), "kind": "profile"});
    let published = jobs.publish(Outgoing {
        data: job.to_string().into(),
        ordering_key: user.as_str().to_owned(),
        ..Outgoing::default()
    });
    published.await.map_err(|error| {
        warn!(user = %user.digest(), %error, "a person's test job was not queued");
        Notice::bad("The test job was not queued. Try again in a minute.")
    })
}

/// `None` when the topic cannot be read any more.
async fn outcome_of(outcomes: &mut Outcomes, user: &UserId, id: &str) -> Option<ToldOutcome> {
    loop {
        match outcomes.next().await {
            Ok(Told { outcome, .. }) if outcome.user == user.as_str() && outcome.job == id => {
                return Some(outcome);
            }
            Ok(_) => {}
            Err(error) => {
                warn!(user = %user.digest(), %error, "the outcome of a test job cannot be read");
                return None;
            }
        }
    }
}

/// What a person is told of an outcome: an operator's reasons are not theirs.
fn about(outcome: &ToldOutcome) -> Notice {
    match outcome.status {
        Status::Done => {
            let profile = outcome.result.read().unwrap_or_default();
            let who = name_of(&profile);
            Notice::good(format!(
                "The test job is done: a worker acted for you, and the provider said that this is {who}."
            ))
        }
        Status::Parked => {
            let reason = outcome.error.as_deref().and_then(|why| why.split(':').next());
            let why = reason.and_then(Reason::named).map_or("", Reason::for_person);
            Notice::bad(format!("The test job waits for you. {why}").trim_end().to_owned())
        }
        Status::Rejected | Status::Retry => Notice::bad(
            "The test job was rejected. Whoever runs this site finds it among the dead letters.",
        ),
    }
}

fn waits(id: &str) -> Notice {
    Notice::bad(format!(
        "The test job is queued, and no worker has told yet what became of it. Its message ID is {id}."
    ))
}

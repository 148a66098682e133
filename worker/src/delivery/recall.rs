//! Looking whether a job's end is remembered, and what happens when that cannot be read.

use shared::Schedule;
use tracing::warn;

use crate::dedupe::{Recalled, Told};
use crate::effect::{Effect, Knowledge};
use crate::gate::Trouble;
use crate::json::Json;
use crate::metrics;
use crate::outcome::Status;
use crate::settlement::{Ending, Event, Ran};

use super::course::Course;
use super::credential::{HOLD_MAX, HOLD_MIN, UNUSABLE};
use super::report::Report;

impl Course<'_> {
    /// Checks whether the job's end is remembered. Where that cannot be read the job may have
    /// acted, so it does not run; but a keyring that lacks a key, or an object that somebody has
    /// spoilt, can be put right: the message is held for an hour before that is its end.
    pub(super) async fn recall(&mut self) -> Event {
        let Some(job) = self.job else { return Event::NotRemembered };
        let mut pauses = Schedule::new(HOLD_MIN, HOLD_MAX);
        let mut unreadable_since = None;
        loop {
            let recalled = self.shared.dedupe.recall(job).await;
            if recalled.is_ok() {
                self.shared.gate.open(&Trouble::Recall);
            }
            let object = match recalled {
                Ok(None) => return Event::NotRemembered,
                Ok(Some(Recalled::Same(told))) => {
                    metrics::count(metrics::DEDUPED);
                    return self.remembered(told);
                }
                Ok(Some(Recalled::OtherParameters)) => {
                    let reason = "this ID was used with other parameters".to_owned();
                    self.report.reason = Some(reason);
                    return Event::Ran(Ran::Rejected, Knowledge::NOTHING);
                }
                Ok(Some(Recalled::Unreadable { object })) => object,
                Err(why) => {
                    self.shared.gate.close(Trouble::Recall, &why);
                    return Event::Unwritten;
                }
            };
            let reason = format!("what is remembered of it cannot be read: object {object}");
            let now = self.shared.now();
            if unreadable_since.is_none() {
                warn!(job = self.job_id(), "job held: {reason}");
            }
            if now.since(*unreadable_since.get_or_insert(now)) < UNUSABLE {
                self.report = Report::failed(reason.as_str(), None);
                match self.hold(pauses.next(self.shared.random.unit())).await {
                    Event::Waited => continue,
                    // Its next delivery would be a letter of Pub/Sub's own.
                    _ if self.is_last_attempt() => {}
                    event => return event,
                }
            }
            metrics::count(metrics::DONE_REFUSED);
            return self.remembered(Told {
                status: Status::Rejected,
                effect: Effect::Unknown,
                repeatable: false,
                http_status: None,
                result: Json::null(),
                reason: Some(reason),
            });
        }
    }

    fn remembered(&mut self, told: Told) -> Event {
        let ending = Ending { status: told.status, known: told.known() };
        self.report = Report::of_told(told);
        Event::Remembered(ending)
    }
}

//! Writing the parts of an end.

use std::sync::Arc;

use shared::UserId;
use tracing::{debug, error, warn};

use crate::dead_letter::{Rejection, dead_letter};
use crate::events::state::Occasion;
use crate::gate::Trouble;
use crate::metrics;
use crate::outbox::{StoredEnding, Writable};
use crate::parking::Parked;
use crate::pubsub::{Outgoing, PublishError, Topic};
use crate::resuming::resume_user;
use crate::settlement::{Cut, Ending, Event, Part, Parts};

use super::Deliveries;
use super::course::{Course, Stuck};
use super::report::Report;

impl Course<'_> {
    /// Writes one part; gives it up when the replica's time is over. Parking is not given up:
    /// where the object is stored the message must be acknowledged, or the job runs twice.
    pub(super) async fn write(&mut self, part: Part, ending: Ending, cut: Cut) -> Event {
        let over = self.shared.ends.over.clone();
        let writing = async {
            match part {
                Part::Remember => self.remember(ending).await,
                Part::DeadLetter => {
                    let letter = self.dead_letter(ending, cut);
                    self.publish(&*self.shared.topics.dead, letter).await
                }
                Part::Park => self.park().await,
                Part::Outcome => match &self.shared.topics.outcomes {
                    Some(topic) => self.publish(&**topic, self.outcome_message(ending, cut)).await,
                    None => Event::Written,
                },
            }
        };
        let event = tokio::select! {
            biased;
            event = writing => event,
            () = over.cancelled(), if part != Part::Park => Event::TimeIsOver,
        };
        self.count_stuck(event == Event::Unwritten);
        event
    }

    /// Counts the delivery among those whose end is not taken, or no longer.
    fn count_stuck(&mut self, is_stuck: bool) {
        if is_stuck {
            self.stuck.get_or_insert_with(|| Stuck::new(&self.shared.stuck));
        } else {
            self.stuck = None;
        }
    }

    /// Notes the end where later deliveries of the job look.
    async fn remember(&mut self, ending: Ending) -> Event {
        let Some(job) = self.job else { return Event::Written };
        let told = self.told(ending);
        match self.shared.dedupe.remember(job, &told, &*self.shared.clock).await {
            Ok(first) => {
                self.shared.gate.open(&Trouble::Bucket);
                let Some(first) = first else { return Event::Written };
                let ending = Ending { status: first.status, known: first.known() };
                self.report = Report::of_told(first);
                Event::Remembered(ending)
            }
            Err(why) => {
                self.shared.gate.close(Trouble::Bucket, &why);
                Event::Unwritten
            }
        }
    }

    /// Stores the message until the user consents.
    async fn park(&mut self) -> Event {
        let (Some(job), Some(why)) = (self.job, &self.consent) else { return Event::RunIt };
        let received = &self.message.received;
        let now = self.shared.clock.wall();
        match self.shared.parking.park(job, received, why, now).await {
            Ok(parked) => {
                self.shared.gate.open(&Trouble::Bucket);
                match parked {
                    Parked::RunIt => Event::RunIt,
                    Parked::Stored { moved } => {
                        metrics::parked(why.reason());
                        self.tell(&job.user, Occasion::parked(why));
                        if moved {
                            self.resume(job);
                        }
                        Event::Written
                    }
                }
            }
            Err(why) => {
                self.shared.gate.close(Trouble::Bucket, &why);
                Event::Unwritten
            }
        }
    }

    /// Lets applications know, beside what jobs do.
    fn tell(&self, user: &UserId, occasion: Occasion) {
        let Deliveries { teller, tasks, ends, .. } = &**self.shared;
        if let Some(teller) = teller {
            teller.note(tasks, &ends.over, user, occasion);
        }
    }

    /// The credential moved while the job was being parked, so whoever moved it may have
    /// looked too early: the user's jobs go on like at a login.
    fn resume(&self, job: &crate::job::Job) {
        let (shared, user) = (Arc::clone(self.shared), job.user.clone());
        self.shared.tasks.spawn(async move {
            let Deliveries { carrier, topics, clock, .. } = &*shared;
            let (store, bucket) = (&carrier.store, carrier.store.bucket());
            let resumed = resume_user(&*bucket, store, &*topics.jobs, &**clock, &user);
            if let Err(why) = resumed.await {
                debug!(user = %user.digest(), "parked jobs wait for the next sweep: {why}");
            }
        });
    }

    fn dead_letter(&self, ending: Ending, cut: Cut) -> Outgoing {
        let reason = self.report.error().unwrap_or_default();
        let reason = if self.failed_too_long(ending) {
            format!("tried for too long: {reason}")
        } else {
            reason.into_owned()
        };
        let about = Rejection {
            job: self.job,
            reason: &reason,
            known: ending.known,
            only_ours: cut != Cut::Whole,
        };
        dead_letter(&self.message.received, &about)
    }

    /// Publishes one message on its own.
    async fn publish(&self, topic: &dyn Topic, message: Outgoing) -> Event {
        let trouble = || Trouble::Topic(topic.name().to_owned());
        match topic.publish_alone(message).await {
            Ok(_id) => {
                self.shared.gate.open(&trouble());
                Event::Written
            }
            Err(why @ PublishError::Refused { .. }) => {
                warn!(job = self.job_id(), "{why}; less of the message is published instead");
                Event::Refused
            }
            Err(why) => {
                self.shared.gate.close(trouble(), &why);
                Event::Unwritten
            }
        }
    }

    /// A part as the outbox keeps it: whole, as the topic may take it once it is mended.
    fn writable(&self, part: Part, ending: Ending) -> Option<Writable> {
        let Deliveries { topics, dedupe, clock, .. } = &**self.shared;
        match part {
            Part::Remember => {
                let (told, job) = (self.told(ending), self.job?);
                let (object, content) = dedupe.to_remember(job, &told, &**clock)?;
                Some(Writable::Remember { object, content })
            }
            Part::DeadLetter => Some(Writable::DeadLetter {
                topic: topics.dead.name().to_owned(),
                message: self.dead_letter(ending, Cut::Whole),
            }),
            Part::Outcome => topics.outcomes.as_ref().map(|topic| Writable::Outcome {
                topic: topic.name().to_owned(),
                message: self.outcome_message(ending, Cut::Whole),
            }),
            Part::Park => unreachable!("a job that is being parked is not stored"),
        }
    }

    /// Keeps what is not written yet in the bucket's outbox. What its topic refused comes last:
    /// a sweep has written everything else when it meets that refusal.
    pub(super) async fn store(&mut self, ending: Ending, rest: Parts, refused: Parts) -> Event {
        let parts = rest.iter().chain(refused.iter());
        let writables = parts.filter_map(|part| self.writable(part, ending)).collect();
        let stored = StoredEnding {
            user: self.job.map(|job| job.user.clone()),
            job: self.job_id().to_owned(),
            kind: self.job.map(|job| job.kind.clone()).unwrap_or_default(),
            run: self.job.map_or(0, |job| job.run),
            message_id: self.message.received.message_id.clone(),
            status: ending.status,
            effect: ending.known.effect,
            repeatable: ending.known.repeatable,
            reason: self.report.reason.clone(),
            refused: rest.is_empty(),
            rest: writables,
            stored_at: self.shared.clock.wall(),
        };
        let kept = self.shared.outbox.store(&stored).await;
        self.count_stuck(kept.is_err());
        match kept {
            Ok(()) => {
                self.shared.gate.open(&Trouble::Bucket);
                Event::Stored
            }
            Err(why) => {
                error!(job = self.job_id(), "the job's end cannot be kept in the bucket: {why}");
                self.shared.gate.close(Trouble::Bucket, &why);
                Event::NotStored
            }
        }
    }
}

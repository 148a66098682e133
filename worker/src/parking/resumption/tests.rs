//! Every order in which two processes resume one user while jobs are being parked and the
//! user logs in.

use std::collections::HashSet;

use super::*;

/// A wrong version of the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    None,
    NoClaim,
    PublishesBeforeClaiming,
    NoSecondListing,
    DeletesBeforePublishing,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Process {
    resumption: Resumption,
    step: Option<Step>,
    /// It begins once this has happened.
    begins: Begins,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Begins {
    /// At any time.
    AtOnce,
    /// After the login.
    WithTheLogin,
    /// After the parker's last look, if the record has moved.
    WithTheParker,
}

/// The user's only late job, on its way under `parked/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Parker {
    Before,
    /// It has read the record, at this version.
    Read(u8),
    /// It has stored the job.
    Stored(u8),
    /// It has looked again; whether the record had moved.
    Over(bool),
}

const JOBS: usize = 2;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    /// The record's version; it may be acted with from 1 on.
    record: u8,
    /// Whether each job's object is there.
    parked: [bool; JOBS],
    published: [u8; JOBS],
    claim: Option<usize>,
    parker: Parker,
    processes: Vec<Process>,
}

fn entry(n: usize) -> Entry {
    (format!("job-{n}"), Generation(1))
}

fn number(entry: &Entry) -> usize {
    (0..JOBS).find(|n| self::entry(*n) == *entry).unwrap()
}

impl World {
    fn new(begins: &[Begins]) -> Self {
        let process = |begins: &Begins| Process {
            resumption: Resumption::default(),
            step: None,
            begins: *begins,
        };
        Self {
            record: 0,
            parked: [true, false],
            published: [0; JOBS],
            claim: None,
            parker: Parker::Before,
            processes: begins.iter().map(process).collect(),
        }
    }

    fn may_begin(&self, begins: Begins) -> bool {
        match begins {
            Begins::AtOnce => true,
            Begins::WithTheLogin => self.record > 0,
            Begins::WithTheParker => matches!(self.parker, Parker::Over(true)),
        }
    }

    /// The world after the parker's next step, if there is one.
    fn park(&self) -> Option<Self> {
        let mut after = self.clone();
        after.parker = match self.parker {
            // It parks a job that waits for a login only.
            Parker::Before if self.record == 0 => Parker::Read(self.record),
            Parker::Read(version) => {
                after.parked[1] = true;
                Parker::Stored(version)
            }
            Parker::Stored(version) => Parker::Over(version != self.record),
            Parker::Before | Parker::Over(_) => return None,
        };
        Some(after)
    }

    /// The world after the next step of the process of this number.
    fn advance(&self, n: usize, mutant: Mutant) -> Option<Self> {
        let mut after = self.clone();
        let Process { step, begins, .. } = &self.processes[n];
        let event = match step {
            None if self.may_begin(*begins) => Event::Start,
            None | Some(Step::End(_)) => return None,
            Some(Step::Look) => {
                let jobs = (0..JOBS).filter(|n| self.parked[*n]).map(entry).collect();
                let credential = (self.record > 0).then(|| self.record.to_string());
                Event::Seen { credential, jobs }
            }
            Some(Step::FindDue(jobs)) => {
                if mutant == Mutant::PublishesBeforeClaiming {
                    for job in jobs.iter().map(number).filter(|n| self.parked[*n]) {
                        after.published[job] += 1;
                        after.parked[job] = false;
                    }
                }
                Event::Due(true, Vec::new())
            }
            Some(Step::Claim) => match self.claim {
                Some(_) if mutant != Mutant::NoClaim => Event::Held,
                _ => {
                    after.claim = Some(n);
                    Event::Claimed(Vec::new())
                }
            },
            Some(Step::Renew) => Event::Renewed,
            Some(Step::Note(_)) => unreachable!("everything can be deleted"),
            Some(Step::Publish(jobs)) => {
                let sent: Vec<_> =
                    jobs.iter().filter(|job| self.parked[number(job)]).cloned().collect();
                for job in sent.iter().map(number) {
                    after.published[job] += 1;
                }
                Event::Published { sent, kept: Vec::new(), failed: false }
            }
            Some(Step::Delete(jobs)) => {
                for job in jobs.iter().map(number) {
                    after.parked[job] = false;
                }
                Event::Deleted
            }
            Some(Step::Release) => {
                after.claim = self.claim.filter(|holder| *holder != n);
                Event::Deleted
            }
        };
        let process = &mut after.processes[n];
        let released = process.step == Some(Step::Release);
        let mut step = process.resumption.step(event);
        if mutant == Mutant::NoSecondListing && released {
            step = Step::End(Ended::Done);
        }
        if mutant == Mutant::DeletesBeforePublishing
            && let Step::Publish(jobs) = &step
        {
            for job in jobs.iter().map(number) {
                after.parked[job] = false;
            }
        }
        after.processes[n].step = Some(step);
        Some(after)
    }

    fn is_wrong(&self, over: bool) -> Option<&'static str> {
        if self.published.iter().any(|count| *count > 1) {
            return Some("published twice");
        }
        for n in 0..JOBS {
            let existed = n == 0 || matches!(self.parker, Parker::Stored(_) | Parker::Over(_));
            if existed && !self.parked[n] && self.published[n] == 0 {
                return Some("lost");
            }
        }
        if over && self.record > 0 && self.parked.contains(&true) {
            return Some("sleeps");
        }
        if over && self.claim.is_some() {
            return Some("a claim is left");
        }
        None
    }
}

/// Tries every order; what went wrong first.
fn explore(begins: &[Begins], mutant: Mutant) -> (usize, Option<String>) {
    let first = World::new(begins);
    let (mut seen, mut open) = (HashSet::from([first.clone()]), vec![first]);
    while let Some(world) = open.pop() {
        let mut next: Vec<World> =
            (0..begins.len()).filter_map(|n| world.advance(n, mutant)).collect();
        next.extend(world.park());
        if world.record == 0 {
            next.push(World { record: 1, ..world.clone() });
        }
        if let Some(wrong) = world.is_wrong(next.is_empty()) {
            return (seen.len(), Some(format!("{wrong}: {world:?}")));
        }
        open.extend(next.into_iter().filter(|world| seen.insert(world.clone())));
    }
    (seen.len(), None)
}

const TOGETHER: [&[Begins]; 3] = [
    &[Begins::WithTheLogin, Begins::WithTheParker],
    &[Begins::WithTheLogin, Begins::WithTheLogin, Begins::WithTheParker],
    &[Begins::AtOnce, Begins::WithTheLogin, Begins::WithTheParker],
];

#[test]
fn every_job_goes_on_once_whoever_logs_in_parks_and_sweeps() {
    for begins in TOGETHER {
        let (worlds, wrong) = explore(begins, Mutant::None);
        assert_eq!(wrong, None, "{begins:?}");
        assert!(worlds > 100, "{worlds}");
    }
}

#[test]
fn each_wrong_version_of_the_rule_is_found() {
    for (mutant, why) in [
        (Mutant::NoClaim, "published twice"),
        (Mutant::PublishesBeforeClaiming, "published twice"),
        (Mutant::NoSecondListing, "sleeps"),
        (Mutant::DeletesBeforePublishing, "lost"),
    ] {
        let found = TOGETHER.into_iter().find_map(|begins| explore(begins, mutant).1);
        assert!(found.as_ref().is_some_and(|found| found.contains(why)), "{mutant:?}: {found:?}");
    }
}

fn entries(count: usize) -> Vec<Entry> {
    (0..count).map(|n| (format!("{n:03}"), Generation(1))).collect()
}

fn seen(credential: &str, jobs: Vec<Entry>) -> Event {
    Event::Seen { credential: Some(credential.to_owned()), jobs }
}

fn claimed(jobs: &[Entry]) -> Resumption {
    let mut resumption = Resumption::default();
    assert_eq!(resumption.step(Event::Start), Step::Look);
    assert_eq!(resumption.step(seen("1", jobs.to_vec())), Step::FindDue(jobs.to_vec()));
    assert_eq!(resumption.step(Event::Due(true, Vec::new())), Step::Claim);
    assert_eq!(resumption.step(Event::Claimed(Vec::new())), Step::Look);
    resumption
}

#[test]
fn jobs_are_published_in_batches_and_the_claim_is_renewed_before_each() {
    let jobs = entries(2 * BATCH + 1);
    let mut resumption = claimed(&jobs);
    let mut step = resumption.step(seen("1", jobs.clone()));
    for batch in jobs.chunks(BATCH) {
        assert_eq!(step, Step::Renew);
        assert_eq!(resumption.step(Event::Renewed), Step::Publish(batch.to_vec()));
        let published = Event::Published { sent: batch.to_vec(), kept: Vec::new(), failed: false };
        assert_eq!(resumption.step(published), Step::Delete(batch.to_vec()));
        step = resumption.step(Event::Deleted);
    }
    assert_eq!(step, Step::Release);
    assert_eq!(resumption.step(Event::Deleted), Step::Look);
    assert_eq!(resumption.step(seen("1", Vec::new())), Step::End(Ended::Done));
}

#[test]
fn nothing_overtakes_a_job_that_failed() {
    let jobs = entries(2 * BATCH);
    let mut resumption = claimed(&jobs);
    resumption.step(seen("1", jobs.clone()));
    resumption.step(Event::Renewed);
    let sent = jobs[..3].to_vec();
    let failed = Event::Published { sent: sent.clone(), kept: Vec::new(), failed: true };
    assert_eq!(resumption.step(failed), Step::Delete(sent), "what is published is deleted");
    assert_eq!(resumption.step(Event::Deleted), Step::Release);
    assert_eq!(resumption.step(Event::Deleted), Step::End(Ended::Failed));
}

/// Jobs that are not due are not claimed for, and are looked at again when the user's record
/// is another one.
#[test]
fn what_is_not_due_waits_for_another_record() {
    let jobs = entries(2);
    let mut resumption = Resumption::default();
    resumption.step(Event::Start);
    resumption.step(seen("1", jobs.clone()));
    assert_eq!(resumption.step(Event::Due(false, jobs.clone())), Step::End(Ended::Done));
    let mut resumption = claimed(&jobs);
    resumption.step(seen("1", jobs.clone()));
    resumption.step(Event::Renewed);
    let kept = Event::Published { sent: Vec::new(), kept: jobs.clone(), failed: false };
    assert_eq!(resumption.step(kept), Step::Release);
    assert_eq!(resumption.step(Event::Deleted), Step::Look);
    assert_eq!(resumption.step(seen("2", jobs.clone())), Step::FindDue(jobs.clone()));
    assert_eq!(resumption.step(Event::Due(false, jobs)), Step::End(Ended::Done));
}

#[test]
fn without_a_credential_nothing_is_claimed() {
    let mut resumption = Resumption::default();
    resumption.step(Event::Start);
    let event = Event::Seen { credential: None, jobs: entries(3) };
    assert_eq!(resumption.step(event), Step::End(Ended::Done));
}

#[test]
fn whoever_loses_the_claim_publishes_nothing_more() {
    let jobs = entries(1);
    let mut resumption = claimed(&jobs);
    resumption.step(seen("1", jobs));
    assert_eq!(resumption.step(Event::Held), Step::End(Ended::Held));
}

/// What was published and is still parked is noted, and deleted first by whoever takes the
/// claim over; what still cannot be deleted holds up nothing else.
#[test]
fn what_cannot_be_deleted_is_not_published_again() {
    let jobs = entries(2);
    let mut resumption = claimed(&jobs);
    resumption.step(seen("1", jobs.clone()));
    resumption.step(Event::Renewed);
    let sent = Event::Published { sent: jobs.clone(), kept: Vec::new(), failed: false };
    resumption.step(sent);
    let undeleted = jobs[..1].to_vec();
    let step = resumption.step(Event::Undeleted(undeleted.clone()));
    assert_eq!(step, Step::Note(undeleted.clone()));
    assert_eq!(resumption.step(Event::Noted), Step::End(Ended::Failed));

    for is_deleted in [true, false] {
        let left = vec![jobs[0].clone(), ("new".to_owned(), Generation(1))];
        let mut next = Resumption::default();
        next.step(Event::Start);
        next.step(seen("1", left.clone()));
        next.step(Event::Due(true, Vec::new()));
        let step = next.step(Event::Claimed(undeleted.clone()));
        assert_eq!(step, Step::Delete(undeleted.clone()));
        let still = if is_deleted { left[1..].to_vec() } else { left.clone() };
        let event = if is_deleted { Event::Deleted } else { Event::Undeleted(undeleted.clone()) };
        assert_eq!(next.step(event), Step::Look);
        assert_eq!(next.step(seen("1", still)), Step::Renew);
        assert_eq!(next.step(Event::Renewed), Step::Publish(left[1..].to_vec()));
        let sent = left[1..].to_vec();
        next.step(Event::Published { sent, kept: Vec::new(), failed: false });
        let step = next.step(Event::Deleted);
        let noted = Step::Note(undeleted.clone());
        assert_eq!(step, if is_deleted { Step::Release } else { noted });
    }
}

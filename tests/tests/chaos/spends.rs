//! Whether a refresh token that was spent twice had to be.

use std::time::Duration;

use emulators::google::{Fingerprint, RefreshCall, RefreshOutcome};
use tokio::time::Instant;

/// What was written for one user, in order.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    pub(crate) leases: Vec<Lease>,
    pub(crate) records: Vec<Record>,
}

#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) at: Instant,
    pub(crate) holder: String,
    pub(crate) guards: i64,
}

#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) at: Instant,
    pub(crate) generation: i64,
    pub(crate) holder: String,
    pub(crate) revoked: bool,
    pub(crate) access_token: Option<Fingerprint>,
    pub(crate) refresh_token: Option<Fingerprint>,
}

/// A call of the token endpoint.
#[derive(Debug)]
pub(crate) struct Call {
    at: Instant,
    /// Names the replica.
    agent: String,
    presented: Option<Fingerprint>,
    outcome: RefreshOutcome,
}

impl Call {
    pub(crate) fn of(call: RefreshCall) -> Self {
        let agent = call.user_agent.unwrap_or_default();
        Self { at: call.at, agent, presented: call.presented, outcome: call.outcome }
    }

    fn reuses(&self) -> bool {
        matches!(self.outcome, RefreshOutcome::Reused(_))
    }
}

/// What one user's calls came to.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) reused: u64,
    /// Calls of which nothing came within the ttl of their lease.
    pub(crate) wasted: u64,
    /// For every reuse, each earlier call with the same token excuses it.
    pub(crate) explained: bool,
}

/// The protocol lets a refresh token be spent twice only if a holder failed to store what
/// came of it within the ttl of its lease PUT, or lost the answer.
pub(crate) fn judge(calls: &[Call], writes: &Writes, ttl: Duration, attempt: Duration) -> Judged {
    let spends: Vec<Spend<'_>> = calls.iter().map(|call| Spend::of(call, writes, ttl)).collect();
    let again = spends.iter().enumerate().filter(|(_, spend)| spend.call.reuses());
    let explained = again.clone().all(|(index, again)| {
        let same = |earlier: &&Spend<'_>| earlier.call.presented == again.call.presented;
        spends[..index].iter().filter(same).all(|earlier| earlier.excuses(again, ttl, attempt))
    });
    Judged {
        reused: again.count() as u64,
        wasted: spends.iter().filter(|spend| spend.wasted()).count() as u64,
        explained,
    }
}

/// A call, the lease that it was made under, and what became of it.
struct Spend<'a> {
    call: &'a Call,
    leased: Option<Instant>,
    /// Its outcome was stored before the lease's ttl was over.
    in_time: bool,
}

impl<'a> Spend<'a> {
    fn of(call: &'a Call, writes: &Writes, ttl: Duration) -> Self {
        let mine = writes.leases.iter().filter(|lease| call.agent.contains(&lease.holder));
        let leased = mine.map(|lease| lease.at).filter(|at| *at <= call.at).max();
        let mut since = writes.records.iter().filter(|record| record.at >= call.at);
        let stored = match &call.outcome {
            RefreshOutcome::Issued(issued) | RefreshOutcome::Reused(Some(issued)) => {
                since.find(|record| record.access_token.as_ref() == Some(&issued.access_token))
            }
            // Refused: what is to be stored is that the user must consent again, unless
            // somebody else's grant gets there.
            _ => since.find(|record| record.revoked || record.refresh_token != call.presented),
        };
        let in_time = leased.zip(stored).is_some_and(|(leased, record)| record.at - leased < ttl);
        Self { call, leased, in_time }
    }

    fn wasted(&self) -> bool {
        let spent = matches!(self.call.outcome, RefreshOutcome::Issued(_)) || self.call.reuses();
        spent && !self.in_time
    }

    /// Whether `again` had to come: after the ttl of my lease, or, under the same lease,
    /// once an attempt had taken too long.
    fn excuses(&self, again: &Self, ttl: Duration, attempt: Duration) -> bool {
        let Some(leased) = self.leased else { return false };
        let from = if again.leased == Some(leased) {
            // Not all of it: the attempt began before its call arrived here, and where
            // answers are lost, calls arrive late.
            self.call.at + attempt / 10
        } else {
            leased + ttl
        };
        !self.in_time && again.call.at >= from
    }
}

impl Writes {
    /// Everything that the servers saw of a user, in order, without a secret.
    pub(crate) fn history(&self, user: &str, calls: &[Call]) -> String {
        let mut lines: Vec<(Instant, String)> = Vec::new();
        for lease in &self.leases {
            lines.push((lease.at, format!("lease on {} by {}", lease.guards, lease.holder)));
        }
        for record in &self.records {
            let (generation, holder) = (record.generation, &record.holder);
            let state = if record.revoked { "revoked" } else { "active" };
            let refresh =
                record.refresh_token.as_ref().map_or_else(String::new, ToString::to_string);
            lines.push((record.at, format!("token {generation} {state} {refresh} by {holder}")));
        }
        for call in calls {
            let presented = call.presented.as_ref().map_or_else(String::new, ToString::to_string);
            let outcome = match call.outcome {
                RefreshOutcome::Issued(_) => "issued",
                RefreshOutcome::Reused(_) => "reused",
                _ => "refused",
            };
            lines.push((call.at, format!("call with {presented}: {outcome}, by {}", call.agent)));
        }
        lines.sort();
        let start = lines.first().map(|(at, _)| *at);
        let lines = lines.iter().map(|(at, line)| {
            let passed = start.map_or(Duration::ZERO, |start| *at - start);
            format!("\n  {:>8.3} s  {line}", passed.as_secs_f64())
        });
        format!("{user}:{}", lines.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use emulators::google::Issued;

    use super::*;

    const TTL: Duration = Duration::from_secs(2);
    const ATTEMPT: Duration = Duration::from_secs(1);

    /// One user's history, told in milliseconds.
    struct Told {
        start: Instant,
        writes: Writes,
        calls: Vec<Call>,
    }

    impl Told {
        fn new() -> Self {
            Self { start: Instant::now(), writes: Writes::default(), calls: Vec::new() }
        }

        /// A holder has been granted a new token.
        fn spent() -> Self {
            Self::new().lease(0, "a").call(10, "a", issued("new"))
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn lease(mut self, ms: u64, holder: &str) -> Self {
            let lease = Lease { at: self.at(ms), holder: holder.to_owned(), guards: 1 };
            self.writes.leases.push(lease);
            self
        }

        fn call(mut self, ms: u64, holder: &str, outcome: RefreshOutcome) -> Self {
            self.calls.push(Call {
                at: self.at(ms),
                agent: format!("fleet (replica {holder})"),
                presented: Some(Fingerprint::of("old")),
                outcome,
            });
            self
        }

        /// `None`: the user must consent again.
        fn stored(mut self, ms: u64, access_token: Option<&str>) -> Self {
            self.writes.records.push(Record {
                at: self.at(ms),
                generation: 2,
                holder: "somebody".to_owned(),
                revoked: access_token.is_none(),
                access_token: access_token.map(Fingerprint::of),
                refresh_token: Some(Fingerprint::of(access_token.map_or("old", |_| "new"))),
            });
            self
        }

        /// Reused, wasted, explained.
        fn judged(&self) -> (u64, u64, bool) {
            let judged = judge(&self.calls, &self.writes, TTL, ATTEMPT);
            (judged.reused, judged.wasted, judged.explained)
        }
    }

    fn issued(access_token: &str) -> RefreshOutcome {
        let access_token = Fingerprint::of(access_token);
        RefreshOutcome::Issued(Issued { access_token, refresh_token: None })
    }

    const REUSED: RefreshOutcome = RefreshOutcome::Reused(None);

    #[test]
    fn a_holder_that_was_late_is_no_fault() {
        let told = Told::spent();
        let told = told.lease(2010, "b").call(2020, "b", REUSED);
        assert_eq!(told.stored(3900, None).judged(), (1, 1, true));
    }

    #[test]
    fn nor_is_one_that_was_late_to_say_that_the_grant_is_lost() {
        let told = Told::spent();
        let told = told.lease(2010, "b").call(2020, "b", REUSED);
        let told = told.lease(9000, "c").call(9010, "c", REUSED);
        assert_eq!(told.stored(10_900, None).judged(), (2, 2, true));
    }

    #[test]
    fn who_does_not_wait_for_the_ttl_is_caught() {
        let told = Told::spent();
        let told = told.lease(1980, "b").call(1990, "b", REUSED);
        assert_eq!(told.judged(), (1, 2, false));
        // Nor may the second of a chain be impatient.
        let told = Told::spent();
        let told = told.lease(2010, "b").call(2020, "b", REUSED);
        let told = told.lease(3000, "c").call(3010, "c", REUSED);
        assert_eq!(told.stored(4900, None).judged(), (2, 2, false));
    }

    #[test]
    fn who_spends_what_was_replaced_in_time_is_caught() {
        let told = Told::spent().stored(20, Some("new"));
        let told = told.lease(9000, "b").call(9010, "b", REUSED);
        assert_eq!(told.judged(), (1, 1, false));
    }

    #[test]
    fn who_spends_without_a_lease_is_caught() {
        let told = Told::new().call(10, "a", issued("new"));
        let told = told.lease(9000, "b").call(9010, "b", REUSED);
        assert_eq!(told.judged(), (1, 2, false));
    }

    #[test]
    fn a_lost_answer_excuses_one_who_waited_for_it() {
        let told = Told::spent();
        assert_eq!(told.call(900, "a", REUSED).stored(1900, None).judged(), (1, 1, true));
        let told = Told::spent();
        assert_eq!(told.call(60, "a", REUSED).stored(1900, None).judged(), (1, 1, false));
    }
}

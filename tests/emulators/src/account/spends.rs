//! One user's calls and writes, and whether each call had to be.

use std::time::Duration;

use tokio::time::Instant;

use super::Rules;
use crate::google::{Fingerprint, Issued, RefreshCall, RefreshOutcome};

/// What was written for one user, in order.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pub(super) leases: Vec<Lease>,
    pub(super) records: Vec<Record>,
}

#[derive(Debug)]
pub(super) struct Lease {
    pub(super) at: Instant,
    pub(super) holder: String,
    /// The same in every renewal of a lease.
    pub(super) attempt: String,
    pub(super) guards: i64,
    pub(super) ttl: Duration,
}

#[derive(Debug)]
pub(super) struct Record {
    pub(super) at: Instant,
    pub(super) generation: i64,
    pub(super) holder: String,
    pub(super) revoked: bool,
    pub(super) access_token: Option<Fingerprint>,
    pub(super) refresh_token: Option<Fingerprint>,
}

/// A call of the token endpoint.
#[derive(Debug, Clone)]
pub struct Call {
    at: Instant,
    /// Names the replica.
    agent: String,
    pub(super) sub: Option<String>,
    presented: Option<Fingerprint>,
    outcome: RefreshOutcome,
    /// Its answer is known to have reached the replica.
    delivered: bool,
}

impl From<RefreshCall> for Call {
    /// Whether the answer reached the replica is not known.
    fn from(call: RefreshCall) -> Self {
        Self {
            at: call.at,
            agent: call.user_agent.unwrap_or_default(),
            sub: call.sub,
            presented: call.presented,
            outcome: call.outcome,
            delivered: false,
        }
    }
}

impl Call {
    /// The same call, whose answer is known to have reached the replica: it excuses no second
    /// call under the same lease.
    #[must_use]
    pub fn delivered(mut self) -> Self {
        self.delivered = true;
        self
    }

    fn reuses(&self) -> bool {
        matches!(self.outcome, RefreshOutcome::Reused(_))
    }

    fn issued(&self) -> Option<&Issued> {
        match &self.outcome {
            RefreshOutcome::Issued(issued) | RefreshOutcome::Reused(Some(issued)) => Some(issued),
            _ => None,
        }
    }

    /// Whether the token that the other call presented came from this one.
    fn led_to(&self, later: &Self) -> bool {
        self.issued().is_some_and(|issued| match &issued.refresh_token {
            Some(successor) => later.presented.as_ref() == Some(successor),
            None => later.presented == self.presented,
        })
    }
}

/// What one user's calls came to.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) reused: u64,
    /// The agents of the calls of which nothing came while their lease lived.
    pub(super) cut_off: Vec<String>,
    /// What no earlier call excuses.
    pub(super) faults: Vec<String>,
}

/// Judges the calls of one user, in their order.
pub(super) fn judge(calls: &[Call], writes: &Writes, rules: Rules) -> Judged {
    let spends: Vec<Spend<'_>> = calls.iter().map(|call| Spend::of(call, writes)).collect();
    let mut faults = Vec::new();
    for (index, spend) in spends.iter().enumerate() {
        let earlier = &spends[..index];
        if spend.leased.is_none() {
            faults.push("a call without a lease");
        }
        let same = |earlier: &&Spend<'_>| earlier.call.presented == spend.call.presented;
        if spend.call.reuses()
            && !earlier.iter().filter(same).all(|earlier| earlier.excuses(spend, rules, writes))
        {
            faults.push("a refresh token presented again without need");
        }
        if earlier.iter().any(|earlier| earlier.was_young_at(spend, rules)) {
            faults.push("an access token refreshed before it was due");
        }
    }
    let cut_off = spends.iter().filter(|spend| spend.cut_off());
    Judged {
        reused: calls.iter().filter(|call| call.reuses()).count() as u64,
        cut_off: cut_off.map(|spend| spend.call.agent.clone()).collect(),
        faults: faults.into_iter().map(str::to_owned).collect(),
    }
}

/// A call, the lease that it was made under, and what became of it.
struct Spend<'a> {
    call: &'a Call,
    /// The last write of that lease before the call.
    leased: Option<&'a Lease>,
    /// When its outcome was stored.
    stored: Option<Instant>,
    /// It was stored while the lease lived.
    in_time: bool,
}

impl<'a> Spend<'a> {
    fn of(call: &'a Call, writes: &'a Writes) -> Self {
        let mine = |lease: &&Lease| call.agent.contains(&lease.holder) && lease.at <= call.at;
        let leased = writes.leases.iter().rfind(mine);
        let mut since = writes.records.iter().filter(|record| record.at >= call.at);
        let stored = match call.issued() {
            Some(issued) => {
                since.find(|record| record.access_token.as_ref() == Some(&issued.access_token))
            }
            // Refused: what is to be stored is that the user must consent again, unless
            // somebody else's grant gets there.
            None => since.find(|record| record.revoked || record.refresh_token != call.presented),
        };
        let stored = stored.map(|record| record.at);
        let in_time =
            leased.zip(stored).is_some_and(|(leased, at)| at < leased.lives_until(at, writes));
        Self { call, leased, stored, in_time }
    }

    fn cut_off(&self) -> bool {
        let spent = self.call.issued().is_some() || self.call.reuses();
        spent && !self.in_time
    }

    /// Whether `again` had to present the same token: after the life of my lease with all its
    /// renewals, or, under the same lease, since my answer was lost or has to be confirmed.
    fn excuses(&self, again: &Self, rules: Rules, writes: &Writes) -> bool {
        let Some(leased) = self.leased else { return false };
        let when = again.call.at;
        let same = again.leased.is_some_and(|other| other.attempt == leased.attempt);
        if same {
            let kept = self.call.delivered && self.call.issued().is_some();
            let open = self.stored.is_none_or(|stored| stored > when);
            open && !kept && when >= self.call.at + rules.resend
        } else {
            !self.in_time && when >= leased.lives_until(when, writes)
        }
    }

    /// Whether `later` replaced my access token too soon. Its age counts from the lease, which
    /// was written before the request was sent: replicas count from there.
    fn was_young_at(&self, later: &Self, rules: Rules) -> bool {
        let Some(leased) = self.leased else { return false };
        let replaced = self.call.led_to(later.call) && later.call.issued().is_some();
        replaced && later.call.at < leased.at + rules.due_age
    }
}

impl Lease {
    /// Until when nobody may take it over, as far as renewals up to `when` are concerned.
    fn lives_until(&self, when: Instant, writes: &Writes) -> Instant {
        let renewals = writes.leases.iter().filter(|lease| lease.attempt == self.attempt);
        let last = renewals.filter(|lease| lease.at <= when).map(|lease| lease.at).max();
        last.unwrap_or(self.at).max(self.at) + self.ttl
    }
}

impl Writes {
    /// Everything that the servers saw of a user, in order, without a secret.
    pub(super) fn history(&self, calls: &[Call]) -> String {
        let shown = |token: &Option<Fingerprint>| {
            token.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
        };
        let mut lines: Vec<(Instant, String)> = Vec::new();
        for Lease { at, holder, attempt, guards, ttl } in &self.leases {
            lines.push((*at, format!("lease on {guards} by {holder} ({attempt}), {ttl:?}")));
        }
        for record in &self.records {
            let (generation, holder) = (record.generation, &record.holder);
            let state = if record.revoked { "revoked" } else { "active" };
            let refresh = shown(&record.refresh_token);
            lines.push((record.at, format!("token {generation} {state} {refresh} by {holder}")));
        }
        for call in calls {
            let outcome = match &call.outcome {
                RefreshOutcome::Issued(Issued { refresh_token, .. }) => {
                    format!("issued {}", shown(refresh_token))
                }
                RefreshOutcome::Reused(_) => "reused".to_owned(),
                _ => "refused".to_owned(),
            };
            let presented = shown(&call.presented);
            lines.push((call.at, format!("call with {presented}: {outcome}, by {}", call.agent)));
        }
        lines.sort();
        let start = lines.first().map(|(at, _)| *at);
        let lines = lines.iter().map(|(at, line)| {
            let passed = start.map_or(Duration::ZERO, |start| *at - start);
            format!("\n  {:>8.3} s  {line}", passed.as_secs_f64())
        });
        lines.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(2);
    const RULES: Rules =
        Rules { due_age: Duration::from_secs(1), resend: Duration::from_millis(100) };

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

        /// Each holder has one lease; another of its writes renews it.
        fn lease(mut self, ms: u64, holder: &str) -> Self {
            self.writes.leases.push(Lease {
                at: self.at(ms),
                holder: holder.to_owned(),
                attempt: format!("attempt of {holder}"),
                guards: 1,
                ttl: TTL,
            });
            self
        }

        fn call(self, ms: u64, holder: &str, outcome: RefreshOutcome) -> Self {
            self.call_with("old", ms, holder, outcome)
        }

        fn call_with(
            mut self,
            presented: &str,
            ms: u64,
            holder: &str,
            outcome: RefreshOutcome,
        ) -> Self {
            self.calls.push(Call {
                at: self.at(ms),
                agent: format!("fleet (replica {holder})"),
                sub: Some("user".to_owned()),
                presented: Some(Fingerprint::of(presented)),
                outcome,
                delivered: false,
            });
            self
        }

        /// The last call's answer is known to have arrived.
        fn delivered(mut self) -> Self {
            let last = self.calls.pop().expect("a call").delivered();
            self.calls.push(last);
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

        /// Reused, cut off, and whether all of it is explained.
        fn judged(&self) -> (u64, usize, bool) {
            let judged = judge(&self.calls, &self.writes, RULES);
            (judged.reused, judged.cut_off.len(), judged.faults.is_empty())
        }
    }

    /// The refresh token that comes with an access token has the same name.
    fn issued(access_token: &str) -> RefreshOutcome {
        RefreshOutcome::Issued(Issued {
            access_token: Fingerprint::of(access_token),
            refresh_token: Some(Fingerprint::of(access_token)),
        })
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

    /// Two kills cost one grant: both replicas presented the same token, and the second died
    /// before it wrote `revoked`. A sum of grants that were not stored would count one.
    #[test]
    fn each_of_two_killed_replicas_is_a_reason_for_the_next_call() {
        let told = Told::spent();
        let told = told.lease(2010, "b").call(2020, "b", REUSED);
        let told = told.lease(4020, "c").call(4030, "c", REUSED).stored(5900, None);
        assert_eq!(told.judged(), (2, 2, true));
        let judged = judge(&told.calls, &told.writes, RULES);
        assert_eq!(judged.cut_off, ["fleet (replica a)", "fleet (replica b)"]);
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
    fn a_renewed_lease_lives_on() {
        // Renewed once: what is stored within the ttl of the renewal is stored in time.
        let renewed = || Told::spent().lease(1000, "a");
        assert_eq!(renewed().stored(2900, Some("new")).judged(), (0, 0, true));
        assert_eq!(renewed().stored(3100, Some("new")).judged(), (0, 1, true));
        // A takeover waits for the ttl of the renewal.
        let told = renewed().lease(2500, "b").call(2510, "b", REUSED);
        assert_eq!(told.stored(4400, None).judged(), (1, 1, false));
        let told = renewed().lease(3000, "b").call(3010, "b", REUSED);
        assert_eq!(told.stored(4900, None).judged(), (1, 1, true));
    }

    #[test]
    fn who_spends_what_was_replaced_in_time_is_caught() {
        let told = Told::spent().stored(20, Some("new"));
        let told = told.lease(9000, "b").call(9010, "b", REUSED);
        assert_eq!(told.judged(), (1, 1, false));
    }

    #[test]
    fn who_calls_without_a_lease_is_caught() {
        let told = Told::new().call(10, "a", issued("new"));
        assert_eq!(told.judged(), (0, 1, false));
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

    #[test]
    fn an_answer_that_arrived_excuses_nobody_under_the_same_lease() {
        let told = Told::spent().delivered();
        assert_eq!(told.call(900, "a", REUSED).stored(1900, None).judged(), (1, 1, false));
        // A rejection may be asked for once more: it tells the same.
        let told = Told::spent().call(900, "a", REUSED).delivered();
        assert_eq!(told.call(1500, "a", REUSED).stored(1900, None).judged(), (2, 1, true));
        // The holder may be killed with the answer in its hands.
        let told = Told::spent().delivered().lease(2010, "b").call(2020, "b", REUSED);
        assert_eq!(told.stored(3900, None).judged(), (1, 1, true));
    }

    #[test]
    fn who_refreshes_before_the_token_is_due_is_caught() {
        let due = |ms: u64| {
            let told = Told::spent().stored(20, Some("new")).lease(900, "b");
            told.call_with("new", ms, "b", issued("newer")).stored(1200, Some("newer")).judged()
        };
        assert_eq!(due(990), (0, 0, false));
        assert_eq!(due(1001), (0, 0, true));
    }
}

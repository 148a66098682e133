//! The account of a flight, for debug logs: which step, whose lease since when and for how
//! long, which generation, and why it waits. It holds no secret.

use crate::ports::Monotonic;

use super::messages::{Action, Finish, Memory, Source};
use super::{Flight, State};

const POLLING: &str = "step 2, another replica's lease";

impl Flight {
    /// What the flight is about to do, and what it knows.
    pub fn account(&self, action: &Action, memory: &Memory, now: Monotonic) -> String {
        let mut told = vec![format!("{}: {}", self.step_name(), what(action))];
        if let Some(base) = self.base_generation() {
            told.push(format!("token generation {base}"));
        }
        if let Some(hold) = &self.hold {
            let (since, renewed) = (now.since(hold.taken), now.since(hold.renewed));
            let lost = if hold.is_lost() { ", lost since" } else { "" };
            told.push(format!(
                "my lease {} guards {} since {since:.1?}, renewed {renewed:.1?} ago{lost}",
                hold.generation, hold.lease.guards
            ));
        } else if self.step_name() == POLLING
            && let Some(seen) = &memory.observation
        {
            let holder = seen.holder.as_deref().unwrap_or("somebody unreadable");
            told.push(format!(
                "{holder} holds lease {}, observed for {:.1?} of {:.1?}",
                seen.generation,
                now.since(seen.since),
                seen.ttl
            ));
        }
        told.join("; ")
    }

    fn base_generation(&self) -> Option<crate::ports::Generation> {
        let state = match &self.state {
            State::Pausing(inner) => inner,
            other => other,
        };
        match state {
            State::ReadingToken | State::Pausing(_) | State::Over => None,
            State::ReadingLease { base, .. }
            | State::RereadingToken { base, .. }
            | State::PuttingLease { base, .. }
            | State::Confirming { base }
            | State::Polling { base }
            | State::Refreshing { base, .. }
            | State::Judging { base, .. }
            | State::Committing { base, .. }
            | State::ReadingConflict { base, .. }
            | State::ReadingRejection { base, .. }
            | State::Revoking { base, .. }
            | State::Rewriting { base, .. }
            | State::ReadingRewritten { base, .. } => Some(base.generation),
        }
    }

    fn step_name(&self) -> &'static str {
        let state = match &self.state {
            State::Pausing(inner) => inner,
            other => other,
        };
        match state {
            State::ReadingToken => "step 1, is it needed",
            State::ReadingLease { .. } | State::PuttingLease { .. } => "step 2, the lease",
            State::RereadingToken { .. } => "step 2, the lease is ahead of the token",
            State::Confirming { .. } => "step 2, has the token moved",
            State::Polling { .. } => POLLING,
            State::Refreshing { .. } => "step 3, the token endpoint",
            State::Judging { .. } => "step 3, is it the client or the user",
            State::Committing { .. } => "step 4, the commit",
            State::ReadingConflict { .. } => "step 4, what became of the commit",
            State::ReadingRejection { .. } => "step 5, is what was rejected still stored",
            State::Revoking { .. } => "step 5, the end of the grant",
            State::Rewriting { .. } | State::ReadingRewritten { .. } => "a write under the lease",
            State::Pausing(_) | State::Over => "the end",
        }
    }
}

fn what(action: &Action) -> String {
    match action {
        Action::ReadToken => "reads the token".to_owned(),
        Action::ReadLease => "reads the lease".to_owned(),
        Action::PutLease(_, expected) => format!("writes the lease on {expected}"),
        Action::Refresh(_, limits) => format!("sends a refresh, for at most {:.0?}", limits.answer),
        Action::Judge(refusal) => format!("asks about the code {}", refusal.code),
        Action::PutToken(_, expected) => format!("writes the token on {expected}"),
        Action::DeleteToken(_) | Action::DeleteLease(_) => unreachable!("no flight deletes"),
        Action::Sleep(pause) => format!("waits {pause:.1?}"),
        Action::Finish(Finish::Use(held, Source::Obtained)) => {
            format!("has obtained grant {}", held.record.grant_id.0)
        }
        Action::Finish(Finish::Use(held, Source::Adopted)) => {
            format!("adopts grant {} of {}", held.record.grant_id.0, held.record.holder)
        }
        Action::Finish(Finish::HeldElsewhere) => "leaves it to another replica".to_owned(),
        Action::Finish(Finish::Resealed(_)) => "is re-sealed".to_owned(),
        Action::Finish(Finish::Failed(error)) => format!("fails: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::messages::{Draw, Event, Identity, Stored};
    use super::*;
    use crate::policy::Policy;
    use crate::ports::{Answer, Generation};
    use crate::protocol::testing::{now_at, record};
    use crate::user_id::UserId;

    #[derive(Default)]
    struct Ids(Cell<u32>);

    impl Draw for Ids {
        fn unit(&self) -> f64 {
            0.5
        }

        fn id(&self) -> String {
            self.0.set(self.0.get() + 1);
            format!("id{}", self.0.get())
        }
    }

    #[test]
    fn each_step_is_told_and_no_secret() {
        let user = UserId::new("somebody@example.org").unwrap();
        let mut stored = record("somebody@example.org");
        (stored.token_uri, stored.client_id) = ("uri".into(), "client".into());
        let identity =
            Identity { client_id: "client".into(), token_uri: "uri".into(), holder: "me".into() };
        let (policy, ids) = (Arc::new(Policy::default()), Ids::default());
        let mut memory = Memory::default();
        let now = now_at(4000);
        let mut flight = Flight::new(user, policy, identity, None, true, now.monotonic);
        let stored =
            || Some(Box::new(Stored { record: stored.clone(), generation: Generation(7) }));
        let answer = Answer {
            access_token: Some("fake-new-access".into()),
            refresh_token: Some("fake-new-refresh".into()),
            expires_in: Some(Duration::from_secs(3600)),
            scopes: None,
        };
        let events = [
            Event::Start,
            Event::TokenRead(Ok(stored())),
            Event::LeaseRead(Ok(None)),
            Event::LeasePut(Ok(Generation(3))),
            Event::TokenRead(Ok(stored())),
            Event::Refreshed(Ok(answer)),
            Event::TokenPut(Ok(Generation(8))),
        ];
        let mut told = Vec::new();
        for event in events {
            let action = flight.step(event, now, &mut memory, &ids);
            told.push(flight.account(&action, &memory, now.monotonic));
        }
        let all = told.join("\n");
        assert!(!all.contains("fake-") && !all.contains("example.org"), "{all}");
        assert!(told[1].contains("step 2") && told[1].contains("token generation 7"), "{all}");
        assert!(told[4].contains("sends a refresh, for at most 120s"), "{all}");
        assert!(told[4].contains("my lease 3 guards 7"), "{all}");
        assert!(told[6].contains("has obtained"), "{all}");
    }
}

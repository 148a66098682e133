//! One job that did not end well: what is shown of it, and how it goes on.

use std::collections::HashMap;

use crate::dead_letter::{
    BY_PUBSUB, MESSAGE_ID, REASON, has_room, is_by_pubsub, recorded, stripped,
};
use crate::job::{Job, Received};
use crate::outbox::StoredEnding;
use crate::parking::{NoRoom, ParkedJob, with_identity};
use crate::pubsub::Outgoing;
use crate::{Effect, Knowledge};
use jiff::Timestamp;
use serde_json::{Value, json};

/// A job that was redriven so often and came back is left alone.
pub(super) const MAX_REDRIVES: u32 = 3;

/// Counts how often a job was redriven.
const REDRIVES: &str = "fleet_redrives";

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whereabouts {
    Parked,
    Dead,
    Ending,
}

impl Whereabouts {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Dead => "dead",
            Self::Ending => "ending",
        }
    }
}

/// What is told about a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) place: Whereabouts,
    /// Since when it is there.
    pub(super) since: Timestamp,
    /// When it was first published, as far as that is known; the order of jobs.
    pub(super) published: Timestamp,
    pub(super) job: String,
    /// `None` when the message names none.
    pub(super) user: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) reason: String,
    /// What is known of its effect; `None` when it never ended here.
    pub(super) known: Option<Knowledge>,
    pub(super) run: u32,
    pub(super) redrives: u32,
    /// Why the message is no job.
    pub(super) malformed: Option<String>,
    /// It cannot be published again as the same job.
    pub(super) has_no_room: bool,
    /// Its message is sealed and was not opened: only what stands beside it is known.
    pub(super) is_sealed: bool,
    /// The message that the job came with, if that is known.
    pub(super) source: Option<String>,
    /// The object or the message ID.
    pub(super) name: String,
}

impl Letter {
    pub(super) fn parked(parked: &ParkedJob, object: &str) -> Self {
        Self {
            place: Whereabouts::Parked,
            since: parked.parked_at,
            published: parked.publish_time.unwrap_or(parked.parked_at),
            job: parked.job.clone(),
            user: Some(parked.user.clone()),
            kind: Some(parked.kind.clone()),
            reason: parked.waits_for(),
            known: Some(Knowledge::NOTHING),
            run: parked.run,
            redrives: redrives(parked.attributes()),
            malformed: None,
            has_no_room: parked.clone().into_message().is_err(),
            is_sealed: false,
            source: Some(parked.message_id.clone()),
            name: object.to_owned(),
        }
    }

    pub(super) fn ending(ending: &StoredEnding, object: &str) -> Self {
        let topics: Vec<&str> = ending.topics().collect();
        let waits = match (ending.refused, topics.as_slice()) {
            (true, topics) => format!("refused by {}", topics.join(", ")),
            (false, []) => "waits for the bucket".to_owned(),
            (false, topics) => format!("waits for {}", topics.join(", ")),
        };
        let status = ending.status.as_str();
        let reason = match &ending.reason {
            Some(reason) => format!("{status}, and {waits}: {reason}"),
            None => format!("{status}, and {waits}"),
        };
        Self {
            place: Whereabouts::Ending,
            since: ending.stored_at,
            published: ending.stored_at,
            job: ending.job.clone(),
            user: ending.user.as_ref().map(|user| user.as_str().to_owned()),
            kind: Some(ending.kind.clone()).filter(|kind| !kind.is_empty()),
            reason,
            known: Some(Knowledge { effect: ending.effect, repeatable: ending.repeatable }),
            run: ending.run,
            redrives: 0,
            malformed: None,
            has_no_room: false,
            is_sealed: false,
            source: Some(ending.message_id.clone()),
            name: object.to_owned(),
        }
    }

    pub(super) fn dead(received: &Received, now: Timestamp) -> Self {
        let attributes = &received.attributes;
        let by_pubsub = |name: &str| attributes.get(&format!("{BY_PUBSUB}{name}"));
        let since = received.publish_time.unwrap_or(now);
        let first = by_pubsub("TopicPublishTime").and_then(|time| time.parse().ok());
        let reason = match (attributes.get(REASON), by_pubsub("DeliveryCount")) {
            (_, Some(count)) => format!(
                "delivered {count} times by {}",
                by_pubsub("Subscription").map_or("its subscription", String::as_str)
            ),
            (Some(reason), None) => reason.clone(),
            (None, None) => "no reason is given".to_owned(),
        };
        let source = if is_by_pubsub(received) { None } else { attributes.get(MESSAGE_ID) };
        // A job without an ID had that of the message that it came with.
        let of = Received {
            message_id: source.unwrap_or(&received.message_id).clone(),
            ..received.clone()
        };
        let fallback = Job::fallback_id(&of).unwrap_or(&of.message_id);
        let (job, malformed) = match Job::of(&of) {
            Ok(job) => (Some(job), None),
            Err(why) => (Job::decode(&of.data, fallback).ok(), Some(why.0)),
        };
        Self {
            place: Whereabouts::Dead,
            since,
            published: first.unwrap_or(since),
            job: job.as_ref().map_or_else(|| fallback.to_owned(), |job| job.id.clone()),
            user: job.as_ref().map(|job| job.user.as_str().to_owned()),
            run: job.as_ref().map_or(0, |job| job.run),
            kind: job.map(|job| job.kind),
            reason,
            known: recorded(received),
            redrives: redrives(attributes),
            malformed,
            has_no_room: false,
            is_sealed: false,
            source: source.cloned(),
            name: received.message_id.clone(),
        }
        .with_room_for(received)
    }

    fn with_room_for(mut self, received: &Received) -> Self {
        self.has_no_room = revived(received, &self, self.run, false).is_err();
        self
    }

    /// Its effect, or that of its twin, must not be repeated.
    pub(super) fn is_spent(&self) -> bool {
        self.known.is_some_and(Knowledge::is_spent)
    }

    /// What is known of its effect, for people.
    pub(super) fn effect(&self) -> &'static str {
        match self.known {
            None => "never ended here",
            Some(Knowledge { effect: Effect::None, .. }) => "none",
            Some(Knowledge { effect: Effect::Done, repeatable: false }) => "done",
            Some(Knowledge { effect: Effect::Done, repeatable: true }) => "done, repeatable",
            Some(Knowledge { effect: Effect::Unknown, repeatable: false }) => "unknown",
            Some(Knowledge { effect: Effect::Unknown, repeatable: true }) => "unknown, repeatable",
        }
    }

    pub(super) fn to_json(&self, now: Timestamp) -> Value {
        let name = match self.place {
            Whereabouts::Parked | Whereabouts::Ending => "object",
            Whereabouts::Dead => "message_id",
        };
        json!({
            "place": self.place.as_str(),
            "since": self.since,
            "age_seconds": (now - self.since).get_seconds().max(0),
            "published": self.published,
            "job": self.job,
            "user": self.user,
            "kind": self.kind,
            "reason": self.reason,
            "effect": self.known.map_or(Effect::Unknown, |known| known.effect),
            "repeatable": self.known.map(|known| known.repeatable),
            "ended_here": self.known.is_some(),
            "run": self.run,
            "redrives": self.redrives,
            "malformed": self.malformed,
            "sealed": self.is_sealed,
            name: self.name,
        })
    }

    /// Why it is better left where it is.
    pub(super) fn doubt(&self) -> Option<String> {
        if let Some(why) = &self.malformed {
            return Some(format!("malformed ({why})"));
        }
        (self.redrives >= MAX_REDRIVES).then(|| format!("redriven {} times before", self.redrives))
    }
}

fn redrives(attributes: &HashMap<String, String>) -> u32 {
    attributes.get(REDRIVES).and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// The message of a dead letter as it was before it became one, in this run.
///
/// # Errors
/// [`NoRoom`].
pub(super) fn revived(
    received: &Received,
    letter: &Letter,
    run: u32,
    unordered: bool,
) -> Result<Outgoing, NoRoom> {
    let attributes = stripped(received);
    let by_pubsub = is_by_pubsub(received);
    let mut ordering_key = received.ordering_key.clone();
    if ordering_key.is_empty() && !by_pubsub && !unordered {
        // A rejected message may have lost its key on the way.
        ordering_key = letter.user.clone().unwrap_or_default();
    }
    if unordered {
        ordering_key.clear();
    }
    let mut message = Outgoing { data: received.data.clone(), attributes, ordering_key };
    if letter.user.is_some() {
        message = with_identity(message, &letter.job, run)?;
    }
    Ok(counted(message))
}

/// The message, redriven once more; without the count where that has no room.
pub(super) fn counted(message: Outgoing) -> Outgoing {
    let count = redrives(&message.attributes) + 1;
    let mut counted = message.clone();
    counted.attributes.insert(REDRIVES.to_owned(), count.to_string());
    if has_room(&counted) { counted } else { message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(data: &str, key: &str, attributes: &[(&str, &str)]) -> Received {
        Received {
            data: data.to_owned().into(),
            attributes: attributes.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
            ordering_key: key.into(),
            message_id: "m".into(),
            publish_time: Some("2026-01-02T03:04:05Z".parse().unwrap()),
            delivery_attempt: None,
        }
    }

    const JOB: &str = r#"{"user":"ann","kind":"api"}"#;
    const BY_WORKERS: [(&str, &str); 4] =
        [("reason", "HTTP status 404"), ("message_id", "7"), ("job", "j"), ("mine", "kept")];
    const BY_PUBSUB: [(&str, &str); 5] = [
        ("CloudPubSubDeadLetterSourceDeliveryCount", "5"),
        ("CloudPubSubDeadLetterSourceSubscription", "jobs-workers"),
        ("CloudPubSubDeadLetterSourceSubscriptionProject", "p"),
        ("CloudPubSubDeadLetterSourceTopicPublishTime", "2026-01-01T00:00:00.5+00:00"),
        ("job", "the publisher's own"),
    ];

    #[test]
    fn tells_why_a_letter_is_dead() {
        let now = "2026-01-02T03:05:05Z".parse().unwrap();
        let letter = Letter::dead(&received(JOB, "", &BY_WORKERS), now);
        assert_eq!(letter.reason, "HTTP status 404");
        assert_eq!((letter.job.as_str(), letter.user.as_deref()), ("j", Some("ann")));
        assert_eq!(letter.to_json(now)["age_seconds"], 60);
        assert_eq!(letter.doubt(), None);
        let letter = Letter::dead(&received(JOB, "ann", &BY_PUBSUB), now);
        assert_eq!(letter.reason, "delivered 5 times by jobs-workers");
        assert_eq!(letter.published.to_string(), "2026-01-01T00:00:00.5Z");
        let letter = Letter::dead(&received("{", "", &BY_WORKERS), now);
        assert_eq!((letter.job.as_str(), letter.user.as_deref()), ("j", None));
        assert!(letter.doubt().unwrap().contains("ends too early"));
        let letter = Letter::dead(&received(JOB, "bob", &BY_PUBSUB), now);
        assert!(letter.doubt().unwrap().contains("ordering key"));
        let letter = Letter::dead(&received(JOB, "", &[("fleet_redrives", "3")]), now);
        assert!(letter.doubt().unwrap().contains("3 times"));
        assert_eq!(letter.reason, "no reason is given");
    }

    #[test]
    fn what_was_added_is_taken_off_again() {
        let now = "2026-01-02T03:05:05Z".parse().unwrap();
        let message = |received: &Received, unordered: bool| {
            let letter = Letter::dead(received, now);
            revived(received, &letter, letter.run, unordered).unwrap()
        };
        let names = |message: &Outgoing| {
            let mut names: Vec<_> = message.attributes.keys().cloned().collect();
            names.sort();
            names
        };
        let old = received(JOB, "", &BY_WORKERS);
        let again = message(&old, false);
        assert_eq!(names(&again), ["fleet-job", "fleet_redrives", "mine"]);
        assert_eq!(again.attributes["fleet-job"], "j", "it stays the same job");
        assert_eq!(
            (again.attributes["fleet_redrives"].as_str(), again.ordering_key.as_str()),
            ("1", "ann")
        );
        assert_eq!(message(&old, true).ordering_key, "");
        let again = message(&received(JOB, "", &BY_PUBSUB), false);
        assert_eq!(names(&again), ["fleet-job", "fleet_redrives", "job"]);
        assert_eq!(again.ordering_key, "", "it never had one");
        let twice = received(JOB, "ann", &[("fleet_redrives", "2")]);
        assert_eq!(message(&twice, false).attributes["fleet_redrives"], "3");
        assert_eq!(message(&twice, false).ordering_key, "ann");
        let ours = [("effect", "none"), ("repeatable", "true"), ("kind", "api"), ("job", "own")];
        let again = message(&received(JOB, "", &ours), false);
        assert_eq!(names(&again), ["fleet-job", "fleet_redrives", "job", "kind"]);
    }

    /// Only a worker's word counts: not a publisher's beside Pub/Sub's own, and not silence.
    #[test]
    fn an_effect_is_a_workers_word() {
        let now = "2026-01-02T03:05:05Z".parse().unwrap();
        let known = |attributes: &[(&str, &str)]| {
            Letter::dead(&received(JOB, "", attributes), now)
                .known
                .map(|k| (k.effect, k.is_spent()))
        };
        assert_eq!(known(&BY_WORKERS), None);
        assert_eq!(known(&[("effect", "sure")]), None);
        assert_eq!(known(&[("effect", "none")]), Some((Effect::None, false)));
        assert_eq!(known(&[("effect", "unknown")]), Some((Effect::Unknown, true)));
        let repeatable = [("effect", "done"), ("repeatable", "true")];
        assert_eq!(known(&repeatable), Some((Effect::Done, false)));
        let claims = [BY_PUBSUB.as_slice(), &[("effect", "none")]].concat();
        assert_eq!(known(&claims), None);
        let letter = Letter::dead(&received(JOB, "", &claims), now).to_json(now);
        assert_eq!((&letter["effect"], &letter["ended_here"]), (&json!("unknown"), &json!(false)));
    }

    #[test]
    fn what_has_no_room_is_told() {
        let now = "2026-01-02T03:05:05Z".parse().unwrap();
        let own: Vec<(String, String)> =
            (0..100).map(|n| (format!("own-{n}"), "x".to_owned())).collect();
        let own: Vec<(&str, &str)> = own.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let has_no_room =
            |data, own: &[(&str, &str)]| Letter::dead(&received(data, "", own), now).has_no_room;
        assert!(has_no_room(JOB, &own), "its ID would be lost");
        assert!(!has_no_room(JOB, &own[1..]));
        assert!(!has_no_room(r#"{"id":"j","user":"ann","kind":"api"}"#, &own));
        let with_ours = [&own[..94], &BY_PUBSUB].concat();
        assert!(!has_no_room(JOB, &with_ours), "what is taken off makes room");
    }
}

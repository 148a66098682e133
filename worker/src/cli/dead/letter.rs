//! One job that did not end well: what is shown of it, and how it goes on.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use worker::job::{Job, Received};
use worker::parking::ParkedJob;
use worker::pubsub::Outgoing;

/// A job that was redriven so often and came back is left alone.
pub(super) const MAX_REDRIVES: u32 = 3;

/// Counts how often a job was redriven.
const REDRIVES: &str = "fleet_redrives";
/// What a worker adds to a message that it rejects.
const ADDED_BY_WORKERS: [&str; 3] = ["reason", "message_id", "job"];
/// What Pub/Sub adds to a message that was delivered too often.
const ADDED_BY_PUBSUB: &str = "CloudPubSubDeadLetterSource";

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whereabouts {
    Parked,
    Dead,
}

impl Whereabouts {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Dead => "dead",
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
    pub(super) redrives: u32,
    /// Why the message is no job.
    pub(super) malformed: Option<String>,
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
            redrives: redrives(parked.attributes()),
            malformed: None,
            name: object.to_owned(),
        }
    }

    pub(super) fn dead(received: &Received, now: Timestamp) -> Self {
        let attributes = &received.attributes;
        let by_pubsub = |name: &str| attributes.get(&format!("{ADDED_BY_PUBSUB}{name}"));
        let since = received.publish_time.unwrap_or(now);
        let first = by_pubsub("TopicPublishTime").and_then(|time| time.parse().ok());
        let reason = match (attributes.get("reason"), by_pubsub("DeliveryCount")) {
            (_, Some(count)) => format!(
                "delivered {count} times by {}",
                by_pubsub("Subscription").map_or("its subscription", String::as_str)
            ),
            (Some(reason), None) => reason.clone(),
            (None, None) => "no reason is given".to_owned(),
        };
        let fallback = attributes.get("job").unwrap_or(&received.message_id);
        let decoded = Job::decode(&received.data, fallback);
        let (job, malformed) = match (decoded, Job::of(received)) {
            (Ok(job), Ok(_)) => (Some(job), None),
            (Ok(job), Err(why)) => (Some(job), Some(why.0)),
            (Err(why), _) => (None, Some(why.0)),
        };
        Self {
            place: Whereabouts::Dead,
            since,
            published: first.unwrap_or(since),
            job: job.as_ref().map_or_else(|| fallback.clone(), |job| job.id.clone()),
            user: job.as_ref().map(|job| job.user.as_str().to_owned()),
            kind: job.map(|job| job.kind),
            reason,
            redrives: redrives(attributes),
            malformed,
            name: received.message_id.clone(),
        }
    }

    pub(super) fn to_json(&self, now: Timestamp) -> Value {
        let name = match self.place {
            Whereabouts::Parked => "object",
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
            "redrives": self.redrives,
            "malformed": self.malformed,
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

/// The message of a dead letter as it was before it became one.
pub(super) fn revived(received: &Received, unordered: bool) -> Outgoing {
    let mut attributes = received.attributes.clone();
    let by_pubsub = attributes.keys().any(|name| name.starts_with(ADDED_BY_PUBSUB));
    attributes.retain(|name, _| {
        if by_pubsub {
            !name.starts_with(ADDED_BY_PUBSUB)
        } else {
            !ADDED_BY_WORKERS.contains(&name.as_str())
        }
    });
    let mut ordering_key = received.ordering_key.clone();
    if ordering_key.is_empty() && !by_pubsub && !unordered {
        // A rejected message may have lost its key on the way.
        let user = Job::decode(&received.data, "").map(|job| job.user.as_str().to_owned());
        ordering_key = user.unwrap_or_default();
    }
    if unordered {
        ordering_key.clear();
    }
    counted(Outgoing { data: received.data.clone(), attributes, ordering_key })
}

/// The message, redriven once more.
pub(super) fn counted(mut message: Outgoing) -> Outgoing {
    let count = redrives(&message.attributes) + 1;
    message.attributes.insert(REDRIVES.to_owned(), count.to_string());
    message
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
        assert!(letter.doubt().unwrap().contains("not JSON"));
        let letter = Letter::dead(&received(JOB, "bob", &BY_PUBSUB), now);
        assert!(letter.doubt().unwrap().contains("ordering key"));
        let letter = Letter::dead(&received(JOB, "", &[("fleet_redrives", "3")]), now);
        assert!(letter.doubt().unwrap().contains("3 times"));
        assert_eq!(letter.reason, "no reason is given");
    }

    #[test]
    fn what_was_added_is_taken_off_again() {
        let message = revived(&received(JOB, "", &BY_WORKERS), false);
        let names = |message: &Outgoing| {
            let mut names: Vec<_> = message.attributes.keys().cloned().collect();
            names.sort();
            names
        };
        assert_eq!(names(&message), ["fleet_redrives", "mine"]);
        assert_eq!(
            (message.attributes["fleet_redrives"].as_str(), message.ordering_key.as_str()),
            ("1", "ann")
        );
        assert_eq!(revived(&received(JOB, "", &BY_WORKERS), true).ordering_key, "");
        let message = revived(&received(JOB, "", &BY_PUBSUB), false);
        assert_eq!(names(&message), ["fleet_redrives", "job"]);
        assert_eq!(message.ordering_key, "", "it never had one");
        let again = received(JOB, "ann", &[("fleet_redrives", "2")]);
        assert_eq!(revived(&again, false).attributes["fleet_redrives"], "3");
        assert_eq!(revived(&again, false).ordering_key, "ann");
    }
}

//! The parked form of a message: `parked/<user>/<sequence>-<job>.json`.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::record::TokenRecord;
use shared::{ConsentReason, UserId, encode_segment};

use crate::job::{Job, Received};
use crate::pubsub::Outgoing;

/// Under this prefix lie the parked jobs of all users.
pub const PREFIX: &str = "parked/";
const VERSION: u32 = 1;

/// One parked job, as JSON.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedJob {
    version: u32,
    /// On whose behalf.
    pub user: String,
    /// The job's ID.
    pub job: String,
    /// Its kind.
    pub kind: String,
    /// `unknown`, `revoked` or `scopes`.
    pub reason: String,
    /// The scopes that an API asked for, as far as it named them.
    #[serde(default)]
    pub missing_scopes: Vec<String>,
    /// The scopes that the user had when the job was parked: it is resumed when
    /// they change.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// When it was parked.
    pub parked_at: Timestamp,
    /// When its message was published.
    pub publish_time: Option<Timestamp>,
    /// Pub/Sub's ID of the message.
    #[serde(default)]
    pub message_id: String,
    #[serde(default)]
    ordering_key: String,
    #[serde(default)]
    attributes: HashMap<String, String>,
    /// Base64.
    data: String,
}

/// Parameters may hold anything, so they are not shown.
impl fmt::Debug for ParkedJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParkedJob")
            .field("job", &self.job)
            .field("kind", &self.kind)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// Why an object under `parked/` is not a parked job. Quotes nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadParked {
    /// Not this program's JSON.
    #[error("it is not a parked job (line {line}, column {column})")]
    Unreadable {
        /// Line of the first fault.
        line: usize,
        /// Column of the first fault.
        column: usize,
    },
    /// Written by a later version.
    #[error("it has version {0}, and this program reads version {VERSION}")]
    Version(u32),
    /// The message in it is damaged.
    #[error("its data is not base64")]
    Data,
}

impl ParkedJob {
    /// A message that waits for `why`; `scopes` are those the user has now.
    pub(super) fn new(
        job: &Job,
        received: &Received,
        why: &ConsentReason,
        scopes: Vec<String>,
        now: Timestamp,
    ) -> Self {
        let (reason, missing_scopes) = match why {
            ConsentReason::Unknown => ("unknown", Vec::new()),
            ConsentReason::Revoked { .. } => ("revoked", Vec::new()),
            ConsentReason::MissingScopes(missing) => ("scopes", missing.clone()),
        };
        Self {
            version: VERSION,
            user: job.user.as_str().to_owned(),
            job: job.id.clone(),
            kind: job.kind.clone(),
            reason: reason.to_owned(),
            missing_scopes,
            scopes,
            parked_at: now,
            publish_time: received.publish_time,
            message_id: received.message_id.clone(),
            ordering_key: received.ordering_key.clone(),
            attributes: received.attributes.clone(),
            data: STANDARD.encode(&received.data),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and lists are JSON")
    }

    /// Reads an object's content.
    ///
    /// # Errors
    /// [`BadParked`]; such an object stays where it is.
    pub fn decode(content: &[u8]) -> Result<Self, BadParked> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let unreadable =
            |e: serde_json::Error| BadParked::Unreadable { line: e.line(), column: e.column() };
        let Versioned { version } = serde_json::from_slice(content).map_err(unreadable)?;
        if version != VERSION {
            return Err(BadParked::Version(version));
        }
        let parked: Self = serde_json::from_slice(content).map_err(unreadable)?;
        if STANDARD.decode(&parked.data).is_err() {
            return Err(BadParked::Data);
        }
        Ok(parked)
    }

    /// Whether `record` is what the job waited for: the user is active and, for
    /// scopes, they are not those with which it was parked.
    pub fn is_due(&self, record: &TokenRecord) -> bool {
        record.is_active() && (self.reason != "scopes" || self.scopes != record.scopes)
    }

    /// What it waits for, for people.
    pub fn waits_for(&self) -> String {
        match self.reason.as_str() {
            "unknown" => "the user has not consented yet".to_owned(),
            "revoked" => "the user's consent was revoked".to_owned(),
            "scopes" if self.missing_scopes.is_empty() => "a scope is missing".to_owned(),
            "scopes" => format!("missing scope {}", self.missing_scopes.join(", ")),
            other => other.to_owned(),
        }
    }

    /// The attributes of its message.
    pub fn attributes(&self) -> &HashMap<String, String> {
        &self.attributes
    }

    /// The message, as it was published.
    pub fn into_message(self) -> Outgoing {
        Outgoing {
            // `decode` has looked.
            data: STANDARD.decode(&self.data).unwrap_or_default().into(),
            attributes: self.attributes,
            ordering_key: self.ordering_key,
        }
    }
}

/// The publish time comes first, in a form that sorts, so that order survives.
pub(super) fn object_name(job: &Job, received: &Received) -> String {
    let nanos = received.publish_time.map_or(0, |t| t.as_nanosecond().max(0));
    format!("{}{nanos:020}-{}.json", prefix_of(&job.user), encode_segment(&job.id))
}

/// Under this prefix lie one user's parked jobs, in their order.
pub fn prefix_of(user: &UserId) -> String {
    format!("{PREFIX}{}/", user.encoded())
}

/// The user whose parked job has this object name, if it is one.
pub fn user_of(name: &str) -> Option<UserId> {
    let (user, job) = name.strip_prefix(PREFIX)?.split_once('/')?;
    if job.contains('/') {
        return None;
    }
    UserId::from_encoded(user).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received() -> Received {
        Received {
            data: br#"{"id":"j","user":"a/b","kind":"k"}"#.as_slice().into(),
            attributes: [("mine".to_owned(), "kept".to_owned())].into(),
            ordering_key: "a/b".into(),
            message_id: "m".into(),
            publish_time: Some("2026-01-02T03:04:05Z".parse().unwrap()),
            delivery_attempt: Some(3),
        }
    }

    #[test]
    fn a_parked_message_comes_back_as_it_was() {
        let received = received();
        let job = Job::of(&received).unwrap();
        let why = ConsentReason::MissingScopes(vec!["s".into()]);
        let parked = ParkedJob::new(&job, &received, &why, vec!["t".into()], Timestamp::UNIX_EPOCH);
        let again = ParkedJob::decode(&parked.encode()).unwrap();
        assert_eq!(again, parked);
        assert_eq!(again.waits_for(), "missing scope s");
        let message = again.into_message();
        assert_eq!(message.data, received.data);
        assert_eq!(message.attributes, received.attributes);
        assert_eq!(message.ordering_key, received.ordering_key);
    }

    #[test]
    fn names_tell_the_user_and_sort_by_publish_time() {
        let mut received = received();
        let job = Job::of(&received).unwrap();
        let first = object_name(&job, &received);
        assert_eq!(user_of(&first).unwrap().as_str(), "a/b");
        assert!(first.starts_with(&prefix_of(&job.user)));
        received.publish_time = Some("2026-01-02T03:04:15Z".parse().unwrap());
        assert!(first < object_name(&job, &received));
        for other in ["parked/a", "parked/%zz/1-j.json", "parked/a/b/c.json", "tokens/a.json"] {
            assert!(user_of(other).is_none(), "{other}");
        }
    }

    #[test]
    fn says_what_is_wrong_without_quoting() {
        for (content, says) in [
            ("", "not a parked job"),
            (r#"{"version":2}"#, "version 2"),
            (r#"{"version":1,"user":"fake-person"}"#, "not a parked job"),
        ] {
            let error = ParkedJob::decode(content.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("fake-"), "{error}");
        }
        let received = received();
        let job = Job::of(&received).unwrap();
        let why = ConsentReason::Unknown;
        let mut parked = ParkedJob::new(&job, &received, &why, Vec::new(), Timestamp::UNIX_EPOCH);
        parked.data = "fake-%".into();
        let error = ParkedJob::decode(&parked.encode()).unwrap_err();
        assert_eq!(error, BadParked::Data);
    }
}

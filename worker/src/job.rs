//! A job: what a Pub/Sub message asks for.

mod canonical;
mod decoding;
mod identity;

use std::collections::HashMap;
use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;
use shared::UserId;

use crate::json::Json;

use decoding::{Fields, string};

pub use identity::Identity;

/// The most that a message's data may have, in bytes.
pub const MAX_DATA_BYTES: usize = 1024 * 1024;
/// The most that a job ID may have, in bytes.
pub const MAX_JOB_ID_BYTES: usize = 128;
const MAX_KIND_BYTES: usize = 128;

/// Attribute: the job's ID where its data has none. A resumed or redriven message has it,
/// because its message ID is another one.
pub const JOB_ATTRIBUTE: &str = "fleet-job";
/// Attribute: how often the job was asked for anew after it had ended (`fleet dead redrive
/// --effect any`); part of its identity.
pub const RUN_ATTRIBUTE: &str = "fleet-run";
/// Attribute: `true` when the job must not be repeated even if its kind may be.
pub const ONCE_ATTRIBUTE: &str = "fleet-once";
/// What the release before this one added to a dead letter: the job's ID. Alone it is the
/// publisher's own.
const OLD_JOB_ATTRIBUTES: [&str; 3] = ["job", "reason", "message_id"];

/// A message as it was received.
#[derive(Clone, Default)]
pub struct Received {
    /// The job as JSON.
    pub data: Bytes,
    /// The message's attributes.
    pub attributes: HashMap<String, String>,
    /// The ordering key; empty when there is none.
    pub ordering_key: String,
    /// Pub/Sub's ID of the message.
    pub message_id: String,
    /// When it was published.
    pub publish_time: Option<Timestamp>,
    /// How often it was delivered, if the subscription counts.
    pub delivery_attempt: Option<i32>,
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("message_id", &self.message_id)
            .field("len", &self.data.len())
            .field("delivery_attempt", &self.delivery_attempt)
            .finish_non_exhaustive()
    }
}

/// What to do, and for whom.
#[derive(Clone)]
pub struct Job {
    /// The publisher's name for it, else what a resumed or redriven message says, else the
    /// message ID. At most [`MAX_JOB_ID_BYTES`] bytes.
    pub id: String,
    /// On whose behalf.
    pub user: UserId,
    /// What kind of job: names its handler.
    pub kind: String,
    /// The handler's parameters: an object, as the publisher wrote it.
    pub params: Json,
    /// How often it was asked for anew after it had ended.
    pub run: u32,
    /// It must not be repeated even if its kind may be.
    pub once: bool,
}

/// Parameters may hold anything, so they are not shown.
impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("user", &self.user)
            .field("kind", &self.kind)
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

/// Why a message is not a job. The text quotes no value of the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed job: {0}")]
pub struct Malformed(pub String);

impl Job {
    /// Reads a job from a message's data; `message_id` names it if it has no ID.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong, without quoting a value.
    pub fn decode(data: &[u8], message_id: &str) -> Result<Self, Malformed> {
        let wrong = |text: &str| Malformed(text.to_owned());
        let Fields { id, user, kind, params } = Fields::read(data)?;
        let id = match string("id", id)? {
            Some(id) if id.is_empty() => return Err(wrong("`id` is empty; leave it out")),
            Some(id) if id.len() > MAX_JOB_ID_BYTES => {
                return Err(Malformed(format!(
                    "`id` has {} bytes; the limit is {MAX_JOB_ID_BYTES}",
                    id.len()
                )));
            }
            Some(id) => id,
            None => message_id.to_owned(),
        };
        let user = string("user", user)?.ok_or_else(|| wrong("`user` is missing"))?;
        let user = UserId::new(user).map_err(|e| Malformed(format!("`user`: {e}")))?;
        let kind = string("kind", kind)?.filter(|kind| !kind.is_empty());
        let kind = kind.ok_or_else(|| wrong("`kind` is missing"))?;
        if kind.len() > MAX_KIND_BYTES {
            return Err(wrong("`kind` is too long"));
        }
        let params = match params.map(|params| Json::from(params.to_owned())) {
            None => Json::empty_object(),
            Some(params) if params.is_object() => params,
            Some(_) => return Err(wrong("`params` must be an object")),
        };
        Ok(Self { id, user, kind, params, run: 0, once: false })
    }

    /// Reads the job of a message. An ordering key that differs from the user
    /// makes it malformed: it would act as the wrong person.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn of(received: &Received) -> Result<Self, Malformed> {
        let attributes = &received.attributes;
        let mut job = Self::decode(&received.data, Self::fallback_id(received)?)?;
        if let Some(run) = attributes.get(RUN_ATTRIBUTE) {
            let wrong = |_| Malformed(format!("attribute `{RUN_ATTRIBUTE}` must be a number"));
            job.run = run.parse().map_err(wrong)?;
        }
        job.once = match attributes.get(ONCE_ATTRIBUTE).map(String::as_str) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                let text = format!("attribute `{ONCE_ATTRIBUTE}` must be `true` or `false`");
                return Err(Malformed(text));
            }
        };
        let key = &received.ordering_key;
        if !key.is_empty() && key != job.user.as_str() {
            return Err(Malformed("the ordering key is not the job's `user`".to_owned()));
        }
        Ok(job)
    }

    /// The ID of a message's job if its data has none.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn fallback_id(received: &Received) -> Result<&str, Malformed> {
        let attributes = &received.attributes;
        let is_old_letter = OLD_JOB_ATTRIBUTES.iter().all(|name| attributes.contains_key(*name));
        let old = if is_old_letter { attributes.get("job") } else { None };
        match attributes.get(JOB_ATTRIBUTE).or(old) {
            None => Ok(&received.message_id),
            Some(id) if (1..=MAX_JOB_ID_BYTES).contains(&id.len()) => Ok(id),
            Some(id) => Err(Malformed(format!(
                "attribute `{JOB_ATTRIBUTE}` has {} bytes; 1 to {MAX_JOB_ID_BYTES} are allowed",
                id.len()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Result<Job, Malformed> {
        Job::decode(text.as_bytes(), "message 7")
    }

    #[test]
    fn reads_the_contract() {
        let job = decode(r#"{"id":"j1","user":"1097","kind":"api","params":{"url":"x"}}"#).unwrap();
        assert_eq!((job.id.as_str(), job.user.as_str(), job.kind.as_str()), ("j1", "1097", "api"));
        assert_eq!(job.params.text(), r#"{"url":"x"}"#);
        let job = decode(r#"{"user":"1097","kind":"profile"}"#).unwrap();
        assert_eq!(job.id, "message 7");
        assert_eq!(job.params.text(), "{}");
        let job = decode(r#"{"id":null,"user":"\u0061nn","kind":"a\"b","params":null}"#).unwrap();
        assert_eq!(
            (job.id.as_str(), job.user.as_str(), job.kind.as_str()),
            ("message 7", "ann", "a\"b")
        );
    }

    #[test]
    fn says_what_is_wrong() {
        let long = "x".repeat(2048);
        for (text, says) in [
            (r#"{"kind":"profile"}"#.into(), "`user` is missing"),
            (r#"{"user":"","kind":"profile"}"#.into(), "empty"),
            (r#"{"user":7,"kind":"profile"}"#.into(), "`user` must be a string"),
            (r#"{"user":-7,"kind":"profile"}"#.into(), "`user` must be a string"),
            (r#"{"user":"u","kind":7.5}"#.into(), "`kind` must be a string"),
            (r#"{"user":"u","kind":true}"#.into(), "`kind` must be a string"),
            (r#"{"id":["x",[1]],"user":"u","kind":"k"}"#.into(), "`id` must be a string"),
            (r#"{"id":{"x":{"y":1}},"user":"u","kind":"k"}"#.into(), "`id` must be a string"),
            (r#"{"id":["x","user":"u"}"#.into(), "not JSON"),
            (format!(r#"{{"user":"{long}","kind":"profile"}}"#), "2048 bytes"),
            (r#"{"user":"u"}"#.into(), "`kind` is missing"),
            (r#"{"user":"u","kind":"k","params":[]}"#.into(), "`params` must be an object"),
            (r#"{"user":"u","kind":"k","colour":"red"}"#.into(), "unknown field `colour`"),
            (r#"{"user":"u","user":"v","kind":"k"}"#.into(), "duplicate field `user`"),
            (format!(r#"{{"id":"{long}","user":"u","kind":"k"}}"#), "limit is 128"),
        ] {
            let error = decode(&text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let broken = b"{\"user\":\"\xff\",\"kind\":\"k\"}";
        assert!(Job::decode(broken, "m").unwrap_err().0.contains("not UTF-8"));
        let huge = vec![b' '; MAX_DATA_BYTES + 1];
        assert!(Job::decode(&huge, "m").unwrap_err().0.contains("limit"));
    }

    #[test]
    fn a_foreign_ordering_key_is_malformed() {
        let mut received = Received {
            data: Bytes::from_static(br#"{"user":"ann","kind":"profile"}"#),
            attributes: HashMap::new(),
            ordering_key: "ann".into(),
            message_id: "m".into(),
            publish_time: None,
            delivery_attempt: None,
        };
        assert!(Job::of(&received).is_ok());
        received.ordering_key = String::new();
        assert!(Job::of(&received).is_ok());
        received.ordering_key = "bob".into();
        assert!(Job::of(&received).is_err());
    }

    #[test]
    fn attributes_name_a_job_whose_data_does_not() {
        let job = |id: &str, attributes: &[(&str, &str)]| {
            let data = format!(r#"{{{id}"user":"ann","kind":"k"}}"#);
            let attributes = attributes.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
            let message_id = "m".to_owned();
            Job::of(&Received { data: data.into(), attributes, message_id, ..Received::default() })
        };
        let id = |id: &str, attributes: &[(&str, &str)]| job(id, attributes).unwrap().id;
        let old = [("job", "j"), ("reason", "r"), ("message_id", "7")];
        assert_eq!(id("", &[]), "m");
        assert_eq!(id("", &[("fleet-job", "f")]), "f");
        assert_eq!(id(r#""id":"d","#, &[("fleet-job", "f")]), "d", "the data comes first");
        assert_eq!(id("", &old), "j", "a letter of the release before");
        assert_eq!(id("", &[old.as_slice(), &[("fleet-job", "f")]].concat()), "f");
        assert_eq!(id("", &[("job", "nightly")]), "m", "the publisher's own attribute");
        let long = "x".repeat(129);
        for attributes in [("fleet-job", ""), ("fleet-job", long.as_str())] {
            assert!(job("", &[attributes]).unwrap_err().0.contains("`fleet-job`"));
        }
        let of = |attributes: &[(&str, &str)]| {
            job("", attributes).map(|job| (job.run, job.once)).map_err(|e| e.0)
        };
        assert_eq!(of(&[]), Ok((0, false)));
        assert_eq!(of(&[("fleet-run", "2"), ("fleet-once", "true")]), Ok((2, true)));
        assert_eq!(of(&[("fleet-once", "false")]), Ok((0, false)));
        for (name, value) in [("fleet-run", "-1"), ("fleet-run", ""), ("fleet-once", "yes")] {
            assert!(of(&[(name, value)]).unwrap_err().contains(name), "{name}={value}");
        }
    }
}

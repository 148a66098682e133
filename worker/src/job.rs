//! A job: what a Pub/Sub message asks for.

use std::collections::HashMap;
use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};
use shared::UserId;

/// The most that a message's data may have, in bytes.
pub const MAX_DATA_BYTES: usize = 1024 * 1024;
/// The most that a job ID may have, in bytes.
pub const MAX_JOB_ID_BYTES: usize = 128;
const MAX_KIND_BYTES: usize = 128;

/// A message as it was received.
#[derive(Clone)]
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
    /// The publisher's name for it, else the message ID. At most
    /// [`MAX_JOB_ID_BYTES`] bytes.
    pub id: String,
    /// On whose behalf.
    pub user: UserId,
    /// What kind of job: names its handler.
    pub kind: String,
    /// The handler's parameters.
    pub params: Map<String, Value>,
}

/// Parameters may hold anything, so they are not shown.
impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("user", &self.user)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// Why a message is not a job. The text quotes no value of the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed job: {0}")]
pub struct Malformed(pub String);

/// Every field as any JSON, so that errors of the parser can only name fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    id: Option<Value>,
    user: Option<Value>,
    kind: Option<Value>,
    params: Option<Value>,
}

impl Job {
    /// Reads a job from a message's data; `message_id` names it if it has no ID.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong, without quoting a value.
    pub fn decode(data: &[u8], message_id: &str) -> Result<Self, Malformed> {
        let wrong = |text: &str| Malformed(text.to_owned());
        if data.len() > MAX_DATA_BYTES {
            return Err(Malformed(format!(
                "{} bytes of data; the limit is {MAX_DATA_BYTES}",
                data.len()
            )));
        }
        let wire: Wire = serde_json::from_slice(data).map_err(|e| {
            Malformed(match e.classify() {
                serde_json::error::Category::Data => shorten(&e.to_string()),
                _ => format!("the data is not JSON (line {}, column {})", e.line(), e.column()),
            })
        })?;
        let text = |value: Option<Value>, field: &str| match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Malformed(format!("`{field}` must be a string"))),
        };
        let id = match text(wire.id, "id")? {
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
        let user = text(wire.user, "user")?.ok_or_else(|| wrong("`user` is missing"))?;
        let user = UserId::new(&user).map_err(|e| Malformed(format!("`user`: {e}")))?;
        let kind = text(wire.kind, "kind")?.filter(|k| !k.is_empty());
        let kind = kind.ok_or_else(|| wrong("`kind` is missing"))?;
        if kind.len() > MAX_KIND_BYTES {
            return Err(wrong("`kind` is too long"));
        }
        let params = match wire.params {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(params)) => params,
            Some(_) => return Err(wrong("`params` must be an object")),
        };
        Ok(Self { id, user, kind, params })
    }

    /// Reads the job of a message. An ordering key that differs from the user
    /// makes it malformed: it would act as the wrong person.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn of(received: &Received) -> Result<Self, Malformed> {
        let job = Self::decode(&received.data, &received.message_id)?;
        let key = &received.ordering_key;
        if !key.is_empty() && key != job.user.as_str() {
            return Err(Malformed("the ordering key is not the job's `user`".to_owned()));
        }
        Ok(job)
    }
}

/// Field names come from the message too; a long one must not flood a log.
fn shorten(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
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
        assert_eq!(job.params["url"], "x");
        let job = decode(r#"{"user":"1097","kind":"profile"}"#).unwrap();
        assert_eq!(job.id, "message 7");
        assert!(job.params.is_empty());
    }

    #[test]
    fn says_what_is_wrong() {
        let long = "x".repeat(2048);
        for (text, says) in [
            (String::new(), "not JSON"),
            ("{".into(), "not JSON"),
            ("[]".into(), "missing"),
            ("7".into(), "invalid type"),
            (r#"{"kind":"profile"}"#.into(), "`user` is missing"),
            (r#"{"user":"","kind":"profile"}"#.into(), "empty"),
            (r#"{"user":7,"kind":"profile"}"#.into(), "`user` must be a string"),
            (format!(r#"{{"user":"{long}","kind":"profile"}}"#), "2048 bytes"),
            (r#"{"user":"u"}"#.into(), "`kind` is missing"),
            (r#"{"user":"u","kind":"k","params":[]}"#.into(), "`params` must be an object"),
            (r#"{"user":"u","kind":"k","colour":"red"}"#.into(), "unknown field `colour`"),
            (r#"{"user":"u","user":"v","kind":"k"}"#.into(), "duplicate field `user`"),
            (format!(r#"{{"id":"{long}","user":"u","kind":"k"}}"#), "limit is 128"),
        ] {
            let error = decode(&text);
            if text == "[]" {
                assert!(error.is_err());
                continue;
            }
            let error = error.unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
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
}

//! A job: what a Pub/Sub message asks for.

mod identity;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use jiff::Timestamp;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use shared::UserId;

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
    /// The handler's parameters.
    pub params: Map<String, Value>,
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

/// Every field as any JSON, so that errors of the parser can only name fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<'a> {
    #[serde(borrow, default)]
    id: Text<'a>,
    #[serde(borrow, default)]
    user: Text<'a>,
    #[serde(borrow, default)]
    kind: Text<'a>,
    params: Option<Value>,
}

/// Any JSON, of which only a text is kept, where it stands if that is possible.
#[derive(Default)]
enum Text<'a> {
    /// Absent, or null.
    #[default]
    None,
    Some(Cow<'a, str>),
    Other,
}

impl<'a> Text<'a> {
    fn get(self, field: &str) -> Result<Option<Cow<'a, str>>, Malformed> {
        match self {
            Self::None => Ok(None),
            Self::Some(text) => Ok(Some(text)),
            Self::Other => Err(Malformed(format!("`{field}` must be a string"))),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyJson(PhantomData))
    }
}

struct AnyJson<'a>(PhantomData<&'a str>);

impl<'de: 'a, 'a> Visitor<'de> for AnyJson<'a> {
    type Value = Text<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<Text<'a>, E> {
        Ok(Text::None)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'a>, E> {
        Ok(Text::Some(text.into()))
    }

    /// With escapes it does not stand in the data.
    fn visit_str<E>(self, text: &str) -> Result<Text<'a>, E> {
        Ok(Text::Some(text.to_owned().into()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Text<'a>, E> {
        Ok(Text::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Text<'a>, E> {
        Ok(Text::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Text<'a>, E> {
        Ok(Text::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Text<'a>, E> {
        Ok(Text::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Text<'a>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Text<'a>, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text::Other)
    }
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
        // Checked as a whole, which costs less than text by text.
        let data = str::from_utf8(data).map_err(|_| wrong("the data is not UTF-8"))?;
        let wire: Wire<'_> = serde_json::from_str(data).map_err(|e| {
            Malformed(match e.classify() {
                serde_json::error::Category::Data => shorten(&e.to_string()),
                _ => format!("the data is not JSON (line {}, column {})", e.line(), e.column()),
            })
        })?;
        let id = match wire.id.get("id")? {
            Some(id) if id.is_empty() => return Err(wrong("`id` is empty; leave it out")),
            Some(id) if id.len() > MAX_JOB_ID_BYTES => {
                return Err(Malformed(format!(
                    "`id` has {} bytes; the limit is {MAX_JOB_ID_BYTES}",
                    id.len()
                )));
            }
            Some(id) => id.into_owned(),
            None => message_id.to_owned(),
        };
        let user = wire.user.get("user")?.ok_or_else(|| wrong("`user` is missing"))?;
        let user = UserId::new(user).map_err(|e| Malformed(format!("`user`: {e}")))?;
        let kind = wire.kind.get("kind")?.filter(|k| !k.is_empty());
        let kind = kind.ok_or_else(|| wrong("`kind` is missing"))?;
        if kind.len() > MAX_KIND_BYTES {
            return Err(wrong("`kind` is too long"));
        }
        let params = match wire.params {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(params)) => params,
            Some(_) => return Err(wrong("`params` must be an object")),
        };
        Ok(Self { id, user, kind: kind.into_owned(), params, run: 0, once: false })
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
            (String::new(), "not JSON"),
            ("{".into(), "not JSON"),
            ("[]".into(), "missing"),
            ("7".into(), "invalid type"),
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
            let error = decode(&text);
            if text == "[]" {
                assert!(error.is_err());
                continue;
            }
            let error = error.unwrap_err().to_string();
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

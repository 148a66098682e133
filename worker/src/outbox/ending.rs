//! The stored form of an end: what happened, and what is still to be written of it.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::sealing::{NotOpened, Sealing};
use shared::{UserId, encode_segment};

use crate::dedupe;
use crate::effect::Effect;
use crate::job::{Identity, Job, Received};
use crate::outcome::Status;
use crate::pubsub::Outgoing;

/// Under this prefix lie all stored ends.
pub const PREFIX: &str = "endings/";
const VERSION: u32 = 1;
/// Stands for the user of a message that names none.
const NOBODY: &str = "_";

/// An end of which something is still to be written.
#[derive(Clone)]
pub struct StoredEnding {
    /// On whose behalf; `None` where the message names nobody.
    pub user: Option<UserId>,
    /// The job's ID, else the message ID.
    pub job: String,
    /// Its kind; empty where the message names none.
    pub kind: String,
    /// Its run.
    pub run: u32,
    /// Pub/Sub's ID of the message.
    pub message_id: String,
    /// How it ended.
    pub status: Status,
    /// What is known of its effect.
    pub effect: Effect,
    /// Whether doing it again does no harm.
    pub repeatable: bool,
    /// What went wrong, for people.
    pub reason: Option<String>,
    /// Their topics refuse these very messages, so they are not tried again.
    pub refused: bool,
    /// What is still to be written, in this order.
    pub rest: Vec<Writable>,
    /// When it was stored.
    pub stored_at: Timestamp,
}

/// A part of an end, ready to be written.
#[derive(Clone)]
pub enum Writable {
    /// An object under `done/`, unless it exists.
    Remember {
        /// Its name.
        object: String,
        /// Its content.
        content: Bytes,
    },
    /// A message to the dead topic.
    DeadLetter {
        /// The topic's full name.
        topic: String,
        /// The message.
        message: Outgoing,
    },
    /// A message to the outcomes topic.
    Outcome {
        /// The topic's full name.
        topic: String,
        /// The message.
        message: Outgoing,
    },
}

/// Why an object under `endings/` is no stored end. Quotes nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEnding {
    /// Not this program's JSON.
    #[error("it is no stored end (line {line}, column {column})")]
    Unreadable {
        /// Line of the first fault.
        line: usize,
        /// Column of the first fault.
        column: usize,
    },
    /// Written by a later version.
    #[error("it has version {0}, and this program reads version {VERSION}")]
    Version(u32),
    /// A part of it is damaged.
    #[error("the data of a message in it is not base64")]
    Data,
    /// It does not open, or is not sealed although it has to be.
    #[error("{0}")]
    Sealed(#[from] NotOpened),
    /// It does not belong where it is, so somebody else has put it there.
    #[error("it would write for another user than the one whose object it is")]
    OtherUser,
}

/// The name that a claim has in the object: who is writing the end.
#[derive(Serialize, Deserialize)]
pub(super) struct ClaimedBy {
    /// The process that claims it.
    pub(super) holder: String,
    /// Random, so that no two writes of a claim are alike.
    pub(super) turn: String,
}

/// The stored form.
#[derive(Serialize, Deserialize)]
struct Wire {
    version: u32,
    #[serde(default)]
    claim: Option<ClaimedBy>,
    user: Option<String>,
    job: String,
    kind: String,
    run: u32,
    message_id: String,
    status: Status,
    effect: Effect,
    repeatable: bool,
    reason: Option<String>,
    refused: bool,
    stored_at: Timestamp,
    rest: Vec<WirePart>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "snake_case")]
enum WirePart {
    Remember { object: String, content: String },
    DeadLetter { topic: String, message: WireMessage },
    Outcome { topic: String, message: WireMessage },
}

#[derive(Serialize, Deserialize)]
struct WireMessage {
    attributes: HashMap<String, String>,
    ordering_key: String,
    /// Base64.
    data: String,
}

impl StoredEnding {
    /// The name of its object.
    pub fn object_name(&self) -> String {
        let user = self.user.as_ref().map_or("", UserId::as_str);
        let identity = Identity { user, id: &self.job, kind: &self.kind, run: self.run };
        let prefix = prefix_of(self.user.as_ref());
        format!("{prefix}{}-{}.json", identity.hex(), encode_segment(&self.message_id))
    }

    /// The topics that it is still to be published to.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.rest.iter().filter_map(|part| match part {
            Writable::Remember { .. } => None,
            Writable::DeadLetter { topic, .. } | Writable::Outcome { topic, .. } => {
                Some(topic.as_str())
            }
        })
    }

    /// The content of its object, with whoever writes the end at present: sealed whole where
    /// `sealing` seals what the release before cannot read.
    pub(super) fn encode(&self, claim: Option<ClaimedBy>, sealing: &Sealing) -> Bytes {
        let plain = self.plain(claim);
        if !sealing.seals_new_forms() {
            return plain;
        }
        sealing.seal_whole(&self.object_name(), &plain)
    }

    fn plain(&self, claim: Option<ClaimedBy>) -> Bytes {
        let wire = Wire {
            version: VERSION,
            claim,
            user: self.user.as_ref().map(|user| user.as_str().to_owned()),
            job: self.job.clone(),
            kind: self.kind.clone(),
            run: self.run,
            message_id: self.message_id.clone(),
            status: self.status,
            effect: self.effect,
            repeatable: self.repeatable,
            reason: self.reason.clone(),
            refused: self.refused,
            stored_at: self.stored_at,
            rest: self.rest.iter().map(WirePart::of).collect(),
        };
        serde_json::to_vec(&wire).expect("strings, numbers and lists are JSON").into()
    }

    /// Reads the content of the object of this name.
    ///
    /// # Errors
    /// [`BadEnding`]; such an object stays where it is.
    pub fn decode(name: &str, content: &[u8], sealing: &Sealing) -> Result<Self, BadEnding> {
        Self::decode_claimed(name, content, sealing).map(|(ending, _)| ending)
    }

    /// Whether somebody is writing the end that is in the object of this name.
    ///
    /// # Errors
    /// As [`StoredEnding::decode`].
    pub fn is_claimed(name: &str, content: &[u8], sealing: &Sealing) -> Result<bool, BadEnding> {
        Self::decode_claimed(name, content, sealing).map(|(_, claimed)| claimed)
    }

    /// Reads an object's content, and whether somebody claims it.
    pub(super) fn decode_claimed(
        name: &str,
        content: &[u8],
        sealing: &Sealing,
    ) -> Result<(Self, bool), BadEnding> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let content = &sealing.open_whole(name, content)?;
        let unreadable =
            |e: serde_json::Error| BadEnding::Unreadable { line: e.line(), column: e.column() };
        let Versioned { version } = serde_json::from_slice(content).map_err(unreadable)?;
        if version != VERSION {
            return Err(BadEnding::Version(version));
        }
        let wire: Wire = serde_json::from_slice(content).map_err(unreadable)?;
        let user = wire.user.map(UserId::new).transpose().map_err(|_| BadEnding::OtherUser)?;
        let rest = wire.rest.into_iter().map(WirePart::into_part).collect::<Result<_, _>>()?;
        let ending = Self {
            user,
            job: wire.job,
            kind: wire.kind,
            run: wire.run,
            message_id: wire.message_id,
            status: wire.status,
            effect: wire.effect,
            repeatable: wire.repeatable,
            reason: wire.reason,
            refused: wire.refused,
            rest,
            stored_at: wire.stored_at,
        };
        if ending.object_name() != name || !ending.rest.iter().all(|part| ending.owns(part)) {
            return Err(BadEnding::OtherUser);
        }
        Ok((ending, wire.claim.is_some()))
    }

    /// Whether a part speaks of this end's user. Whoever can write into the bucket must not
    /// be able to speak of others by this.
    fn owns(&self, part: &Writable) -> bool {
        match part {
            Writable::Remember { object, .. } => self.user.as_ref().is_some_and(|user| {
                let own = object.strip_prefix(dedupe::PREFIX);
                let own = own.and_then(|rest| rest.strip_prefix(&format!("{}/", user.encoded())));
                own.is_some_and(|rest| !rest.contains('/'))
            }),
            Writable::DeadLetter { message, .. } => {
                let received = Received {
                    data: message.data.clone(),
                    attributes: message.attributes.clone(),
                    ordering_key: message.ordering_key.clone(),
                    message_id: self.message_id.clone(),
                    ..Received::default()
                };
                match Job::of(&received) {
                    Ok(job) => Some(&job.user) == self.user.as_ref(),
                    // It would not run.
                    Err(_) => true,
                }
            }
            Writable::Outcome { message, .. } => {
                #[derive(Deserialize)]
                struct Outcome {
                    #[serde(default)]
                    user: Option<String>,
                }
                let own = self.user.as_ref().map_or("", UserId::as_str);
                let told: Result<Outcome, _> = serde_json::from_slice(&message.data);
                told.is_ok_and(|told| told.user.is_none_or(|user| user == own))
            }
        }
    }
}

impl WirePart {
    fn of(part: &Writable) -> Self {
        let wire = |message: &Outgoing| WireMessage {
            attributes: message.attributes.clone(),
            ordering_key: message.ordering_key.clone(),
            data: STANDARD.encode(&message.data),
        };
        match part {
            Writable::Remember { object, content } => {
                Self::Remember { object: object.clone(), content: STANDARD.encode(content) }
            }
            Writable::DeadLetter { topic, message } => {
                Self::DeadLetter { topic: topic.clone(), message: wire(message) }
            }
            Writable::Outcome { topic, message } => {
                Self::Outcome { topic: topic.clone(), message: wire(message) }
            }
        }
    }

    fn into_part(self) -> Result<Writable, BadEnding> {
        let bytes =
            |text: &str| STANDARD.decode(text).map(Bytes::from).map_err(|_| BadEnding::Data);
        let outgoing = |message: WireMessage| {
            let data = bytes(&message.data)?;
            let WireMessage { attributes, ordering_key, .. } = message;
            Ok::<_, BadEnding>(Outgoing { data, attributes, ordering_key })
        };
        Ok(match self {
            Self::Remember { object, content } => {
                Writable::Remember { object, content: bytes(&content)? }
            }
            Self::DeadLetter { topic, message } => {
                Writable::DeadLetter { topic, message: outgoing(message)? }
            }
            Self::Outcome { topic, message } => {
                Writable::Outcome { topic, message: outgoing(message)? }
            }
        })
    }
}

/// Under this prefix lie one user's stored ends.
pub fn prefix_of(user: Option<&UserId>) -> String {
    format!("{PREFIX}{}/", user.map_or_else(|| NOBODY.to_owned(), UserId::encoded))
}

/// What is in it may be anything, so it is not shown.
impl fmt::Debug for StoredEnding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredEnding")
            .field("job", &self.job)
            .field("kind", &self.kind)
            .field("status", &self.status)
            .field("effect", &self.effect)
            .field("refused", &self.refused)
            .field("rest", &self.rest)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remember { object, .. } => f.debug_tuple("Remember").field(object).finish(),
            Self::DeadLetter { topic, .. } => f.debug_tuple("DeadLetter").field(topic).finish(),
            Self::Outcome { topic, .. } => f.debug_tuple("Outcome").field(topic).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::Keyring;

    use super::*;

    fn ending(user: Option<&str>) -> StoredEnding {
        let outgoing = |data: &str| Outgoing {
            data: data.to_owned().into(),
            attributes: [("a".to_owned(), "b".to_owned())].into(),
            ordering_key: "k".into(),
        };
        StoredEnding {
            user: user.map(|user| UserId::new(user).unwrap()),
            job: "j".into(),
            kind: "api".into(),
            run: 2,
            message_id: "../7".into(),
            status: Status::Rejected,
            effect: Effect::Unknown,
            repeatable: false,
            reason: Some("no answer".into()),
            refused: false,
            rest: vec![
                Writable::DeadLetter { topic: "dead".into(), message: outgoing("\u{0}not JSON") },
                Writable::Outcome { topic: "outcomes".into(), message: outgoing("{}") },
            ],
            stored_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn plain(ending: &StoredEnding) -> Bytes {
        ending.encode(None, &Sealing::default())
    }

    /// A bucket writer without the keyring cannot have anything published.
    #[test]
    fn with_a_keyring_an_end_is_sealed_whole() {
        let sealing = Sealing::new(Some(Keyring::new(Timestamp::UNIX_EPOCH)));
        let stored = ending(Some("a/b"));
        let (name, content) = (stored.object_name(), stored.encode(None, &sealing));
        assert!(!String::from_utf8_lossy(&content).contains("a/b"));
        let read = StoredEnding::decode(&name, &content, &sealing).unwrap();
        assert_eq!(plain(&read), plain(&stored));
        let forged = StoredEnding::decode(&name, &plain(&stored), &sealing);
        assert_eq!(forged.unwrap_err(), NotOpened::Unsealed.into());
        let lenient = sealing.accept_unsealed(true);
        assert_eq!(stored.encode(None, &lenient), plain(&stored), "the release before reads it");
        assert!(StoredEnding::decode(&name, &plain(&stored), &lenient).is_ok());
    }

    #[test]
    fn an_end_is_read_as_it_was_stored() {
        for user in [None, Some("a/b"), Some("_")] {
            let (stored, none) = (ending(user), Sealing::default());
            let name = stored.object_name();
            let (read, claimed) =
                StoredEnding::decode_claimed(&name, &plain(&stored), &none).unwrap();
            assert_eq!((plain(&read), claimed), (plain(&stored), false));
            assert_eq!(read.topics().collect::<Vec<_>>(), ["dead", "outcomes"]);
            let claim = ClaimedBy { holder: "h".into(), turn: "1".into() };
            let content = stored.encode(Some(claim), &none);
            assert!(StoredEnding::decode_claimed(&name, &content, &none).unwrap().1);
        }
        let of_nobody = ending(None).object_name();
        assert!(of_nobody.starts_with("endings/_/") && of_nobody.ends_with("-%2E%2E%2F7.json"));
        assert_ne!(ending(Some("_")).object_name(), of_nobody, "a user of that name");
    }

    #[test]
    fn says_what_is_wrong_without_quoting() {
        let (name, none) = (ending(None).object_name(), Sealing::default());
        for (content, says) in [
            ("", "no stored end"),
            (r#"{"version":2}"#, "version 2"),
            (r#"{"version":1,"user":"fake-person"}"#, "no stored end"),
        ] {
            let error =
                StoredEnding::decode(&name, content.as_bytes(), &none).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("fake-"), "{error}");
        }
        let elsewhere = StoredEnding::decode("endings/ann/x.json", &plain(&ending(None)), &none);
        assert_eq!(elsewhere.unwrap_err(), BadEnding::OtherUser);
    }
}

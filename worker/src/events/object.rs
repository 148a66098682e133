//! The stored form: `events/<user>.json`.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::ports::{Bucket, BucketError, Hints};
use shared::{Reason, UserId};

use crate::resuming::forget;

use super::state::{Consent, Ending, State};

/// Under this prefix lies what was told of all users.
pub const PREFIX: &str = "events/";
const VERSION: u32 = 1;
/// A larger object is none of ours.
const MOST_BYTES: usize = 256 * 1024;
/// The word for what a person or an operator ended.
const DISCONNECTED: &str = "disconnected";

/// The name of the object that says what was told of `user`.
pub fn object_of(user: &UserId) -> String {
    format!("{PREFIX}{}.json", user.encoded())
}

/// The user whose object has this name.
pub(crate) fn user_of(name: &str) -> Option<UserId> {
    let user = name.strip_prefix(PREFIX)?.strip_suffix(".json")?;
    UserId::of_token_object(&format!("tokens/{user}.json"))
}

/// Removes what was told of a user who is gone; with `keep_untold` not before that is told.
pub(crate) async fn remove(
    bucket: &dyn Bucket,
    user: &UserId,
    keep_untold: bool,
) -> Result<(), BucketError> {
    let name = object_of(user);
    let Some(object) = bucket.get(&name).await? else { return Ok(()) };
    let is_untold = StoredEvent::decode(user, &object.content).is_ok_and(|event| {
        !event.told && event.state.consent == Consent::Ended(Ending::Disconnected)
    });
    if keep_untold && is_untold {
        return Ok(());
    }
    forget(bucket, &name, object.generation).await
}

/// An event, and whether it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredEvent {
    /// Names the event: the same one each time that it is published.
    pub(super) id: String,
    /// What it tells.
    pub(super) state: State,
    /// Since when that is so.
    pub(super) changed_at: Timestamp,
    /// It was published.
    pub(super) told: bool,
    /// Who is publishing it.
    pub(super) claim: Option<ClaimedBy>,
}

/// Who is publishing an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClaimedBy {
    /// Which process.
    pub(super) holder: String,
    /// Makes each write another one.
    pub(super) turn: String,
}

/// Why an object under `events/` says nothing. Quotes nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEvent {
    /// Not this program's JSON, or JSON that contradicts itself.
    #[error("it is no event")]
    Unreadable,
    /// Written by a later version.
    #[error("it has version {0}, and this program reads version {VERSION}")]
    Version(u32),
    /// It does not belong where it is, so somebody else has put it there.
    #[error("it is of another user than the one whose object it is")]
    OtherUser,
}

/// As it is stored.
#[derive(Serialize, Deserialize)]
struct Wire {
    version: u32,
    user: String,
    state: Word,
    reason: Option<String>,
    missing_scopes: Vec<String>,
    login: Option<String>,
    id: String,
    changed_at: Timestamp,
    told: bool,
    claim: Option<ClaimedBy>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Needed,
    Granted,
    Ended,
}

impl Consent {
    /// The last part of the event's type.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Needed { .. } => "needed",
            Self::Granted => "granted",
            Self::Ended(_) => "ended",
        }
    }

    /// Why, where there is a reason.
    pub(super) fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Needed { reason, .. } | Self::Ended(Ending::ByProvider(reason)) => {
                Some(reason.as_str())
            }
            Self::Ended(Ending::Disconnected) => Some(DISCONNECTED),
            Self::Granted => None,
        }
    }
}

impl StoredEvent {
    /// The object's content, and its hints for who lists.
    pub(super) fn encode(&self, user: &UserId) -> (Bytes, Hints) {
        let consent = &self.state.consent;
        let state = match consent {
            Consent::Needed { .. } => Word::Needed,
            Consent::Granted => Word::Granted,
            Consent::Ended(_) => Word::Ended,
        };
        let missing_scopes = match consent {
            Consent::Needed { missing, .. } => missing.clone(),
            _ => Vec::new(),
        };
        let wire = Wire {
            version: VERSION,
            user: user.as_str().to_owned(),
            state,
            reason: consent.reason().map(str::to_owned),
            missing_scopes,
            login: self.state.login.clone(),
            id: self.id.clone(),
            changed_at: self.changed_at,
            told: self.told,
            claim: self.claim.clone(),
        };
        let content = serde_json::to_vec(&wire).expect("strings and lists are JSON");
        (content.into(), hints(consent.word(), self.told))
    }

    /// Reads the content of the object of `user`.
    pub(super) fn decode(user: &UserId, content: &[u8]) -> Result<Self, BadEvent> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        if content.len() > MOST_BYTES {
            return Err(BadEvent::Unreadable);
        }
        let unreadable = |_| BadEvent::Unreadable;
        let Versioned { version } = serde_json::from_slice(content).map_err(unreadable)?;
        if version > VERSION {
            return Err(BadEvent::Version(version));
        }
        let wire: Wire = serde_json::from_slice(content).map_err(unreadable)?;
        if wire.user != user.as_str() {
            return Err(BadEvent::OtherUser);
        }
        let reason = wire.reason.as_deref();
        let consent = match (wire.state, reason.and_then(Reason::named)) {
            (Word::Granted, _) => Consent::Granted,
            (Word::Ended, _) if reason == Some(DISCONNECTED) => {
                Consent::Ended(Ending::Disconnected)
            }
            (Word::Ended, Some(reason)) => Consent::Ended(Ending::ByProvider(reason)),
            (Word::Needed, Some(reason)) => {
                Consent::Needed { reason, missing: wire.missing_scopes }
            }
            (Word::Ended | Word::Needed, None) => return Err(BadEvent::Unreadable),
        };
        Ok(Self {
            id: wire.id,
            state: State { consent, login: wire.login },
            changed_at: wire.changed_at,
            told: wire.told,
            claim: wire.claim,
        })
    }
}

/// The names of the hints.
const STATE: &str = "state";
const TOLD: &str = "told";

fn hints(word: &str, told: bool) -> Hints {
    Hints::from([(STATE.to_owned(), word.to_owned()), (TOLD.to_owned(), told.to_string())])
}

/// Whether a listed object says that its event was told.
pub(super) fn hints_at_told(hints: Option<&Hints>) -> bool {
    hints.and_then(|hints| hints.get(TOLD)).is_some_and(|told| told == "true")
}

/// Whether a listed object says that consent is needed.
pub(super) fn hints_at_need(hints: Option<&Hints>) -> bool {
    hints.and_then(|hints| hints.get(STATE)).is_some_and(|state| state == "needed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> UserId {
        UserId::new("a/n").unwrap()
    }

    fn event(consent: Consent) -> StoredEvent {
        StoredEvent {
            id: "e".into(),
            state: State { consent, login: Some("l".into()) },
            changed_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            told: false,
            claim: Some(ClaimedBy { holder: "h".into(), turn: "t".into() }),
        }
    }

    #[test]
    fn every_state_comes_back_as_it_was_stored() {
        let mut all = vec![Consent::Granted, Consent::Ended(Ending::Disconnected)];
        for reason in Reason::ALL {
            all.push(Consent::Ended(Ending::ByProvider(reason)));
            all.push(Consent::Needed { reason, missing: vec!["s".into()] });
        }
        for consent in all {
            let event = event(consent);
            let (content, hints) = event.encode(&ann());
            assert_eq!(StoredEvent::decode(&ann(), &content).as_ref(), Ok(&event));
            assert!(!hints_at_told(Some(&hints)));
            assert_eq!(hints_at_need(Some(&hints)), event.state.consent.word() == "needed");
            let told = StoredEvent { told: true, claim: None, ..event };
            let (content, hints) = told.encode(&ann());
            assert_eq!(StoredEvent::decode(&ann(), &content), Ok(told));
            assert!(hints_at_told(Some(&hints)));
        }
        assert!(!hints_at_told(None) && !hints_at_need(None));
    }

    #[test]
    fn what_is_no_event_of_its_user_is_refused() {
        let (content, _) = event(Consent::Granted).encode(&ann());
        let other = UserId::new("zoe").unwrap();
        assert_eq!(StoredEvent::decode(&other, &content), Err(BadEvent::OtherUser));
        let stored: serde_json::Value = serde_json::from_slice(&content).unwrap();
        let with = |field: &str, value: serde_json::Value| {
            let mut changed = stored.clone();
            changed[field] = value;
            StoredEvent::decode(&ann(), changed.to_string().as_bytes())
        };
        assert_eq!(with("version", 2.into()), Err(BadEvent::Version(2)));
        for (field, value) in [
            ("version", "1".into()),
            ("state", "other".into()),
            ("state", "ended".into()),
            ("told", "yes".into()),
            ("missing_scopes", serde_json::Value::Null),
        ] {
            assert_eq!(with(field, value), Err(BadEvent::Unreadable), "{field}");
        }
        for damaged in [&b""[..], b"{}", b"[]", b"\xff", &content[..content.len() - 1]] {
            assert_eq!(StoredEvent::decode(&ann(), damaged), Err(BadEvent::Unreadable));
        }
    }

    #[test]
    fn names_lead_to_their_users() {
        assert_eq!(object_of(&ann()), "events/a%2Fn.json");
        assert_eq!(user_of("events/a%2Fn.json"), Some(ann()));
        for foreign in ["events/", "events/a", "events/a/b.json", "tokens/a.json", "events/.json"] {
            assert_eq!(user_of(foreign), None, "{foreign}");
        }
    }
}

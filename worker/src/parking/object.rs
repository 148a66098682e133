//! The parked form of a message: `parked/<user>/<sequence>-<job>.json`.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::record::TokenRecord;
use shared::sealing::{NotOpened, Opened, Sealing};
use shared::{ConsentReason, Reason, UserId, encode_segment};

use crate::dead_letter::has_room;
use crate::job::{JOB_ATTRIBUTE, Job, RUN_ATTRIBUTE, Received};
use crate::pubsub::Outgoing;

/// Under this prefix lie the parked jobs of all users.
pub const PREFIX: &str = "parked/";
const VERSION: u32 = 1;
/// The next release's form, which may add members and change the meaning of none. Its objects are
/// published like others, and never written again.
const LATEST_READ: u32 = VERSION + 1;
/// The object beside a user's parked jobs that says who resumes them.
const CLAIM: &str = "claim";
/// What is sealed of a parked job.
const SEALED_MEMBERS: [&str; 3] = ["ordering_key", "attributes", "data"];

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
    /// Its run.
    #[serde(default)]
    pub run: u32,
    /// The name of a [`Reason`]; `unknown` and `scopes` in objects of earlier versions.
    pub reason: String,
    /// The scopes that an API asked for, as far as it named them.
    #[serde(default)]
    pub missing_scopes: Vec<String>,
    /// The scopes that the user had when the job was parked: it is resumed when
    /// they change.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The grant that the user had when the job was parked: it is resumed when it changes.
    /// Absent where there was none, and from objects of the release before this one.
    #[serde(default)]
    pub grant_id: Option<String>,
    /// When it was parked.
    pub parked_at: Timestamp,
    /// When its message was published.
    pub publish_time: Option<Timestamp>,
    /// Pub/Sub's ID of the message.
    #[serde(default)]
    pub message_id: String,
    #[serde(flatten)]
    message: Message,
}

/// The message of a parked job: what is sealed of the object.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Message {
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
    #[error("it has version {0}, and this program reads versions up to {LATEST_READ}")]
    Version(u32),
    /// The message in it is damaged.
    #[error("the message in it is no job")]
    Data,
    /// It does not open, or is not sealed although it has to be.
    #[error("{0}")]
    Sealed(#[from] NotOpened),
    /// Its job would act as another user, so somebody else has put it there.
    #[error("its job is not of the user whose object it is")]
    OtherUser,
}

/// What a user has when a job is parked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Met {
    pub(super) grant_id: Option<String>,
    pub(super) scopes: Vec<String>,
}

impl ParkedJob {
    /// A message that waits for `why`.
    pub(super) fn new(
        job: &Job,
        received: &Received,
        why: &ConsentReason,
        met: Met,
        now: Timestamp,
    ) -> Self {
        let missing_scopes = match why {
            ConsentReason::MissingScopes(missing) => missing.clone(),
            _ => Vec::new(),
        };
        Self {
            version: VERSION,
            user: job.user.as_str().to_owned(),
            job: job.id.clone(),
            kind: job.kind.clone(),
            run: job.run,
            reason: why.reason().to_string(),
            missing_scopes,
            scopes: met.scopes,
            grant_id: met.grant_id,
            parked_at: now,
            publish_time: received.publish_time,
            message_id: received.message_id.clone(),
            message: Message {
                ordering_key: received.ordering_key.clone(),
                attributes: received.attributes.clone(),
                data: STANDARD.encode(&received.data),
            },
        }
    }

    /// The content of the object of this name: the message sealed where `sealing` seals what
    /// the release before cannot read.
    pub(super) fn encode(&self, name: &str, sealing: &Sealing) -> Vec<u8> {
        if sealing.seals_new_forms() { self.sealed(name, sealing) } else { self.plain() }
    }

    fn plain(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and lists are JSON")
    }

    /// Sealed, unless nothing seals.
    fn sealed(&self, name: &str, sealing: &Sealing) -> Vec<u8> {
        let Ok(Value::Object(mut clear)) = serde_json::to_value(self) else {
            unreachable!("a struct is a JSON object")
        };
        clear.retain(|member, _| !SEALED_MEMBERS.contains(&member.as_str()));
        let Some(seal) = sealing.seal(name, &clear, &self.message, 0) else {
            return self.plain();
        };
        clear.insert("sealed".to_owned(), serde_json::to_value(seal).expect("strings"));
        serde_json::to_vec(&clear).expect("strings and lists are JSON")
    }

    /// The content sealed anew; `None` when it is as it should be.
    ///
    /// # Errors
    /// As [`ParkedJob::decode`].
    pub fn resealed(
        name: &str,
        content: &[u8],
        sealing: &Sealing,
    ) -> Result<Option<Vec<u8>>, BadParked> {
        let parked = Self::decode(name, content, sealing)?;
        let current = parked.version > VERSION || sealing.is_current(name, content);
        Ok((!current).then(|| parked.sealed(name, sealing)))
    }

    /// Reads what stands outside the seal of the object of this name, for people: its message is
    /// empty, and nothing vouches for the rest.
    ///
    /// # Errors
    /// [`BadParked`].
    pub fn decode_clear(name: &str, content: &[u8]) -> Result<Self, BadParked> {
        let unreadable =
            |e: serde_json::Error| BadParked::Unreadable { line: e.line(), column: e.column() };
        let mut members: Map<String, Value> =
            serde_json::from_slice(content).map_err(unreadable)?;
        members.insert("data".to_owned(), String::new().into());
        let parked: Self = serde_json::from_value(members.into()).map_err(unreadable)?;
        let is_owner = |user: UserId| user.as_str() == parked.user;
        if !is_read(parked.version) {
            return Err(BadParked::Version(parked.version));
        }
        if !user_of(name).is_some_and(is_owner) {
            return Err(BadParked::OtherUser);
        }
        Ok(parked)
    }

    /// Reads the content of the object of this name.
    ///
    /// # Errors
    /// [`BadParked`]; such an object stays where it is.
    pub fn decode(name: &str, content: &[u8], sealing: &Sealing) -> Result<Self, BadParked> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let unreadable =
            |e: serde_json::Error| BadParked::Unreadable { line: e.line(), column: e.column() };
        let Versioned { version } = serde_json::from_slice(content).map_err(unreadable)?;
        if !is_read(version) {
            return Err(BadParked::Version(version));
        }
        let parked: Self = match sealing.open(name, content)? {
            Opened::Plain => serde_json::from_slice(content).map_err(unreadable)?,
            Opened::Sealed { clear: Value::Object(mut members), secret } => {
                let message: Map<_, _> = serde_json::from_slice(&secret).map_err(unreadable)?;
                if SEALED_MEMBERS.iter().any(|member| members.contains_key(*member)) {
                    return Err(NotOpened::Malformed.into());
                }
                members.extend(message);
                serde_json::from_value(members.into()).map_err(unreadable)?
            }
            Opened::Sealed { .. } => return Err(NotOpened::Malformed.into()),
        };
        let data = STANDARD.decode(&parked.message.data).map_err(|_| BadParked::Data)?;
        // Whoever can write into the bucket must not be able to act as anybody.
        let owner = user_of(name).ok_or(BadParked::OtherUser)?;
        let job = Job::decode(&data, &parked.message_id).map_err(|_| BadParked::Data)?;
        if job.user != owner || parked.user != owner.as_str() {
            return Err(BadParked::OtherUser);
        }
        Ok(parked)
    }

    /// Whether `record` is what the job waited for: the user is active and not blocked, and the
    /// grant is another one than when it was parked; for scopes, these are.
    pub fn is_due(&self, record: &TokenRecord) -> bool {
        let has_changed = match (self.why(), &self.grant_id) {
            (Some(Reason::ScopesMissing), _) => self.scopes != record.scopes,
            (_, Some(grant)) => *grant != record.grant_id.0,
            (_, None) => true,
        };
        record.is_active() && record.blocked.is_none() && has_changed
    }

    /// Why it waits; `None` for a reason that a later version wrote.
    pub fn why(&self) -> Option<Reason> {
        match self.reason.as_str() {
            "unknown" => Some(Reason::UnknownUser),
            "scopes" => Some(Reason::ScopesMissing),
            name => Reason::named(name),
        }
    }

    /// What it waits for, for people.
    pub fn waits_for(&self) -> String {
        match self.why() {
            Some(reason @ Reason::ScopesMissing) if !self.missing_scopes.is_empty() => {
                format!("{reason}: {}", self.missing_scopes.join(", "))
            }
            Some(reason) => format!("{reason}: {}", reason.for_operator()),
            None => self.reason.clone(),
        }
    }

    /// The attributes of its message.
    pub fn attributes(&self) -> &HashMap<String, String> {
        &self.message.attributes
    }

    /// The message as it was received.
    pub(crate) fn received(&self) -> Received {
        Received {
            // `decode` has looked.
            data: STANDARD.decode(&self.message.data).unwrap_or_default().into(),
            attributes: self.message.attributes.clone(),
            ordering_key: self.message.ordering_key.clone(),
            message_id: self.message_id.clone(),
            publish_time: self.publish_time,
            delivery_attempt: None,
        }
    }

    /// The message as it was published, and what makes it the same job again: its own
    /// message ID will be another one.
    ///
    /// # Errors
    /// [`NoRoom`]; then it stays where it is.
    pub fn into_message(self) -> Result<Outgoing, NoRoom> {
        let message = Outgoing {
            // `decode` has looked.
            data: STANDARD.decode(&self.message.data).unwrap_or_default().into(),
            attributes: self.message.attributes,
            ordering_key: self.message.ordering_key,
        };
        with_identity(message, &self.job, self.run)
    }
}

fn is_read(version: u32) -> bool {
    (VERSION..=LATEST_READ).contains(&version)
}

/// A message has no room for the attributes that make it the same job again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "its message has no room for the attribute `{JOB_ATTRIBUTE}`, without which it would be another job"
)]
pub struct NoRoom;

/// The message of a job that is published again, with the attributes that make it the same
/// job. Where its data names the job, they may be left out for want of room.
///
/// # Errors
/// [`NoRoom`].
pub fn with_identity(mut message: Outgoing, job: &str, run: u32) -> Result<Outgoing, NoRoom> {
    let attributes = &mut message.attributes;
    if run > 0 {
        attributes.insert(RUN_ATTRIBUTE.to_owned(), run.to_string());
    }
    let before = attributes.insert(JOB_ATTRIBUTE.to_owned(), job.to_owned());
    if has_room(&message) {
        return Ok(message);
    }
    match before {
        Some(before) => message.attributes.insert(JOB_ATTRIBUTE.to_owned(), before),
        None => message.attributes.remove(JOB_ATTRIBUTE),
    };
    let names_itself = Job::decode(&message.data, "").is_ok_and(|decoded| decoded.id == job);
    if names_itself && has_room(&message) { Ok(message) } else { Err(NoRoom) }
}

/// The publish time comes first and then the message ID, both in a form that sorts: messages
/// that were published together have the same time, and their IDs ascend.
pub(super) fn object_name(job: &Job, received: &Received) -> String {
    let nanos = received.publish_time.map_or(0, |t| t.as_nanosecond().max(0));
    let message = &received.message_id;
    let sequence = match message.parse::<u64>() {
        Ok(number) => format!("{nanos:020}{number:020}"),
        Err(_) => format!("{nanos:020}{}", encode_segment(message)),
    };
    format!("{}{sequence}-{}.json", prefix_of(&job.user), encode_segment(&job.id))
}

/// The object that says who resumes a user's jobs.
pub fn claim_of(user: &UserId) -> String {
    format!("{}{CLAIM}", prefix_of(user))
}

/// Whether the object of this name is somebody's claim and no parked job.
pub fn is_claim(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|name| name.split_once('/'))
        .is_some_and(|(_, name)| name == CLAIM)
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
    use proptest::prelude::*;
    use shared::Keyring;

    use super::*;

    fn received() -> Received {
        Received {
            data: br#"{"user":"a/b","kind":"k"}"#.as_slice().into(),
            attributes: [("mine".to_owned(), "kept".to_owned())].into(),
            ordering_key: "a/b".into(),
            message_id: "7".into(),
            publish_time: Some("2026-01-02T03:04:05Z".parse().unwrap()),
            delivery_attempt: Some(3),
        }
    }

    const NAME: &str = "parked/a%2Fb/1-j.json";

    fn parked(received: &Received, why: &ConsentReason, met: Met) -> ParkedJob {
        let job = Job::of(received).unwrap();
        ParkedJob::new(&job, received, why, met, Timestamp::UNIX_EPOCH)
    }

    fn decode(name: &str, content: &[u8]) -> Result<ParkedJob, BadParked> {
        ParkedJob::decode(name, content, &Sealing::default())
    }

    fn waiting(received: &Received) -> ParkedJob {
        parked(received, &ConsentReason::Unknown, Met::default())
    }

    #[test]
    fn a_parked_message_comes_back_as_the_same_job() {
        let mut received = received();
        received.attributes.insert(RUN_ATTRIBUTE.into(), "2".into());
        received.attributes.insert("fleet-once".into(), "true".into());
        let why = ConsentReason::MissingScopes(vec!["s".into()]);
        let met = Met { grant_id: Some("g".into()), scopes: vec!["t".into()] };
        let parked = parked(&received, &why, met);
        let again = decode(NAME, &parked.plain()).unwrap();
        assert_eq!(again, parked);
        assert_eq!(again.waits_for(), "scopes_missing: s");
        assert_eq!(again.reason, "scopes_missing");
        for (written, why) in [
            ("scopes", Some(Reason::ScopesMissing)),
            ("unknown", Some(Reason::UnknownUser)),
            ("session_expired", Some(Reason::SessionExpired)),
            ("of a later version", None),
        ] {
            let parked = ParkedJob { reason: written.to_owned(), ..again.clone() };
            assert_eq!(parked.why(), why, "{written}");
        }
        let message = again.into_message().unwrap();
        assert_eq!(message.data, received.data);
        assert_eq!(message.attributes["mine"], "kept");
        assert_eq!(message.ordering_key, received.ordering_key);
        let before = Job::of(&received).unwrap();
        let resumed = Received {
            data: message.data,
            attributes: message.attributes,
            message_id: "another".into(),
            ..Received::default()
        };
        let after = Job::of(&resumed).unwrap();
        assert_eq!(after.identity(), before.identity());
        assert!(after.once && after.run == 2 && after.id == "7");
    }

    #[test]
    fn what_would_become_another_job_stays() {
        let mut received = received();
        received.attributes = (0..100).map(|n| (format!("own-{n}"), "x".to_owned())).collect();
        assert_eq!(waiting(&received).into_message().unwrap_err(), NoRoom);
        // Its data names it, so that nothing has to be added.
        received.data = br#"{"id":"j","user":"a/b","kind":"k"}"#.as_slice().into();
        let message = waiting(&received).into_message().unwrap();
        assert_eq!(message.attributes, received.attributes);
    }

    #[test]
    fn names_tell_the_user_and_sort_as_messages_were_published() {
        let at = |time: &str, message: &str| {
            let publish_time = Some(time.parse().unwrap());
            let received = Received { publish_time, message_id: message.to_owned(), ..received() };
            object_name(&Job::of(&received).unwrap(), &received)
        };
        let names = [
            at("2026-01-02T03:04:05Z", "7"),
            at("2026-01-02T03:04:05Z", "8"),
            at("2026-01-02T03:04:05Z", "10"),
            at("2026-01-02T03:04:15Z", "2"),
        ];
        assert!(names.is_sorted() && names.iter().all(|name| !is_claim(name)), "{names:?}");
        let user = UserId::new("a/b").unwrap();
        assert_eq!(user_of(&names[0]), Some(user.clone()));
        assert!(names[0].starts_with(&prefix_of(&user)));
        assert!(is_claim(&claim_of(&user)) && claim_of(&user).starts_with(&prefix_of(&user)));
        let odd = at("2026-01-02T03:04:05Z", "../x");
        assert_eq!(user_of(&odd), Some(user), "{odd}");
        for other in ["parked/a", "parked/%zz/1-j.json", "parked/a/b/c.json", "tokens/a.json"] {
            assert!(user_of(other).is_none(), "{other}");
        }
    }

    #[test]
    fn says_what_is_wrong_without_quoting() {
        for (content, says) in [
            ("", "not a parked job"),
            (r#"{"version":3}"#, "version 3"),
            (r#"{"version":1,"user":"fake-person"}"#, "not a parked job"),
        ] {
            let error = decode(NAME, content.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("fake-"), "{error}");
        }
        let mut parked = waiting(&received());
        for data in ["fake-%".to_owned(), STANDARD.encode("no job")] {
            parked.message.data = data;
            assert_eq!(decode(NAME, &parked.plain()), Err(BadParked::Data));
        }
    }

    /// Whoever can write into the bucket cannot act as somebody else.
    #[test]
    fn a_job_of_another_user_is_refused() {
        let parked = waiting(&received());
        let content = parked.plain();
        assert!(decode(NAME, &content).is_ok());
        for name in ["parked/user-4/1-j.json", "parked/a%2Fb", "done/a%2Fb/1-j.json"] {
            assert_eq!(decode(name, &content), Err(BadParked::OtherUser), "{name}");
        }
        let renamed = ParkedJob { user: "user-4".into(), ..parked };
        for name in [NAME, "parked/user-4/1-j.json"] {
            let error = decode(name, &renamed.plain());
            assert_eq!(error, Err(BadParked::OtherUser), "{name}");
        }
    }

    /// A bucket reader sees who waits for what, and nothing of the message; a bucket writer
    /// can change none of it.
    #[test]
    fn with_a_keyring_the_message_is_sealed_and_the_rest_is_bound() {
        let sealing = Sealing::new(Some(Keyring::new(Timestamp::UNIX_EPOCH)));
        let mut received = received();
        received.data =
            br#"{"user":"a/b","kind":"k","params":{"q":"fake-secret"}}"#.as_slice().into();
        let parked = waiting(&received);
        let content = parked.encode(NAME, &sealing);
        let seen: Value = serde_json::from_slice(&content).unwrap();
        for hidden in SEALED_MEMBERS {
            assert!(seen.get(hidden).is_none(), "{seen}");
        }
        assert_eq!((&seen["user"], &seen["kind"]), (&"a/b".into(), &"k".into()));
        assert_eq!(ParkedJob::decode(NAME, &content, &sealing), Ok(parked.clone()));
        let mut changed = seen.clone();
        changed["reason"] = "session_expired".into();
        let error = ParkedJob::decode(NAME, changed.to_string().as_bytes(), &sealing);
        assert!(matches!(error, Err(BadParked::Sealed(NotOpened::Altered(_)))), "{error:?}");
        let planted = ParkedJob::decode(NAME, &parked.plain(), &sealing);
        assert_eq!(planted, Err(NotOpened::Unsealed.into()));
        let error = ParkedJob::decode("parked/a%2Fb/2-j.json", &content, &sealing);
        assert!(matches!(error, Err(BadParked::Sealed(NotOpened::Broken(_)))), "{error:?}");
        let error = decode(NAME, &content);
        assert!(matches!(error, Err(BadParked::Sealed(NotOpened::NoKeyring(_)))), "{error:?}");

        // While the keyring is introduced, replicas of the release before read them too.
        let lenient = sealing.accept_unsealed(true);
        let content = parked.encode(NAME, &lenient);
        assert_eq!(content, parked.plain());
        let again = ParkedJob::resealed(NAME, &content, &lenient).unwrap().unwrap();
        assert_eq!(ParkedJob::decode(NAME, &again, &lenient), Ok(parked));
        assert_eq!(ParkedJob::resealed(NAME, &again, &lenient), Ok(None));
    }

    /// As the release before this one wrote it.
    #[test]
    fn an_object_of_the_release_before_goes_on() {
        let old = serde_json::json!({
            "version": 1, "user": "a/b", "job": "j", "kind": "k", "reason": "revoked",
            "missing_scopes": [], "scopes": ["s"], "parked_at": "2026-01-01T00:00:00Z",
            "publish_time": null, "message_id": "7", "ordering_key": "a/b", "attributes": {},
            "data": STANDARD.encode(br#"{"id":"j","user":"a/b","kind":"k"}"#),
        });
        let parked = decode(NAME, old.to_string().as_bytes()).unwrap();
        assert_eq!((parked.run, &parked.grant_id), (0, &None));
        assert_eq!(parked.into_message().unwrap().attributes[JOB_ATTRIBUTE], "j");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        /// A parked object in which a part was replaced by anything: it is refused, or its
        /// message is a job of the user whose object it is.
        #[test]
        fn any_damage_is_refused_or_a_job_of_its_user(
            from in any::<proptest::sample::Index>(),
            length in 0_usize..12,
            with in proptest::collection::vec(any::<u8>(), 0..12),
        ) {
            let mut stored = waiting(&received()).plain();
            let from = from.index(stored.len());
            let to = stored.len().min(from + length);
            stored.splice(from..to, with);
            if let Ok(parked) = decode(NAME, &stored)
                && let Ok(message) = parked.into_message()
            {
                let received = Received {
                    data: message.data,
                    attributes: message.attributes,
                    ordering_key: message.ordering_key,
                    ..received()
                };
                if let Ok(job) = Job::of(&received) {
                    prop_assert_eq!(job.user.as_str(), "a/b");
                }
            }
        }
    }
}

//! The message that a rejected job becomes on the dead topic, and what it was before.
//!
//! The data stays as it was received; attributes say why the job ended and what is known of
//! its effect. Pub/Sub bounds a message: when there is no room for all attributes, those of
//! the publisher are left out first.

use std::collections::HashMap;

use bytes::Bytes;

use crate::effect::{Effect, Knowledge};
use crate::job::{JOB_ATTRIBUTE, Job, ONCE_ATTRIBUTE, RUN_ATTRIBUTE, Received};
use crate::pubsub::Outgoing;

/// Attribute: why the job ended.
pub const REASON: &str = "reason";
/// Attribute: what is known of its effect.
pub const EFFECT: &str = "effect";
/// Attribute: whether doing it again does no harm.
pub const REPEATABLE: &str = "repeatable";
/// Attribute: Pub/Sub's ID of the message that was received.
pub const MESSAGE_ID: &str = "message_id";
/// Attribute: the job's kind, which subscriptions filter by.
pub const KIND: &str = "kind";
/// What Pub/Sub adds to a message that was delivered too often begins with this.
pub const BY_PUBSUB: &str = "CloudPubSubDeadLetterSource";
/// What the release before this one added besides `reason` and `message_id`.
const OLD_JOB: &str = "job";

const MAX_ATTRIBUTES: usize = 100;
const MAX_KEY: usize = 256;
/// The longest attribute value that Pub/Sub accepts, in bytes.
pub(crate) const MAX_ATTRIBUTE_VALUE: usize = 1024;
/// The most bytes that a message has, encoded.
const MAX_MESSAGE: usize = 10_000_000;

/// What a dead letter tells.
#[derive(Debug, Clone, Copy)]
pub struct Rejection<'a> {
    /// The job, where the message is one.
    pub job: Option<&'a Job>,
    /// Why it ended.
    pub reason: &'a str,
    /// What is known of its effect.
    pub known: Knowledge,
    /// The topic refused it with the publisher's attributes, so they are left out.
    pub only_ours: bool,
}

/// What a dead letter says of its job's effect; `None` where the job never ended here:
/// Pub/Sub made the letter, or a release that did not say so.
pub fn recorded(received: &Received) -> Option<Knowledge> {
    if is_by_pubsub(received) {
        return None;
    }
    let attributes = &received.attributes;
    let effect = Effect::read(attributes.get(EFFECT)?)?;
    let repeatable = attributes.get(REPEATABLE).is_some_and(|value| value == "true");
    Some(Knowledge { effect, repeatable })
}

/// Whether Pub/Sub made a dead letter of the message, by its dead-letter policy.
pub fn is_by_pubsub(received: &Received) -> bool {
    received.attributes.keys().any(|name| name.starts_with(BY_PUBSUB))
}

/// The dead letter of a message.
pub fn dead_letter(received: &Received, about: &Rejection<'_>) -> Outgoing {
    let Rejection { job, reason, known, only_ours } = about;
    let mut letter = Letter::new(received.data.clone(), received.ordering_key.clone());
    letter.add(EFFECT, known.effect.as_str());
    letter.add(REPEATABLE, if known.repeatable { "true" } else { "false" });
    if let Some(job) = job {
        letter.add(JOB_ATTRIBUTE, &job.id);
        letter.add(RUN_ATTRIBUTE, &job.run.to_string());
        if job.once {
            letter.add(ONCE_ATTRIBUTE, "true");
        }
        // A publisher's own value is what subscriptions have filtered by.
        let kind = received.attributes.get(KIND).unwrap_or(&job.kind);
        letter.add(KIND, kind);
    }
    letter.add(REASON, reason);
    letter.add(MESSAGE_ID, &received.message_id);
    if !only_ours {
        // Sorted, so that each try leaves out the same.
        let mut others: Vec<_> = received.attributes.iter().collect();
        others.sort_unstable();
        for (name, value) in others {
            // By these, readers tell letters that Pub/Sub made.
            if !name.starts_with(BY_PUBSUB) {
                letter.add(name, value);
            }
        }
    }
    letter.into_message()
}

/// The attributes of a dead letter without those that were added when it became one.
pub fn stripped(received: &Received) -> HashMap<String, String> {
    let mut attributes = received.attributes.clone();
    if is_by_pubsub(received) {
        attributes.retain(|name, _| !name.starts_with(BY_PUBSUB));
        return attributes;
    }
    let is_old = !attributes.contains_key(EFFECT)
        && attributes.contains_key(REASON)
        && attributes.contains_key(MESSAGE_ID);
    if is_old {
        attributes.remove(OLD_JOB);
    }
    for name in [REASON, EFFECT, REPEATABLE, MESSAGE_ID] {
        attributes.remove(name);
    }
    attributes
}

/// Whether Pub/Sub takes a message of this size and with so many attributes.
pub fn has_room(message: &Outgoing) -> bool {
    has_room_for(message, &HashMap::new())
}

/// Whether Pub/Sub takes a message with these attributes besides its own.
pub(crate) fn has_room_for(message: &Outgoing, more: &HashMap<String, String>) -> bool {
    let Outgoing { data, attributes, ordering_key } = message;
    let all = || attributes.iter().chain(more);
    let bytes: usize = all().map(|(name, value)| attribute_bytes(name, value)).sum();
    all().count() <= MAX_ATTRIBUTES && bytes + own_bytes(data, ordering_key) <= MAX_MESSAGE
}

/// A message that takes attributes as long as they have room.
struct Letter {
    message: Outgoing,
    bytes: usize,
}

impl Letter {
    fn new(data: Bytes, ordering_key: String) -> Self {
        let bytes = own_bytes(&data, &ordering_key);
        Self { message: Outgoing { data, attributes: HashMap::new(), ordering_key }, bytes }
    }

    /// Adds an attribute, as much of its value as is allowed, unless there is one of this
    /// name or no room.
    fn add(&mut self, name: &str, value: &str) {
        let attributes = &mut self.message.attributes;
        let value = clip(value, MAX_ATTRIBUTE_VALUE);
        let bytes = self.bytes + attribute_bytes(name, value);
        let fits = (1..=MAX_KEY).contains(&name.len()) && bytes <= MAX_MESSAGE;
        if fits && attributes.len() < MAX_ATTRIBUTES && !attributes.contains_key(name) {
            attributes.insert(name.to_owned(), value.to_owned());
            self.bytes = bytes;
        }
    }

    fn into_message(self) -> Outgoing {
        self.message
    }
}

/// What the data and the ordering key take in an encoded message: with each, a tag and a
/// length, and the message ID and time that the service adds.
fn own_bytes(data: &[u8], ordering_key: &str) -> usize {
    field_bytes(data.len()) + field_bytes(ordering_key.len())
}

/// What an attribute takes in an encoded message: an entry of two fields.
fn attribute_bytes(name: &str, value: &str) -> usize {
    field_bytes(field_bytes(name.len()) + field_bytes(value.len()))
}

/// A field of so many bytes, its tag and its length included.
fn field_bytes(len: usize) -> usize {
    let length = match len {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    };
    1 + length + len
}

/// As much of a text as fits into so many bytes.
pub(crate) fn clip(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPENT: Knowledge = Knowledge { effect: Effect::Unknown, repeatable: false };

    fn received(data: Vec<u8>, attributes: &[(String, String)]) -> Received {
        Received {
            data: data.into(),
            attributes: attributes.iter().cloned().collect(),
            ordering_key: "ann".into(),
            message_id: "7".into(),
            ..Received::default()
        }
    }

    fn job() -> Job {
        let data = br#"{"id":"j","user":"ann","kind":"api"}"#;
        Job { run: 2, once: true, ..Job::decode(data, "m").unwrap() }
    }

    fn numbered(count: usize) -> Vec<(String, String)> {
        (0..count).map(|n| (format!("own-{n:03}"), "x".to_owned())).collect()
    }

    fn arrived(letter: &Outgoing) -> Received {
        let Outgoing { data, attributes, ordering_key } = letter.clone();
        Received { data, attributes, ordering_key, ..Received::default() }
    }

    const OURS: [&str; 8] = [
        EFFECT,
        REPEATABLE,
        JOB_ATTRIBUTE,
        RUN_ATTRIBUTE,
        ONCE_ATTRIBUTE,
        KIND,
        REASON,
        MESSAGE_ID,
    ];

    fn about(job: &Job, only_ours: bool) -> Rejection<'_> {
        Rejection { job: Some(job), reason: "no answer", known: SPENT, only_ours }
    }

    #[test]
    fn everything_is_told() {
        let job = job();
        let own = [numbered(3), vec![("effect".into(), "none".into())]].concat();
        let letter = dead_letter(&received(b"{}".to_vec(), &own), &about(&job, false));
        let at = |name: &str| letter.attributes[name].as_str();
        let told = OURS.map(at);
        assert_eq!(told, ["unknown", "false", "j", "2", "true", "api", "no answer", "7"]);
        assert_eq!(letter.attributes.len(), 8 + 3);
        assert_eq!(recorded(&arrived(&letter)), Some(SPENT));
        assert_eq!((&letter.data[..], letter.ordering_key.as_str()), (&b"{}"[..], "ann"));
        let bare = dead_letter(&received(b"{}".to_vec(), &own), &about(&job, true));
        assert_eq!(bare.attributes.len(), 8);
    }

    #[test]
    fn the_publishers_attributes_go_first() {
        let job = job();
        for count in [92, 93, 98, 99, 100] {
            let letter =
                dead_letter(&received(b"{}".to_vec(), &numbered(count)), &about(&job, false));
            assert_eq!(letter.attributes.len(), 100);
            assert!(OURS.iter().all(|name| letter.attributes.contains_key(*name)), "{count}");
            assert!(has_room(&letter));
        }
    }

    /// One byte more of data each time, until not even the effect has room.
    #[test]
    fn a_large_message_keeps_what_matters_most() {
        let job = job();
        let mut kept = 8;
        for free in (0..200).rev() {
            let data = vec![b'x'; MAX_MESSAGE - 5 - 5 - free];
            let letter = dead_letter(&received(data, &numbered(1)), &about(&job, false));
            assert!(has_room(&letter), "{free}");
            let ours = OURS.iter().filter(|name| letter.attributes.contains_key(**name)).count();
            assert!(ours <= kept || ours == kept, "{free}");
            kept = kept.min(ours);
            if free >= 50 {
                assert!(letter.attributes.contains_key(EFFECT), "{free}");
                assert!(letter.attributes.contains_key(REPEATABLE), "{free}");
            }
        }
        let nearly = dead_letter(&received(vec![b'x'; 9_999_950], &[]), &about(&job, false));
        assert_eq!(recorded(&arrived(&nearly)), Some(SPENT), "{:?}", nearly.attributes);
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let (job, reason) = (job(), "é".repeat(600));
        let about = Rejection { reason: &reason, ..about(&job, false) };
        let letter = dead_letter(&received(b"{}".to_vec(), &[]), &about);
        assert_eq!(letter.attributes[REASON].len(), 1024);
        let odd = format!("x{reason}");
        let letter =
            dead_letter(&received(b"{}".to_vec(), &[]), &Rejection { reason: &odd, ..about });
        assert_eq!(letter.attributes[REASON].len(), 1023);
    }

    /// A publisher that writes what Pub/Sub writes cannot make a spent job look like one
    /// that never ended.
    #[test]
    fn a_publisher_cannot_pass_its_message_off_as_pubsubs() {
        let job = job();
        let own = [(format!("{BY_PUBSUB}DeliveryCount"), "5".to_owned())];
        let letter = dead_letter(&received(b"{}".to_vec(), &own), &about(&job, false));
        assert_eq!(recorded(&arrived(&letter)), Some(SPENT));
        // And a letter that Pub/Sub made records nothing, whatever else it has.
        let made = [own[0].clone(), (EFFECT.into(), "none".into())];
        assert_eq!(recorded(&received(Vec::new(), &made)), None);
    }

    #[test]
    fn only_what_was_added_is_taken_off() {
        let job = job();
        let own = [numbered(2), vec![("job".into(), "nightly".into())]].concat();
        let names = [REASON, MESSAGE_ID, OLD_JOB, "mine"];
        let old = received(Vec::new(), &names.map(|name| (name.to_owned(), "x".to_owned())));
        let left: Vec<_> = stripped(&old).into_keys().collect();
        assert_eq!(left, ["mine"], "of the release before");
        let letter = dead_letter(&received(b"{}".to_vec(), &own), &about(&job, false));
        let attributes = stripped(&arrived(&letter));
        let mut left: Vec<_> = attributes.keys().map(String::as_str).collect();
        left.sort_unstable();
        assert_eq!(
            left,
            ["fleet-job", "fleet-once", "fleet-run", "job", "kind", "own-000", "own-001"]
        );
    }
}

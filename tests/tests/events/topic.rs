//! A topic in memory, and those who tell over a fleet in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::SignedDuration;
use serde_json::Value;
use shared::UserId;
use shared::ports::{Bucket as _, Clock as _, Randomness};
use tests::memory::{Fleet, VirtualClock};
use worker::events::{Events, object_of};
use worker::pubsub::{Outgoing, PublishError, Topic};

/// What was published: the event's last word, its user, its ID, and its data.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) word: String,
    pub(crate) user: String,
    pub(crate) id: String,
    pub(crate) data: Value,
}

/// An events topic that remembers what it was given, takes a moment for it, and refuses on
/// demand.
#[derive(Debug, Default)]
pub(crate) struct EventTopic {
    events: Arc<Mutex<Vec<Event>>>,
    down: Mutex<bool>,
}

impl EventTopic {
    /// What was published since the last call.
    pub(crate) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap())
    }

    /// What was published since the last call, in words.
    pub(crate) fn words(&self) -> Vec<String> {
        let said = |event: Event| match event.data["reason"].as_str() {
            Some(reason) => format!("{} {} {reason}", event.user, event.word),
            None => format!("{} {}", event.user, event.word),
        };
        self.take().into_iter().map(said).collect()
    }

    pub(crate) fn set_down(&self, down: bool) {
        *self.down.lock().unwrap() = down;
    }
}

impl Topic for EventTopic {
    fn name(&self) -> &'static str {
        "projects/p/topics/events"
    }

    fn publish(&self, message: Outgoing) -> BoxFuture<'static, Result<String, PublishError>> {
        let (events, down) = (Arc::clone(&self.events), *self.down.lock().unwrap());
        async move {
            clock().sleep(Duration::from_millis(20)).await;
            if down {
                let (topic, why) = ("events".to_owned(), "down for the test".to_owned());
                return Err(PublishError::Unavailable { topic, why, source: None });
            }
            let attribute = |name: &str| message.attributes[name].clone();
            assert_eq!(message.ordering_key, "");
            let event = Event {
                word: attribute("ce-type").strip_prefix("fleet.consent.").unwrap().to_owned(),
                user: attribute("ce-subject"),
                id: attribute("ce-id"),
                data: serde_json::from_slice(&message.data).unwrap(),
            };
            assert_eq!(event.data["user"], event.user);
            events.lock().unwrap().push(event);
            Ok("m".to_owned())
        }
        .boxed()
    }
}

pub(crate) fn clock() -> VirtualClock {
    VirtualClock::new(SignedDuration::ZERO)
}

pub(crate) fn ann() -> UserId {
    UserId::new("ann").unwrap()
}

/// One process that tells.
pub(crate) fn teller(fleet: &Fleet, name: &str, topic: &Arc<EventTopic>) -> Events {
    let seed = name.bytes().fold(11_u64, |seed, b| seed.wrapping_mul(31) + u64::from(b));
    Events {
        store: fleet.replica(name),
        topic: Arc::<EventTopic>::clone(topic),
        clock: Arc::new(clock()),
        random: Arc::new(Randomness::seeded(seed)),
        source: "//storage/bucket".to_owned(),
        site: Some("https://connect.example.com".parse().unwrap()),
        unknown_users: false,
    }
}

/// A user whose grant has ended at the provider, as a replica has found out.
pub(crate) async fn revoked_user(fleet: &Fleet, id: &str) -> UserId {
    let user = fleet.user(id).await;
    revoke(fleet, &user).await;
    user
}

/// Ends a stored user's grant, and has a replica find that out.
pub(crate) async fn revoke(fleet: &Fleet, user: &UserId) {
    fleet.provider.revoke(user.as_str());
    tests::memory::pass(Duration::from_secs(4000)).await;
    fleet.replica("finds-out").get_credentials(user).await.unwrap_err();
}

/// What is stored of what was told of a user.
pub(crate) async fn stored(fleet: &Fleet, user: &UserId) -> Option<Value> {
    let object = fleet.bucket.get(&object_of(user)).await.unwrap()?;
    Some(serde_json::from_slice(&object.content).unwrap())
}

//! Whatever happens to a broker, what is kept of it brings back what its clients were told.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tempfile::tempdir;
use tokio::time::Instant;

use super::*;
use crate::access::Binding;
use crate::pubsub::broker::{Attachment, ack_id};
use crate::pubsub::consumer::{Delivery, Limits};
use crate::pubsub::fault::Faults;

const TOPICS: [&str; 2] = ["projects/p/topics/jobs", "projects/p/topics/dead"];
const SUBSCRIPTIONS: [&str; 3] = [
    "projects/p/subscriptions/plain",
    "projects/p/subscriptions/ordered",
    "projects/p/subscriptions/graves",
];
const SNAPSHOT: &str = "projects/p/snapshots/then";

/// Everything that a client can find out, but for leases and backoff.
#[derive(Debug, PartialEq)]
struct Seen {
    topics: BTreeMap<String, (proto::Topic, Vec<u64>)>,
    /// Messages that are not acknowledged, and how often each has failed.
    subscriptions: BTreeMap<String, (proto::Subscription, u64, BTreeMap<u64, u32>)>,
    snapshots: BTreeMap<String, (proto::Snapshot, u64, BTreeSet<u64>)>,
    access: BTreeMap<String, String>,
    next: (SubscriptionId, u64),
}

fn seen(broker: &Broker) -> Seen {
    let numbers = |messages: &[Arc<Message>]| messages.iter().map(|m| m.number()).collect();
    let topic = |topic: &Topic| (topic.resource.clone(), numbers(&topic.log));
    let attached = |attached: &Attached| {
        let name = attached.resource.name.clone();
        (name, (attached.resource.clone(), attached.since, attached.state.open_messages()))
    };
    let held = |held: &Held| {
        let numbers = held.unacknowledged.iter().map(|message| message.number()).collect();
        (held.resource.clone(), held.since, numbers)
    };
    Seen {
        topics: broker.topics.iter().map(|(name, t)| (name.clone(), topic(t))).collect(),
        subscriptions: broker.subscriptions.values().map(attached).collect(),
        snapshots: broker.snapshots.iter().map(|(name, h)| (name.clone(), held(h))).collect(),
        access: broker.access.iter().map(|(n, a)| (n.clone(), format!("{a:?}"))).collect(),
        next: (broker.next_subscription, broker.next_message),
    }
}

/// A broker and what its consumers hold.
struct Scene {
    broker: Broker,
    now: Instant,
    open: Vec<(Attachment, Vec<Delivery>)>,
}

impl Scene {
    fn new(data: &Data) -> Self {
        Self::at(data, SystemTime::UNIX_EPOCH)
    }

    fn at(data: &Data, wall: SystemTime) -> Self {
        let now = Instant::now();
        let mut broker = Broker::new(now, wall, Faults::default());
        broker.resume(data).expect("it can be read");
        Self { broker, now, open: Vec::new() }
    }

    /// One step; refusals are steps, too.
    fn step(&mut self, step: u8, choice: usize) {
        let now = self.now;
        let (topic, name) = (TOPICS[choice % 2].to_owned(), SUBSCRIPTIONS[choice % 3].to_owned());
        let broker = &mut self.broker;
        match step {
            0 => drop(broker.create_topic(proto::Topic { name: topic, ..Default::default() })),
            1 => drop(broker.delete_topic(&topic)),
            2 | 3 => {
                drop(broker.create_topic(proto::Topic {
                    name: TOPICS[1].to_owned(),
                    ..Default::default()
                }));
                let dead = proto::DeadLetterPolicy {
                    dead_letter_topic: TOPICS[1].to_owned(),
                    max_delivery_attempts: 5,
                };
                drop(broker.create_subscription(proto::Subscription {
                    topic: TOPICS[usize::from(name == SUBSCRIPTIONS[2])].to_owned(),
                    enable_message_ordering: name == SUBSCRIPTIONS[1],
                    dead_letter_policy: (name != SUBSCRIPTIONS[2]).then_some(dead),
                    retain_acked_messages: step == 3,
                    name,
                    ..Default::default()
                }));
            }
            4 => drop(broker.delete_subscription(&name)),
            5 => drop(broker.detach(&name, now)),
            6..=9 => {
                let message = proto::PubsubMessage {
                    data: vec![step; choice],
                    attributes: [("a".to_owned(), "b".to_owned())].into(),
                    ordering_key: ["", "k"][choice % 2].to_owned(),
                    ..Default::default()
                };
                drop(broker.publish(TOPICS[0], vec![message; 1 + choice % 3], now));
            }
            10 | 11 => {
                let limits = |settings: &settings::Settings| Limits {
                    messages: Some(1 + choice as u64),
                    bytes: None,
                    ack_deadline: settings.ack_deadline,
                };
                if let Ok(attachment) = broker.open(&name, limits, now) {
                    let taken = broker.take(attachment, 100, u64::MAX, now).unwrap_or_default();
                    self.open.push((attachment, taken));
                }
            }
            12..=14 => {
                for (attachment, taken) in self.open.iter().skip(choice % 2) {
                    let ids = taken.iter().skip(choice % 4).step_by(1 + choice % 2);
                    let ids: Vec<String> =
                        ids.map(|one| ack_id(attachment.subscription, one.id)).collect();
                    for name in SUBSCRIPTIONS {
                        // It refuses the IDs of others.
                        if step == 14 {
                            drop(broker.modify(name, &ids, Duration::ZERO, now));
                        } else {
                            drop(broker.acknowledge(name, &ids, now));
                        }
                    }
                }
            }
            15 => {
                self.now += Duration::from_secs(11);
                broker.advance(self.now);
            }
            16 => {
                let (name, subscription) = (SNAPSHOT.to_owned(), name);
                let labels = [("l".to_owned(), "v".to_owned())].into();
                let request = proto::CreateSnapshotRequest {
                    name,
                    subscription,
                    labels,
                    ..Default::default()
                };
                drop(broker.create_snapshot(request, now));
            }
            17 => drop(broker.delete_snapshot(SNAPSHOT)),
            18 => {
                let target = Some(proto::seek_request::Target::Snapshot(SNAPSHOT.to_owned()));
                drop(broker.seek(proto::SeekRequest { subscription: name, target }, now));
            }
            19 => {
                let time = proto::seek_request::Target::Time(broker.wall(now));
                drop(
                    broker.seek(proto::SeekRequest { subscription: name, target: Some(time) }, now),
                );
            }
            _ => drop(broker.bind(&name, [Binding::new("roles/viewer", [topic])])),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn everything_comes_back(
        steps in proptest::collection::vec((0_u8..=20, 0_usize..6), 1..120),
    ) {
        let folder = tempdir().unwrap();
        let data = Data::open(folder.path()).unwrap();
        let mut scene = Scene::new(&data);
        // So that most of what follows finds something.
        for (step, choice) in [(0, 0), (2, 0), (2, 1), (3, 2)].into_iter().chain(steps) {
            scene.step(step, choice);
            data.journal().append(scene.broker.take_changes());
        }
        drop(data);
        let again = Scene::new(&Data::open(folder.path()).unwrap());
        prop_assert_eq!(seen(&again.broker), seen(&scene.broker));
    }
}

/// A program that outlives the emulator holds ack IDs of before. They settle nothing: else an
/// acknowledgement that comes late would lose a message.
#[test]
fn ack_ids_of_before_are_not_given_out_again() {
    let folder = tempdir().unwrap();
    let data = Data::open(folder.path()).unwrap();
    let mut scene = Scene::new(&data);
    for (step, choice) in [(0, 0), (2, 0), (6, 0), (10, 0)] {
        scene.step(step, choice);
    }
    let (attachment, taken) = scene.open.pop().unwrap();
    let old = ack_id(attachment.subscription, taken[0].id);
    data.journal().append(scene.broker.take_changes());
    drop(data);

    let data = Data::open(folder.path()).unwrap();
    let mut scene = Scene::new(&data);
    scene.step(10, 0);
    let (_, taken) = scene.open.pop().unwrap();
    assert_eq!(taken[0].attempt, Some(1), "nobody is blamed for the end of the process");
    let now = scene.now;
    scene.broker.acknowledge(SUBSCRIPTIONS[0], &[old], now).unwrap();
    assert_eq!(seen(&scene.broker).subscriptions[SUBSCRIPTIONS[0]].2.len(), 1);
}

/// What nobody has read for a week is gone, as in production, and so is its record.
#[test]
fn messages_are_taken_over_as_long_as_their_subscription_retains_them() {
    let folder = tempdir().unwrap();
    let data = Data::open(folder.path()).unwrap();
    let mut scene = Scene::new(&data);
    for (step, choice) in [(0, 0), (2, 0), (6, 0)] {
        scene.step(step, choice);
    }
    data.journal().append(scene.broker.take_changes());
    drop(data);
    let week = Duration::from_hours(7 * 24);
    for (age, left) in [(week, 1), (week + Duration::from_secs(60), 0), (Duration::ZERO, 0)] {
        let data = Data::open(folder.path()).unwrap();
        let mut scene = Scene::at(&data, SystemTime::UNIX_EPOCH + age);
        assert_eq!(seen(&scene.broker).subscriptions[SUBSCRIPTIONS[0]].2.len(), left, "{age:?}");
        data.journal().append(scene.broker.take_changes());
    }
}

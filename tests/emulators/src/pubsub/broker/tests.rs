//! Topics, subscriptions and what passes between them, in virtual time.

use super::*;

const TOPIC: &str = "projects/p/topics/jobs";
const DEAD_TOPIC: &str = "projects/p/topics/dead";
const WORKERS: &str = "projects/p/subscriptions/workers";
const GRAVES: &str = "projects/p/subscriptions/graves";

fn start() -> Instant {
    Instant::now()
}

fn broker(now: Instant) -> Broker {
    let mut broker = Broker::new(now, SystemTime::UNIX_EPOCH, Faults::default());
    create_topic(&mut broker, TOPIC).expect("a new topic");
    broker
}

fn create_topic(broker: &mut Broker, name: &str) -> Result<proto::Topic, Error> {
    broker.create_topic(proto::Topic { name: name.to_owned(), ..proto::Topic::default() })
}

fn subscription(name: &str, topic: &str) -> proto::Subscription {
    proto::Subscription {
        name: name.to_owned(),
        topic: topic.to_owned(),
        ..proto::Subscription::default()
    }
}

fn subscribe(broker: &mut Broker, name: &str) {
    broker.create_subscription(subscription(name, TOPIC)).expect("a new subscription");
}

fn publish(broker: &mut Broker, text: &str, now: Instant) -> Result<Vec<String>, Error> {
    let message = proto::PubsubMessage { data: text.into(), ..proto::PubsubMessage::default() };
    broker.publish(TOPIC, vec![message], now)
}

fn open(broker: &mut Broker, subscription: &str, now: Instant) -> Attachment {
    let limits = |settings: &Settings| Limits {
        messages: None,
        bytes: None,
        ack_deadline: settings.ack_deadline,
    };
    broker.open(subscription, limits, now).expect("it exists")
}

fn take(broker: &mut Broker, attachment: Attachment, now: Instant) -> Vec<Delivery> {
    let taken = broker.take(attachment, usize::MAX, u64::MAX, now);
    taken.expect("the subscription exists")
}

fn ids(attachment: Attachment, deliveries: &[Delivery]) -> Vec<String> {
    let id = |delivery: &Delivery| ack_id(attachment.subscription, delivery.id);
    deliveries.iter().map(id).collect()
}

#[test]
fn every_subscription_gets_the_message() {
    let now = start();
    let mut broker = broker(now);
    subscribe(&mut broker, WORKERS);
    subscribe(&mut broker, GRAVES);
    let later = now + Duration::from_millis(1_500);
    assert_eq!(publish(&mut broker, "x", later), Ok(vec!["1".to_owned()]));
    for name in [WORKERS, GRAVES] {
        let attachment = open(&mut broker, name, later);
        let got = take(&mut broker, attachment, later);
        let content = &got[0].message.content;
        assert_eq!(content.message_id, "1");
        let time = content.publish_time.expect("set");
        assert_eq!((time.seconds, time.nanos), (1, 500_000_000));
    }
    assert_eq!(broker.stats().published, 1);
    assert_eq!(broker.stats().deliveries, 2);
}

#[test]
fn a_consumer_is_woken_by_a_message_and_by_the_end() {
    let now = start();
    let mut broker = broker(now);
    subscribe(&mut broker, WORKERS);
    let attachment = open(&mut broker, WORKERS, now);
    assert!(broker.take_woken().is_empty());
    publish(&mut broker, "x", now).expect("published");
    publish(&mut broker, "y", now).expect("published");
    assert_eq!(broker.take_woken(), [attachment], "once for both");
    broker.delete_subscription(WORKERS).expect("deleted");
    assert_eq!(broker.take_woken(), [attachment]);
    assert!(broker.take(attachment, 1, 1, now).is_none());
    assert_eq!(broker.next_wakeup(), None);
}

#[test]
fn deadlines_are_kept_for_all_subscriptions() {
    let now = start();
    let mut broker = broker(now);
    subscribe(&mut broker, WORKERS);
    let slow = proto::Subscription { ack_deadline_seconds: 30, ..subscription(GRAVES, TOPIC) };
    broker.create_subscription(slow).expect("created");
    let (workers, graves) = (open(&mut broker, WORKERS, now), open(&mut broker, GRAVES, now));
    publish(&mut broker, "x", now).expect("published");
    let seconds = |seconds| now + Duration::from_secs(seconds);
    assert_eq!(take(&mut broker, workers, now).len(), 1);
    assert_eq!(take(&mut broker, graves, now).len(), 1);
    assert_eq!(broker.next_wakeup(), Some(seconds(10)));
    broker.advance(seconds(10));
    assert_eq!(take(&mut broker, workers, seconds(10)).len(), 1);
    assert_eq!(broker.next_wakeup(), Some(seconds(20)));
    broker.advance(seconds(30));
    assert_eq!(take(&mut broker, graves, seconds(30)).len(), 1);
    assert_eq!(broker.stats().expired, 3);
}

#[test]
fn a_message_given_up_arrives_at_the_dead_letter_topic() {
    let now = start();
    let mut broker = broker(now);
    let with_policy = proto::Subscription {
        dead_letter_policy: Some(proto::DeadLetterPolicy {
            dead_letter_topic: DEAD_TOPIC.to_owned(),
            max_delivery_attempts: 5,
        }),
        ..subscription(WORKERS, TOPIC)
    };
    assert_eq!(
        broker.create_subscription(with_policy.clone()),
        Err(Error::NotFound(DEAD_TOPIC.to_owned()))
    );
    create_topic(&mut broker, DEAD_TOPIC).expect("created");
    broker.create_subscription(with_policy).expect("created");
    broker.create_subscription(subscription(GRAVES, DEAD_TOPIC)).expect("created");

    publish(&mut broker, "x", now).expect("published");
    let workers = open(&mut broker, WORKERS, now);
    for attempt in 1..=5 {
        let got = take(&mut broker, workers, now);
        assert_eq!(got[0].attempt, Some(attempt));
        let ids = ids(workers, &got);
        broker.modify(WORKERS, &ids, Duration::ZERO, now).expect("given back");
    }
    assert!(take(&mut broker, workers, now).is_empty());

    let graves = open(&mut broker, GRAVES, now);
    let got = take(&mut broker, graves, now);
    let content = &got[0].message.content;
    assert_eq!(content.data, b"x");
    assert_eq!(content.message_id, "2");
    for (attribute, value) in [
        ("CloudPubSubDeadLetterSourceSubscription", "workers"),
        ("CloudPubSubDeadLetterSourceSubscriptionProject", "p"),
        ("CloudPubSubDeadLetterSourceDeliveryCount", "5"),
        ("CloudPubSubDeadLetterSourceTopicPublishTime", "1970-01-01T00:00:00Z"),
    ] {
        let found = content.attributes.get(attribute).map(String::as_str);
        assert_eq!(found, Some(value), "{attribute}");
    }
    let stats = broker.subscription_stats(WORKERS).expect("exists");
    assert_eq!((stats.dead_lettered, stats.backlog), (1, 0));
    assert_eq!(broker.stats().published, 1, "forwarding is not publishing");
}

#[test]
fn nothing_is_given_up_while_the_dead_letter_topic_is_missing() {
    let now = start();
    let mut broker = broker(now);
    create_topic(&mut broker, DEAD_TOPIC).expect("created");
    let with_policy = proto::Subscription {
        dead_letter_policy: Some(proto::DeadLetterPolicy {
            dead_letter_topic: DEAD_TOPIC.to_owned(),
            max_delivery_attempts: 5,
        }),
        ..subscription(WORKERS, TOPIC)
    };
    broker.create_subscription(with_policy).expect("created");
    broker.delete_topic(DEAD_TOPIC).expect("deleted");
    publish(&mut broker, "x", now).expect("published");
    let workers = open(&mut broker, WORKERS, now);
    let fail = |broker: &mut Broker| {
        let got = take(broker, workers, now);
        let ids = ids(workers, &got);
        broker.modify(WORKERS, &ids, Duration::ZERO, now).expect("given back");
    };
    for _ in 0..6 {
        fail(&mut broker);
    }
    assert_eq!(broker.stats().dead_lettered, 0);
    create_topic(&mut broker, DEAD_TOPIC).expect("created");
    fail(&mut broker);
    assert_eq!(broker.stats().dead_lettered, 1);
}

#[test]
fn ack_ids_of_others_and_malformed_ones_change_nothing() {
    let now = start();
    let mut broker = broker(now);
    subscribe(&mut broker, WORKERS);
    subscribe(&mut broker, GRAVES);
    publish(&mut broker, "x", now).expect("published");
    let workers = open(&mut broker, WORKERS, now);
    let got = take(&mut broker, workers, now);
    let good = ids(workers, &got).remove(0);
    for bad in ["", "x", "1-", "-1", "1-x"] {
        let mixed = [good.clone(), bad.to_owned()];
        assert!(
            matches!(broker.acknowledge(WORKERS, &mixed, now), Err(Error::Invalid(_))),
            "{bad:?}"
        );
    }
    assert!(broker.acknowledge(GRAVES, std::slice::from_ref(&good), now).is_err());
    assert!(broker.acknowledge(WORKERS, &[], now).is_err());
    assert_eq!(broker.stats().acknowledged, 0);
    for _ in 0..2 {
        let settlement = broker.acknowledge(WORKERS, std::slice::from_ref(&good), now);
        assert!(settlement.is_ok_and(|settlement| settlement.is_empty()), "nobody is told");
    }
    assert_eq!(broker.stats().acknowledged, 1, "the second was ignored");
}

#[test]
fn names_are_taken_and_found() {
    let now = start();
    let mut broker = broker(now);
    subscribe(&mut broker, WORKERS);
    assert_eq!(create_topic(&mut broker, TOPIC), Err(Error::AlreadyExists(TOPIC.to_owned())));
    assert_eq!(
        broker.create_subscription(subscription(WORKERS, TOPIC)),
        Err(Error::AlreadyExists(WORKERS.to_owned()))
    );
    assert_eq!(
        broker.create_subscription(subscription(GRAVES, DEAD_TOPIC)),
        Err(Error::NotFound(DEAD_TOPIC.to_owned()))
    );
    assert_eq!(broker.topic(DEAD_TOPIC), Err(Error::NotFound(DEAD_TOPIC.to_owned())));
    assert!(matches!(broker.topic("jobs"), Err(Error::Invalid(_))));
    assert!(broker.topic_subscriptions(TOPIC, "").is_ok_and(|names| names.contains(WORKERS)));
}

#[test]
fn lists_keep_to_their_project_and_go_on_after_a_name() {
    let mut broker = broker(start());
    for name in ["projects/p/topics/alpha", "projects/q/topics/jobs"] {
        create_topic(&mut broker, name).expect("created");
    }
    let list = |project, after| {
        let topics = broker.topics(project, after).expect("a project");
        topics.map(|topic| topic.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(list("projects/p", ""), ["projects/p/topics/alpha", TOPIC]);
    assert_eq!(list("projects/p", "projects/p/topics/alpha"), [TOPIC]);
    assert_eq!(list("projects/q", ""), ["projects/q/topics/jobs"]);
    assert!(list("projects/p", TOPIC).is_empty());
    assert!(broker.topics("p", "").is_err());
}

#[test]
fn a_subscription_outlives_its_topic() {
    let now = start();
    let mut broker = broker(now);
    subscribe(&mut broker, WORKERS);
    publish(&mut broker, "x", now).expect("published");
    broker.delete_topic(TOPIC).expect("deleted");
    let resource = broker.subscription(WORKERS).expect("exists");
    assert_eq!(resource.topic, "_deleted-topic_");
    assert!(publish(&mut broker, "y", now).is_err());
    let workers = open(&mut broker, WORKERS, now);
    assert_eq!(take(&mut broker, workers, now).len(), 1);
}

#[test]
fn an_update_works_from_the_next_failure_on() {
    let now = start();
    let mut broker = broker(now);
    subscribe(&mut broker, WORKERS);
    publish(&mut broker, "x", now).expect("published");
    let workers = open(&mut broker, WORKERS, now);
    let got = take(&mut broker, workers, now);
    let update = proto::UpdateSubscriptionRequest {
        subscription: Some(proto::Subscription {
            retry_policy: Some(proto::RetryPolicy::default()),
            ..subscription(WORKERS, "")
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["retry_policy".to_owned()] }),
    };
    let updated = broker.update_subscription(update).expect("updated");
    assert_eq!(updated.topic, TOPIC);
    let given_back = ids(workers, &got);
    broker.modify(WORKERS, &given_back, Duration::ZERO, now).expect("given back");
    assert!(take(&mut broker, workers, now).is_empty());
    assert_eq!(broker.next_wakeup(), Some(now + Duration::from_secs(10)));
}

#[test]
fn a_snapshot_of_another_subscription_brings_only_what_the_filter_takes() {
    let now = start();
    let mut broker = broker(now);
    subscribe(&mut broker, WORKERS);
    let filtered =
        proto::Subscription { filter: "attributes:kind".to_owned(), ..subscription(GRAVES, TOPIC) };
    broker.create_subscription(filtered).expect("a new subscription");
    publish(&mut broker, "x", now).expect("published");
    let kind = ("kind".to_owned(), "note".to_owned());
    let note =
        proto::PubsubMessage { attributes: [kind].into(), ..proto::PubsubMessage::default() };
    broker.publish(TOPIC, vec![note], now).expect("published");
    let name = "projects/p/snapshots/before".to_owned();
    let request = proto::CreateSnapshotRequest {
        name: name.clone(),
        subscription: WORKERS.to_owned(),
        ..proto::CreateSnapshotRequest::default()
    };
    broker.create_snapshot(request, now).expect("made");
    let seek = proto::SeekRequest {
        subscription: GRAVES.to_owned(),
        target: Some(proto::seek_request::Target::Snapshot(name)),
    };
    broker.seek(seek, now).expect("both are of one topic");
    let graves = open(&mut broker, GRAVES, now);
    let taken = take(&mut broker, graves, now);
    let ids: Vec<&str> =
        taken.iter().map(|delivery| delivery.message.content.message_id.as_str()).collect();
    assert_eq!(ids, ["2"]);
}

#[test]
fn the_counts_of_a_deleted_subscription_stay_in_the_total() {
    let now = start();
    let mut broker = broker(now);
    subscribe(&mut broker, WORKERS);
    publish(&mut broker, "x", now).expect("published");
    let workers = open(&mut broker, WORKERS, now);
    take(&mut broker, workers, now);
    broker.delete_subscription(WORKERS).expect("deleted");
    assert_eq!(broker.subscription_stats(WORKERS), None);
    let stats = broker.stats();
    assert_eq!((stats.deliveries, stats.backlog), (1, 0));
    subscribe(&mut broker, WORKERS);
    let new = open(&mut broker, WORKERS, now);
    assert_ne!(new.subscription, workers.subscription);
}

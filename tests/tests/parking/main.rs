//! Parked jobs and logins that come at the worst moment, over an in-memory bucket
//! and in virtual time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod claims;
mod logins;
mod sweeps;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::SignedDuration;
use serde_json::json;
use shared::adapters::RetryingBucket;
use shared::ports::{Bucket, BucketError, Clock as _, Generation, Randomness};
use shared::{ConsentReason, Grant, TokenStore, UserId};
use tests::memory::{AtGate, Fleet, GatedBucket, VirtualClock};
use tokio_util::sync::CancellationToken;
use worker::claim::Sighting;
use worker::job::{Job, Received};
use worker::parking::{Claim, Claimed, Parked, Parking, Renewed, prefix_of};
use worker::pubsub::{Outgoing, PublishError, Topic as JobTopic};
use worker::resuming::resume_user;
use worker::sweep::{Memory, Sweep, Swept};

use claims::left;
use logins::{Before, once_per_second};
use sweeps::{names, sweep};

/// A topic that remembers what it was given, and refuses from a message on.
#[derive(Debug, Default)]
struct Topic {
    messages: Mutex<Vec<String>>,
    refuses: Mutex<Option<String>>,
}

impl Topic {
    fn jobs(&self) -> Vec<String> {
        self.messages.lock().unwrap().clone()
    }
}

impl JobTopic for Topic {
    fn name(&self) -> &'static str {
        "t"
    }

    fn publish(&self, message: Outgoing) -> BoxFuture<'static, Result<String, PublishError>> {
        let job: serde_json::Value = serde_json::from_slice(&message.data).unwrap();
        let id = job["id"].as_str().unwrap().to_owned();
        // As Pub/Sub's client does, which pauses the key of a message that failed.
        let refuses = self.refuses.lock().unwrap();
        if refuses.as_ref().is_some_and(|first| id[..3] == first[..3] && id >= *first) {
            let why = "refused for the test".to_owned();
            let topic = "t".to_owned();
            return async { Err(PublishError::Unavailable { topic, why, source: None }) }.boxed();
        }
        self.messages.lock().unwrap().push(id.clone());
        async { Ok(id) }.boxed()
    }
}

fn received(user: &str, id: &str, second: i64) -> Received {
    Received {
        data: json!({"id": id, "user": user, "kind": "profile"}).to_string().into(),
        attributes: HashMap::new(),
        ordering_key: user.to_owned(),
        message_id: format!("m-{id}"),
        publish_time: Some(jiff::Timestamp::from_second(second).unwrap()),
        delivery_attempt: None,
    }
}

fn unknown() -> ConsentReason {
    ConsentReason::Unknown
}

/// As the store hands it out, which tries again.
fn bucket(fleet: &Fleet) -> Arc<dyn Bucket> {
    retrying(Arc::<tests::memory::FaultyBucket>::clone(&fleet.bucket))
}

fn retrying(inner: Arc<dyn Bucket>) -> Arc<RetryingBucket> {
    let pauses = (Duration::from_millis(100), Duration::from_secs(5));
    let (clock, random) = (Arc::new(clock()), Arc::new(Randomness::seeded(1)));
    Arc::new(RetryingBucket::new(inner, clock, random, pauses, Duration::from_secs(45)))
}

fn clock() -> VirtualClock {
    VirtualClock::new(SignedDuration::ZERO)
}

fn ann() -> UserId {
    UserId::new("ann").unwrap()
}

async fn log_in(store: &TokenStore, grant: Grant) {
    let scopes = vec!["more".to_owned(), "openid".to_owned()];
    store.set_credentials(&ann(), Grant { scopes, ..grant }).await.unwrap();
}

async fn park(fleet: &Fleet, user: &str, id: &str, second: i64) {
    let store = fleet.replica("worker");
    let received = received(user, id, second);
    let job = Job::of(&received).unwrap();
    let parking = Parking::new(bucket(fleet), store);
    let parked = parking.park(&job, &received, &unknown(), clock().wall()).await.unwrap();
    assert_eq!(parked, Parked::Stored { moved: false });
}

/// What somebody has put under a user's prefix does not act as that user, nor as another.
#[tokio::test(start_paused = true)]
async fn a_job_of_another_user_is_left_where_it_is() {
    let fleet = Fleet::new(false);
    park(&fleet, "ann", "ann-00", 1).await;
    let stored = left(&fleet).await.remove(0);
    let foreign = fleet.bucket.get(&stored).await.unwrap().unwrap().content;
    let planted = "parked/zoe/00000000000000000000-ann-00.json";
    fleet.bucket.put(planted, foreign, Generation::ABSENT).await.unwrap();
    park(&fleet, "zoe", "zoe-00", 1).await;
    fleet.user("zoe").await;
    let topic = Arc::new(Topic::default());
    let stop = CancellationToken::new();
    let swept = sweep(&fleet, "a", &topic).sweep(&mut Memory::default(), &stop).await.unwrap();
    assert_eq!(swept, Swept { resumed: 1, jobs: 2, users: 2, ..Swept::default() });
    assert_eq!(topic.jobs(), ["zoe-00"], "ann has not consented");
    assert_eq!(left(&fleet).await, [stored, planted.to_owned()]);
}

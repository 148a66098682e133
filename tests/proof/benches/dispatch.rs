//! One job through a whole replica, from the message to its acknowledgement, beside the
//! least that does nothing safely: a task for each message that waits for a semaphore.
//!
//! Messages come from memory, tokens are at hand, and the handler does nothing: what is
//! left is decoding, the user's turn, the credential, the slot, the outcome and the
//! bookkeeping. Nobody listens to logs and traces. One thread, so that it repeats.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench fails by panicking")]

#[path = "../../../shared/benches/measuring/mod.rs"]
mod measuring;
#[path = "../../../shared/benches/measuring/no_endpoint.rs"]
mod no_endpoint;
#[path = "../../../shared/benches/measuring/wall_only.rs"]
mod wall_only;

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use futures_util::task::AtomicWaker;
use shared::adapters::MemoryBucket;
use shared::ports::{Bucket, Clock as _, Randomness};
use shared::{Grant, TokenStore, UserId};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, Semaphore};
use worker::job::Received;
use worker::pubsub::{Delivery, IntakeError, Settle, Source, Window};
use worker::replica::Stop;
use worker::{Job, Session, Verdict, Worker};

use measuring::Measured;
use no_endpoint::NoEndpoint;
use wall_only::WallOnly;

const USERS: usize = 100;
const CONCURRENCY: usize = 64;
const OUTSTANDING: u64 = 256;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// So many messages, then none.
#[derive(Debug, Clone)]
struct Messages {
    data: Arc<[Bytes]>,
    left: u64,
    held: Arc<Held>,
}

/// How many messages are with the consumer and how many were acknowledged.
#[derive(Debug, Default)]
struct Held {
    now: AtomicU64,
    acknowledged: AtomicU64,
    /// Waits until fewer are held.
    intake: AtomicWaker,
    /// Waits for the last one.
    changed: Notify,
}

impl Held {
    fn is_full(&self) -> bool {
        self.now.load(Ordering::Relaxed) >= OUTSTANDING
    }
}

impl Messages {
    fn new(count: u64) -> Self {
        let one = |user: usize| {
            let job = format!(r#"{{"id":"j","user":"{}","kind":"nothing"}}"#, user_id(user));
            Bytes::from(job)
        };
        Self { data: (0..USERS).map(one).collect(), left: count, held: Arc::default() }
    }

    /// The next message, once fewer than the bound are held; none after the last.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Delivery> {
        if self.left == 0 || self.held.is_full() {
            self.held.intake.register(cx.waker());
            if self.left == 0 || self.held.is_full() {
                return Poll::Pending;
            }
        }
        self.left -= 1;
        self.held.now.fetch_add(1, Ordering::Relaxed);
        let at = usize::try_from(self.left).unwrap() % USERS;
        Poll::Ready(Delivery {
            received: Arc::new(Received {
                data: self.data[at].clone(),
                attributes: HashMap::new(),
                ordering_key: String::new(),
                message_id: "m".to_owned(),
                publish_time: None,
                delivery_attempt: None,
            }),
            settle: Box::new(Unsettled(Arc::clone(&self.held))),
        })
    }

    /// Waits for so many acknowledgements.
    async fn acknowledged(&self, count: u64) {
        while self.held.acknowledged.load(Ordering::Relaxed) < count {
            self.held.changed.notified().await;
        }
    }
}

impl Source for Messages {
    fn next(&mut self) -> BoxFuture<'_, Result<Delivery, IntakeError>> {
        poll_fn(|cx| self.poll_take(cx).map(Ok)).boxed()
    }

    fn pause(&mut self) -> BoxFuture<'_, Vec<Delivery>> {
        ready(Vec::new()).boxed()
    }

    fn set_window(&mut self, _: Window) {}

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}

#[derive(Debug)]
struct Unsettled(Arc<Held>);

impl Settle for Unsettled {
    fn ack(self: Box<Self>) -> BoxFuture<'static, bool> {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
        self.0.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.0.intake.wake();
        self.0.changed.notify_one();
        ready(true).boxed()
    }

    fn nack(self: Box<Self>) {
        panic!("nothing goes back")
    }
}

fn user_id(number: usize) -> UserId {
    UserId::new(format!("1097{number:017}")).unwrap()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn store(bucket: Arc<dyn Bucket>) -> TokenStore {
    let store = TokenStore::builder(bucket, Arc::new(NoEndpoint))
        .clock(Arc::new(WallOnly::default()))
        .randomness(Arc::new(Randomness::seeded(7)))
        .build()
        .unwrap();
    let expires_at = WallOnly::default().wall() + jiff::SignedDuration::try_from(DAY).unwrap();
    for user in 0..USERS {
        let grant = Grant {
            refresh_token: Some("fake-refresh".into()),
            access_token: Some("fake-access".into()),
            expires_at: Some(expires_at),
            expires_in: Some(DAY),
            ..Grant::default()
        };
        store.set_credentials(&user_id(user), grant).await.unwrap();
    }
    store
}

fn nothing<'a>(_: &'a Job, _: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
    async { Verdict::done(serde_json::Value::Null) }.boxed()
}

/// A replica does so many jobs and ends.
async fn replica(store: TokenStore, bucket: Arc<dyn Bucket>, count: u64) {
    let messages = Messages::new(count);
    let worker = Worker::builder()
        .store(store)
        .bucket(bucket)
        .source(messages.clone())
        .handler("nothing", nothing)
        .clock(Arc::new(WallOnly::default()))
        .randomness(Arc::new(Randomness::seeded(7)))
        .concurrency(CONCURRENCY)
        .build()
        .unwrap();
    let stop = Stop::default();
    let (ended, ()) = tokio::join!(worker.run(stop.clone()), async {
        messages.acknowledged(count).await;
        stop.drain.cancel();
    });
    ended.unwrap();
}

/// So many tasks that wait for a slot and acknowledge.
async fn tasks(count: u64) {
    let mut messages = Messages::new(count);
    let slots = Arc::new(Semaphore::new(CONCURRENCY));
    for _ in 0..count {
        let delivery = poll_fn(|cx| messages.poll_take(cx)).await;
        let slots = Arc::clone(&slots);
        tokio::spawn(async move {
            let _slot = slots.acquire().await.unwrap();
            assert!(delivery.settle.ack().await);
        });
    }
    messages.acknowledged(count).await;
}

fn main() {
    let bucket: Arc<dyn Bucket> = Arc::new(MemoryBucket::default());
    let setting_up = runtime();
    let store = setting_up.block_on(store(Arc::clone(&bucket)));
    measuring::run(
        "dispatch",
        &[
            // A replica shuts its store down at its end; tokens at hand are still handed out.
            Measured::many("job", move |count| {
                runtime().block_on(replica(store.clone(), Arc::clone(&bucket), count));
            }),
            Measured::many("job: tokio::spawn + semaphore", |count| {
                runtime().block_on(tasks(count));
            }),
        ],
    );
}

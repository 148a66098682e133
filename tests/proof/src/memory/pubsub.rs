//! A subscription in memory and virtual time: at-least-once, ordered by
//! key, with retry policy and dead letter, as Pub/Sub documents them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{self, BoxFuture};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use shared::ports::Clock as _;
use tokio::sync::Notify;
use worker::job::Received;
use worker::pubsub::{
    Delivery, IntakeError, Outgoing, PublishError, Settings, Settle, Source, Topic, Unseen, Window,
};

use super::VirtualClock;

/// How a [`Queue`] behaves.
#[derive(Debug, Clone, Copy)]
pub struct QueueSettings {
    /// The pause before a message that was given back comes again; doubles with
    /// each delivery up to the second.
    pub backoff: (Duration, Duration),
    /// After so many deliveries a message is dead-lettered.
    pub max_attempts: i32,
    /// How many messages one consumer may hold.
    pub max_outstanding: usize,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            backoff: (Duration::from_secs(10), Duration::from_secs(600)),
            max_attempts: 100,
            max_outstanding: 256,
        }
    }
}

/// A subscription. Clones share it.
#[derive(Debug, Clone)]
pub struct Queue {
    settings: QueueSettings,
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    published: u64,
    /// By the order of publishing.
    ready: BTreeMap<u64, Message>,
    /// Keys of which a message waits for its back-off: its successors wait too.
    blocked: HashMap<String, BTreeSet<u64>>,
    delayed: usize,
    /// Messages that consumers hold.
    held: BTreeMap<u64, Message>,
    outstanding: usize,
    acknowledged: u64,
    deliveries: u64,
    dead: Vec<Message>,
}

#[derive(Debug, Clone)]
struct Message {
    outgoing: Outgoing,
    attempts: i32,
    published: Timestamp,
}

impl Queue {
    /// An empty subscription.
    pub fn new(settings: QueueSettings) -> Self {
        Self { settings, inner: Arc::default() }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.inner.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Publishes a job under an ordering key, or none.
    pub fn publish(&self, job: &Value, ordering_key: &str) {
        self.publish_raw(job.to_string().into_bytes(), ordering_key);
    }

    /// Publishes any data.
    pub fn publish_raw(&self, data: Vec<u8>, ordering_key: &str) {
        let ordering_key = ordering_key.to_owned();
        let outgoing = Outgoing { data: data.into(), attributes: HashMap::new(), ordering_key };
        self.put(outgoing);
    }

    fn put(&self, outgoing: Outgoing) -> u64 {
        let id = self.with(|s| {
            s.published += 1;
            let published = VirtualClock::new(SignedDuration::ZERO).wall();
            s.ready.insert(s.published, Message { outgoing, attempts: 0, published });
            s.published
        });
        self.inner.changed.notify_waiters();
        id
    }

    /// Delivers every message that is held once more, as at-least-once delivery allows.
    pub fn deliver_again(&self) {
        self.with(|s| {
            let held: Vec<_> = s.held.iter().map(|(id, m)| (*id, m.clone())).collect();
            s.ready.extend(held);
        });
        self.inner.changed.notify_waiters();
    }

    /// A consumer of it.
    pub fn consumer(&self) -> Consumer {
        Consumer { queue: self.clone(), mine: Arc::default(), window: Window::Full }
    }

    /// Messages that are neither acknowledged nor dead-lettered.
    pub fn backlog(&self) -> usize {
        self.with(|s| s.ready.len() + s.delayed + s.outstanding)
    }

    /// Messages that consumers hold.
    pub fn outstanding(&self) -> usize {
        self.with(|s| s.outstanding)
    }

    /// Messages that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.with(|s| s.acknowledged)
    }

    /// Deliveries so far.
    pub fn deliveries(&self) -> u64 {
        self.with(|s| s.deliveries)
    }

    /// How many messages ran out of deliveries.
    pub fn dead_lettered(&self) -> usize {
        self.with(|s| s.dead.len())
    }

    /// Waits until nothing is left.
    pub async fn drained(&self) {
        loop {
            let changed = self.inner.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.backlog() == 0 {
                return;
            }
            changed.await;
        }
    }

    fn take(&self) -> Option<(u64, Message)> {
        self.with(|s| {
            let State { ready, blocked, .. } = &*s;
            let free = |(id, message): &(&u64, &Message)| {
                let key = &message.outgoing.ordering_key;
                blocked.get(key).and_then(BTreeSet::first).is_none_or(|first| first >= id)
            };
            let id = *ready.iter().find(free)?.0;
            let mut message = s.ready.remove(&id)?;
            message.attempts += 1;
            s.outstanding += 1;
            s.deliveries += 1;
            s.held.insert(id, message.clone());
            Some((id, message))
        })
    }

    fn give_back(&self, id: u64, message: Message) {
        let key = message.outgoing.ordering_key.clone();
        let dead = message.attempts >= self.settings.max_attempts;
        let (least, most) = self.settings.backoff;
        let doublings = u32::try_from(message.attempts - 1).unwrap_or(0).min(16);
        let pause = least.saturating_mul(1 << doublings).min(most);
        self.with(|s| {
            s.outstanding -= 1;
            s.held.remove(&id);
            if dead {
                s.dead.push(message.clone());
            } else {
                s.delayed += 1;
                if !key.is_empty() {
                    s.blocked.entry(key.clone()).or_default().insert(id);
                }
            }
        });
        self.inner.changed.notify_waiters();
        if dead {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            VirtualClock::new(SignedDuration::ZERO).pass(pause).await;
            this.with(|s| {
                s.delayed -= 1;
                s.ready.insert(id, message);
                if let Some(waiting) = s.blocked.get_mut(&key) {
                    waiting.remove(&id);
                    if waiting.is_empty() {
                        s.blocked.remove(&key);
                    }
                }
            });
            this.inner.changed.notify_waiters();
        });
    }

    fn acknowledge(&self, id: u64) {
        self.with(|s| {
            s.outstanding -= 1;
            s.held.remove(&id);
            s.acknowledged += 1;
        });
        self.inner.changed.notify_waiters();
    }
}

impl Topic for Queue {
    fn name(&self) -> &'static str {
        "jobs"
    }

    fn publish(&self, message: Outgoing) -> BoxFuture<'static, Result<String, PublishError>> {
        let id = self.put(message).to_string();
        async move { Ok(id) }.boxed()
    }
}

/// One consumer of a [`Queue`].
pub struct Consumer {
    queue: Queue,
    /// How many messages it holds.
    mine: Arc<Mutex<usize>>,
    window: Window,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("mine", &self.mine).finish_non_exhaustive()
    }
}

fn count(mine: &Mutex<usize>) -> std::sync::MutexGuard<'_, usize> {
    mine.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source for Consumer {
    fn next(&mut self) -> BoxFuture<'_, Result<Delivery, IntakeError>> {
        async {
            let most = match self.window {
                Window::Full => self.queue.settings.max_outstanding,
                Window::One => 1,
            };
            Ok(receive(&self.queue, &self.mine, most).await)
        }
        .boxed()
    }

    /// Nothing is fetched ahead.
    fn pause(&mut self) -> BoxFuture<'_, Vec<Delivery>> {
        future::ready(Vec::new()).boxed()
    }

    fn set_window(&mut self, window: Window) {
        self.window = window;
    }

    fn settings(&self) -> BoxFuture<'_, Result<Option<Settings>, Unseen>> {
        let QueueSettings { backoff, max_attempts, .. } = self.queue.settings;
        let settings = Settings {
            topic: "jobs".to_owned(),
            pulled: true,
            ack_deadline: Duration::from_secs(60),
            ordering: true,
            exactly_once: false,
            expires_after: None,
            filter: None,
            retry: (!backoff.1.is_zero()).then_some(backoff),
            dead_letter: Some(("dead".to_owned(), max_attempts)),
            retention: Duration::from_secs(7 * 24 * 60 * 60),
            detached: false,
        };
        future::ready(Ok(Some(settings))).boxed()
    }

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move {
            loop {
                let changed = self.queue.inner.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if *count(&self.mine) == 0 {
                    return;
                }
                changed.await;
            }
        }
        .boxed()
    }
}

/// A message that a consumer holds; dropped, it goes back.
#[derive(Debug)]
struct Held {
    queue: Queue,
    mine: Arc<Mutex<usize>>,
    message: Option<(u64, Message)>,
}

/// The next message of a consumer that may hold `most` and holds `mine` so far.
async fn receive(queue: &Queue, mine: &Arc<Mutex<usize>>, most: usize) -> Delivery {
    loop {
        let changed = queue.inner.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let room = *count(mine) < most;
        if let Some((id, message)) = room.then(|| queue.take()).flatten() {
            *count(mine) += 1;
            return Held::delivery(queue.clone(), Arc::clone(mine), id, message);
        }
        changed.await;
    }
}

impl Held {
    fn delivery(queue: Queue, mine: Arc<Mutex<usize>>, id: u64, message: Message) -> Delivery {
        Delivery {
            received: Arc::new(Received {
                data: message.outgoing.data.clone(),
                attributes: message.outgoing.attributes.clone(),
                ordering_key: message.outgoing.ordering_key.clone(),
                message_id: id.to_string(),
                publish_time: Some(message.published),
                delivery_attempt: Some(message.attempts),
            }),
            settle: Box::new(Self { queue, mine, message: Some((id, message)) }),
        }
    }
}

impl Settle for Held {
    fn ack(mut self: Box<Self>) -> BoxFuture<'static, bool> {
        if let Some((id, _)) = self.message.take() {
            *count(&self.mine) -= 1;
            self.queue.acknowledge(id);
        }
        future::ready(true).boxed()
    }

    fn nack(self: Box<Self>) {}
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((id, message)) = self.message.take() {
            *count(&self.mine) -= 1;
            self.queue.give_back(id, message);
        }
    }
}

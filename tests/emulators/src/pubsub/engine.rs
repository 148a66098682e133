//! Drives the broker: the lock, the clock, the timer and the signals.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::broker::{Attachment, Broker, Pushes};
use super::consumer::{Delivery, Limits};
use super::error::Error;
use super::fault::{self, Faults};
use super::settings::Settings;
use crate::data::{Data, Journal};

/// Runs operations on the broker one at a time and passes on what they cause.
#[derive(Debug)]
pub(super) struct Engine {
    core: Mutex<Core>,
    /// Where what changes is kept, if it is.
    pub(super) journal: Option<Arc<Journal>>,
    /// Rings when something is due before the time the timer sleeps to.
    timer: Notify,
    /// Which subscriptions are pushed, and where.
    pub(super) pushes: watch::Sender<Pushes>,
    /// Changes with every operation.
    changed: watch::Sender<()>,
    /// Cancelled when the server stops.
    pub(super) stop: CancellationToken,
    /// What is to go wrong; the broker has the same ones.
    pub(super) faults: Faults,
}

#[derive(Debug)]
struct Core {
    broker: Broker,
    signals: HashMap<Attachment, Arc<Signal>>,
    /// The time that the timer sleeps to.
    armed: Option<Instant>,
}

impl Engine {
    pub(super) fn new() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place where the emulator learns the wall clock; publish times derive from it"
        )]
        let wall = SystemTime::now();
        let faults = Faults::default();
        Self {
            core: Mutex::new(Core {
                broker: Broker::new(Instant::now(), wall, faults.clone()),
                signals: HashMap::new(),
                armed: None,
            }),
            journal: None,
            timer: Notify::new(),
            pushes: watch::Sender::default(),
            changed: watch::Sender::new(()),
            stop: CancellationToken::new(),
            faults,
        }
    }

    /// An engine whose broker has what a folder keeps.
    pub(super) fn resume(data: &Data) -> io::Result<Self> {
        let engine = Self::new();
        engine.lock().broker.resume(data)?;
        Ok(Self { journal: Some(data.journal()), ..engine })
    }

    /// Waits until everything that was done so far is kept.
    pub(super) async fn kept(&self) -> Result<(), Status> {
        let Some(journal) = &self.journal else { return Ok(()) };
        journal.kept().await.map_err(|error| Status::unavailable(error.to_string()))
    }

    /// Runs an operation at the present time, after what was due before it.
    pub(super) fn run<T>(&self, operation: impl FnOnce(&mut Broker, Instant) -> T) -> T {
        self.locked(|core, now| operation(&mut core.broker, now))
    }

    /// Only looks; wakes nobody.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Broker) -> T) -> T {
        look(&self.lock().broker)
    }

    /// Rings after every operation.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Does what is due, when it is due, until the server stops.
    pub(super) async fn keep_time(&self) {
        loop {
            let next = {
                let mut core = self.lock();
                core.armed = core.broker.next_wakeup();
                core.armed
            };
            let due = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.timer.notified() => {}
                () = due => self.run(|_, _| {}),
            }
        }
    }

    /// Adds a consumer, for as long as the session lives.
    pub(super) fn open(
        self: &Arc<Self>,
        subscription: &str,
        limits: impl FnOnce(&Settings) -> Limits,
    ) -> Result<Session, Error> {
        let signal = Arc::new(Signal::default());
        let attachment = self.locked(|core, now| {
            let attachment = core.broker.open(subscription, limits, now)?;
            core.signals.insert(attachment, Arc::clone(&signal));
            Ok::<_, Error>(attachment)
        })?;
        Ok(Session { engine: Arc::clone(self), attachment, signal })
    }

    /// Ends the consumers that a subscription has now.
    pub(super) fn end(&self, subscription: &str, code: Code) -> Result<(), Error> {
        self.locked(|core, _| {
            for attachment in core.broker.consumers(subscription)? {
                if let Some(signal) = core.signals.get(&attachment) {
                    // One that has ended stays ended as it was.
                    signal.ended.set(code).unwrap_or_default();
                    signal.woken.notify_one();
                }
            }
            Ok(())
        })
    }

    /// Detaches a subscription, whose consumers end.
    pub(super) fn detach(&self, subscription: &str) -> Result<(), Error> {
        self.run(|broker, now| broker.detach(subscription, now))?;
        self.end(subscription, Code::FailedPrecondition)
    }

    fn locked<T>(&self, operation: impl FnOnce(&mut Core, Instant) -> T) -> T {
        let mut core = self.lock();
        let now = Instant::now();
        core.broker.advance(now);
        let result = operation(&mut core, now);
        if let Some(journal) = &self.journal {
            journal.append(core.broker.take_changes());
        }
        for attachment in core.broker.take_woken() {
            if let Some(signal) = core.signals.get(&attachment) {
                signal.woken.notify_one();
            }
        }
        if let Some(pushes) = core.broker.take_pushes() {
            self.pushes.send_replace(pushes);
        }
        let next = core.broker.next_wakeup();
        let earlier = next.is_some_and(|next| core.armed.is_none_or(|armed| next < armed));
        if earlier {
            core.armed = next;
        }
        drop(core);
        if earlier {
            self.timer.notify_one();
        }
        self.changed.send_replace(());
        result
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic in an operation is a bug that its own test shows; the others
        // need no second one.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open consumer. Dropping it closes the consumer.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) engine: Arc<Engine>,
    pub(super) attachment: Attachment,
    signal: Arc<Signal>,
}

/// What a consumer waits for.
#[derive(Debug, Default)]
struct Signal {
    woken: Notify,
    /// The code that a test has ended it with.
    ended: OnceLock<Code>,
}

impl Session {
    /// What is ready: at most `messages`, and at most `bytes` unless the first
    /// alone is larger.
    pub(super) fn take(&self, messages: usize, bytes: u64) -> Result<Vec<Delivery>, Status> {
        if let Some(code) = self.signal.ended.get() {
            return Err(fault::refused(*code));
        }
        self.engine
            .run(|broker, now| broker.take(self.attachment, messages, bytes, now))
            .ok_or_else(|| Status::not_found("the subscription was deleted"))
    }

    /// Completes when there may be something to take. Cancel safe.
    pub(super) async fn ready(&self) {
        self.signal.woken.notified().await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.engine.locked(|core, now| {
            core.signals.remove(&self.attachment);
            core.broker.close(self.attachment, now);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;

    use super::*;

    const TOPIC: &str = "projects/p/topics/jobs";
    const SUBSCRIPTION: &str = "projects/p/subscriptions/workers";

    /// An engine with a topic, a subscription and a running timer.
    fn start() -> Arc<Engine> {
        let engine = Arc::new(Engine::new());
        let topic = proto::Topic { name: TOPIC.to_owned(), ..proto::Topic::default() };
        let subscription = proto::Subscription {
            name: SUBSCRIPTION.to_owned(),
            topic: TOPIC.to_owned(),
            ..proto::Subscription::default()
        };
        engine
            .run(|broker, _| {
                broker.create_topic(topic)?;
                broker.create_subscription(subscription)
            })
            .expect("created");
        let timer = Arc::clone(&engine);
        tokio::spawn(async move { timer.keep_time().await });
        engine
    }

    fn publish(engine: &Engine, text: &str) {
        let message = proto::PubsubMessage { data: text.into(), ..proto::PubsubMessage::default() };
        engine.run(|broker, now| broker.publish(TOPIC, vec![message], now)).expect("published");
    }

    fn open(engine: &Arc<Engine>, seconds: u64) -> Session {
        let limits = |_: &Settings| Limits {
            messages: Some(1),
            bytes: None,
            ack_deadline: Duration::from_secs(seconds),
        };
        engine.open(SUBSCRIPTION, limits).expect("it exists")
    }

    /// Waits for something to take.
    async fn take(session: &Session) -> Vec<Delivery> {
        loop {
            let taken = session.take(10, u64::MAX).expect("it exists");
            if !taken.is_empty() {
                return taken;
            }
            session.ready().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_timer_brings_back_what_expired() {
        let engine = start();
        let started = Instant::now();
        let session = open(&engine, 10);
        publish(&engine, "x");
        take(&session).await;
        take(&session).await;
        let waited = started.elapsed();
        assert!((10_000..10_010).contains(&waited.as_millis()), "{waited:?}");
        engine.stop.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn the_timer_notices_an_earlier_deadline() {
        let engine = start();
        let started = Instant::now();
        let patient = open(&engine, 600);
        publish(&engine, "x");
        take(&patient).await;
        tokio::task::yield_now().await;
        let hasty = open(&engine, 10);
        publish(&engine, "y");
        take(&hasty).await;
        take(&hasty).await;
        let waited = started.elapsed();
        assert!((10_000..10_010).contains(&waited.as_millis()), "{waited:?}");
        engine.stop.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_session_is_no_consumer_any_more() {
        let engine = start();
        let session = open(&engine, 10);
        publish(&engine, "x");
        let consumers = |engine: &Engine| engine.read(Broker::stats).consumers;
        assert_eq!(consumers(&engine), 1);
        drop(session);
        assert_eq!(consumers(&engine), 0);
        assert!(engine.lock().signals.is_empty());
        assert_eq!(take(&open(&engine, 10)).await.len(), 1, "it never left");
        engine.stop.cancel();
    }

    #[tokio::test]
    async fn keeping_time_ends_with_the_server() {
        let engine = Engine::new();
        engine.stop.cancel();
        engine.keep_time().await;
        assert!(engine.stop.is_cancelled());
    }
}

//! Reads a subscription in a task of its own, so that an open stream is read whatever the
//! replica does, and keeps an eye on whether the service can be reached.

use std::future;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use shared::ports::{Clock, Randomness};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::metrics;

use super::in_hand::{Amount, InHand};
use super::silence::{Room, Shown, Silence, Step};
use super::subscriber::{Service, Subscriber};
use super::{Delivery, IntakeError, Window};

/// What a reader is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Receive.
    Open(Window),
    /// Empty the stream and drop it.
    Pause(oneshot::Sender<Vec<Delivery>>),
    /// Drop the stream, and end when the deliveries in hand are settled.
    Stop(oneshot::Sender<()>),
}

/// Reads until it is told to stop or nobody is there to tell it anything.
#[derive(Debug)]
pub(super) struct Reader<S> {
    service: S,
    most: Amount,
    clock: Arc<dyn Clock>,
    random: Randomness,
    orders: mpsc::UnboundedReceiver<Order>,
    deliveries: mpsc::UnboundedSender<Result<Delivery, IntakeError>>,
    /// Why the service cannot be reached.
    trouble: watch::Sender<Option<Arc<str>>>,
    /// Of subscribers that were dropped.
    older: Vec<InHand>,
    /// Subscribers that were dropped in order and whose deliveries are not settled.
    releasing: TaskTracker,
}

/// What a reader has while it receives.
struct Receiving {
    window: Window,
    silence: Silence,
    open: Option<Open>,
    look: Option<BoxFuture<'static, Result<(), String>>>,
}

/// An open subscriber and how much it may hold.
struct Open {
    subscriber: Subscriber,
    in_hand: InHand,
    window: Amount,
    is_narrowed: bool,
}

/// What a reader waits for.
enum Event {
    /// `None` when nobody is there any more.
    Order(Option<Order>),
    Message(Result<Delivery, IntakeError>),
    /// The stream woke the task without a message.
    Stir,
    Looked(Result<(), String>),
    Time,
}

/// The ends of a reader that its owner holds.
pub(super) struct Ends {
    pub(super) orders: mpsc::UnboundedSender<Order>,
    pub(super) deliveries: mpsc::UnboundedReceiver<Result<Delivery, IntakeError>>,
    pub(super) trouble: watch::Receiver<Option<Arc<str>>>,
}

impl<S: Service> Reader<S> {
    /// A reader that holds at most so much, closed, and its ends.
    pub(super) fn new(
        service: S,
        most: Amount,
        clock: Arc<dyn Clock>,
        random: Randomness,
    ) -> (Self, Ends) {
        let (order, orders) = mpsc::unbounded_channel();
        // The window bounds what is in it.
        let (deliveries, delivered) = mpsc::unbounded_channel();
        let trouble = watch::Sender::new(None);
        let ends = Ends { orders: order, deliveries: delivered, trouble: trouble.subscribe() };
        let most = Amount { messages: most.messages.max(1), bytes: most.bytes.max(1) };
        let (older, releasing) = (Vec::new(), TaskTracker::new());
        (Self { service, most, clock, random, orders, deliveries, trouble, older, releasing }, ends)
    }

    pub(super) async fn run(mut self) {
        let mut receiving: Option<Receiving> = None;
        loop {
            match self.event(&mut receiving).await {
                Event::Order(None) => return,
                Event::Order(Some(Order::Open(window))) => {
                    receiving.get_or_insert_with(|| Receiving {
                        window,
                        silence: Silence::new(self.clock.monotonic()),
                        open: None,
                        look: None,
                    });
                }
                Event::Order(Some(Order::Pause(emptied))) => {
                    let open = receiving.take().and_then(|receiving| receiving.open);
                    let out = open.map(|open| self.close_in_order(open)).unwrap_or_default();
                    // Whoever no longer waits for them finds them with the next ones.
                    if let Err(unclaimed) = emptied.send(out) {
                        self.hand_out(unclaimed);
                    }
                }
                Event::Order(Some(Order::Stop(stopped))) => {
                    if let Some(open) = receiving.take().and_then(|receiving| receiving.open) {
                        self.releasing.spawn(open.subscriber.close());
                    }
                    self.releasing.close();
                    self.releasing.wait().await;
                    _ = stopped.send(());
                    return;
                }
                Event::Message(Ok(delivery)) => {
                    let Some(Receiving { silence, open: Some(open), .. }) = &mut receiving else {
                        continue;
                    };
                    silence.heard(self.clock.monotonic());
                    let delivery = open.in_hand.count(delivery);
                    self.hand_out([delivery]);
                }
                Event::Message(Err(error)) => {
                    if let Some(open) = receiving.take().and_then(|receiving| receiving.open) {
                        let out = self.close_in_order(open);
                        self.hand_out(out);
                    }
                    // Its owner is gone, and will be missed with the next order.
                    _ = self.deliveries.send(Err(error));
                }
                Event::Stir => {
                    if let Some(receiving) = &mut receiving {
                        receiving.silence.stirred();
                    }
                }
                Event::Looked(answer) => {
                    if let Some(receiving) = &mut receiving {
                        receiving.look = None;
                        self.looked(receiving, answer);
                    }
                }
                Event::Time => {}
            }
        }
    }

    /// Does what is due and waits for what happens next.
    async fn event(&mut self, receiving: &mut Option<Receiving>) -> Event {
        let Some(receiving) = receiving else {
            return Event::Order(self.orders.recv().await);
        };
        let until = loop {
            let now = self.clock.monotonic();
            let room = self.room(receiving.open.as_ref());
            match receiving.silence.step(now, room) {
                Step::Wait(until) => break until.since(now),
                Step::Look => {
                    receiving.silence.looks(now);
                    receiving.look = Some(self.service.look());
                }
                Step::Open => match self.open(receiving.window).await {
                    Ok(open) => {
                        receiving.open = Some(open);
                        receiving.silence.opened(now);
                    }
                    Err(error) => return Event::Message(Err(error)),
                },
                Step::Replace => {
                    if let Some(open) = receiving.open.take() {
                        let out = self.abandon(open);
                        self.hand_out(out);
                    }
                    receiving.silence.closed();
                }
            }
        };
        let holds_back = receiving.silence.holds_back();
        let Receiving { open, look, .. } = receiving;
        tokio::select! {
            biased;
            order = self.orders.recv() => Event::Order(order),
            next = next(open), if !holds_back => next.map_or(Event::Stir, Event::Message),
            answer = answer(look) => Event::Looked(answer),
            () = self.clock.sleep(until) => Event::Time,
        }
    }

    fn room(&mut self, open: Option<&Open>) -> Room {
        self.older.retain(|older| older.amount().messages > 0);
        let Some(open) = open else { return Room::Some };
        let Amount { messages, bytes } = open.in_hand.amount();
        // The next message may be one that does not fit.
        if messages >= open.window.messages || bytes >= open.window.bytes / 2 {
            Room::None
        } else if open.is_narrowed && self.older.is_empty() {
            Room::Grown
        } else {
            Room::Some
        }
    }

    async fn open(&self, window: Window) -> Result<Open, IntakeError> {
        let most = match window {
            Window::Full => self.most.messages,
            Window::One => 1,
        };
        // The service knows nothing of what older streams hold.
        let older: usize = self.older.iter().map(|older| older.amount().messages).sum();
        let messages = most.saturating_sub(older).max(most / 4).max(1);
        // The same share of the bytes; a stream without room for one message stands still.
        let bytes = (self.most.bytes / self.most.messages).saturating_mul(messages).max(1);
        let window = Amount { messages, bytes };
        Ok(Open {
            subscriber: self.service.subscribe(window).await?,
            in_hand: InHand::default(),
            window,
            is_narrowed: messages < most,
        })
    }

    fn looked(&mut self, receiving: &mut Receiving, answer: Result<(), String>) {
        let now = self.clock.monotonic();
        let shown = receiving.silence.looked(now, answer.is_ok(), self.random.unit());
        let (Shown::Unreached, Err(why)) = (shown, answer) else {
            metrics::pubsub_reachable(true);
            if self.trouble.send_if_modified(|trouble| trouble.take().is_some()) {
                info!("Pub/Sub is reached again");
            }
            return;
        };
        if let Some(open) = receiving.open.take() {
            let out = self.abandon(open);
            self.hand_out(out);
        }
        metrics::pubsub_reachable(false);
        let why: Arc<str> = format!("Pub/Sub cannot be reached: {why}").into();
        if self.trouble.borrow().is_none() {
            warn!(
                "{why}; nothing is received until it answers, and acknowledgements may be lost. Check the network: egress rules, DNS, proxy"
            );
        }
        self.trouble.send_if_modified(|trouble| trouble.replace(Arc::clone(&why)) != Some(why));
    }

    /// Empties a subscriber and drops it; the end waits for its deliveries.
    fn close_in_order(&mut self, mut open: Open) -> Vec<Delivery> {
        let out = self.empty(&mut open);
        self.releasing.spawn(open.subscriber.close());
        out
    }

    /// Empties a subscriber and drops it. Its connection may be useless, so that nothing
    /// waits for it; its deliveries keep it until they are settled.
    fn abandon(&mut self, mut open: Open) -> Vec<Delivery> {
        let out = self.empty(&mut open);
        drop(open.subscriber.close());
        out
    }

    fn empty(&mut self, open: &mut Open) -> Vec<Delivery> {
        let out = open.subscriber.empty().into_iter();
        let out = out.map(|delivery| open.in_hand.count(delivery)).collect();
        self.older.push(open.in_hand.clone());
        out
    }

    fn hand_out(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        for delivery in deliveries {
            // Without a receiver it goes back, as it should.
            _ = self.deliveries.send(Ok(delivery));
        }
    }
}

/// The next message of an open subscriber, or `None` when it woke the task without one.
async fn next(open: &mut Option<Open>) -> Option<Result<Delivery, IntakeError>> {
    match open {
        Some(open) => open.subscriber.next_or_stir().await,
        None => future::pending().await,
    }
}

/// The answer to the look that is under way.
async fn answer(look: &mut Option<BoxFuture<'static, Result<(), String>>>) -> Result<(), String> {
    match look {
        Some(look) => look.await,
        None => future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use futures_util::stream;
    use tokio::time::Instant;

    use crate::job::Received;
    use crate::pubsub::Settle;
    use crate::pubsub::virtual_clock::Virtual;

    /// A service in memory.
    #[derive(Debug, Clone, Default)]
    struct Fake(Arc<FakeState>);

    #[derive(Debug, Default)]
    struct FakeState {
        /// What looks say.
        down: Mutex<Option<String>>,
        looks: AtomicUsize,
        /// Feeds the newest subscriber.
        feed: Mutex<Option<mpsc::UnboundedSender<Result<Delivery, IntakeError>>>>,
        windows: Mutex<Vec<Amount>>,
        /// Streams that are open.
        open: Arc<AtomicUsize>,
    }

    /// Counts an open stream until it is dropped.
    struct Counted(Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    impl Service for Fake {
        fn subscribe(&self, window: Amount) -> BoxFuture<'_, Result<Subscriber, IntakeError>> {
            let (feed, fed) = mpsc::unbounded_channel();
            *self.0.feed.lock().unwrap() = Some(feed);
            self.0.windows.lock().unwrap().push(window);
            self.0.open.fetch_add(1, Ordering::Relaxed);
            let counted = Counted(Arc::clone(&self.0.open));
            let messages = stream::unfold((fed, counted), |(mut fed, counted)| async move {
                fed.recv().await.map(|next| (next, (fed, counted)))
            });
            future::ready(Ok(Subscriber::new(messages, future::ready(())))).boxed()
        }

        fn look(&self) -> BoxFuture<'static, Result<(), String>> {
            self.0.looks.fetch_add(1, Ordering::Relaxed);
            let answer = self.0.down.lock().unwrap().clone().map_or(Ok(()), Err);
            future::ready(answer).boxed()
        }
    }

    #[derive(Debug)]
    struct Kept;

    impl Settle for Kept {
        fn ack(self: Box<Self>) -> BoxFuture<'static, bool> {
            future::ready(true).boxed()
        }

        fn nack(self: Box<Self>) {}
    }

    impl Fake {
        fn send(&self, id: &str) {
            let received = Received {
                data: bytes::Bytes::from_static(b"data"),
                attributes: std::collections::HashMap::new(),
                ordering_key: String::new(),
                message_id: id.to_owned(),
                publish_time: None,
                delivery_attempt: None,
            };
            let delivery = Delivery { received: Arc::new(received), settle: Box::new(Kept) };
            let feed = self.0.feed.lock().unwrap();
            feed.as_ref().unwrap().send(Ok(delivery)).unwrap();
        }

        fn set_down(&self, why: Option<&str>) {
            *self.0.down.lock().unwrap() = why.map(ToOwned::to_owned);
        }

        fn windows(&self) -> Vec<usize> {
            self.0.windows.lock().unwrap().iter().map(|window| window.messages).collect()
        }

        fn open(&self) -> usize {
            self.0.open.load(Ordering::Relaxed)
        }
    }

    /// Waits, in virtual time, for something that others do.
    async fn until(mut is_so: impl FnMut() -> bool) {
        let clock = Virtual::default();
        while !is_so() {
            clock.sleep(Duration::from_millis(10)).await;
        }
    }

    fn started(fake: &Fake) -> Ends {
        let most = Amount { messages: 8, bytes: 8_000 };
        let clock = Arc::new(Virtual::default());
        let (reader, ends) = Reader::new(fake.clone(), most, clock, Randomness::seeded(3));
        tokio::spawn(reader.run());
        ends
    }

    async fn opened(fake: &Fake) -> Ends {
        let ends = started(fake);
        ends.orders.send(Order::Open(Window::Full)).unwrap();
        until(|| fake.open() == 1).await;
        ends
    }

    async fn pause(ends: &Ends) -> Vec<Delivery> {
        let (emptied, out) = oneshot::channel();
        ends.orders.send(Order::Pause(emptied)).unwrap();
        out.await.unwrap()
    }

    fn id(delivery: &Delivery) -> &str {
        &delivery.received.message_id
    }

    #[tokio::test(start_paused = true)]
    async fn is_closed_until_it_is_told_to_receive_and_reads_though_nobody_asks() {
        let fake = Fake::default();
        let mut ends = started(&fake);
        Virtual::default().sleep(Duration::from_secs(60)).await;
        assert_eq!((fake.open(), fake.0.looks.load(Ordering::Relaxed)), (0, 0));
        ends.orders.send(Order::Open(Window::Full)).unwrap();
        until(|| fake.open() == 1).await;
        fake.send("a");
        fake.send("b");
        until(|| ends.deliveries.len() == 2).await;
        assert_eq!(id(&ends.deliveries.recv().await.unwrap().unwrap()), "a");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_empties_and_closes_the_stream() {
        let fake = Fake::default();
        let ends = opened(&fake).await;
        fake.send("a");
        fake.send("b");
        let out = pause(&ends).await;
        // The order came first, so that nothing was read before.
        assert_eq!(out.iter().map(id).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(fake.open(), 0);
        Virtual::default().sleep(Duration::from_secs(600)).await;
        assert_eq!(fake.open(), 0, "it stays closed");
        ends.orders.send(Order::Open(Window::One)).unwrap();
        until(|| fake.open() == 1).await;
        assert_eq!(fake.windows(), [8, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_abandoned_pause_loses_nothing() {
        let fake = Fake::default();
        let mut ends = opened(&fake).await;
        fake.send("a");
        let (emptied, out) = oneshot::channel();
        drop(out);
        ends.orders.send(Order::Pause(emptied)).unwrap();
        assert_eq!(id(&ends.deliveries.recv().await.unwrap().unwrap()), "a");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_hand_makes_the_next_window_smaller_for_a_while() {
        let fake = Fake::default();
        let mut ends = opened(&fake).await;
        let mut in_hand = Vec::new();
        for message in ["a", "b", "c"] {
            fake.send(message);
            in_hand.push(ends.deliveries.recv().await.unwrap().unwrap());
        }
        assert!(pause(&ends).await.is_empty());
        ends.orders.send(Order::Open(Window::Full)).unwrap();
        until(|| fake.open() == 1).await;
        assert_eq!(fake.windows(), [8, 5]);
        Virtual::default().sleep(Duration::from_secs(60)).await;
        assert_eq!(fake.windows(), [8, 5]);
        for delivery in in_hand {
            delivery.settle.ack().await;
        }
        until(|| fake.windows().len() == 3).await;
        assert_eq!((fake.windows(), fake.open()), (vec![8, 5, 8], 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_look_empties_and_closes_the_stream_until_the_service_is_back() {
        let fake = Fake::default();
        let mut ends = opened(&fake).await;
        fake.set_down(Some("refused"));
        let began = Instant::now();
        ends.trouble.changed().await.unwrap();
        let waited = began.elapsed();
        assert!((9..=10).contains(&waited.as_secs()), "{waited:?}");
        let trouble = ends.trouble.borrow_and_update().clone();
        assert_eq!(trouble.as_deref(), Some("Pub/Sub cannot be reached: refused"));
        until(|| fake.open() == 0).await;
        Virtual::default().sleep(Duration::from_secs(600)).await;
        let looks = fake.0.looks.load(Ordering::Relaxed);
        assert!((20..60).contains(&looks), "{looks} looks in ten minutes");
        assert!(!ends.trouble.has_changed().unwrap(), "it is told once");
        fake.set_down(None);
        ends.trouble.changed().await.unwrap();
        assert_eq!(*ends.trouble.borrow(), None);
        until(|| fake.open() == 1).await;
        fake.send("a");
        assert_eq!(id(&ends.deliveries.recv().await.unwrap().unwrap()), "a");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_subscriber_is_replaced_and_its_deliveries_live_on() {
        let fake = Fake::default();
        let mut ends = opened(&fake).await;
        fake.send("a");
        let a = ends.deliveries.recv().await.unwrap().unwrap();
        let began = Instant::now();
        until(|| fake.windows().len() == 2).await;
        assert_eq!(began.elapsed().as_secs(), 180);
        assert_eq!((fake.windows(), fake.open()), (vec![8, 7], 1));
        assert!(a.settle.ack().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_window_is_not_replaced() {
        let fake = Fake::default();
        let mut ends = opened(&fake).await;
        let mut in_hand = Vec::new();
        for _ in 0..8 {
            fake.send("a");
            in_hand.push(ends.deliveries.recv().await.unwrap().unwrap());
        }
        Virtual::default().sleep(Duration::from_secs(3600)).await;
        assert_eq!(fake.windows(), [8]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_closes_it_until_it_is_told_to_receive_again() {
        let fake = Fake::default();
        let mut ends = opened(&fake).await;
        let feed = fake.0.feed.lock().unwrap().take().unwrap();
        feed.send(Err(IntakeError::NoSubscription("s".into()))).unwrap();
        let error = ends.deliveries.recv().await.unwrap().unwrap_err();
        assert!(matches!(error, IntakeError::NoSubscription(_)), "{error}");
        Virtual::default().sleep(Duration::from_secs(60)).await;
        assert_eq!(fake.open(), 0);
        ends.orders.send(Order::Open(Window::Full)).unwrap();
        until(|| fake.open() == 1).await;
    }

    #[tokio::test(start_paused = true)]
    async fn ends_when_it_is_told_or_left() {
        let fake = Fake::default();
        let ends = opened(&fake).await;
        let (stopped, over) = oneshot::channel();
        ends.orders.send(Order::Stop(stopped)).unwrap();
        over.await.unwrap();
        assert_eq!(fake.open(), 0);
        let ends = opened(&fake).await;
        drop(ends);
        until(|| fake.open() == 0).await;
    }
}

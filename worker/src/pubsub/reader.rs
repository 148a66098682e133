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
        let Receiving { open, look, .. } = receiving;
        tokio::select! {
            biased;
            order = self.orders.recv() => Event::Order(order),
            next = next(open) => next.map_or(Event::Stir, Event::Message),
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
            if self.trouble.send_replace(None).is_some() {
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
        if self.trouble.send_replace(Some(Arc::clone(&why))).is_none() {
            warn!(
                "{why}; nothing is received until it answers, and acknowledgements may be lost. Check the network: egress rules, DNS, proxy"
            );
        }
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

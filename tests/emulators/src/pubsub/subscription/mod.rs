//! One subscription: who gets which message when, and what happens to it then.
//!
//! A plain state machine. The caller passes the time in, runs [`dispatch`] after
//! what it changed, wakes the consumers in [`take_woken`], publishes what
//! [`take_dead`] returns, and calls [`advance`] at [`next_wakeup`].
//!
//! Messages wait in lanes ([`Lane`]), lanes wait in line ([`Queue`]), and consumers
//! take from the line as far as their flow control allows ([`Consumer`]). The dispatcher serves the consumers in turn, one message
//! each. While messages of a lane are outstanding the lane stands in the line of
//! the consumer that holds them, so no other consumer sees its ordering key. If
//! that consumer is gone, the lane waits until its leases have ended.
//!
//! [`dispatch`]: Subscription::dispatch
//! [`take_woken`]: Subscription::take_woken
//! [`take_dead`]: Subscription::take_dead
//! [`advance`]: Subscription::advance
//! [`next_wakeup`]: Subscription::next_wakeup

mod acknowledgement;
mod dispatch;
mod failure;
mod noted;
mod remembered;
mod replace;

use std::collections::{BTreeSet, HashMap};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::consumer::{Consumer, ConsumerId, Delivery, Limits};
use super::lane::{DeliveryId, Lane, LaneId, Place, Position};
use super::message::Message;
use super::queue::{Class, Queue, Ticket};
use super::settings::Settings;
use super::stats::Stats;
pub(super) use acknowledgement::Verdict;
use failure::Failure;
pub(super) use noted::Note;
use remembered::Remembered;

/// A message that used up its delivery attempts.
#[derive(Debug)]
pub(super) struct DeadLetter {
    pub(super) message: Arc<Message>,
    pub(super) attempts: u32,
}

#[derive(Debug)]
struct Lease {
    lane: LaneId,
    position: Position,
    consumer: ConsumerId,
    deadline: Instant,
    bytes: u64,
    /// Whether it left the outbox. What did not cannot have failed.
    sent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Deadline(DeliveryId),
    Hold(LaneId),
}

/// See the module page.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) settings: Settings,
    /// Whether the dead-letter topic exists. While it does not, messages that
    /// used up their attempts are delivered on.
    pub(super) dead_letter_open: bool,
    lanes: HashMap<LaneId, Lane>,
    keys: HashMap<Arc<str>, LaneId>,
    leases: HashMap<DeliveryId, Lease>,
    /// Deliveries that lost their lease to an earlier message of their key and were not
    /// delivered again yet: where their messages are. One that is given back counts.
    voided: HashMap<DeliveryId, (LaneId, Position)>,
    timers: BTreeSet<(Instant, Timer)>,
    acknowledged: Remembered,
    consumers: HashMap<ConsumerId, Consumer>,
    /// Consumers with room.
    roomy: BTreeSet<ConsumerId>,
    /// Consumers with room and lanes of their own.
    served: BTreeSet<ConsumerId>,
    /// Lanes that any consumer may take from.
    shared: Queue,
    preferred: Class,
    last_consumer: ConsumerId,
    next_lane: LaneId,
    next_delivery: DeliveryId,
    next_ticket: Ticket,
    next_consumer: ConsumerId,
    woken: Vec<ConsumerId>,
    dead: Vec<DeadLetter>,
    stats: Stats,
    /// Since the last look, if anybody looks.
    notes: Option<Vec<Note>>,
}

impl Subscription {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            dead_letter_open: true,
            lanes: HashMap::new(),
            keys: HashMap::new(),
            leases: HashMap::new(),
            voided: HashMap::new(),
            timers: BTreeSet::new(),
            acknowledged: Remembered::default(),
            consumers: HashMap::new(),
            roomy: BTreeSet::new(),
            served: BTreeSet::new(),
            shared: Queue::default(),
            preferred: Class::Fresh,
            last_consumer: 0,
            next_lane: 0,
            next_delivery: 0,
            next_ticket: 0,
            next_consumer: 1,
            woken: Vec::new(),
            dead: Vec::new(),
            stats: Stats::default(),
            notes: None,
        }
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            outstanding: self.leases.len() as u64,
            consumers: self.consumers.len() as u64,
            ..self.stats
        }
    }

    /// When [`advance`](Self::advance) has something to do next.
    pub(super) fn next_wakeup(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Consumers whose outbox has something new.
    pub(super) fn take_woken(&mut self) -> Vec<ConsumerId> {
        mem::take(&mut self.woken)
    }

    /// Messages to be published to the dead-letter topic.
    pub(super) fn take_dead(&mut self) -> Vec<DeadLetter> {
        mem::take(&mut self.dead)
    }

    pub(super) fn consumers(&self) -> impl Iterator<Item = ConsumerId> {
        self.consumers.keys().copied()
    }

    /// Takes in a message.
    pub(super) fn enqueue(&mut self, message: Arc<Message>) {
        self.note(|| Note::Open(Arc::clone(&message)));
        self.take_in(message, 0);
    }

    fn take_in(&mut self, message: Arc<Message>, failures: u32) {
        self.stats.published += 1;
        self.stats.backlog += 1;
        let key = message.content.ordering_key.as_str();
        let ordered = self.settings.ordered && !key.is_empty();
        let known = if ordered { self.keys.get(key) } else { None };
        let id = known.copied().unwrap_or_else(|| {
            self.next_lane += 1;
            let key: Option<Arc<str>> = ordered.then(|| key.into());
            if let Some(key) = &key {
                self.keys.insert(Arc::clone(key), self.next_lane);
            }
            self.lanes.insert(self.next_lane, Lane::new(key));
            self.next_lane
        });
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.push(message, failures);
        }
        self.place(id);
    }

    /// Adds a consumer.
    pub(super) fn open(&mut self, limits: Limits) -> ConsumerId {
        let id = self.next_consumer;
        self.next_consumer += 1;
        self.consumers.insert(id, Consumer::new(limits));
        self.refresh(id);
        id
    }

    /// Changes the ack deadline of what the consumer gets from now on.
    pub(super) fn set_ack_deadline(&mut self, id: ConsumerId, ack_deadline: Duration) {
        if let Some(consumer) = self.consumers.get_mut(&id) {
            consumer.limits.ack_deadline = ack_deadline;
        }
    }

    /// Removes a consumer. What left the server stays leased until its deadline,
    /// what did not is available at once.
    pub(super) fn close(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.remove(&id) else {
            return;
        };
        self.refresh(id);
        let own: Vec<LaneId> = consumer.own.lanes().collect();
        for lane in own {
            if let Some(lane) = self.lanes.get_mut(&lane) {
                lane.place = Place::Nowhere;
            }
            self.place(lane);
        }
        for delivery in consumer.into_outbox() {
            if let Some(lease) = self.release(delivery) {
                self.rewind(lease.lane, lease.position);
                self.place(lease.lane);
            }
        }
    }

    /// What the transport sends next to a consumer: at most `messages`, and at
    /// most `bytes` unless the first alone is larger.
    ///
    /// `None` if there is no such consumer.
    pub(super) fn take(
        &mut self,
        id: ConsumerId,
        messages: usize,
        bytes: u64,
    ) -> Option<Vec<Delivery>> {
        let consumer = self.consumers.get_mut(&id)?;
        let mut taken = Vec::new();
        let mut size = 0;
        while taken.len() < messages {
            let budget = if taken.is_empty() { u64::MAX } else { bytes.saturating_sub(size) };
            let Some(delivery) = consumer.pop(budget) else {
                break;
            };
            // A delivery that was voided in the outbox must not be seen.
            let Some(lease) = self.leases.get_mut(&delivery.id) else {
                continue;
            };
            lease.sent = true;
            size += delivery.message.size;
            self.stats.deliveries += 1;
            let lane = self.lanes.get_mut(&lease.lane);
            if let Some(entry) = lane.and_then(|lane| lane.entry_mut(lease.position)) {
                self.stats.redeliveries += u64::from(entry.deliveries > 0);
                entry.deliveries += 1;
                if let Some(voided) = entry.voided.take() {
                    self.voided.remove(&voided);
                }
            }
            taken.push(delivery);
        }
        self.refresh(id);
        Some(taken)
    }

    /// Does what is due.
    pub(super) fn advance(&mut self, now: Instant) {
        while let Some((at, timer)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Deadline(delivery) => self.lapse(delivery, now),
                Timer::Hold(id) => {
                    if let Some(lane) = self.lanes.get_mut(&id) {
                        lane.held_until = None;
                    }
                    self.place(id);
                }
            }
        }
    }

    /// Ends every lease of what left the server, as if its deadline had passed.
    pub(super) fn expire(&mut self, now: Instant) {
        let sent = self.leases.iter().filter(|(_, lease)| lease.sent);
        let mut sent: Vec<DeliveryId> = sent.map(|(delivery, _)| *delivery).collect();
        sent.sort_unstable();
        self.fail(&sent, Failure::Expiry, now);
    }

    /// Ends a lease: the message is no longer outstanding.
    fn release(&mut self, delivery: DeliveryId) -> Option<Lease> {
        let lease = self.leases.remove(&delivery)?;
        self.timers.remove(&(lease.deadline, Timer::Deadline(delivery)));
        if let Some(lane) = self.lanes.get_mut(&lease.lane) {
            lane.unlease();
        }
        if let Some(consumer) = self.consumers.get_mut(&lease.consumer) {
            consumer.release(lease.bytes);
            self.refresh(lease.consumer);
        }
        Some(lease)
    }

    /// The message of an ended lease needs no delivery any more.
    fn finish(&mut self, lease: &Lease) {
        self.stats.backlog -= 1;
        self.note_over(lease.lane, lease.position);
        if let Some(lane) = self.lanes.get_mut(&lease.lane) {
            lane.finish(lease.position);
        }
        self.place(lease.lane);
    }
}

#[cfg(test)]
mod tests;

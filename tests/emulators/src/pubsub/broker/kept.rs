//! What is kept of the broker across restarts, and how it comes back.
//!
//! A message is a record of each subscription that has it, of each log and of each snapshot:
//! each of them drops it in its own time.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use serde::{Deserialize, Serialize};

use super::seek::Held;
use super::{Attached, Broker, SubscriptionId, Topic};
use crate::data::{Change, Changes, Data, message, parse, record};
use crate::pubsub::message::Message;
use crate::pubsub::settings;
use crate::pubsub::subscription::{Note, Subscription};

const COUNTERS: &str = "pubsub/counters";
const TOPIC: &str = "pubsub/topic/";
const LOG: &str = "pubsub/log/";
const SUBSCRIPTION: &str = "pubsub/subscription/";
const MESSAGE: &str = "pubsub/message/";
const FAILURES: &str = "pubsub/failures/";
const SNAPSHOT: &str = "pubsub/snapshot/";
const HELD: &str = "pubsub/held/";
const ACCESS: &str = "pubsub/access/";

/// What was given out once and is not given out again.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Counters {
    subscription: SubscriptionId,
    message: u64,
    /// How often it was resumed.
    run: u64,
}

/// A subscription or snapshot.
#[derive(Deserialize, Serialize)]
struct Kept<M: prost::Message + Default> {
    #[serde(with = "message")]
    resource: M,
    since: u64,
}

impl Broker {
    /// Takes over what was kept; what changes from now on is collected.
    pub(in crate::pubsub) fn resume(&mut self, data: &Data) -> io::Result<()> {
        self.changes.collect();
        for (_, counters) in data.read(COUNTERS)? {
            let counters: Counters = parse(&counters)?;
            self.next_subscription = counters.subscription;
            self.next_message = counters.message;
            self.run = counters.run + 1;
        }
        self.counters_changed();
        for (name, resource) in data.read(TOPIC)? {
            let resource = decode(resource)?;
            let topic = Topic { resource, subscriptions: BTreeSet::new(), log: Vec::new() };
            self.topics.insert(name, topic);
        }
        for (topic, log) in by_owner(data.read(LOG)?)? {
            if let Some(topic) = self.topics.get_mut(&topic) {
                topic.log = log;
            }
        }
        self.resume_subscriptions(data)?;
        let mut held = by_owner(data.read(HELD)?)?;
        for (name, snapshot) in data.read(SNAPSHOT)? {
            let Kept { resource, since } = parse(&snapshot)?;
            let unacknowledged = held.remove(&name).unwrap_or_default();
            self.snapshots.insert(name, Held { resource, unacknowledged, since });
        }
        for (name, access) in data.read(ACCESS)? {
            self.access.insert(name, parse(&access)?);
        }
        Ok(())
    }

    fn resume_subscriptions(&mut self, data: &Data) -> io::Result<()> {
        let mut messages = by_owner(data.read(MESSAGE)?)?;
        let failures: HashMap<String, Bytes> = data.read(FAILURES)?.into_iter().collect();
        for (key, kept) in data.read(SUBSCRIPTION)? {
            let id = number(&key)?;
            let Kept::<proto::Subscription> { resource, since } = parse(&kept)?;
            let mut state = Subscription::new(settings::read(&resource).map_err(io::Error::other)?);
            let topic = state.settings.dead_letter.as_ref().map(|policy| &policy.topic);
            state.dead_letter_open = topic.is_none_or(|topic| self.topics.contains_key(topic));
            let failed = |message: Arc<Message>| {
                let failures = failures.get(&format!("{key}/{:020}", message.number()));
                Ok((message, failures.map_or(Ok(0), |failures| parse(failures))?))
            };
            let (kept, late): (Vec<_>, Vec<_>) = messages
                .remove(&key)
                .unwrap_or_default()
                .into_iter()
                .partition(|message| is_retained(message, &resource, self.started.1));
            let kept = kept.into_iter().map(failed).collect::<io::Result<Vec<_>>>()?;
            state.resume(self.run, kept);
            for message in late {
                over(&mut self.changes, id, message.number());
            }
            state.note_changes();
            if let Some(topic) = self.topics.get_mut(&resource.topic)
                && !resource.detached
            {
                topic.subscriptions.insert(id);
            }
            self.names.insert(resource.name.clone(), id);
            self.subscriptions.insert(id, Attached { resource, state, wakeup: None, since });
        }
        self.pushes_changed = true;
        Ok(())
    }

    pub(in crate::pubsub) fn take_changes(&mut self) -> Vec<Change> {
        self.changes.take()
    }

    pub(super) fn counters_changed(&mut self) {
        let (subscription, message) = (self.next_subscription, self.next_message);
        let counters = Counters { subscription, message, run: self.run };
        self.changes.put(|| (COUNTERS.to_owned(), record(&counters)));
    }

    /// A topic is there or as it was not before.
    pub(super) fn topic_changed(&mut self, name: &str) {
        let key = || format!("{TOPIC}{name}");
        if let Some(topic) = self.topics.get(name) {
            self.changes.put(|| (key(), encode(&topic.resource)));
        } else {
            self.changes.add(|| Change::Delete(key()));
            self.changes.add(|| Change::DeleteUnder(format!("{LOG}{name}/")));
        }
    }

    pub(super) fn messages_logged(&mut self, topic: &str, messages: &[Arc<Message>]) {
        for message in messages {
            let key = || format!("{LOG}{topic}/{:020}", message.number());
            self.changes.put(|| (key(), encode(&message.content)));
        }
    }

    /// A subscription is there or as it was not before. Its messages are another matter.
    pub(super) fn subscription_changed(&mut self, id: SubscriptionId) {
        let key = || format!("{SUBSCRIPTION}{id:020}");
        if let Some(Attached { resource, since, .. }) = self.subscriptions.get(&id) {
            self.changes.put(|| {
                let resource = resource.clone();
                (key(), record(&Kept { resource, since: *since }))
            });
        } else {
            self.changes.add(|| Change::Delete(key()));
            all_over(&mut self.changes, id);
        }
    }

    /// A snapshot is there or as it was not before.
    pub(super) fn snapshot_changed(&mut self, name: &str) {
        let key = || format!("{SNAPSHOT}{name}");
        if let Some(Held { resource, since, .. }) = self.snapshots.get(name) {
            self.changes.put(|| {
                let resource = resource.clone();
                (key(), record(&Kept { resource, since: *since }))
            });
        } else {
            self.changes.add(|| Change::Delete(key()));
            self.changes.add(|| Change::DeleteUnder(format!("{HELD}{name}/")));
        }
    }

    /// What a snapshot holds, once.
    pub(super) fn snapshot_taken(&mut self, name: &str) {
        for message in self.snapshots.get(name).into_iter().flat_map(|held| &held.unacknowledged) {
            let key = || format!("{HELD}{name}/{:020}", message.number());
            self.changes.put(|| (key(), encode(&message.content)));
        }
    }

    pub(super) fn access_changed(&mut self, name: &str) {
        let key = || format!("{ACCESS}{name}");
        match self.access.get(name) {
            Some(access) => self.changes.put(|| (key(), record(access))),
            None => self.changes.add(|| Change::Delete(key())),
        }
    }
}

/// Takes what a subscription noted.
pub(super) fn take(changes: &mut Changes, id: SubscriptionId, state: &mut Subscription) {
    for note in state.take_notes() {
        let key = |kind: &str, number: u64| message_key(kind, id, number);
        match note {
            Note::Open(message) => {
                changes.put(|| (key(MESSAGE, message.number()), encode(&message.content)));
            }
            Note::Failed(number, failures) => {
                changes.put(|| (key(FAILURES, number), record(&failures)));
            }
            Note::Over(number) => over(changes, id, number),
            Note::AllOver => all_over(changes, id),
        }
    }
}

fn over(changes: &mut Changes, id: SubscriptionId, number: u64) {
    for kind in [MESSAGE, FAILURES] {
        changes.add(|| Change::Delete(message_key(kind, id, number)));
    }
}

fn message_key(kind: &str, id: SubscriptionId, number: u64) -> String {
    format!("{kind}{id:020}/{number:020}")
}

/// Whether a message is young enough to be taken over: a folder that is used for long would
/// else be filled by what nobody reads.
fn is_retained(message: &Message, resource: &proto::Subscription, wall: SystemTime) -> bool {
    let published = message.content.publish_time.and_then(|at| SystemTime::try_from(at).ok());
    let retention = resource.message_retention_duration;
    let retention = retention.and_then(|retention| Duration::try_from(retention).ok());
    let (Some(published), Some(retention)) = (published, retention) else { return true };
    wall.duration_since(published).unwrap_or_default() <= retention
}

fn all_over(changes: &mut Changes, id: SubscriptionId) {
    for kind in [MESSAGE, FAILURES] {
        changes.add(|| Change::DeleteUnder(format!("{kind}{id:020}/")));
    }
}

/// Messages under `OWNER/NUMBER`, in the order of their numbers.
fn by_owner(records: Vec<(String, Bytes)>) -> io::Result<HashMap<String, Vec<Arc<Message>>>> {
    let mut owners: HashMap<String, Vec<Arc<Message>>> = HashMap::new();
    for (key, content) in records {
        let owner = key.rsplit_once('/').map_or("", |(owner, _)| owner);
        let message = Arc::new(Message::new(decode(content)?));
        owners.entry(owner.to_owned()).or_default().push(message);
    }
    Ok(owners)
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(io::Error::other)
}

fn encode(message: &impl prost::Message) -> Bytes {
    message.encode_to_vec().into()
}

fn decode<M: prost::Message + Default>(record: Bytes) -> io::Result<M> {
    M::decode(record).map_err(io::Error::other)
}

#[cfg(test)]
mod tests;

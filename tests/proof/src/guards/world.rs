//! What all processes of a run share: a store of objects, a lock service, the provider, and
//! the account of what became of every grant.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use shared::UserId;
use shared::ports::{Answer, EndpointError, Generation, Object};
use shared::record::RecordCodec;
use tokio::time::Instant;
use unguarded::guards::Grant;

use super::Figures;
use super::trouble::{Fate, Request, Trouble};
use crate::simulation::dice::Dice;
use crate::simulation::process::{Process, Role};
use crate::simulation::provider::Provider;

/// Lifetime of access tokens.
pub(super) const LIFETIME: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) trouble: Trouble,
    pub(super) start: Instant,
    outages: Vec<(u64, u64)>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    objects: BTreeMap<String, Object>,
    last_generation: i64,
    /// Keys of the lock service, and when they go by themselves.
    locks: BTreeMap<String, Instant>,
    pub(super) provider: Provider,
    /// By user: the refresh token that the provider issued last.
    newest: BTreeMap<String, String>,
    /// By the refresh token that was spent.
    spends: BTreeMap<String, Spend>,
    /// Families that a second spend ended, and whether no client could have helped it.
    ended: BTreeMap<u64, bool>,
    /// By user: when the present expiry was met, in milliseconds.
    expiry: BTreeMap<String, u64>,
    /// Users whose jobs wait for consent.
    pub(super) asked: BTreeSet<String>,
    dice: BTreeMap<String, Dice>,
    /// Nothing goes wrong any longer.
    pub(super) healed: bool,
    pub(super) figures: Figures,
}

/// The first time that a refresh token was spent.
#[derive(Debug)]
struct Spend {
    user: String,
    process: usize,
    successor: String,
    /// The successor was stored.
    stored: bool,
    /// Before that, the process died or stood still, or the answer was lost on its way.
    cut_off: bool,
}

impl World {
    pub(super) fn new(seed: u64, trouble: Trouble, end: u64) -> Self {
        Self {
            seed,
            trouble,
            start: Instant::now(),
            outages: trouble.outages(&mut Dice::new(seed, "outages"), end),
            state: Mutex::new(State {
                objects: BTreeMap::new(),
                last_generation: 0,
                locks: BTreeMap::new(),
                provider: Provider::new(true, true, LIFETIME),
                newest: BTreeMap::new(),
                spends: BTreeMap::new(),
                ended: BTreeMap::new(),
                expiry: BTreeMap::new(),
                asked: BTreeSet::new(),
                dice: BTreeMap::new(),
                healed: false,
                figures: Figures::default(),
            }),
        }
    }

    pub(super) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Milliseconds since the start.
    pub(super) fn now(&self) -> u64 {
        u64::try_from((Instant::now() - self.start).as_millis()).unwrap_or(u64::MAX)
    }

    /// Carries a request of `process` out, and brings the reply; `None` when there is none.
    /// Requests of one process for one name follow each other, so that what befalls them
    /// does not depend on anybody else.
    pub(super) async fn carry<T>(
        &self,
        process: &Process,
        request: Request,
        name: &str,
        effect: impl FnOnce(&mut State) -> T,
    ) -> Option<T> {
        process.runs().await;
        let (there, back, fate) = self.with(|s| {
            let stream = format!("{} {name}", process.name);
            let dice = s.dice.entry(stream).or_insert_with_key(|of| Dice::new(self.seed, of));
            let slow = if request == Request::Refresh { 400 } else { 60 };
            let (there, back) = (dice.between(2, slow), dice.between(2, slow));
            let fate = self.trouble.fate(request, dice);
            let spared = s.healed || process.role == Role::Web;
            (there, back, if spared { Fate::Answered } else { fate })
        });
        travel(Duration::from_millis(there)).await;
        let now = self.now();
        let down = request == Request::Lock
            && self.outages.iter().any(|(from, to)| (*from..*to).contains(&now));
        let mut done = if down { None } else { Some(self.with(effect)) };
        // It was struck while this was on its way.
        if request == Request::Refresh && process.stands_still() {
            self.with(|s| s.cut_off(process.index));
        }
        match fate {
            Fate::Answered => {}
            Fate::Late(late) => travel(late).await,
            Fate::ReplyLost => {
                if request == Request::Refresh {
                    self.with(|s| s.cut_off(process.index));
                }
                done = None;
            }
            Fate::SenderDies => {
                process.crash();
                self.with(|s| s.cut_off(process.index));
            }
            Fate::SenderPauses(pause) => {
                process.freeze(pause);
                self.with(|s| s.cut_off(process.index));
            }
        }
        travel(Duration::from_millis(back)).await;
        process.runs().await;
        done
    }

    /// A refresh arrives at the provider.
    pub(super) fn refresh(
        &self,
        s: &mut State,
        process: usize,
        token: &str,
    ) -> Result<Answer, EndpointError> {
        s.refresh(process, token, self.now())
    }
}

async fn travel(time: Duration) {
    tokio::time::sleep_until(Instant::now() + time).await;
}

/// Where a model's grant is stored.
pub(super) fn object_of(user: &str) -> String {
    format!("credentials/{user}.json")
}

impl State {
    pub(super) fn read(&self, name: &str) -> Option<Object> {
        self.objects.get(name).cloned()
    }

    /// Writes over this generation, or over whatever there is; `None` when there is another.
    pub(super) fn write(
        &mut self,
        name: &str,
        content: Bytes,
        over: Option<Generation>,
    ) -> Option<Generation> {
        let found = self.objects.get(name).map_or(Generation::ABSENT, |o| o.generation);
        if over.is_some_and(|over| over != found) {
            return None;
        }
        self.last_generation += 1;
        let generation = Generation(self.last_generation);
        if let Some((token, _)) = stored_token(name, &content) {
            for spend in self.spends.values_mut().filter(|s| s.successor == token) {
                spend.stored = true;
            }
        }
        self.objects.insert(name.to_owned(), Object { content, generation });
        Some(generation)
    }

    pub(super) fn delete(&mut self, name: &str, expected: Generation) -> Option<bool> {
        match self.objects.get(name) {
            None => Some(false),
            Some(object) if object.generation != expected => None,
            Some(_) => Some(self.objects.remove(name).is_some()),
        }
    }

    pub(super) fn names(&self, prefix: &str) -> Vec<(String, Generation)> {
        let names = self.objects.iter().filter(|(name, _)| name.starts_with(prefix));
        names.map(|(name, object)| (name.clone(), object.generation)).collect()
    }

    /// Sets the key unless it is set.
    pub(super) fn lock(&mut self, user: &str, ttl: Duration) -> bool {
        let now = Instant::now();
        if self.locks.get(user).is_some_and(|until| *until > now) {
            return false;
        }
        self.locks.insert(user.to_owned(), now + ttl);
        true
    }

    pub(super) fn unlock(&mut self, user: &str) {
        self.locks.remove(user);
    }

    /// The provider issued this with a consent.
    pub(super) fn consented(&mut self, user: &str, token: &str) {
        self.newest.insert(user.to_owned(), token.to_owned());
        self.expiry.remove(user);
        self.asked.remove(user);
    }

    fn refresh(&mut self, process: usize, token: &str, now: u64) -> Result<Answer, EndpointError> {
        let Some(place) = self.provider.place(token).cloned() else {
            return Err(EndpointError::InvalidGrant("invalid_grant".into()));
        };
        if !self.ended.contains_key(&place.family) {
            self.count(&place.user, now);
        }
        if let Some(first) = self.spends.get(token) {
            self.ended.entry(place.family).or_insert(first.cut_off && !first.stored);
        }
        let answer = self.provider.refresh(token)?;
        let successor = answer.refresh_token.as_ref().map(|token| token.expose().to_owned());
        let successor = successor.unwrap_or_default();
        self.newest.insert(place.user.clone(), successor.clone());
        let spend = Spend { user: place.user, process, successor, stored: false, cut_off: false };
        self.spends.insert(token.to_owned(), spend);
        Ok(answer)
    }

    /// A call opens an expiry; those within half a token's lifetime belong to the same one.
    fn count(&mut self, user: &str, now: u64) {
        self.figures.refreshes += 1;
        let half = u64::try_from(LIFETIME.as_millis() / 2).unwrap_or(u64::MAX);
        if self.expiry.get(user).is_none_or(|began| now >= began + half) {
            self.expiry.insert(user.to_owned(), now);
            self.figures.expiries += 1;
        }
    }

    /// The process dies, stands still or does not get an answer: what it has spent and not
    /// stored by now it may not store in time.
    fn cut_off(&mut self, process: usize) {
        for spend in self.spends.values_mut().filter(|s| s.process == process && !s.stored) {
            spend.cut_off = true;
        }
    }

    /// Counts the grant of `user` as lost if what is stored is not good any longer.
    pub(super) fn takes_stock(&mut self, user: &str) -> bool {
        let names =
            [UserId::new(user).map(|u| u.token_object()).unwrap_or_default(), object_of(user)];
        let stored = names.iter().find_map(|name| {
            let object = self.objects.get(name)?;
            stored_token(name, &object.content)
        });
        let is_good = stored.is_some_and(|(token, active)| active && self.provider.accepts(&token));
        if is_good {
            return false;
        }
        let newest = self.newest.get(user).cloned().unwrap_or_default();
        let family = self.provider.place(&newest).map(|place| place.family);
        let was_ended = family.and_then(|family| self.ended.get(&family)).copied();
        let was_cut_off = was_ended.unwrap_or_else(|| {
            let spends = self.spends.values();
            let issued = spends.filter(|s| s.user == user).find(|s| s.successor == newest);
            issued.is_some_and(|s| s.cut_off && !s.stored)
        });
        if was_cut_off {
            self.figures.cut_off += 1;
        } else {
            self.figures.lost += 1;
            self.figures.locked_out.insert(user.to_owned());
        }
        true
    }
}

/// The refresh token in an object, and whether it counts as good there.
fn stored_token(name: &str, content: &[u8]) -> Option<(String, bool)> {
    if let Some(user) = UserId::of_token_object(name) {
        let record = RecordCodec::default().decode(&user, content).ok()?;
        return Some((record.refresh_token.expose().to_owned(), record.is_active()));
    }
    let grant: Grant = serde_json::from_slice(content).ok()?;
    Some((grant.refresh_token, true))
}

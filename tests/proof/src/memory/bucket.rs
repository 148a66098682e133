//! A bucket in memory that counts requests, throttles as Cloud Storage does, and fails on
//! demand.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use shared::adapters::MemoryBucket;
use shared::ports::{Bucket, BucketError, Clock as _, Generation, Hints, Listing, Object};
use tokio::time::Instant;

use super::clock::VirtualClock;

/// What happens to one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFault {
    /// It fails before it is applied.
    NotApplied,
    /// It is applied and its reply is lost.
    ReplyLost,
    /// The official client's own retry: applied, then 412 on the second try.
    ConflictWithItself,
    /// It takes this long, and then succeeds or fails as it would, also when its sender
    /// has given up.
    Slow(Duration),
    /// Its reply is lost at once, and it is applied this much later if its
    /// precondition holds then.
    Late(Duration),
}

/// How many requests were made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Reads of token objects.
    pub token_reads: u64,
    /// Reads of lease objects.
    pub lease_reads: u64,
    /// Writes of token objects, failed ones included.
    pub token_writes: u64,
    /// Writes of lease objects, failed ones included.
    pub lease_writes: u64,
    /// Writes that were refused because they came less than a second after the last one of
    /// the same name.
    pub too_fast: u64,
}

impl Requests {
    /// All reads.
    pub fn reads(&self) -> u64 {
        self.token_reads + self.lease_reads
    }

    /// All writes.
    pub fn writes(&self) -> u64 {
        self.token_writes + self.lease_writes
    }
}

/// See the module's page.
#[derive(Debug, Default)]
pub struct FaultyBucket {
    inner: Arc<MemoryBucket>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    requests: Requests,
    latency: Duration,
    down: bool,
    refuses_deletes: bool,
    listings: u64,
    deletions: u64,
    /// Faults of the next writes whose name starts with a prefix.
    faults: BTreeMap<&'static str, VecDeque<WriteFault>>,
    written_at: BTreeMap<String, Instant>,
    created: BTreeMap<String, Timestamp>,
    /// Replies to the next reads of a name come so late.
    late_reads: BTreeMap<String, VecDeque<Duration>>,
}

impl FaultyBucket {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every request takes this long from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.with(|s| s.latency = latency);
    }

    /// Every request fails from now on, or no longer.
    pub fn set_down(&self, down: bool) {
        self.with(|s| s.down = down);
    }

    /// Every deletion fails for good from now on, or no longer.
    pub fn refuse_deletes(&self, refuse: bool) {
        self.with(|s| s.refuses_deletes = refuse);
    }

    /// Pages listed since the start, or since the last call.
    pub fn take_listings(&self) -> u64 {
        self.with(|s| std::mem::take(&mut s.listings))
    }

    /// Deletions since the start, or since the last call.
    pub fn take_deletions(&self) -> u64 {
        self.with(|s| std::mem::take(&mut s.deletions))
    }

    /// The next write of a name that starts with `prefix` meets this fault;
    /// several queue up.
    pub fn fail_write(&self, prefix: &'static str, fault: WriteFault) {
        self.with(|s| s.faults.entry(prefix).or_default().push_back(fault));
    }

    /// The next read of `name` is carried out when it arrives and answered this much
    /// later; several queue up.
    pub fn answer_late(&self, name: &str, delay: Duration) {
        self.with(|s| s.late_reads.entry(name.to_owned()).or_default().push_back(delay));
    }

    /// Requests since the start, or since the last call.
    pub fn take_requests(&self) -> Requests {
        self.with(|s| std::mem::take(&mut s.requests))
    }

    async fn arrive(&self) -> Result<(), BucketError> {
        let latency = self.with(|s| s.latency);
        if !latency.is_zero() {
            tokio::time::sleep_until(Instant::now() + latency).await;
        }
        if self.with(|s| s.down) {
            return Err(BucketError::Unavailable("down for the test".into()));
        }
        Ok(())
    }

    /// As if all writes so far lay a while back.
    pub fn settle(&self) {
        self.with(|s| s.written_at.clear());
    }

    /// As Cloud Storage does: about one mutation per second and name. What another
    /// generation refuses is no mutation.
    async fn throttle(&self, name: &str, expected: Generation) -> Result<(), BucketError> {
        let found = self.inner.get(name).await?.map_or(Generation::ABSENT, |o| o.generation);
        self.with(|s| {
            let last = s.written_at.get(name).filter(|_| found == expected);
            if last.is_some_and(|at| Instant::now() - *at < Duration::from_secs(1)) {
                s.requests.too_fast += 1;
                return Err(BucketError::Throttled);
            }
            Ok(())
        })
    }

    fn next_fault(&self, name: &str) -> Option<WriteFault> {
        self.with(|s| {
            s.faults
                .iter_mut()
                .find(|(p, _)| name.starts_with(**p))
                .and_then(|(_, f)| f.pop_front())
        })
    }
}

impl Bucket for FaultyBucket {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Object>, BucketError>> {
        async move {
            self.with(|s| {
                if name.starts_with("tokens/") {
                    s.requests.token_reads += 1;
                } else {
                    s.requests.lease_reads += 1;
                }
            });
            self.arrive().await?;
            let read = self.inner.get(name).await;
            let late = self.with(|s| s.late_reads.get_mut(name).and_then(VecDeque::pop_front));
            if let Some(delay) = late {
                tokio::time::sleep_until(Instant::now() + delay).await;
            }
            read
        }
        .boxed()
    }

    fn put_with_hints<'a>(
        &'a self,
        name: &'a str,
        content: Bytes,
        hints: Hints,
        expected: Generation,
    ) -> BoxFuture<'a, Result<Generation, BucketError>> {
        async move {
            self.with(|s| {
                if name.starts_with("tokens/") {
                    s.requests.token_writes += 1;
                } else {
                    s.requests.lease_writes += 1;
                }
            });
            self.arrive().await?;
            self.throttle(name, expected).await?;
            let lost = || BucketError::Unavailable("the reply was lost for the test".into());
            let fault = self.next_fault(name);
            match fault {
                Some(WriteFault::NotApplied) => return Err(lost()),
                Some(WriteFault::Late(delay)) => {
                    let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
                    let due = Instant::now() + delay;
                    tokio::spawn(async move {
                        tokio::time::sleep_until(due).await;
                        // Nobody waits for what becomes of it.
                        drop(inner.put_with_hints(&name, content, hints, expected).await);
                    });
                    return Err(lost());
                }
                Some(WriteFault::Slow(delay)) => {
                    let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
                    let due = Instant::now() + delay;
                    let arriving = tokio::spawn(async move {
                        tokio::time::sleep_until(due).await;
                        inner.put_with_hints(&name, content, hints, expected).await
                    });
                    return arriving.await.unwrap_or_else(|_| Err(lost()));
                }
                _ => {}
            }
            let written = self.inner.put_with_hints(name, content, hints, expected).await;
            if written.is_ok() {
                let created = VirtualClock::new(SignedDuration::ZERO).wall();
                self.with(|s| {
                    s.written_at.insert(name.to_owned(), Instant::now());
                    s.created.insert(name.to_owned(), created);
                });
            }
            match fault {
                Some(WriteFault::ReplyLost) => Err(lost()),
                Some(WriteFault::ConflictWithItself) => Err(BucketError::PreconditionFailed),
                _ => written,
            }
        }
        .boxed()
    }

    fn delete<'a>(
        &'a self,
        name: &'a str,
        expected: Generation,
    ) -> BoxFuture<'a, Result<bool, BucketError>> {
        async move {
            self.with(|s| s.deletions += 1);
            self.arrive().await?;
            if self.with(|s| s.refuses_deletes) {
                return Err(BucketError::Refused("no deletion for the test".into()));
            }
            self.throttle(name, expected).await?;
            self.inner.delete(name, expected).await
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        page: Option<String>,
    ) -> BoxFuture<'a, Result<Listing, BucketError>> {
        async move {
            self.with(|s| s.listings += 1);
            self.arrive().await?;
            let mut listing = self.inner.list(prefix, page).await?;
            self.with(|s| {
                for (name, _) in &listing.objects {
                    if let Some(created) = s.created.get(name) {
                        listing.created.insert(name.clone(), *created);
                    }
                }
            });
            Ok(listing)
        }
        .boxed()
    }
}

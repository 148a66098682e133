//! The one place where a bucket is asked again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::policy::Policy;
use crate::ports::{
    Bucket, BucketError, Clock, Generation, Hints, Listing, Monotonic, Object, Randomness,
};
use crate::schedule::Schedule;

use super::SystemClock;

/// Before a request that was throttled is sent again: one name takes about one write per
/// second.
const AFTER_THROTTLING: Duration = Duration::from_secs(1);

/// A bucket whose requests are tried again, by one rule for everybody:
///
/// - A read or a listing that failed is repeated, after pauses that grow. So is the deletion
///   of a version: where it was carried out before, it finds nothing, or another version.
/// - What was throttled (429) was not carried out and is repeated after at least a second.
/// - A write whose outcome is unknown is *not* repeated: its caller knows how to recognise
///   its own, and reads first.
///
/// All of it within the time that it was given; a caller with less drops the future. That
/// is harmless for a read, and leaves a write's outcome unknown, as always.
pub struct RetryingBucket {
    inner: Arc<dyn Bucket>,
    clock: Arc<dyn Clock>,
    random: Arc<Randomness>,
    pauses: Schedule,
    time: Duration,
}

impl RetryingBucket {
    /// `inner`, asked again for up to `time`, with pauses that start at `first` and grow to
    /// `longest`.
    pub fn new(
        inner: Arc<dyn Bucket>,
        clock: Arc<dyn Clock>,
        random: Arc<Randomness>,
        (first, longest): (Duration, Duration),
        time: Duration,
    ) -> Self {
        Self { inner, clock, random, pauses: Schedule::new(first, longest), time }
    }

    /// `inner`, asked again as a store with the default policy does, on the system's clock.
    pub fn over(inner: Arc<dyn Bucket>) -> Self {
        let policy = Policy::default();
        let (clock, random) = (Arc::new(SystemClock::default()), Randomness::from_system());
        let pauses = (policy.retry_min, policy.retry_max);
        Self::new(inner, clock, Arc::new(random), pauses, policy.wait_limit)
    }

    fn tries(&self) -> Tries<'_> {
        let until = self.clock.monotonic().plus(self.time);
        Tries { bucket: self, pauses: self.pauses.clone(), until }
    }
}

struct Tries<'a> {
    bucket: &'a RetryingBucket,
    pauses: Schedule,
    until: Monotonic,
}

impl Tries<'_> {
    /// Waits before the next try, or gives `error` back: when trying again does not help,
    /// or the time is over.
    async fn again(&mut self, error: BucketError, repeatable: bool) -> Result<(), BucketError> {
        let least = match error {
            BucketError::Throttled => AFTER_THROTTLING,
            BucketError::Unavailable(_) if repeatable => Duration::ZERO,
            _ => return Err(error),
        };
        let RetryingBucket { clock, random, .. } = self.bucket;
        let unit = random.unit();
        // A little more than a second, each time another, so that those who were throttled
        // together do not come back together.
        let pause = self.pauses.next(unit).max(least.mul_f64(1.0 + unit / 4.0));
        if clock.monotonic().plus(pause) >= self.until {
            return Err(error);
        }
        clock.sleep(pause).await;
        Ok(())
    }
}

impl Bucket for RetryingBucket {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Object>, BucketError>> {
        async move {
            let mut tries = self.tries();
            loop {
                match self.inner.get(name).await {
                    Err(error) => tries.again(error, true).await?,
                    read => return read,
                }
            }
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
            let mut tries = self.tries();
            loop {
                let (content, hints) = (content.clone(), hints.clone());
                match self.inner.put_with_hints(name, content, hints, expected).await {
                    Err(error) => tries.again(error, false).await?,
                    written => return written,
                }
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
            let mut tries = self.tries();
            loop {
                match self.inner.delete(name, expected).await {
                    Err(error) => tries.again(error, true).await?,
                    deleted => return deleted,
                }
            }
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        page: Option<String>,
    ) -> BoxFuture<'a, Result<Listing, BucketError>> {
        async move {
            let mut tries = self.tries();
            loop {
                match self.inner.list(prefix, page.clone()).await {
                    Err(error) => tries.again(error, true).await?,
                    listed => return listed,
                }
            }
        }
        .boxed()
    }
}

impl fmt::Debug for RetryingBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

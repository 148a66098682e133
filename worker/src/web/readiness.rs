//! Whether the pages can do their work.

use std::time::Duration;

use shared::ports::{Bucket, BucketError, Clock, Monotonic};
use tokio::sync::Mutex;

/// An answer of the bucket is good for so long: probes, which anybody may send,
/// must not become requests that are paid for.
const FRESH_FOR: Duration = Duration::from_secs(5);
/// A bucket that takes longer is not there for people who wait for a page.
const PATIENCE: Duration = Duration::from_secs(2);
/// Read to see that the bucket answers; never written.
const PROBE: &str = "fleet-startup-check";

/// What the last look at the bucket brought.
#[derive(Debug, Default)]
pub(super) struct Readiness(Mutex<Option<(Monotonic, Result<(), String>)>>);

impl Readiness {
    /// `Ok`, or what is missing: the bucket alone. That the token endpoint refuses the
    /// client is no reason to take the pages away, and a visitor could bring it about.
    /// However often it is asked, there is one look at
    /// the bucket at a time, and none while the last one is fresh. Ends within
    /// [`PATIENCE`] or so. A caller that may go away has it run in a task: a look
    /// that is broken off is not remembered.
    pub(super) async fn check(&self, bucket: &dyn Bucket, clock: &dyn Clock) -> Result<(), String> {
        let mut seen = self.0.lock().await;
        if let Some((at, result)) = &*seen
            && clock.monotonic().since(*at) < FRESH_FOR
        {
            return result.clone();
        }
        let result = tokio::select! {
            biased;
            answer = bucket.get(PROBE) => match answer {
                Ok(_) | Err(BucketError::Throttled) => Ok(()),
                Err(why) => Err(why.to_string()),
            },
            () = clock.sleep(PATIENCE) => {
                Err(format!("the bucket has not answered within {} s", PATIENCE.as_secs()))
            }
        };
        *seen = Some((clock.monotonic(), result.clone()));
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures_util::FutureExt as _;
    use futures_util::future::{BoxFuture, join_all};
    use shared::ports::{Generation, Hints, Listing, Object};
    use std::sync::Mutex as Plain;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Counts reads; answers unless it is down.
    #[derive(Debug, Default)]
    struct Probed {
        reads: AtomicU32,
        refuses: bool,
        hangs: bool,
    }

    impl Bucket for Probed {
        fn get<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Object>, BucketError>> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            async {
                tokio::task::yield_now().await;
                if self.hangs {
                    std::future::pending::<()>().await;
                }
                if self.refuses { Err(BucketError::Refused("denied".into())) } else { Ok(None) }
            }
            .boxed()
        }

        fn put_with_hints<'a>(
            &'a self,
            _: &'a str,
            _: Bytes,
            _: Hints,
            _: Generation,
        ) -> BoxFuture<'a, Result<Generation, BucketError>> {
            panic!("a probe writes nothing")
        }

        fn delete<'a>(
            &'a self,
            _: &'a str,
            _: Generation,
        ) -> BoxFuture<'a, Result<bool, BucketError>> {
            panic!("a probe deletes nothing")
        }

        fn list<'a>(
            &'a self,
            _: &'a str,
            _: Option<String>,
        ) -> BoxFuture<'a, Result<Listing, BucketError>> {
            panic!("a probe lists nothing")
        }
    }

    /// Moves with tokio's paused clock.
    #[derive(Debug)]
    struct Virtual(Plain<tokio::time::Instant>);

    impl Virtual {
        fn new() -> Self {
            Self(Plain::new(tokio::time::Instant::now()))
        }
    }

    impl Clock for Virtual {
        fn wall(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }

        fn monotonic(&self) -> Monotonic {
            Monotonic(self.0.lock().unwrap().elapsed())
        }

        #[expect(clippy::disallowed_methods, reason = "this is the clock that tests pass in")]
        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            tokio::time::sleep(duration).boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_probes_are_one_request() {
        let (bucket, clock, readiness) = (Probed::default(), Virtual::new(), Readiness::default());
        for round in 1..=3 {
            let probes = (0..500).map(|_| readiness.check(&bucket, &clock));
            assert!(join_all(probes).await.into_iter().all(|result| result.is_ok()));
            assert_eq!(bucket.reads.load(Ordering::Relaxed), round);
            tokio::time::advance(FRESH_FOR).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn says_what_is_missing() {
        let (clock, readiness) = (Virtual::new(), Readiness::default());
        let refusing = Probed { refuses: true, ..Probed::default() };
        let why = readiness.check(&refusing, &clock).await.unwrap_err();
        assert_eq!(why, "denied");
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_that_hangs_is_given_up() {
        let (clock, readiness) = (Virtual::new(), Readiness::default());
        let hanging = Probed { hangs: true, ..Probed::default() };
        let why = readiness.check(&hanging, &clock).await.unwrap_err();
        assert!(why.contains("not answered within 2 s"), "{why}");
        assert_eq!(clock.monotonic().0, PATIENCE);
    }
}

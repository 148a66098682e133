//! `get_credentials` for a usable token, beside the least that it could cost: a
//! lookup in the same cache, one clock read and one `Arc` clone (the lookup's own).
//!
//! Own tokens were obtained by this replica and age on the monotonic clock; another
//! replica obtained adopted ones, and for these the wall clock counts.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench fails by panicking")]

mod measuring;
#[path = "measuring/no_endpoint.rs"]
mod no_endpoint;
#[path = "measuring/wall_only.rs"]
mod wall_only;

use std::future::Future as _;
use std::hint::black_box;
use std::pin::pin;
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use shared::adapters::{MemoryBucket, SystemClock};
use shared::ports::Clock;
use shared::{Grant, Secret, TokenStore, UserId};

use measuring::{Measured, timed};
use no_endpoint::NoEndpoint;
use wall_only::WallOnly;

const USERS: usize = 1000;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What is measured: one call for one user.
trait Subject: Sync {
    fn call(&self, user: &UserId);
}

type Bare = Cache<UserId, Arc<Secret>, UnitWeighter, ahash::RandomState>;

struct Floor<C>(Bare, C);

impl<C: Clock> Subject for Floor<C> {
    #[inline]
    fn call(&self, user: &UserId) {
        black_box(self.1.wall());
        black_box(self.0.get(user)).unwrap();
    }
}

struct Store(TokenStore);

impl Subject for Store {
    #[inline]
    fn call(&self, user: &UserId) {
        // In place, as `.await` polls it.
        let mut asked = pin!(self.0.get_credentials(user));
        let polled = asked.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(black_box(polled), Poll::Ready(Ok(_))));
    }
}

fn users() -> Vec<UserId> {
    (0..USERS).map(|i| UserId::new(format!("10970000000000{i:07}")).unwrap()).collect()
}

fn floor<C: Clock>(users: &[UserId], clock: C) -> Floor<C> {
    let cache = Bare::with(
        100_000,
        100_000,
        UnitWeighter,
        ahash::RandomState::with_seeds(1, 2, 3, 4),
        DefaultLifecycle::default(),
    );
    for user in users {
        cache.insert(user.clone(), Arc::new(Secret::new("fake-access")));
    }
    Floor(cache, clock)
}

fn store(users: &[UserId], own: bool, clock: impl Clock) -> Store {
    let expires_at = clock.wall() + jiff::SignedDuration::try_from(DAY).unwrap();
    let store = TokenStore::builder(Arc::new(MemoryBucket::default()), Arc::new(NoEndpoint))
        .clock(Arc::new(clock))
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for user in users {
            let grant = Grant {
                refresh_token: Some("fake-refresh".into()),
                access_token: Some("fake-access".into()),
                expires_at: Some(expires_at),
                expires_in: Some(DAY),
                ..Grant::default()
            };
            if own {
                store.set_credentials(user, grant).await.unwrap();
            } else {
                store.import(user, grant, true).await.unwrap();
            }
            store.get_credentials(user).await.unwrap();
        }
    });
    Store(store)
}

fn calls(subject: &impl Subject, users: &[UserId], count: u64) {
    let mut next = users.iter().cycle();
    for _ in 0..count {
        subject.call(next.next().unwrap());
    }
}

/// How long `threads` take for `count` calls each, from a common start.
fn on_threads(subject: &impl Subject, users: &[UserId], threads: usize, count: u64) -> Duration {
    let barrier = Barrier::new(threads);
    let one = || {
        barrier.wait();
        timed(|| calls(subject, users, count))
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        running.into_iter().map(|t| t.join().unwrap()).max().unwrap()
    })
}

fn compare(criterion: &mut Criterion) {
    let users = users();
    let clock = SystemClock::default();
    let floor = floor(&users, clock);
    let (own, adopted) = (store(&users, true, clock), store(&users, false, clock));
    for (shape, users) in [("many users", &users[..]), ("one user", &users[..1])] {
        for threads in [1, 2] {
            let mut group = criterion.benchmark_group(format!("{shape}, {threads} thread(s)"));
            group.throughput(Throughput::Elements(threads as u64));
            group.bench_function(BenchmarkId::from_parameter("bare lookup"), |b| {
                b.iter_custom(|count| on_threads(&floor, users, threads, count));
            });
            group.bench_function(BenchmarkId::from_parameter("own token"), |b| {
                b.iter_custom(|count| on_threads(&own, users, threads, count));
            });
            group.bench_function(BenchmarkId::from_parameter("adopted token"), |b| {
                b.iter_custom(|count| on_threads(&adopted, users, threads, count));
            });
            group.finish();
        }
    }
}

fn counting(name: &'static str, subject: impl Subject + 'static) -> Measured {
    let users = users();
    Measured::many(name, move |count| calls(&subject, &users, count))
}

fn main() {
    let (users, clock) = (users(), WallOnly::default());
    let counted = measuring::counted(&[
        counting("bare lookup", floor(&users, clock)),
        counting("own token", store(&users, true, clock)),
        counting("adopted token", store(&users, false, clock)),
    ]);
    if !counted {
        let mut criterion = measuring::criterion();
        compare(&mut criterion);
        criterion.final_summary();
    }
}

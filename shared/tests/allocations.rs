//! The hot path allocates nothing. A binary of its own: its allocator counts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../benches/measuring/no_endpoint.rs"]
mod no_endpoint;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use shared::adapters::{MemoryBucket, SystemClock};
use shared::ports::Clock as _;
use shared::{Grant, TokenStore, UserId};

use no_endpoint::NoEndpoint;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const CALLS: u64 = 10_000;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How many blocks the calls allocated. Each call is polled once: it has nothing to
/// wait for.
fn allocated(store: &TokenStore, users: &[UserId]) -> u64 {
    let before = dhat::HeapStats::get().total_blocks;
    for user in users.iter().cycle().take(usize::try_from(CALLS).unwrap()) {
        let credentials = store.get_credentials(user).now_or_never().unwrap().unwrap();
        black_box(credentials.access_token());
    }
    dhat::HeapStats::get().total_blocks - before
}

#[tokio::test]
async fn a_usable_token_in_memory_costs_no_allocation() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let bucket = Arc::new(MemoryBucket::default());
    let store = TokenStore::builder(bucket, Arc::new(NoEndpoint)).build().unwrap();
    let expires_at = SystemClock::default().wall() + jiff::SignedDuration::try_from(DAY).unwrap();
    let grant = || Grant {
        refresh_token: Some("fake-refresh".into()),
        access_token: Some("fake-access".into()),
        expires_at: Some(expires_at),
        expires_in: Some(DAY),
        ..Grant::default()
    };
    // Obtained here, which ages on the monotonic clock, and obtained elsewhere.
    let own: Vec<_> = (0..10).map(|n| UserId::new(format!("own-{n}")).unwrap()).collect();
    let adopted: Vec<_> = (0..10).map(|n| UserId::new(format!("adopted-{n}")).unwrap()).collect();
    for user in &own {
        store.set_credentials(user, grant()).await.unwrap();
    }
    for user in &adopted {
        store.import(user, grant(), true).await.unwrap();
    }
    // What is set up once: per thread, per process, and per token.
    allocated(&store, &own);
    allocated(&store, &adopted);
    // The count is the process's, in which the test's own threads allocate now and then.
    for users in [&own, &adopted] {
        let blocks = allocated(&store, users);
        assert!(blocks < CALLS / 100, "{blocks} blocks in {CALLS} calls");
    }
    // And it does count.
    let before = dhat::HeapStats::get().total_blocks;
    black_box(Box::new(7_u8));
    assert!(dhat::HeapStats::get().total_blocks > before);
}

//! Replicas that all have jobs of the same users when the tokens of these expire.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use tests::contention::{Plan, Row, Way, measure};

/// One burst at eight replicas: 120 jobs of 20 users for 32 slots.
async fn burst(way: Way, rotating: bool) -> anyhow::Result<Row> {
    let plan = Plan { bursts: 1, rotating, ..Plan::with(8) };
    measure(way, &plan, None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn fleet_refreshes_once_per_expiry_and_locks_nobody_out() -> anyhow::Result<()> {
    for rotating in [true, false] {
        let row = burst(Way::Fleet, rotating).await?;
        assert_eq!((row.expiries, row.refresh_calls), (20, 20), "{row:?}");
        assert_eq!((row.reused_refresh_tokens, row.locked_out_users), (0, 0), "{row:?}");
        assert_eq!((row.jobs_done, row.jobs_failed), (120, 0), "{row:?}");
    }
    Ok(())
}

/// What the comparison rests on: with so many jobs at once, unguarded replicas collide.
#[tokio::test(flavor = "multi_thread")]
async fn unguarded_replicas_refresh_together_and_lock_users_out() -> anyhow::Result<()> {
    let row = burst(Way::UnguardedRust, false).await?;
    assert!(row.refresh_calls > row.expiries && row.expiries >= 20, "{row:?}");
    assert_eq!(row.locked_out_users, 0, "spent tokens are good as new there: {row:?}");
    let row = burst(Way::UnguardedRust, true).await?;
    assert!(row.locked_out_users > 0 && row.jobs_failed > 0, "{row:?}");
    assert!(row.reused_refresh_tokens >= row.locked_out_users, "{row:?}");
    Ok(())
}

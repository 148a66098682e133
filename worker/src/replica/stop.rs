//! The end of a replica: stop intake, drain, cut.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::delivery::Deliveries;
use crate::pubsub::Source;

/// How long ends may be written after the running jobs were cut.
const WRITING: Duration = Duration::from_secs(5);
/// How long the acknowledgements may take after the last job has ended.
const RELEASE: Duration = Duration::from_secs(5);

/// What the replica's end is asked with: once to drain, twice to cut.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Stop the intake and drain.
    pub drain: CancellationToken,
    /// Do not wait for running jobs.
    pub cut: CancellationToken,
}

impl Stop {
    /// One that is asked by SIGTERM or SIGINT: the first drains, the second cuts. From now on
    /// these signals do nothing else.
    ///
    /// # Errors
    /// When the system lets no signal be watched.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn by_signals() -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = Self::default();
        let asked = stop.clone();
        tokio::spawn(async move {
            for token in [&asked.drain, &asked.cut] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                token.cancel();
            }
        });
        Ok(stop)
    }
}

/// When running jobs are cut: what is left of `drain` is for writing their ends.
fn cut_after(drain: Duration) -> Duration {
    drain.saturating_sub(WRITING).max(drain / 2)
}

/// Stops the intake, lets running jobs end, cuts them, writes their ends, and sees that no
/// grant is lost.
pub(super) async fn wind_up(
    deliveries: &Deliveries,
    source: Box<dyn Source>,
    stop: &Stop,
    drain: Duration,
) {
    let Deliveries { tasks, clock, ends, carrier, .. } = deliveries;
    let released = source.stop();
    info!("stopping: no new jobs, running ones may end");
    tasks.close();
    let cut_after = cut_after(drain);
    tokio::select! {
        biased;
        () = tasks.wait() => {}
        () = stop.cut.cancelled() => warn!("asked again: running jobs are cut"),
        () = clock.sleep(cut_after) => warn!("running jobs are cut after {cut_after:?}"),
    }
    ends.cutting.cancel();
    let writing = drain.saturating_sub(cut_after);
    tokio::select! { biased; () = tasks.wait() => {}, () = clock.sleep(writing) => {} }
    ends.over.cancel();
    let late = |what: &'static str| async move {
        clock.sleep(RELEASE).await;
        warn!("{what} took longer than {RELEASE:?}");
    };
    tokio::select! { biased; () = tasks.wait() => {}, () = late("keeping the ends of jobs") => {} }
    tokio::select! { biased; () = released => {}, () = late("releasing messages") => {} }
    carrier.observer.usage.tell();
    // A grant that was obtained must be stored, or the user is locked out.
    if !carrier.store.shutdown(carrier.store.policy().longest_flight()).await {
        error!("a refresh is still under way; its grant may be lost");
    }
    info!("stopped");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_have_time_to_be_written_and_jobs_half_of_the_drain() {
        for (drain, cut) in [(25, 20), (120, 115), (10, 5), (6, 3), (1, 0)] {
            let after = cut_after(Duration::from_secs(drain));
            assert_eq!(after.as_secs(), cut, "{drain}");
            assert!(after >= Duration::from_secs(drain) / 2);
        }
    }
}

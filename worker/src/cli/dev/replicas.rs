//! Replicas that stay: one that ends by itself is started again.

use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context as _;
use shared::Schedule;
use shared::adapters::SystemClock;
use shared::ports::{Clock as _, Randomness};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::super::output;
use super::stack::{Line, Replica, Stack};

/// The first pause before a replica is started again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// After one that ran so long the pauses begin anew.
const STEADY: Duration = Duration::from_secs(60);

/// A replica that is started again whenever it ends, until it is told to end.
pub(super) struct Lasting {
    stop: CancellationToken,
    task: AbortOnDropHandle<anyhow::Result<()>>,
}

impl Lasting {
    /// Starts a replica and waits until it takes jobs. One that fails to is an error, and not
    /// tried again: its command is wrong.
    pub(super) async fn start(
        stack: &Arc<Stack>,
        number: usize,
        lines: UnboundedSender<Line>,
    ) -> anyhow::Result<Self> {
        let first = stack.replica(number, lines.clone()).await?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let stack = Arc::downgrade(stack);
        let task = tokio::spawn(async move { keep(&stack, number, first, lines, &stopped).await });
        Ok(Self { stop, task: AbortOnDropHandle::new(task) })
    }

    /// Ends the replica in order.
    pub(super) async fn terminate(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.await.context("a replica cannot be stopped")?
    }
}

/// Does not keep the stack, which cleans up when whoever has it leaves.
async fn keep(
    stack: &Weak<Stack>,
    number: usize,
    first: Replica,
    lines: UnboundedSender<Line>,
    stopped: &CancellationToken,
) -> anyhow::Result<()> {
    let clock = SystemClock::default();
    let random = Randomness::from_system();
    let mut pauses = Schedule::new(PAUSES.0, PAUSES.1);
    let mut running = Ok(first);
    loop {
        let began = clock.monotonic();
        let why = match running {
            Ok(mut replica) => match stopped.run_until_cancelled(replica.died()).await {
                Some(why) => why,
                None => return replica.terminate().await,
            },
            Err(error) => format!("{error:#}"),
        };
        if clock.monotonic().since(began) >= STEADY {
            pauses.reset();
        }
        let pause = pauses.next(random.unit());
        output::note(format!("{why}; starting it again in {:.1} s", pause.as_secs_f64()));
        let again = async {
            clock.sleep(pause).await;
            let stack = stack.upgrade().context("the stack is gone")?;
            stack.replica(number, lines.clone()).await
        };
        match stopped.run_until_cancelled(again).await {
            Some(started) => running = started,
            None => return Ok(()),
        }
    }
}

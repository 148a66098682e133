//! What must be there before the first message is taken.

use std::sync::Arc;

use shared::Schedule;
use shared::ports::BucketError;
use tracing::warn;

use crate::pubsub::{NamedTopic, Topic, await_topics, permitted_attempts, warn_unless_kept};

use super::{RETRY_MAX, RETRY_MIN, ReplicaError, Stop, Worker};

/// Read at the start to see that the bucket is there; never written.
const PROBE: &str = "fleet-startup-check";

/// What was learnt at the start.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    /// How many delivery attempts the subscription permits, if it counts.
    pub(super) max_attempts: Option<u32>,
}

/// Waits until the bucket and the topics are there; `None` when the end was asked for.
pub(super) async fn start(
    worker: &mut Worker,
    stop: &Stop,
) -> Result<Option<Learnt>, ReplicaError> {
    let starting = async {
        await_bucket(worker).await?;
        look_at_topics(worker).await
    };
    tokio::select! {
        biased;
        () = stop.drain.cancelled() => Ok(None),
        learnt = starting => learnt.map(Some),
    }
}

/// Waits until the bucket answers. A bucket that refuses is a wrong setting; one that does
/// not answer may come back.
async fn await_bucket(worker: &mut Worker) -> Result<(), ReplicaError> {
    let mut pauses = Schedule::new(RETRY_MIN, RETRY_MAX);
    loop {
        let looked = worker.bucket.get(PROBE).await;
        match looked {
            Ok(_) => return Ok(()),
            Err(BucketError::Refused(why)) => return Err(ReplicaError::Bucket(why.to_string())),
            Err(why) => {
                let pause = pauses.next(worker.random.unit());
                warn!(
                    "{why}; no job is taken before it answers, next try in {pause:.0?}. Check the \
                     network and the storage service"
                );
                worker.clock.sleep(pause).await;
            }
        }
    }
}

/// Looks at what is published to and read from.
async fn look_at_topics(worker: &mut Worker) -> Result<Learnt, ReplicaError> {
    let Worker { jobs, dead, outcomes, clock, random, ready, .. } = worker;
    let named = |setting, topic: &Arc<dyn Topic>| NamedTopic { setting, topic: Arc::clone(topic) };
    let mut topics = vec![named("--topic", jobs), named("--dead-topic", dead)];
    topics.extend(outcomes.as_ref().map(|topic| named("--outcomes-topic", topic)));
    await_topics(&topics, &**clock, random, ready).await?;
    warn_unless_kept(&**dead).await;
    let attempts = permitted_attempts(&mut *worker.source).await;
    Ok(Learnt { max_attempts: attempts.and_then(|attempts| u32::try_from(attempts).ok()) })
}

//! What is looked at before the first message: a topic that does not exist must be found
//! before a job has acted whose end is to be written there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use shared::Schedule;
use shared::ports::{Clock, Monotonic, Randomness};
use tracing::{error, info, warn};

use crate::health::{Lack, Readiness};

use super::{MIN_BACKOFF, Settings, Source, Topic, Unseen};

/// So many refusals …
const REFUSALS: usize = 3;
/// … within this time are a wrong setting and no grant that takes a while to spread.
const WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at what refuses.
const AGAIN: Duration = Duration::from_secs(5);
/// Pauses between two looks at a service that does not answer.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Fewer deliveries than this are gone in a short outage.
const ENOUGH_ATTEMPTS: i32 = 100;

/// A topic that is published to, and the setting that names it.
#[derive(Debug, Clone)]
pub struct NamedTopic {
    /// `--dead-topic`, for example.
    pub setting: &'static str,
    /// The topic.
    pub topic: Arc<dyn Topic>,
}

/// A topic cannot be published to, and will not be before somebody does something.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "{topic}: {source}; create it (`fleet setup`, or Terraform), grant this process roles/pubsub.publisher on it, or correct {setting}"
)]
pub struct TopicRefuses {
    /// Its full name.
    pub topic: String,
    /// The setting that names it.
    pub setting: &'static str,
    /// What was seen.
    pub source: Unseen,
}

/// Waits until every topic may be published to. Dropping the future is harmless.
///
/// While the service does not answer, this goes on: it may come back.
///
/// # Errors
/// [`TopicRefuses`] when a topic refused three times within 30 s.
pub async fn await_topics(
    topics: &[NamedTopic],
    clock: &dyn Clock,
    random: &Randomness,
    ready: &Readiness,
) -> Result<(), TopicRefuses> {
    ready.lacks(Lack::Settings, "the topics were not looked at yet");
    try_join_all(topics.iter().map(|named| await_topic(named, clock, random, ready))).await?;
    ready.has(Lack::Settings);
    Ok(())
}

async fn await_topic(
    NamedTopic { setting, topic }: &NamedTopic,
    clock: &dyn Clock,
    random: &Randomness,
    ready: &Readiness,
) -> Result<(), TopicRefuses> {
    let mut refusals = Refusals::default();
    let mut pauses = Schedule::new(PAUSE_MIN, PAUSE_MAX);
    loop {
        let why = match topic.look().await {
            // The latter is as much as an emulator can tell.
            Ok(()) | Err(Unseen::Unsupported) => return Ok(()),
            Err(why) => why,
        };
        let pause = if let Unseen::Unreachable(why) = &why {
            if pauses.count() == 0 {
                warn!("{}: {why}; no job is taken before Pub/Sub answers", topic.name());
            }
            pauses.next(random.unit())
        } else {
            if refusals.are_enough(clock.monotonic()) {
                let topic = topic.name().to_owned();
                return Err(TopicRefuses { topic, setting, source: why });
            }
            AGAIN
        };
        ready.lacks(Lack::Settings, format!("{} ({setting}): {why}", topic.name()));
        clock.sleep(pause).await;
    }
}

/// Says when a topic that no job needs cannot be published to. Nobody waits for it, and
/// dropping the future is harmless.
pub async fn complain_if_refused(named: &NamedTopic, clock: &dyn Clock, random: &Randomness) {
    let NamedTopic { setting, topic } = named;
    let mut refusals = Refusals::default();
    let mut pauses = Schedule::new(PAUSE_MIN, PAUSE_MAX);
    loop {
        let pause = match topic.look().await {
            Ok(()) | Err(Unseen::Unsupported) => return,
            // That is said of the topics that jobs need.
            Err(Unseen::Unreachable(_)) => pauses.next(random.unit()),
            Err(source) if refusals.are_enough(clock.monotonic()) => {
                let topic = topic.name().to_owned();
                let why = TopicRefuses { topic, setting, source };
                error!("{why}. Jobs are done all the same, and nobody is told meanwhile");
                return;
            }
            Err(_) => AGAIN,
        };
        clock.sleep(pause).await;
    }
}

/// When a topic refused.
#[derive(Debug, Default)]
struct Refusals(VecDeque<Monotonic>);

impl Refusals {
    /// One more, at `now`: whether these are enough to give up.
    fn are_enough(&mut self, now: Monotonic) -> bool {
        self.0.push_back(now);
        self.0.retain(|at| now.since(*at) <= WITHIN);
        self.0.len() >= REFUSALS
    }
}

/// Warns when no subscription keeps what is published to the dead topic.
pub async fn warn_unless_kept(dead: &dyn Topic) {
    if let Ok(false) = dead.is_kept().await {
        warn!(
            "{} has no subscription: every rejected job is lost. Create one (`fleet setup`, or Terraform)",
            dead.name()
        );
    }
}

/// Reads the subscription's settings and says at start what will hurt; the deliveries that
/// it permits, where it is known and limited.
pub async fn permitted_attempts(source: &mut dyn Source) -> Option<i32> {
    let settings = match source.settings().await {
        Ok(settings) => settings?,
        Err(why) => {
            info!(
                "the settings of the subscription cannot be read ({why}): the last permitted delivery of a job is not known. To change that, grant pubsub.subscriptions.get"
            );
            return None;
        }
    };
    for advice in advice(&settings) {
        warn!("{advice}");
    }
    settings.dead_letter.map(|(_, attempts)| attempts)
}

/// What should be changed about a job subscription, one sentence each.
fn advice(settings: &Settings) -> Vec<String> {
    let mut advice = Vec::new();
    match settings.retry {
        Some((shortest, _)) if shortest >= MIN_BACKOFF => {}
        found => advice.push(format!(
            "the job subscription has {}: jobs that are given back use up their deliveries while something is down. Set one of 10 s to 600 s (gcloud pubsub subscriptions update --min-retry-delay=10s --max-retry-delay=600s)",
            match found {
                Some((shortest, _)) => format!("a retry policy that begins at {shortest:?}"),
                None => "no retry policy".to_owned(),
            }
        )),
    }
    if let Some((_, attempts)) = settings.dead_letter
        && attempts < ENOUGH_ATTEMPTS
    {
        advice.push(format!(
            "the job subscription gives a message up after {attempts} deliveries, which a short outage or a few restarts use up. Set 100 (gcloud pubsub subscriptions update --max-delivery-attempts=100)"
        ));
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    use futures_util::FutureExt as _;
    use futures_util::future::{BoxFuture, ready};
    use tokio::time::Instant;

    use crate::health::Pulse;
    use crate::pubsub::virtual_clock::Virtual;
    use crate::pubsub::{Outgoing, PublishError};

    /// A topic whose looks show these one after another, and then the last again and again.
    #[derive(Debug)]
    struct Looks(Mutex<Vec<Result<(), Unseen>>>);

    impl Topic for Looks {
        fn name(&self) -> &'static str {
            "projects/p/topics/dead"
        }

        fn publish(&self, _: Outgoing) -> BoxFuture<'static, Result<String, PublishError>> {
            unreachable!("nothing is published at start")
        }

        fn look(&self) -> BoxFuture<'_, Result<(), Unseen>> {
            let mut looks = self.0.lock().unwrap();
            ready(if looks.len() > 1 { looks.remove(0) } else { looks[0].clone() }).boxed()
        }
    }

    /// What comes of such looks, after how many seconds, and what readiness says before.
    async fn started(looks: Vec<Result<(), Unseen>>) -> (Result<(), String>, u64) {
        let named =
            NamedTopic { setting: "--dead-topic", topic: Arc::new(Looks(Mutex::new(looks))) };
        let clock = Virtual::default();
        let ready = Readiness::new(Pulse::new(Arc::new(clock)));
        let began = Instant::now();
        let random = Randomness::seeded(1);
        let awaited = await_topics(&[named], &clock, &random, &ready).await;
        let lacks = ready.check().unwrap_err();
        assert_eq!(lacks.contains("--dead-topic"), awaited.is_err(), "{lacks}");
        (awaited.map_err(|e| e.to_string()), began.elapsed().as_secs())
    }

    fn gone() -> Result<(), Unseen> {
        Err(Unseen::Missing)
    }

    fn down() -> Result<(), Unseen> {
        Err(Unseen::Unreachable("refused".into()))
    }

    #[tokio::test(start_paused = true)]
    async fn three_refusals_end_it_with_the_remedy() {
        for refusal in [Unseen::Missing, Unseen::Denied, Unseen::Nothing] {
            let (result, seconds) = started(vec![Err(refusal.clone())]).await;
            let why = result.unwrap_err();
            assert!(why.starts_with(&format!("projects/p/topics/dead: {refusal}; ")), "{why}");
            assert!(why.ends_with("or correct --dead-topic"), "{why}");
            assert_eq!(seconds, 10);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_grant_that_spreads_slowly_is_waited_for() {
        let (result, seconds) = started(vec![gone(), gone(), Ok(())]).await;
        assert_eq!((result, seconds), (Ok(()), 10));
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_waited_out_and_is_no_refusal() {
        let mut looks = vec![down(); 40];
        looks.push(Ok(()));
        let (result, seconds) = started(looks).await;
        assert_eq!(result, Ok(()));
        assert!((600..1_200).contains(&seconds), "{seconds} s: the pauses grow to 30 s");
        // Refusals that are far apart are not counted together.
        let mut looks = Vec::new();
        for _ in 0..4 {
            looks.push(gone());
            looks.extend(vec![down(); 12]);
        }
        looks.push(Ok(()));
        assert_eq!(started(looks).await.0, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_emulator_that_cannot_tell_is_believed() {
        assert_eq!(started(vec![Err(Unseen::Unsupported)]).await, (Ok(()), 0));
    }

    fn settings(retry: Option<u64>, attempts: Option<i32>) -> Settings {
        Settings {
            topic: "t".into(),
            pulled: true,
            ack_deadline: Duration::from_secs(60),
            ordering: true,
            exactly_once: false,
            expires_after: None,
            filter: None,
            retry: retry.map(|s| (Duration::from_secs(s), Duration::from_secs(600))),
            dead_letter: attempts.map(|attempts| ("dead".into(), attempts)),
            retention: Duration::ZERO,
            detached: false,
        }
    }

    #[test]
    fn advises_a_retry_policy_and_a_hundred_deliveries() {
        assert!(advice(&settings(Some(10), Some(100))).is_empty());
        assert!(advice(&settings(Some(10), None)).is_empty(), "without a limit");
        let all = advice(&settings(None, Some(5)));
        assert!(all[0].contains("no retry policy"), "{all:?}");
        assert!(all[1].contains("after 5 deliveries"), "{all:?}");
        let short = advice(&settings(Some(1), Some(99)));
        assert!(short[0].contains("begins at 1s") && short[1].contains("99"), "{short:?}");
    }
}

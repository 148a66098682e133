//! What a worker is made of, connected as its flags and variables say.

use std::sync::Arc;

use crate::events::Events;
use crate::kinds::{HostRules, OutputRules};
use crate::pubsub::{Connection, Intake, IntakeSettings, Publisher, Topic};
use crate::replica::Builder;
use crate::{Dedupe, Worker};
use shared::adapters::{SystemClock, http_client};
use shared::ports::Clock;
use url::Url;

use super::super::connect::Connected;
use super::super::doctor::Names;
use super::super::environment::Place;
use super::super::events::{EventArgs, public_url};
use super::super::output::Usage;
use super::Args;
use super::jobs::DedupeArg;

/// The names of what is to be connected, and the rules for jobs.
pub(super) struct Named {
    pub(super) subscription: String,
    jobs: String,
    dead: String,
    outcomes: Option<String>,
    events: Option<String>,
    /// Where browsers reach `fleet web`.
    site: Option<Url>,
    hosts: HostRules,
    pub(super) outputs: OutputRules,
}

/// The parts.
pub(super) struct Parts {
    pub(super) connected: Connected,
    pub(super) jobs: Arc<dyn Topic>,
    pub(super) dead: Arc<dyn Topic>,
    pub(super) outcomes: Option<Arc<dyn Topic>>,
    pub(super) events: Option<Arc<Events>>,
    pub(super) clock: Arc<dyn Clock>,
    connection: Connection,
    api_root: Option<Url>,
}

impl Named {
    /// What the flags name.
    ///
    /// # Errors
    /// When one of them cannot work.
    pub(super) fn by(args: &Args) -> Result<Self, Usage> {
        let Args { project, store, jobs, .. } = args;
        jobs.check()?;
        let (hosts, outputs) = jobs.reach.rules(Some(&store.bucket))?;
        Ok(Self {
            subscription: project.subscription(&jobs.subscription)?,
            jobs: project.topic("--topic", &jobs.topic)?,
            dead: project.topic("--dead-topic", &jobs.dead_topic)?,
            outcomes: project.optional_topic("--outcomes-topic", jobs.outcomes_topic.as_ref())?,
            events: jobs.events.topic(project)?,
            site: public_url(jobs.public_url.as_deref())?,
            hosts,
            outputs,
        })
    }
}

impl Named {
    /// What `fleet doctor` knows how to look at.
    pub(super) fn into_names(self) -> Names {
        Names {
            topic: Some(self.jobs),
            subscription: Some(self.subscription),
            dead_topic: Some(self.dead),
            dead_subscription: None,
            outcomes_topic: self.outcomes,
            events_topic: self.events,
        }
    }
}

impl Parts {
    /// Connects to what is named; the store is connected already.
    pub(super) async fn connect(
        args: &Args,
        named: &Named,
        place: &Place,
        connected: Connected,
    ) -> anyhow::Result<Self> {
        place.reach_pubsub().await?;
        let connection = place.connection();
        let topic = async |name: &str| -> anyhow::Result<Arc<dyn Topic>> {
            let topic: Arc<dyn Topic> = Arc::new(Publisher::open(&connection, name).await?);
            Ok(topic)
        };
        let outcomes = match &named.outcomes {
            Some(name) => Some(topic(name).await?),
            None => None,
        };
        let events = match &named.events {
            Some(name) => {
                let events =
                    EventArgs::open(name, place, &connected.store, &args.store.bucket).await?;
                let (site, unknown_users) = (named.site.clone(), args.jobs.events_unknown);
                Some(Arc::new(Events { site, unknown_users, ..events }))
            }
            None => None,
        };
        Ok(Self {
            jobs: topic(&named.jobs).await?,
            dead: topic(&named.dead).await?,
            outcomes,
            events,
            clock: Arc::new(SystemClock::default()),
            api_root: place.emulators.as_ref().and_then(|e| e.api_root.clone()),
            connection,
            connected,
        })
    }

    /// A worker of them, to which only kinds are to be added.
    pub(super) async fn builder(&self, args: &Args, named: &Named) -> anyhow::Result<Builder> {
        let (Self { connected, .. }, Args { jobs, .. }) = (self, args);
        let intake = IntakeSettings {
            subscription: named.subscription.clone(),
            max_outstanding: jobs.outstanding(),
            max_outstanding_bytes: jobs.outstanding_bytes,
            ack_extension: jobs.ack_extension,
        };
        let dedupe = match jobs.dedupe {
            DedupeArg::Off => Dedupe::Off,
            DedupeArg::Memory => Dedupe::memory(),
            DedupeArg::Bucket => {
                let sealing = connected.store.sealing().clone();
                Dedupe::bucket(Arc::clone(&connected.bucket), sealing)
            }
        };
        let user_agent = connected.user_agent.clone();
        Ok(Worker::builder()
            .dedupe(dedupe)
            .store(connected.store.clone())
            .bucket(Arc::clone(&connected.bucket))
            .source(Intake::open(&self.connection, intake).await?)
            .subscription(named.subscription.clone())
            .http(move || http_client(&user_agent).expect("the TLS backend is compiled in"))
            .hosts(named.hosts.clone())
            .api_root(self.api_root.clone())
            .jobs(Arc::clone(&self.jobs))
            .dead_letters(Arc::clone(&self.dead))
            .outcomes(self.outcomes.clone())
            .events(self.events.clone())
            .clock(Arc::clone(&self.clock))
            .concurrency(jobs.concurrency)
            .per_user(jobs.per_user)
            .outstanding(jobs.outstanding())
            .outstanding_bytes(jobs.outstanding_bytes)
            .drain(jobs.drain)
            .retry_budget(jobs.retry_budget)
            .ordered_retry(jobs.ordered_retry))
    }
}

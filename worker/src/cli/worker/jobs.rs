//! What a worker takes, and how much at once: its flags.

use std::net::SocketAddr;
use std::time::Duration;

use crate::kinds::{BODY_MEMORY, MIN_BODY_MEMORY};
use crate::pubsub::OUTSTANDING_BYTES;
use crate::replica::OUTSTANDING_PER_SLOT;
use clap::builder::FalseyValueParser;

use super::super::connect::duration;
use super::super::days::{Days, days};
use super::super::events::EventArgs;
use super::super::orphan::ParentArgs;
use super::super::output::Usage;
use super::super::reach::ReachArgs;

/// What is taken, and how much at once.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Jobs")]
pub(super) struct JobArgs {
    /// Job subscription: an ID or a full name
    #[arg(long, env = "FLEET_SUBSCRIPTION")]
    pub(super) subscription: String,
    /// Job topic, where parked jobs go on when their user has consented
    #[arg(long, env = "FLEET_TOPIC")]
    pub(super) topic: String,
    /// How often parked jobs are looked through, by one replica of the fleet; at least 1m
    #[arg(long, env = "FLEET_SWEEP", default_value = "10m", value_parser = duration)]
    pub(super) sweep: Duration,
    /// How long jobs of unknown users are parked before they are rejected; at least 1m
    #[arg(long, env = "FLEET_PARK_UNKNOWN", default_value = "7d", value_parser = duration)]
    pub(super) park_unknown: Duration,
    /// Refresh grants that nobody used for so long, a number of days such as 30d: providers end
    /// what is not used, Google after six months [default: none are]
    #[arg(long, env = "FLEET_KEEP_ALIVE", value_parser = days)]
    pub(super) keep_alive: Option<Days>,
    /// Where outcomes are published [default: nowhere]
    #[arg(long, env = "FLEET_OUTCOMES_TOPIC")]
    pub(super) outcomes_topic: Option<String>,
    #[command(flatten)]
    pub(super) events: EventArgs,
    /// Publish events also of users who never consented
    #[arg(long, env = "FLEET_EVENTS_UNKNOWN", value_parser = FalseyValueParser::new())]
    pub(super) events_unknown: bool,
    /// Where browsers reach `fleet web`, for the links in events [default: no links]
    #[arg(long, env = "FLEET_PUBLIC_URL", value_name = "URL")]
    pub(super) public_url: Option<String>,
    /// Where rejected jobs go
    #[arg(long, env = "FLEET_DEAD_TOPIC")]
    pub(super) dead_topic: String,
    #[command(flatten)]
    pub(super) reach: ReachArgs,
    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, env = "FLEET_LISTEN", default_value = "127.0.0.1:9090")]
    pub(super) listen: SocketAddr,
    /// How long a dead replica's messages stay unseen, 10s to 600s
    #[arg(long, env = "FLEET_ACK_EXTENSION", default_value = "60s", value_parser = duration)]
    pub(super) ack_extension: Duration,
    /// How many messages are held at once [default: 8 times --concurrency]
    #[arg(long, env = "FLEET_OUTSTANDING")]
    pub(super) outstanding: Option<usize>,
    /// How many bytes of messages are held at once
    #[arg(long, env = "FLEET_OUTSTANDING_BYTES", default_value_t = OUTSTANDING_BYTES)]
    pub(super) outstanding_bytes: usize,
    /// How many bytes the bodies and pages of all `api` jobs may hold together
    #[arg(long, env = "FLEET_BODY_MEMORY", default_value_t = BODY_MEMORY, value_name = "BYTES")]
    pub(super) body_memory: usize,
    /// How many jobs run at once: 64 take three fifths of half a processor with calls of 20 ms;
    /// with calls of 300 ms hundreds fit
    #[arg(long, env = "FLEET_CONCURRENCY", default_value_t = 64)]
    pub(super) concurrency: usize,
    /// How many jobs of one user run at once
    #[arg(long, env = "FLEET_PER_USER", default_value_t = 1)]
    pub(super) per_user: usize,
    /// How long running jobs may go on after SIGTERM; its last 5s are for writing their ends
    #[arg(long, env = "FLEET_DRAIN", default_value = "25s", value_parser = duration)]
    pub(super) drain: Duration,
    /// Name users by their IDs in the lines about jobs, instead of by digests
    #[arg(long, env = "FLEET_LOG_USER_IDS", value_parser = FalseyValueParser::new())]
    pub(super) log_user_ids: bool,
    /// How long a job without an ordering key may wait between its attempts before it is
    /// given back
    #[arg(long, env = "FLEET_RETRY_BUDGET", default_value = "60s", value_parser = duration)]
    pub(super) retry_budget: Duration,
    /// How long a failing job with an ordering key is tried again where it is, before it is
    /// rejected
    #[arg(long, env = "FLEET_ORDERED_RETRY", default_value = "6h", value_parser = duration)]
    pub(super) ordered_retry: Duration,
    /// Where the ends of jobs are remembered, so that a redelivery does not act again: in
    /// this process, or as objects under done/ in the bucket (one more read and write per job)
    #[arg(long, env = "FLEET_DEDUPE", default_value = "off")]
    pub(super) dedupe: DedupeArg,
    #[command(flatten)]
    pub(super) parent: ParentArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum DedupeArg {
    Off,
    Memory,
    Bucket,
}

/// No sweep comes sooner after another.
const SWEEP_MIN: Duration = Duration::from_secs(60);

/// A user has that long to consent before the first job ends.
const PARK_UNKNOWN_MIN: Duration = Duration::from_secs(60);

impl JobArgs {
    pub(super) fn outstanding(&self) -> usize {
        let default = self.concurrency.saturating_mul(OUTSTANDING_PER_SLOT);
        self.outstanding.unwrap_or(default)
    }

    /// # Errors
    /// When a value cannot work.
    pub(super) fn check(&self) -> Result<(), Usage> {
        if self.concurrency == 0 || self.per_user == 0 {
            return Err(Usage("--concurrency and --per-user must be at least 1".to_owned()));
        }
        if self.outstanding == Some(0)
            || self.outstanding() > OUTSTANDING_PER_SLOT * self.concurrency
        {
            return Err(Usage(format!(
                "--outstanding is {}; it must be 1 to {OUTSTANDING_PER_SLOT} times --concurrency ({})",
                self.outstanding(),
                self.concurrency
            )));
        }
        if self.body_memory < MIN_BODY_MEMORY {
            return Err(Usage(format!(
                "--body-memory is {}; it must be at least {MIN_BODY_MEMORY}",
                self.body_memory
            )));
        }
        if self.sweep < SWEEP_MIN {
            return Err(Usage(format!("--sweep is {:?}; the least is {SWEEP_MIN:?}", self.sweep)));
        }
        if self.park_unknown < PARK_UNKNOWN_MIN {
            return Err(Usage(format!(
                "--park-unknown is {:?}; the least is {PARK_UNKNOWN_MIN:?}",
                self.park_unknown
            )));
        }
        for (flag, topic) in [("--topic", &self.topic), ("--dead-topic", &self.dead_topic)] {
            if topic.is_empty() {
                return Err(Usage(format!(
                    "{flag} names no topic; a worker needs one (`fleet setup` or Terraform makes it)"
                )));
            }
        }
        let (low, high) = (Duration::from_secs(10), Duration::from_secs(600));
        if self.ack_extension < low || self.ack_extension > high {
            return Err(Usage(format!(
                "--ack-extension is {:?}; Pub/Sub allows {low:?} to {high:?}",
                self.ack_extension
            )));
        }
        Ok(())
    }
}

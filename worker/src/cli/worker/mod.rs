//! `fleet worker`: one replica.

mod check;
mod from_env;
mod jobs;
mod parts;

use std::sync::Arc;
use std::time::Duration;

use crate::forward::{ForwardSettings, Forwarding};
use crate::health::{self, Probes};
use crate::keep_alive::KeepAlive;
use crate::kinds::{BUILTIN, KindSettings, Kinds, Outputs, builtin};
use crate::log_user_ids;
use crate::metrics::{self, Process, Render};
use crate::replica::Stop;
use crate::sweep::{Sweep, UnknownUsers};
use anyhow::Context as _;
use shared::adapters::SystemClock;
use shared::ports::{Clock as _, Randomness};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use super::connect::{ProjectArgs, StoreArgs, userinfo_url};
use super::environment::Place;
use super::forward::{self, ForwardArgs};
use super::output::Usage;
use crate::telemetry::prometheus::Scrape;
use jobs::JobArgs;
use parts::{Named, Parts};

pub use from_env::FromEnvError;

/// How long a sweep may take to end the batch that it is at.
const SWEEP_END: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  fleet worker --project my-project --topic jobs --subscription jobs-workers \\
      --dead-topic jobs-dead --bucket my-tokens --client client.json
  fleet worker --check ...    # would these settings, files and permissions work?

SIGTERM and Ctrl-C stop the intake and let running jobs end within --drain; a second
one cuts them. No secret is accepted as a flag's value.")]
pub(crate) struct Args {
    #[command(flatten)]
    project: ProjectArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    jobs: JobArgs,
    #[command(flatten)]
    forward: ForwardArgs,
    /// Check whether it would work, say what to do, and exit without starting: 0 or 1, and 2
    /// where a flag is missing
    #[arg(long)]
    check: bool,
}

impl Args {
    /// The project that the job subscription and traces are in, if it is named.
    pub(super) fn project(&self) -> Option<&str> {
        let named = self.project.project.as_deref().filter(|project| !project.is_empty());
        named.or_else(|| self.jobs.subscription.strip_prefix("projects/")?.split('/').next())
    }
}

/// Runs a replica that does the kinds of `own` besides the built-in ones.
pub(crate) async fn run(args: Args, own: Kinds) -> anyhow::Result<()> {
    if args.check {
        return check::run(&args, &own).await;
    }
    let named = Named::by(&args)?;
    log_user_ids(args.jobs.log_user_ids);
    let place = Place::from_env()?;
    let forward = args.forward.settings(&named.subscription)?;
    if let Some(settings) = &forward {
        names_are_free(settings, &own)?;
    }
    let userinfo_url = userinfo_url()?;
    let listener = health::bind(args.jobs.listen).await.map_err(anyhow::Error::msg)?;
    let connected = args.store.connect_to_serve(&place, &listener).await?;
    let parts = Parts::connect(&args, &named, &place, connected).await?;
    let store = parts.connected.store.clone();
    let outputs = if named.outputs.is_empty() {
        None
    } else {
        let store = place.output_store(Arc::clone(&parts.clock)).await?;
        Some(Outputs { rules: named.outputs.clone(), store })
    };
    let scrape = Scrape::start()?;
    let body_memory = args.jobs.body_memory;
    let mut kinds = builtin(KindSettings { userinfo_url, outputs, body_memory });
    kinds.extend(own);
    let forwarding = match forward {
        Some(settings) => Some(forward::open(settings, &place, &store).await?),
        None => None,
    };
    let forwarded = forwarding.as_ref().map(Forwarding::handlers).unwrap_or_default();
    kinds.extend(forwarded.clone());
    metrics::begin(
        Process::Worker,
        kinds.keys().map(String::as_str),
        forwarded.keys().map(String::as_str),
    );
    info!(
        replica = store.holder(),
        health = %listener.local_addr().context("the health listener has no address")?,
        subscription = named.subscription,
        "starting"
    );
    let worker = parts.builder(&args, &named).await?.handlers(kinds).build()?;
    let stop = Stop::by_signals().context("signals cannot be watched")?;
    let orphaned = stop.clone();
    args.jobs.parent.when_gone(move || {
        orphaned.drain.cancel();
        orphaned.cut.cancel();
    });
    let sweep_stop = stop.drain.child_token();
    let mut sweeping = tokio::spawn(sweep(&args, &parts).run(sweep_stop.clone()));
    // The store finishes what it has begun.
    let _keeping = keep_alive(&args, &parts)
        .map(|keep_alive| AbortOnDropHandle::new(tokio::spawn(keep_alive.run(sweep_stop.clone()))));
    // Until the last job has ended.
    let _tokens = forwarding.map(|forwarding| {
        let clock = Arc::clone(&parts.clock);
        let serving = forwarding.serve(store.clone(), clock, CancellationToken::new());
        AbortOnDropHandle::new(tokio::spawn(serving))
    });
    let ready = worker.readiness();
    let pulse = ready.pulse().clone();
    let probes = Probes {
        ready: Arc::clone(&ready),
        metrics: Render::new(move || {
            metrics::read_store(&store);
            metrics::readiness(Process::Worker, ready.check().is_ok());
            scrape.render()
        }),
    };
    // Until the very end, so that the last jobs are counted where they are seen.
    let serving = tokio::spawn(health::serve(listener, probes, CancellationToken::new()));
    let result = tokio::select! {
        biased;
        result = worker.run(stop) => result,
        never = pulse.keep() => match never {},
    };
    serving.abort();
    // The replica may have ended by an error, unasked.
    sweep_stop.cancel();
    // Cut between publishing and deleting, it would run jobs twice.
    tokio::select! {
        biased;
        _ = &mut sweeping => {}
        () = SystemClock::default().sleep(SWEEP_END) => sweeping.abort(),
    }
    result.map_err(Into::into)
}

/// # Errors
/// When a forwarded kind is done here already.
fn names_are_free(forward: &ForwardSettings, own: &Kinds) -> Result<(), Usage> {
    let taken = |kind: &&String| BUILTIN.contains(&kind.as_str()) || own.contains_key(*kind);
    let Some(kind) = forward.routes.iter().map(|route| &route.kind).find(taken) else {
        return Ok(());
    };
    let whose = if own.contains_key(kind) { "this program's own" } else { "built in" };
    Err(Usage(format!("--forward: kind {kind} is {whose}; choose another name")))
}

fn sweep(args: &Args, parts: &Parts) -> Sweep {
    Sweep {
        bucket: parts.connected.store.bucket(),
        store: parts.connected.store.clone(),
        jobs: Arc::clone(&parts.jobs),
        unknown: Some(UnknownUsers {
            after: args.jobs.park_unknown,
            dead: Arc::clone(&parts.dead),
            outcomes: parts.outcomes.clone(),
        }),
        events: parts.events.clone(),
        clock: Arc::clone(&parts.clock),
        random: Arc::new(Randomness::from_system()),
        every: args.jobs.sweep,
    }
}

/// What keeps grants alive that nobody uses, if that is asked for.
fn keep_alive(args: &Args, parts: &Parts) -> Option<KeepAlive> {
    let period = args.jobs.keep_alive.as_ref()?.0?;
    Some(KeepAlive {
        bucket: parts.connected.store.bucket(),
        store: parts.connected.store.clone(),
        events: parts.events.clone(),
        clock: Arc::clone(&parts.clock),
        random: Arc::new(Randomness::from_system()),
        period,
    })
}

//! `fleet dev`: a local stack that stays up.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::pubsub::MIN_BACKOFF;
use anyhow::Context as _;
use emulators::switches::Switches;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::super::broker::LISTEN;
use super::super::connect::duration;
use super::super::output;
use super::control::{self, EnvArgs, Environment, ExecArgs, Format, print, tell};
use super::kept::Kept;
use super::no_proxy;
use super::ports::{Ports, port_base};
use super::replicas::Lasting;
use super::signals::Signals;
use super::stack::{Line, Plan, Replica, Stack};

/// A stack, or a question to one that is up.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    asked: Option<Asked>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Asked {
    /// Print the variables that point programs at a running stack
    Env(EnvArgs),
    /// Run a command with these variables set
    Exec(ExecArgs),
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    match args.asked {
        Some(Asked::Env(args)) => control::env(args).await,
        Some(Asked::Exec(args)) => control::exec(args).await,
        None => serve(args.serve).await,
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  fleet dev --replicas 2
  # then, in another terminal:
  eval \"$(fleet dev env)\"
  fleet publish --user user-1 --kind profile --wait
  # or one command with the variables set:
  fleet dev exec -- pytest
  # or with a handler of one's own, in any language:
  fleet dev --forward greet=http://127.0.0.1:8080/
  # or with replicas of one's own program, in Rust:
  fleet dev --worker ./target/debug/my-fleet
  # or with everything kept in a folder, to go on there the next time:
  fleet dev --data ~/.local/share/my-fleet

Without --data everything lives in memory and is gone after Ctrl-C.")]
struct ServeArgs {
    /// How many replicas
    #[arg(long, default_value_t = 1)]
    replicas: usize,
    /// How many replicas of the consent pages, at most 2
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(..=2))]
    web: u8,
    /// A flag of the consent pages, as --web-flag=--app-name=Acme (repeat)
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    web_flag: Vec<String>,
    /// How many users that have consented
    #[arg(long, default_value_t = 3)]
    users: usize,
    /// How long an access token lives
    #[arg(long, default_value = "60s", value_parser = duration)]
    token_lifetime: Duration,
    /// A kind whose jobs the HTTP handler at this URL does, as `fleet worker --forward` (repeat)
    #[arg(long, value_name = "KIND=URL")]
    forward: Vec<String>,
    /// The command whose `worker` the replicas are, in place of the built-in one: a program
    /// that calls `worker::fleet`. A shell reads it, as "cargo run -q --"
    #[arg(long, value_name = "COMMAND")]
    worker: Option<String>,
    /// A folder that keeps everything: topics, messages, buckets, objects, accounts, grants,
    /// tokens, keys and ports, whenever and however the stack ends
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Where a broker gives access tokens to programs that are no jobs [default:
    /// 127.0.0.1:9091, or any free port where that is taken]
    #[arg(long, value_name = "ADDRESS")]
    broker: Option<SocketAddr>,
    /// Refuse a second write of an object's name within a second, as production may
    #[arg(long)]
    strict_writes: bool,
    /// Where its ports begin; the next free block of 50 is taken where one of them is in use
    /// [default: 8400, or with --data those of the last time]
    #[arg(long, env = "FLEET_DEV_PORT_BASE", value_parser = port_base)]
    port_base: Option<Ports>,
    /// The variables as JSON instead of export lines
    #[arg(long)]
    json: bool,
}

async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    no_proxy::begin_anew_without()?;
    let mut signals = Signals::watch().context("signals cannot be watched")?;
    let up = tokio::select! {
        up = Up::start(args) => up?,
        // What was started by then is dropped: its processes, and its files with secrets.
        () = signals.come() => {
            output::note("stopping");
            return Ok(());
        }
    };
    let failed = tokio::select! {
        () = signals.come() => None,
        why = up.stack.failed() => Some(why),
    };
    output::note("stopping");
    up.end().await?;
    match failed {
        None => Ok(()),
        Some(why) => Err(anyhow::anyhow!(why)).context("what the stack is told cannot be kept"),
    }
}

/// A stack that is up. Dropping it kills its processes.
struct Up {
    replicas: Vec<Lasting>,
    /// Pages and broker.
    others: Vec<Replica>,
    stack: Arc<Stack>,
    _saying: AbortOnDropHandle<()>,
    _telling: AbortOnDropHandle<()>,
}

impl Up {
    /// Starts everything and says where it is. Dropped before, it leaves nothing behind.
    async fn start(args: ServeArgs) -> anyhow::Result<Self> {
        let kept = args.data.as_deref().map(Kept::open).transpose()?;
        let last = kept.as_ref().and_then(Kept::ports);
        let wanted = args.port_base.or(last).unwrap_or_default();
        if last == Some(wanted) {
            wanted.await_the_last_ones().await;
        }
        let (ports, control) = wanted.take()?;
        if ports != wanted {
            output::note(format!(
                "ports from {wanted} on are in use: taking those from {ports} (--port-base {ports})"
            ));
        }
        if let Some(kept) = &kept {
            kept.keep_ports(ports)?;
        }
        let plan = Plan {
            token_lifetime: args.token_lifetime,
            api_latency: Duration::ZERO,
            refresh_latency: Duration::ZERO,
            strict_writes: args.strict_writes,
            ports: Some(ports),
            // As `fleet setup` makes it: what runs here runs there.
            min_backoff: MIN_BACKOFF,
            worker: args.worker,
            replica_flags: args.forward.iter().map(|route| format!("--forward={route}")).collect(),
        };
        let stack = Arc::new(Stack::start_on(plan, kept).await?);
        let users = stack.import_users(args.users).await?;
        let (lines, mut logged) = mpsc::unbounded_channel::<Line>();
        let saying = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Some(line) = logged.recv().await {
                output::note(line.for_people());
            }
        }));
        let mut replicas = Vec::new();
        for number in 1..=args.replicas {
            replicas.push(Lasting::start(&stack, number, lines.clone()).await?);
        }
        stack.offer_accounts();
        let mut environment = stack.environment();
        environment.push(("FLEET_DEV_FAULTS", faults_url(ports)));
        let mut others = Vec::new();
        for number in 1..=usize::from(args.web) {
            let public: Option<String> = environment
                .iter()
                .find(|(name, _)| *name == "FLEET_PUBLIC_URL")
                .map(|(_, url)| url.clone());
            let number_of_all = args.replicas + number;
            let (flags, public) = (&args.web_flag, public.as_deref());
            let (page, url) =
                stack.web(number_of_all, number, public, flags, lines.clone()).await?;
            // The second one stands behind the same address, as behind a load balancer, and
            // is reached past it here.
            let name = if number == 1 { "FLEET_PUBLIC_URL" } else { "FLEET_PUBLIC_URL_2" };
            environment.push((name, url));
            others.push(page);
        }
        let number = args.replicas + usize::from(args.web) + 1;
        let (broker, broker_variables) = match args.broker {
            Some(address) => stack.broker(number, address, lines).await?,
            None => usual_broker(&stack, number, lines).await?,
        };
        let broker_address = broker_variables[0].1.clone();
        environment.extend(broker_variables);
        others.push(broker);
        let page_url = environment.iter().find(|(name, _)| *name == "FLEET_PUBLIC_URL");
        let page_url = page_url.map_or("none".to_owned(), |(_, url)| url.clone());
        let environment: Environment =
            environment.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        print(&environment, if args.json { Format::Json } else { Format::Sh })?;
        let faults = Switches::of(&stack.pubsub, &stack.storage, &stack.google);
        let telling = tell(environment, faults, control)?;
        let named = match (users.first(), users.last()) {
            (Some(first), Some(last)) => format!("{} … {}", first.as_str(), last.as_str()),
            _ => "none".to_owned(),
        };
        output::note(format!(
            "up: {} replica(s), users {named}, files in {}. Sign in at {page_url}. Ctrl-C ends it.",
            args.replicas,
            stack.folder().display()
        ));
        for (role, address) in stack.endpoints() {
            output::note(format!("  {role:<22} {address}"));
        }
        output::note(format!("  {:<22} {}", "faults", faults_url(ports)));
        for number in 1..=args.replicas {
            let metrics = ports.metrics(number);
            if metrics.port() != 0 {
                output::note(format!("  metrics of replica {number:<3} http://{metrics}/metrics"));
            }
        }
        if let Some(user) = users.first() {
            let user = user.as_str();
            output::note(format!(
                "A broker at {broker_address} gives tokens: `fleet broker credentials {user} > {user}.json`, and with GOOGLE_APPLICATION_CREDENTIALS={user}.json a Google library acts as that user."
            ));
        }
        Ok(Self { replicas, others, stack, _saying: saying, _telling: telling })
    }

    /// Ends its processes in order.
    async fn end(self) -> anyhow::Result<()> {
        for replica in self.replicas {
            replica.terminate().await?;
        }
        for other in self.others {
            other.terminate().await?;
        }
        Ok(())
    }
}

/// Where faults are switched.
fn faults_url(ports: Ports) -> String {
    format!("http://{}/faults", ports.control())
}

/// A broker where one listens by default, or at any free port where somebody else does.
async fn usual_broker(
    stack: &Stack,
    number: usize,
    lines: mpsc::UnboundedSender<Line>,
) -> anyhow::Result<(Replica, [(&'static str, String); 2])> {
    let usual: SocketAddr = LISTEN.parse().context("the broker's usual address")?;
    if TcpListener::bind(usual).is_ok() {
        // Another stack may take it at this very moment.
        if let Ok(started) = stack.broker(number, usual, lines.clone()).await {
            return Ok(started);
        }
    }
    stack.broker(number, SocketAddr::new(usual.ip(), 0), lines).await
}

//! `fleet dev`: a local stack that stays up.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::super::connect::duration;
use super::super::output;
use super::stack::{Plan, Stack};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  fleet dev --replicas 2
  # then, in another terminal, paste the printed export lines, and:
  fleet publish --user user-1 --kind profile
  # or with a handler of one's own, in any language:
  fleet dev --forward greet=http://127.0.0.1:8080/

Everything lives in memory and is gone after Ctrl-C.")]
pub(crate) struct Args {
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
    /// The endpoints as JSON instead of export lines
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let stack = Stack::start(Plan {
        token_lifetime: args.token_lifetime,
        api_latency: Duration::ZERO,
        refresh_latency: Duration::ZERO,
        replica_flags: args.forward.iter().map(|route| format!("--forward={route}")).collect(),
    })
    .await?;
    let users = stack.import_users(args.users).await?;
    let (lines, mut logged) = mpsc::unbounded_channel();
    let mut replicas = Vec::new();
    for number in 1..=args.replicas {
        replicas.push(stack.replica(number, lines.clone()).await?);
    }
    stack.offer_accounts();
    let mut environment = stack.environment();
    let mut pages = Vec::new();
    for number in 1..=usize::from(args.web) {
        let public: Option<String> = environment
            .iter()
            .find(|(name, _)| *name == "FLEET_PUBLIC_URL")
            .map(|(_, url)| url.clone());
        let number_of_all = args.replicas + number;
        let (flags, public) = (&args.web_flag, public.as_deref());
        let (page, url) = stack.web(number_of_all, public, flags, lines.clone()).await?;
        // The second one stands behind the same address, as behind a load balancer, and
        // is reached past it here.
        let name = if number == 1 { "FLEET_PUBLIC_URL" } else { "FLEET_PUBLIC_URL_2" };
        environment.push((name, url));
        pages.push(page);
    }
    let page_url = environment.iter().find(|(name, _)| *name == "FLEET_PUBLIC_URL");
    let page_url = page_url.map_or("none".to_owned(), |(_, url)| url.clone());
    if args.json {
        let map: serde_json::Map<_, _> =
            environment.into_iter().map(|(n, v)| (n.to_owned(), v.into())).collect();
        output::json(&map.into())?;
    } else {
        for (name, value) in environment {
            output::line(format!("export {name}={value}"))?;
        }
    }
    let named = match (users.first(), users.last()) {
        (Some(first), Some(last)) => format!("{} … {}", first.as_str(), last.as_str()),
        _ => "none".to_owned(),
    };
    output::note(format!(
        "up: {} replica(s), users {named}, files in {}. Sign in at {page_url}. Ctrl-C ends it.",
        args.replicas,
        stack.folder().display()
    ));
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            _ = terminate.recv() => break,
            Some(line) = logged.recv() => output::note(line.for_people()),
        }
    }
    output::note("stopping");
    for replica in replicas.into_iter().chain(pages) {
        replica.terminate().await?;
    }
    Ok(())
}

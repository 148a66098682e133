//! What users feel of the fleet's speed, beside programs that do the same, in one run on one
//! machine.
//!
//! Servers run in this process, every client in one of its own, whose processor time and memory
//! are read from outside, whatever it is written in. Clients take turns, and what is shown are
//! medians and spreads of their runs.
#![expect(clippy::print_stdout, reason = "a program that prints a table")]
#![allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]

mod child;
mod contender;
mod front;
mod ground;
mod measure;
mod pod;
mod report;
mod roles;
mod sections;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use contender::Tools;
use report::Report;
use roles::Role;
use sections::Section;

/// That of `fleet`, for the bare loop too: what is compared is not allocators.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the fleet beside programs that do the same; prints a table, writes CSV and plots.
#[derive(Debug, clap::Parser)]
#[command(
    name = "bench",
    after_help = "\
Examples:
  cargo run --release -p tests --bin bench
  cargo run --release -p tests --bin bench -- --only jobs,cold --runs 1
  cargo run --release -p tests --bin bench -- --fleet target/release/fleet

Everything talks to loopback only and stops by itself. Quiet the machine first: clients
take turns, but a busy machine widens their spread."
)]
struct Args {
    /// What to measure [default: everything]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Section>,
    /// Runs of each figure, in which the clients take turns; the median counts
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// The `fleet` that is measured [default: cargo builds the image's]
    #[arg(long)]
    fleet: Option<PathBuf>,
    /// Where table, CSV file and plots go
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// What this process does for another one of this program
    #[arg(long, hide = true)]
    role: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.role {
        Some(role) => serde_json::from_str::<Role>(role)
            .context("the role is not readable")
            .and_then(roles::play),
        None => runtime().and_then(|runtime| runtime.block_on(run(args))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")
}

/// Progress and errors, beside the table.
fn say(text: &str) {
    tests::report::say(text);
}

async fn run(args: Args) -> anyhow::Result<()> {
    let mut report = Report::new(args.runs);
    if cfg!(debug_assertions) {
        say("bench: a debug build; its figures mean nothing. Run it with --release");
    }
    let wanted = if args.only.is_empty() { Section::all() } else { args.only };
    let mut failed = Vec::new();
    // What one section has measured is not lost with another.
    let measuring = async {
        let tools = Tools::find(args.fleet).await?;
        for section in wanted {
            say(&format!("-- {}", section.title()));
            if let Err(error) = section.run(args.runs, &tools, &mut report).await {
                say(&format!("bench: {error:#}"));
                failed.push(section.title());
            }
        }
        anyhow::Ok(())
    };
    // Whoever ends it, the clients end with it.
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted; nothing was written"),
        _ = terminate.recv() => anyhow::bail!("terminated; nothing was written"),
        done = measuring => done?,
    }
    println!("{}", report.table());
    let written = report.write(&args.out)?;
    say(&format!("written: {written}"));
    anyhow::ensure!(failed.is_empty(), "not measured: {}", failed.join("; "));
    Ok(())
}

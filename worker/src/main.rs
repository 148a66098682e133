//! `fleet`: one Google OAuth credential per user, shared by a fleet of workers.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}

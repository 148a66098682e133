//! `fleet`: one Google OAuth credential per user, shared by a fleet of workers.

use std::process::ExitCode;

/// A delivery is made of some fifty small allocations on whichever thread is free.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    worker::fleet(|_| {})
}

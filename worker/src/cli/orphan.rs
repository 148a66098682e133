//! The end of a child whose parent has gone.

use tokio::io::AsyncReadExt as _;

/// The flag of a command that other programs start.
#[derive(Debug, clap::Args)]
pub(super) struct ParentArgs {
    /// Stop when stdin closes: ties it to its parent, or to `kubectl exec -i`
    #[arg(long)]
    until_stdin_closes: bool,
}

impl ParentArgs {
    /// Calls `stop` once the parent has gone, if the flag is set.
    pub(super) fn when_gone(&self, stop: impl FnOnce() + Send + 'static) {
        if self.until_stdin_closes {
            tokio::spawn(async move {
                // The parent holds the other end.
                let mut byte = [0];
                while matches!(tokio::io::stdin().read(&mut byte).await, Ok(n) if n > 0) {}
                stop();
            });
        }
    }
}

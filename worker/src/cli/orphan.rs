//! The end of a child whose parent has gone.

use tokio::io::AsyncReadExt as _;

/// Ends when stdin does, whose other end the parent holds.
pub(super) async fn watch_stdin() {
    let mut byte = [0];
    while matches!(tokio::io::stdin().read(&mut byte).await, Ok(n) if n > 0) {}
}

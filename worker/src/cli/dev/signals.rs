//! What ends a local stack.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ctrl-C, SIGTERM, and a terminal that is closed.
#[derive(Debug)]
pub(super) struct Signals([Signal; 3]);

impl Signals {
    /// From now on they end nothing by themselves: whoever watches them drops what must not
    /// stay, which is processes and files with secrets.
    ///
    /// # Errors
    /// When the system lets no signal be watched.
    pub(super) fn watch() -> io::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hang_up] = kinds.map(signal);
        Ok(Self([interrupt?, terminate?, hang_up?]))
    }

    /// Completes when one comes. Cancel safe.
    pub(super) async fn come(&mut self) {
        let [interrupt, terminate, hang_up] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    }
}

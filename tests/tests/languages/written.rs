//! What everybody wrote: no handle and no token may be in it.

use std::io::Write;
use std::sync::{Mutex, Once, PoisonError};

use tests::stage::{Stage, Worker};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::programs::Program;

/// The emulators' log, which run in this process.
static EMULATORS: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Kept;

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        EMULATORS.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Kept {
    type Writer = Kept;

    fn make_writer(&'a self) -> Kept {
        Kept
    }
}

/// From now on everything that the emulators log is kept.
pub(crate) fn begin() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        let all = Targets::new().with_target("emulators", LevelFilter::TRACE);
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Kept);
        tracing_subscriber::registry().with(all).with(layer).init();
    });
}

/// Sees that neither a token nor a handle of this stage was written by its workers, its handlers
/// or the emulators.
pub(crate) fn tells_no_secret(stage: &Stage, workers: &[&Worker], handlers: &[&Program]) {
    let handles = std::fs::read_to_string(stage.path("handles")).unwrap_or_default();
    let emulators = EMULATORS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut all = vec![("an emulator", String::from_utf8_lossy(&emulators).into_owned())];
    all.extend(workers.iter().map(|worker| ("a worker", worker.log_text())));
    all.extend(handlers.iter().map(|handler| ("a handler", handler.written())));
    for (who, text) in all {
        for secret in ["ya29.", "1//fake"].into_iter().chain(handles.lines()) {
            assert!(!text.contains(secret), "{who} wrote a secret:\n{text}");
        }
    }
}

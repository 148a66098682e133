//! Writes lines in bursts when they come in bursts.
//!
//! A write for each line is what a busy replica would do most. A line that comes within
//! a millisecond after a write waits for the others of that millisecond, and they leave
//! together. A line that comes alone is written before the caller goes on, and so is
//! one that must not be lost, with all before it. What a killed process may lose are
//! the other lines of its last millisecond.

use std::io::Write;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use shared::adapters::SystemClock;
use shared::ports::{Clock as _, Monotonic};

/// How long a line may wait for others.
const GATHER: Duration = Duration::from_millis(1);
/// With so many bytes waiting, whoever logs waits too: nothing is dropped.
const FULL: usize = 1024 * 1024;

/// Where lines go. A clone writes to the same place.
#[derive(Debug, Clone)]
pub(super) struct LogWriter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something waits for the thread.
    gathering: Condvar,
    /// A write has ended.
    written: Condvar,
    clock: SystemClock,
}

struct State {
    waiting: Vec<u8>,
    /// Empty: what the lines that come during a write will wait in. Two take turns, so
    /// that neither grows anew.
    spare: Vec<u8>,
    /// Absent while somebody writes, so that lines keep their order.
    out: Option<Box<dyn Write + Send>>,
    written_at: Option<Monotonic>,
    thread: Thread,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

/// The thread that writes what has waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thread {
    /// Most commands log too little to need one.
    None,
    Idle,
    Called,
}

impl LogWriter {
    pub(super) fn new(out: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                waiting: Vec::new(),
                spare: Vec::new(),
                out: Some(Box::new(out)),
                written_at: None,
                thread: Thread::None,
            }),
            gathering: Condvar::new(),
            written: Condvar::new(),
            clock: SystemClock::default(),
        }))
    }

    /// Writes a line, at once if it is `urgent`.
    pub(super) fn write(&self, line: &[u8], urgent: bool) {
        let shared = &*self.0;
        let mut state = shared.lock();
        while state.waiting.len() >= FULL {
            state = wait(&shared.written, state);
        }
        state.waiting.extend_from_slice(line);
        if urgent {
            drop(shared.flush(state));
        } else if state.thread == Thread::Called {
            // It takes this line along, whatever the clock says.
        } else if state.out.is_some() && shared.is_alone(&state) || !self.call(&mut state) {
            drop(shared.write(state));
        }
    }

    /// Calls the thread; `false` if there is none and none can be had.
    fn call(&self, state: &mut State) -> bool {
        if state.thread == Thread::None {
            let shared = Arc::clone(&self.0);
            let started = thread::Builder::new().name("log".to_owned()).spawn(move || shared.run());
            if started.is_err() {
                return false;
            }
        }
        if state.thread != Thread::Called {
            state.thread = Thread::Called;
            self.0.gathering.notify_one();
        }
        true
    }

    /// Writes what waits.
    pub(super) fn flush(&self) {
        drop(self.0.flush(self.0.lock()));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last line was written some time ago.
    fn is_alone(&self, state: &State) -> bool {
        let since = state.written_at.map(|at| self.clock.monotonic().since(at));
        since.is_none_or(|since| since > GATHER)
    }

    /// Writes what waits, unless somebody writes already.
    fn write<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let Some(mut out) = state.out.take() else { return state };
        let spare = mem::take(&mut state.spare);
        let mut lines = mem::replace(&mut state.waiting, spare);
        drop(state);
        // A closed stderr is not worth an error, and there is nowhere to tell it.
        drop(out.write_all(&lines));
        lines.clear();
        let now = self.clock.monotonic();
        let mut state = self.lock();
        state.out = Some(out);
        state.written_at = Some(now);
        state.spare = lines;
        self.written.notify_all();
        state
    }

    /// Writes what waits, after whoever writes.
    fn flush<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while state.out.is_none() {
            state = wait(&self.written, state);
        }
        self.write(state)
    }

    /// The thread, for as long as the process runs.
    fn run(&self) {
        let mut state = self.lock();
        loop {
            while state.thread != Thread::Called {
                state = wait(&self.gathering, state);
            }
            let gathered = self.gathering.wait_timeout(state, GATHER);
            state = gathered.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
            state.thread = Thread::Idle;
            if !state.waiting.is_empty() {
                state = self.flush(state);
            }
        }
    }
}

fn wait<'a>(until: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    until.wait(state).unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Tells each write, and waits for leave to make it.
    struct Slow {
        writes: Sender<Vec<u8>>,
        leave: Receiver<()>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.writes.send(bytes.to_vec()).unwrap();
            // Nobody holds the other end where nothing is to be held up.
            let _leave = self.leave.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written; the sender, while it is held, holds every write up.
    fn writer() -> (LogWriter, Receiver<Vec<u8>>, Sender<()>) {
        let (writes, written) = channel();
        let (go, leave) = channel();
        (LogWriter::new(Slow { writes, leave }), written, go)
    }

    fn text(written: &Receiver<Vec<u8>>) -> (usize, String) {
        let writes: Vec<_> = written.try_iter().collect();
        (writes.len(), String::from_utf8(writes.concat()).unwrap())
    }

    #[test]
    fn a_line_that_comes_alone_is_written_at_once() {
        let (log, written, go) = writer();
        drop(go);
        log.write(b"one\n", false);
        assert_eq!(text(&written), (1, "one\n".to_owned()));
        assert_eq!(log.0.lock().thread, Thread::None, "it needed no other thread");
    }

    #[test]
    fn lines_that_come_together_leave_together_and_in_order() {
        const LINES: usize = 20_000;
        let (log, written, go) = writer();
        drop(go);
        thread::scope(|scope| {
            for name in ["a", "b"] {
                let log = &log;
                scope.spawn(move || {
                    for n in 0..LINES {
                        log.write(format!("{name} {n}\n").as_bytes(), false);
                    }
                });
            }
        });
        log.flush();
        let (writes, text) = text(&written);
        assert!(writes < LINES / 10, "{writes} writes of {LINES} lines");
        for name in ["a ", "b "] {
            let numbers = text.lines().filter_map(|line| line.strip_prefix(name));
            let expected = (0..LINES).map(|n| n.to_string());
            assert!(numbers.eq(expected), "all of {name}, in order");
        }
    }

    #[test]
    fn without_another_line_a_burst_is_written_too() {
        let (log, written, go) = writer();
        drop(go);
        log.write(b"one\n", false);
        log.write(b"two\n", false);
        // Until the thread has written it, unless the machine took a millisecond.
        let both: Vec<u8> = [written.recv().unwrap(), written.recv().unwrap()].concat();
        assert_eq!(both, b"one\ntwo\n");
    }

    #[test]
    fn an_urgent_line_is_written_with_all_before_it() {
        let (log, written, go) = writer();
        drop(go);
        for n in 0..100 {
            log.write(format!("{n}\n").as_bytes(), false);
        }
        log.write(b"urgent\n", true);
        let (_, text) = text(&written);
        assert!(text.ends_with("99\nurgent\n"), "{text}");
        assert_eq!(text.lines().count(), 101);
    }

    #[test]
    fn who_logs_more_than_can_be_written_waits_and_loses_nothing() {
        let (log, written, go) = writer();
        let line = format!("{}\n", "x".repeat(1023));
        let count = 3 * FULL / line.len();
        thread::scope(|scope| {
            // Held up in its write, so that the others can only gather so much.
            scope.spawn(|| log.write(line.as_bytes(), false));
            let mut bytes = written.recv().unwrap().len();
            let logging =
                scope.spawn(|| (0..count).for_each(|_| log.write(line.as_bytes(), false)));
            while log.0.lock().waiting.len() < FULL && !logging.is_finished() {
                thread::yield_now();
            }
            assert!(!logging.is_finished(), "it waits");
            drop(go);
            logging.join().unwrap();
            log.flush();
            bytes += text(&written).1.len();
            assert_eq!(bytes, (count + 1) * line.len());
        });
    }
}

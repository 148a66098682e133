//! Writes lines from a thread of their own, so that no job waits for stderr while there is
//! room in the queue. Nothing is dropped: with a full queue whoever logs waits.
//!
//! Lines that come in a burst leave in few writes. What a killed process may lose are the
//! lines in the queue; an orderly end waits for them.

use std::io::{self, BufWriter, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;

/// How many lines may wait. A line has half a kilobyte, and some hundred at the most.
const QUEUE: usize = 1024;
/// How long the end of the process waits for a reader of stderr that stands still.
const PATIENCE: Duration = Duration::from_secs(5);

/// Puts lines into the queue.
#[derive(Debug, Clone)]
pub(super) struct LogWriter {
    queue: NonBlocking,
    unwritten: Arc<Unwritten>,
}

/// The thread. Dropping it waits until every line is written, for [`PATIENCE`] at most.
#[derive(Debug)]
pub(super) struct LogThread {
    unwritten: Arc<Unwritten>,
    guard: Option<WorkerGuard>,
    patience: Duration,
}

/// Counts lines that were put into the queue and are not written yet: the guard of the
/// thread waits for a second only, and not at all if the queue is full.
#[derive(Debug, Default)]
struct Unwritten {
    lines: Mutex<usize>,
    none: Condvar,
}

/// Starts the thread, which writes to `out`.
pub(super) fn start(out: impl Write + Send + 'static) -> (LogWriter, LogThread) {
    start_with(out, QUEUE, PATIENCE)
}

fn start_with(
    out: impl Write + Send + 'static,
    queue: usize,
    patience: Duration,
) -> (LogWriter, LogThread) {
    let unwritten = Arc::<Unwritten>::default();
    let out = Out { writer: BufWriter::new(out), buffered: 0, unwritten: Arc::clone(&unwritten) };
    let (queue, guard) = NonBlockingBuilder::default()
        .lossy(false)
        .buffered_lines_limit(queue)
        .thread_name("log")
        .finish(out);
    let thread = LogThread { unwritten: Arc::clone(&unwritten), guard: Some(guard), patience };
    (LogWriter { queue, unwritten }, thread)
}

impl Unwritten {
    fn lines(&self) -> MutexGuard<'_, usize> {
        // A panic leaves a valid number.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything is written; whether it is.
    fn wait(&self, patience: Duration) -> bool {
        let waited = self.none.wait_timeout_while(self.lines(), patience, |lines| *lines > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }
}

impl Write for LogWriter {
    /// One line, whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        *self.unwritten.lines() += 1;
        self.queue.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        let guard = self.guard.take();
        if !self.unwritten.wait(self.patience) {
            // Its own wait would take another second and complain on stdout, which may be
            // read by a program.
            std::mem::forget(guard);
        }
    }
}

/// What the thread writes to. A closed stderr is not worth an error, and there is nowhere
/// to tell it.
struct Out<W: Write> {
    writer: BufWriter<W>,
    /// Lines since the last flush.
    buffered: usize,
    unwritten: Arc<Unwritten>,
}

impl<W: Write> Write for Out<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        drop(self.writer.write_all(line));
        self.buffered += 1;
        Ok(line.len())
    }

    /// Called whenever the queue is empty.
    fn flush(&mut self) -> io::Result<()> {
        drop(self.writer.flush());
        let mut lines = self.unwritten.lines();
        *lines -= std::mem::take(&mut self.buffered);
        if *lines == 0 {
            self.unwritten.none.notify_all();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;

    /// Tells each write, and waits for leave to make it.
    struct Slow {
        writes: Sender<Vec<u8>>,
        leave: Receiver<()>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Nobody may listen any more.
            drop(self.writes.send(bytes.to_vec()));
            // Nobody holds the other end where nothing is to be held up.
            let _leave = self.leave.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written; the sender, while it is held, holds every write up.
    fn slow() -> (Slow, Receiver<Vec<u8>>, Sender<()>) {
        let (writes, written) = channel();
        let (go, leave) = channel();
        (Slow { writes, leave }, written, go)
    }

    fn text(written: &Receiver<Vec<u8>>) -> String {
        let writes: Vec<_> = written.try_iter().collect();
        String::from_utf8(writes.concat()).unwrap()
    }

    #[test]
    fn a_line_is_written_without_another_one() {
        let (out, written, go) = slow();
        drop(go);
        let (mut log, _thread) = start(out);
        log.write_all(b"one\n").unwrap();
        assert_eq!(written.recv().unwrap(), b"one\n");
    }

    #[test]
    fn lines_of_many_threads_are_all_there_and_in_order_when_the_thread_has_ended() {
        const LINES: usize = 20_000;
        let (out, written, go) = slow();
        drop(go);
        let (log, thread) = start(out);
        thread::scope(|scope| {
            for name in ["a", "b"] {
                let mut log = log.clone();
                scope.spawn(move || {
                    for n in 0..LINES {
                        log.write_all(format!("{name} {n}\n").as_bytes()).unwrap();
                    }
                });
            }
        });
        drop(thread);
        let text = text(&written);
        for name in ["a ", "b "] {
            let numbers = text.lines().filter_map(|line| line.strip_prefix(name));
            let expected = (0..LINES).map(|n| n.to_string());
            assert!(numbers.eq(expected), "all of {name}, in order");
        }
    }

    #[test]
    fn a_full_queue_makes_wait_and_loses_nothing() {
        let (out, written, go) = slow();
        let (log, thread) = start_with(out, 4, PATIENCE);
        // Too long to be gathered with others.
        let line = |n: usize| format!("{n}{}\n", " ".repeat(16 * 1024));
        let logging = {
            let mut log = log.clone();
            thread::spawn(move || {
                (0..100).for_each(|n| log.write_all(line(n).as_bytes()).unwrap());
            })
        };
        // One is being written, four wait, and the next one is on its way into the queue.
        let mut first = written.recv().unwrap();
        while *log.unwritten.lines() < 6 {
            thread::yield_now();
        }
        assert!(!logging.is_finished(), "it waits");
        drop(go);
        logging.join().unwrap();
        drop(thread);
        first.extend(text(&written).bytes());
        let expected: String = (0..100).map(line).collect();
        assert_eq!(String::from_utf8(first).unwrap(), expected);
    }

    #[test]
    fn the_end_waits_for_a_reader_that_comes_back_and_not_for_ever() {
        let (out, written, go) = slow();
        let (mut log, thread) = start_with(out, QUEUE, Duration::MAX);
        log.write_all(b"one\n").unwrap();
        assert_eq!(written.recv().unwrap(), b"one\n");
        log.write_all(b"two\n").unwrap();
        let ending = thread::spawn(move || drop(thread));
        drop(go);
        ending.join().unwrap();
        assert_eq!(text(&written), "two\n");

        let (out, _written, _go) = slow();
        let (mut log, thread) = start_with(out, QUEUE, Duration::from_millis(1));
        log.write_all(b"one\n").unwrap();
        drop(thread);
    }
}

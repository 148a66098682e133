//! A log line in JSON, written as its parts come: every delivery has one, and a value
//! built before would cost more than the line.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::mem;

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use serde::Serialize;
use tracing::field::{Field, Visit};

use super::escape::{clip, is_active, write_escaped};

/// The longest value of a field, in bytes: Cloud Logging takes 256 KiB a line.
pub(super) const MAX_VALUE: usize = 16 * 1024;
/// What lines say about the delivery that they belong to.
pub(super) const MESSAGE_ID: &str = "message_id";
/// No thread keeps more memory than this for its next line, in bytes.
const MAX_KEPT: usize = 64 * 1024;
/// Prints points in time as they print themselves.
const TIMES: DateTimePrinter = DateTimePrinter::new();

/// Whether a line says this itself, whatever fields an event has.
fn is_own(name: &str) -> bool {
    matches!(
        name,
        "severity"
            | "time"
            | "target"
            | "@type"
            | "serviceContext"
            | "context"
            | "logging.googleapis.com/trace"
            | "logging.googleapis.com/trace_sampled"
            | "logging.googleapis.com/spanId"
    )
}

/// Whether a text stands in JSON as it is, and can command no terminal.
fn is_plain(text: &str) -> bool {
    const LEN: usize = size_of::<u64>();
    let bytes = text.as_bytes();
    let Some(last) = bytes.last_chunk::<LEN>() else {
        return bytes.iter().all(|b| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\'));
    };
    // Together, the last ones perhaps twice.
    let (chunks, _) = bytes.as_chunks::<LEN>();
    chunks.iter().chain([last]).all(|chunk| are_plain(u64::from_ne_bytes(*chunk)))
}

/// The same of eight bytes at once, by what carries into the highest bit of each.
fn are_plain(bytes: u64) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHEST: u64 = 0x80 * ONES;
    // Exact as to whether there is one; which one, no longer above the first.
    let any_below = |bytes: u64, limit: u64| bytes.wrapping_sub(limit * ONES) & !bytes;
    let any_is = |byte: u8| any_below(bytes ^ (u64::from(byte) * ONES), 1);
    let control = any_below(bytes, 0x20) | any_is(0x7f) | bytes;
    (control | any_is(b'"') | any_is(b'\\')) & HIGHEST == 0
}

thread_local! {
    /// What the thread's next line is written with.
    static KEPT: Cell<Buffers> = const { Cell::new(Buffers::new()) };
}

/// Memory that outlives a line.
struct Buffers {
    line: Vec<u8>,
    /// A value that is known by what it prints only.
    printed: String,
    second: Second,
}

/// The last second that was printed: most lines begin in the same one.
struct Second {
    number: i64,
    /// Without the `Z` that ends it.
    text: String,
}

impl Buffers {
    const fn new() -> Self {
        let second = Second { number: i64::MIN, text: String::new() };
        Self { line: Vec::new(), printed: String::new(), second }
    }
}

/// A line while it is written.
pub(super) struct JsonLine {
    buffers: Buffers,
    /// Nothing in it need be escaped for a terminal.
    is_plain: bool,
    has_message_id: bool,
}

impl JsonLine {
    /// `severity` stands in source code and needs no escapes.
    pub(super) fn begin(severity: &'static str) -> Self {
        // A value that logs while it is printed finds new ones.
        let mut buffers = KEPT.replace(Buffers::new());
        buffers.line.extend_from_slice(b"{\"severity\":\"");
        buffers.line.extend_from_slice(severity.as_bytes());
        buffers.line.push(b'"');
        Self { buffers, is_plain: true, has_message_id: false }
    }

    /// Whether a field gave the message's ID.
    pub(super) fn has_message_id(&self) -> bool {
        self.has_message_id
    }

    /// The beginning of one more member. Names stand in source code and need no escapes.
    fn name(&mut self, name: &str) {
        let line = &mut self.buffers.line;
        line.extend_from_slice(b",\"");
        line.extend_from_slice(name.as_bytes());
        line.extend_from_slice(b"\":");
    }

    /// One more member, a text that stands in source code and needs no escapes.
    pub(super) fn literal(&mut self, name: &str, text: &str) {
        debug_assert!(is_plain(text), "{text:?}");
        self.name(name);
        let line = &mut self.buffers.line;
        line.push(b'"');
        line.extend_from_slice(text.as_bytes());
        line.push(b'"');
    }

    /// One more member, a text.
    pub(super) fn text(&mut self, name: &str, text: &str) {
        if is_plain(text) { self.literal(name, text) } else { self.value(name, text) }
    }

    /// One more member, a point in time (RFC 3339).
    pub(super) fn time(&mut self, name: &str, time: Timestamp) {
        self.name(name);
        let Buffers { line, second, .. } = &mut self.buffers;
        let number = time.as_second();
        if second.number != number {
            second.number = number;
            second.text.clear();
            let whole = Timestamp::from_second(number).expect("it is that of a point in time");
            TIMES.print_timestamp(&whole, &mut second.text).expect("memory can be written to");
            second.text.truncate(second.text.len() - 1);
        }
        line.push(b'"');
        // Of time before 1970 the fraction is left out: it counts backwards.
        line.extend_from_slice(second.text.as_bytes());
        if let Ok(micros @ 1..) = u32::try_from(time.subsec_microsecond()) {
            let mut digits = *b".000000";
            let mut rest = micros;
            for digit in digits[1..].iter_mut().rev() {
                *digit += (rest % 10) as u8;
                rest /= 10;
            }
            line.extend_from_slice(&digits);
        }
        line.extend_from_slice(b"Z\"");
    }

    /// One more member, a number or the like, whose JSON is plain.
    fn number(&mut self, name: &str, number: &impl Serialize) {
        self.name(name);
        serde_json::to_writer(&mut self.buffers.line, number)
            .expect("numbers can be written to memory");
    }

    /// One more member, of any kind.
    pub(super) fn value(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        self.name(name);
        let line = &mut self.buffers.line;
        let begin = line.len();
        serde_json::to_writer(&mut *line, value)
            .expect("texts, numbers and their maps can be written to memory");
        // JSON escapes the control characters of ASCII but one.
        let written = &line[begin..];
        self.is_plain &= written.is_ascii() && !written.contains(&0x7f);
    }

    /// Passes the line on, with its end.
    pub(super) fn end(mut self, out: impl FnOnce(&[u8])) {
        self.buffers.line.push(b'}');
        if !self.is_plain {
            self.escape();
        }
        self.buffers.line.push(b'\n');
        out(&self.buffers.line);
        self.keep();
    }

    /// Escapes what could command a terminal. It can only stand inside the texts, where its
    /// escapes mean the same.
    fn escape(&mut self) {
        let json = str::from_utf8(&self.buffers.line).expect("JSON is UTF-8");
        if json.contains(is_active) {
            let mut escaped = String::with_capacity(json.len() + 64);
            write_escaped(&mut escaped, json).expect("writing to a String cannot fail");
            self.buffers.line = escaped.into_bytes();
        }
    }

    fn keep(mut self) {
        let Buffers { line, printed, .. } = &mut self.buffers;
        line.clear();
        if line.capacity() <= MAX_KEPT && printed.capacity() <= MAX_KEPT {
            KEPT.set(self.buffers);
        }
    }

    /// One more member, unless the line says that itself.
    fn field(&mut self, field: &Field, write: impl FnOnce(&mut Self, &str)) {
        let name = field.name();
        if !is_own(name) {
            self.has_message_id |= name == MESSAGE_ID;
            write(self, name);
        }
    }
}

impl Visit for JsonLine {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, |line, name| line.text(name, clip(value, MAX_VALUE)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, |line, name| line.number(name, &value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, |line, name| line.number(name, &value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, |line, name| line.number(name, &value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, |line, name| line.number(name, &value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut printed = mem::take(&mut self.buffers.printed);
        printed.clear();
        write!(printed, "{value:?}").expect("writing to a String cannot fail");
        self.field(field, |line, name| line.text(name, clip(&printed, MAX_VALUE)));
        self.buffers.printed = printed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(write: impl FnOnce(&mut JsonLine)) -> String {
        let mut line = JsonLine::begin("INFO");
        write(&mut line);
        let mut written = String::new();
        line.end(|line| written.push_str(str::from_utf8(line).unwrap()));
        written
    }

    #[test]
    fn times_are_those_that_were_given() {
        for text in [
            "1969-12-31T23:59:59Z",
            "2026-11-26T23:59:59.999999Z",
            "2026-11-26T23:59:59.000001Z",
            "2026-11-27T00:00:00Z",
            "2026-11-26T23:59:59.1Z",
        ] {
            let time: Timestamp = text.parse().unwrap();
            let line = line(|line| line.time("time", time));
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(line["time"].as_str().unwrap().parse::<Timestamp>().unwrap(), time);
        }
    }

    #[test]
    fn every_text_is_escaped_as_json_and_for_terminals() {
        // Short and long, and wherever among the bytes that are looked at together.
        let around =
            [("a", "b"), ("", "x is in front"), ("in the middle", " x"), ("at the end ", "")];
        for character in (0..=0x2100).filter_map(char::from_u32) {
            for (before, after) in around {
                let text = format!("{before}{character}{after}");
                let line = line(|line| line.text("text", &text));
                assert!(!line[..line.len() - 1].contains(is_active), "{line:?}");
                let read: serde_json::Value = serde_json::from_str(&line).unwrap();
                assert_eq!(read["text"], text);
            }
        }
    }

    #[test]
    fn a_long_line_keeps_no_memory() {
        let long = "x".repeat(2 * MAX_KEPT);
        assert!(line(|line| line.text("text", &long)).len() > long.len());
        let kept = KEPT.take_capacity();
        assert!(kept <= MAX_KEPT, "{kept}");
        let short = line(|line| line.text("text", "x"));
        assert_eq!(short, "{\"severity\":\"INFO\",\"text\":\"x\"}\n");
        assert!(KEPT.take_capacity() > 0, "a short one does");
    }

    trait Capacity {
        fn take_capacity(&'static self) -> usize;
    }

    impl Capacity for std::thread::LocalKey<Cell<Buffers>> {
        fn take_capacity(&'static self) -> usize {
            self.replace(Buffers::new()).line.capacity()
        }
    }
}

//! What a replica counts for the kinds that it forwards.

use metrics::{Counter, Gauge, counter, gauge};

use super::list::CLASSES;
use super::{FORWARD_ANSWERS, FORWARD_DOWN, FORWARD_IN_FLIGHT, FORWARD_SENT, FORWARD_WAITING};

/// Jobs of one kind that wait for a place, and whether the kind is down.
pub(crate) struct PlaceMeters {
    waiting: Gauge,
    down: Gauge,
}

/// The events of one kind.
pub(crate) struct ForwardMeters {
    sent: Counter,
    in_flight: Gauge,
    answers: Vec<Counter>,
}

impl PlaceMeters {
    pub(crate) fn of(kind: &str) -> Self {
        let kind = kind.to_owned();
        Self {
            waiting: gauge!(FORWARD_WAITING, "kind" => kind.clone()),
            down: gauge!(FORWARD_DOWN, "kind" => kind),
        }
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.down.set(f64::from(u8::from(down)));
    }

    /// Counts a job as waiting until what is returned is dropped.
    pub(crate) fn wait(&self) -> Level<'_> {
        Level::raised(&self.waiting)
    }
}

impl ForwardMeters {
    pub(crate) fn of(kind: &str) -> Self {
        let kind = kind.to_owned();
        let answers = CLASSES
            .iter()
            .map(|class| counter!(FORWARD_ANSWERS, "kind" => kind.clone(), "class" => *class));
        Self {
            sent: counter!(FORWARD_SENT, "kind" => kind.clone()),
            answers: answers.collect(),
            in_flight: gauge!(FORWARD_IN_FLIGHT, "kind" => kind),
        }
    }

    /// Counts an event, and as on its way until what is returned is dropped.
    pub(crate) fn send(&self) -> Level<'_> {
        self.sent.increment(1);
        Level::raised(&self.in_flight)
    }

    /// Counts an answer of this class.
    pub(crate) fn answered(&self, class: &str) {
        let at = CLASSES.iter().position(|known| *known == class);
        self.answers[at.expect("all of them are listed")].increment(1);
    }
}

/// Keeps a gauge raised by 1 until it is dropped, so that a cut counts as an end.
pub(crate) struct Level<'a>(&'a Gauge);

impl<'a> Level<'a> {
    fn raised(gauge: &'a Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Level<'_> {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

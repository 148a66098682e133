//! The places of one kind of jobs: how many of them run at once besides the worker's slots,
//! and whether any may begin.
//!
//! A kind whose jobs are done elsewhere can be closed for a while: its handler is down or asked
//! to wait, or another server answers in its place. Its jobs are held then. When the pause is
//! over one of them goes ahead as the *probe*; what it meets opens the kind or closes it for
//! longer. Jobs that were under way when it was closed do neither: each begins in an *epoch*,
//! which ends with the next closing.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::Schedule;
use shared::ports::Monotonic;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tracing::{info, warn};

use crate::metrics::{Level, PlaceMeters};

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A job that waits for a probe is woken when that ends; this bounds its wait.
const UNTIL_WOKEN: Duration = Duration::from_secs(60 * 60);

/// Why no job of a kind begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The handler does not answer.
    Down,
    /// Another server answers, which does not know such jobs.
    Misrouted,
    /// The handler asked to wait.
    Asked,
}

/// The places of one kind. A [`Handler`](crate::Handler) that has some is not called before
/// its job has one of them.
pub struct Places {
    kind: String,
    permits: Semaphore,
    state: Mutex<State>,
    changed: watch::Sender<()>,
    meters: PlaceMeters,
}

struct State {
    epoch: u64,
    closed: Option<Closing>,
    pauses: Schedule,
}

struct Closing {
    because: Closed,
    why: String,
    until: Monotonic,
    probing: bool,
}

/// What a job that wants a place may do.
#[derive(Debug)]
pub(crate) enum Look<'a> {
    /// Take one.
    Open(Claim<'a>),
    /// Wait for so long, or until there is a change.
    Wait {
        /// Why, for people.
        why: String,
        /// How long at most.
        pause: Duration,
    },
}

/// The right to take a place.
#[derive(Debug)]
pub(crate) struct Claim<'a>(Option<Probe<'a>>);

/// The right to go ahead of the others of a closed kind, until this is dropped.
struct Probe<'a> {
    places: &'a Places,
    epoch: u64,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    places: &'a Places,
    probe: Option<Probe<'a>>,
    _permit: SemaphorePermit<'a>,
}

impl Places {
    /// So many places of `kind`, at least one, all of them free.
    pub fn new(kind: &str, at_once: usize) -> Self {
        Self {
            kind: kind.to_owned(),
            permits: Semaphore::new(at_once.max(1)),
            state: Mutex::new(State {
                epoch: 0,
                closed: None,
                pauses: Schedule::new(PAUSE_MIN, PAUSE_MAX),
            }),
            changed: watch::Sender::new(()),
            meters: PlaceMeters::of(kind),
        }
    }

    /// A panic leaves plain values behind, each valid.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a job may take a place now. Only one may after a pause: the probe.
    pub(crate) fn look(&self, now: Monotonic) -> Look<'_> {
        let mut state = self.lock();
        let epoch = state.epoch;
        match &mut state.closed {
            None => Look::Open(Claim(None)),
            Some(closing) if closing.probing || now < closing.until => Look::Wait {
                why: closing.why.clone(),
                pause: if closing.probing { UNTIL_WOKEN } else { closing.until.since(now) },
            },
            Some(closing) => {
                closing.probing = true;
                Look::Open(Claim(Some(Probe { places: self, epoch })))
            }
        }
    }

    /// A place, when one is free; `None` when the kind was closed meanwhile. Dropping it gives
    /// the claim back.
    pub(crate) async fn take<'a>(&'a self, Claim(probe): Claim<'a>) -> Option<Place<'a>> {
        let permit = self.permits.acquire().await.ok()?;
        let place = Place { places: self, probe, _permit: permit };
        place.may_begin().then_some(place)
    }

    /// Counts a job that waits for a place until what is returned is dropped.
    pub(crate) fn waiting(&self) -> Level<'_> {
        self.meters.wait()
    }

    /// Tells of every change. Subscribe before looking.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// When a job begins that has a place.
    pub(crate) fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// Why no job begins, if none does.
    pub(crate) fn closed(&self) -> Option<Closed> {
        self.lock().closed.as_ref().map(|closing| closing.because)
    }

    /// The same for people, if whoever does the jobs is down or not the right one.
    pub(crate) fn trouble(&self) -> Option<String> {
        let state = self.lock();
        let closing = state.closed.as_ref()?;
        (closing.because != Closed::Asked).then(|| closing.why.clone())
    }

    /// A job that began in `epoch` met what closes the kind: for `asked`, or for a pause of its
    /// own that grows; `unit` in `0.0..1.0` places that within its jitter.
    pub(crate) fn close(
        &self,
        epoch: u64,
        because: Closed,
        why: &str,
        asked: Option<Duration>,
        now: Monotonic,
        unit: f64,
    ) {
        let mut state = self.lock();
        if state.epoch != epoch {
            return;
        }
        let pause = asked.unwrap_or_else(|| state.pauses.next(unit));
        let is_news = state.closed.is_none();
        let why = format!("kind {}: {why}", self.kind);
        if is_news {
            warn!("{why}; its jobs wait, and one of them tries again in {pause:.0?}");
        }
        state.epoch += 1;
        state.closed = Some(Closing { because, why, until: now.plus(pause), probing: false });
        self.meters.set_down(because != Closed::Asked);
        drop(state);
        self.changed.send_replace(());
    }

    /// A job that began in `epoch` was answered as it should be.
    pub(crate) fn open(&self, epoch: u64) {
        let mut state = self.lock();
        if state.epoch != epoch || state.closed.is_none() {
            return;
        }
        state.closed = None;
        state.pauses.reset();
        self.meters.set_down(false);
        drop(state);
        info!("kind {}: its jobs go on", self.kind);
        self.changed.send_replace(());
    }

    fn probe_ended(&self, epoch: u64) {
        let mut state = self.lock();
        if state.epoch == epoch
            && let Some(closing) = &mut state.closed
        {
            closing.probing = false;
            drop(state);
            self.changed.send_replace(());
        }
    }
}

impl Place<'_> {
    /// Whether its job may begin still: the kind may have been closed since it was taken. Ask
    /// last, after all other waiting.
    pub(crate) fn may_begin(&self) -> bool {
        self.probe.is_some() || self.places.closed().is_none()
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.places.probe_ended(self.epoch);
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl fmt::Debug for Probe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("kind", &self.places.kind).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    async fn take(places: &Places, now: Monotonic) -> Option<Place<'_>> {
        match places.look(now) {
            Look::Open(claim) => places.take(claim).await,
            Look::Wait { .. } => None,
        }
    }

    fn close(places: &Places, epoch: u64, now: Monotonic) {
        places.close(epoch, Closed::Down, "nobody answers", None, now, 0.0);
    }

    #[tokio::test]
    async fn so_many_jobs_have_a_place_and_the_next_waits() {
        let places = Places::new("greet", 2);
        let first = take(&places, at(0)).await.unwrap();
        let _second = take(&places, at(0)).await.unwrap();
        let mut third = Box::pin(take(&places, at(0)));
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(first);
        assert!(third.await.is_some());
    }

    #[tokio::test]
    async fn after_a_pause_one_job_probes_and_opens_the_kind_for_all() {
        let places = Places::new("greet", 2);
        let under_way = take(&places, at(0)).await.unwrap();
        let before = places.epoch();
        close(&places, before, at(0));
        assert!(places.trouble().unwrap().contains("kind greet: nobody answers"));
        assert!(take(&places, at(0)).await.is_none(), "it pauses");
        // What jobs say that began before it was closed counts no more.
        close(&places, before, at(0));
        places.open(before);
        assert!(matches!(places.look(at(0)), Look::Wait { pause, .. } if pause == PAUSE_MIN));
        drop(under_way);
        let probe = take(&places, at(1)).await.unwrap();
        assert!(take(&places, at(1)).await.is_none(), "one probes");
        let mut changes = places.changes();
        close(&places, places.epoch(), at(1));
        drop(probe);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        assert!(take(&places, at(2)).await.is_none(), "the pause grows");
        let probe = take(&places, at(3)).await.unwrap();
        drop(probe);
        assert!(changes.has_changed().unwrap(), "a probe that learnt nothing lets the next one go");
        let _probe = take(&places, at(3)).await.unwrap();
        places.open(places.epoch());
        assert_eq!((places.closed(), places.trouble()), (None, None));
        assert!(take(&places, at(3)).await.is_some());
    }

    #[tokio::test]
    async fn who_is_asked_to_wait_is_not_in_trouble() {
        let places = Places::new("greet", 1);
        let asked = Some(Duration::from_secs(20));
        places.close(0, Closed::Asked, "it asks to wait", asked, at(0), 0.5);
        assert_eq!(places.trouble(), None);
        assert!(matches!(places.look(at(5)), Look::Wait { pause, .. } if pause.as_secs() == 15));
        assert!(take(&places, at(20)).await.is_some());
    }

    #[tokio::test]
    async fn who_waits_for_a_place_does_not_begin_in_a_kind_that_was_closed() {
        let places = Places::new("greet", 1);
        let first = take(&places, at(0)).await.unwrap();
        let mut second = Box::pin(take(&places, at(0)));
        assert!(futures_util::poll!(&mut second).is_pending());
        close(&places, places.epoch(), at(0));
        drop(first);
        assert!(second.await.is_none());
    }

    #[tokio::test]
    async fn a_place_is_of_no_use_in_a_kind_that_was_closed_since_but_to_the_probe() {
        let places = Places::new("greet", 2);
        let place = take(&places, at(0)).await.unwrap();
        assert!(place.may_begin());
        close(&places, places.epoch(), at(0));
        assert!(!place.may_begin());
        assert!(take(&places, at(1)).await.unwrap().may_begin(), "the probe");
    }
}

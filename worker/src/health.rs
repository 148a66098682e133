//! `/healthz`, `/readyz` and `/metrics` for a replica.
//!
//! Liveness asks only whether this process turns ([`Pulse`]): a bucket or a
//! provider that is down must never get replicas killed. Readiness
//! ([`Readiness`]) asks whether the replica takes jobs.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse as _;
use axum::routing::get;
use shared::ports::{Clock, Monotonic};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Render;
use crate::replica::Readiness;

/// A loop that has not turned for so long is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(30);
/// How often a loop should beat: often enough to miss several.
pub const BEAT_EVERY: Duration = Duration::from_secs(5);

/// Whether the loops of this process turn. Clones share everything.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<Loops>);

#[derive(Debug)]
struct Loops {
    clock: Arc<dyn Clock>,
    /// When each turned last, in milliseconds of the monotonic clock.
    last: Mutex<BTreeMap<&'static str, Arc<AtomicU64>>>,
}

/// One loop that must keep beating until this is dropped.
#[derive(Debug)]
pub struct Beat {
    pulse: Pulse,
    name: &'static str,
    last: Arc<AtomicU64>,
}

/// A loop that has not turned for longer than [`STUCK_AFTER`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{name} has not turned for {} s", .age.as_secs())]
pub struct Stuck {
    /// Which loop.
    pub name: &'static str,
    /// How long ago it turned last.
    pub age: Duration,
}

impl Pulse {
    /// No loops yet: alive.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Loops { clock, last: Mutex::default() }))
    }

    /// From now on the loop `name` has to [`turn`](Beat::turn) at least every
    /// [`STUCK_AFTER`], better every [`BEAT_EVERY`], whatever it waits for. Drop
    /// the result when the loop ends.
    pub fn watch(&self, name: &'static str) -> Beat {
        let beat = Beat { pulse: self.clone(), name, last: Arc::default() };
        beat.turn();
        self.0.lock().insert(name, Arc::clone(&beat.last));
        beat
    }

    /// Beats for as long as the runtime carries tasks forward. Never ends; drop
    /// it at any time.
    pub async fn keep(&self) -> Infallible {
        self.watch("the runtime").through(std::future::pending()).await
    }

    /// Whether every loop turns.
    ///
    /// # Errors
    /// The loop that turned longest ago, if that is too long.
    pub fn check(&self) -> Result<(), Stuck> {
        let now = self.0.clock.monotonic();
        let last = self.0.lock();
        let oldest = last.iter().map(|(name, at)| {
            let at = Monotonic(Duration::from_millis(at.load(Ordering::Relaxed)));
            Stuck { name, age: now.since(at) }
        });
        match oldest.max_by_key(|stuck| stuck.age) {
            Some(stuck) if stuck.age > STUCK_AFTER => Err(stuck),
            _ => Ok(()),
        }
    }
}

impl Loops {
    /// A panic leaves plain values behind, each valid.
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Arc<AtomicU64>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Beat {
    /// The loop turned.
    pub fn turn(&self) {
        let now = self.pulse.0.clock.monotonic().0.as_millis();
        self.last.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Beats while the loop waits for `work`, which bounds itself or is dropped. Dropping
    /// this drops `work`.
    pub async fn through<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            self.turn();
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.pulse.0.clock.sleep(BEAT_EVERY) => {}
            }
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.pulse.0.lock().remove(self.name);
    }
}

/// What is asked about a replica over HTTP.
#[derive(Debug, Clone)]
pub struct Probes {
    /// Whether it takes jobs, and turns.
    pub ready: Arc<Readiness>,
    /// What it counts.
    pub metrics: Render,
}

/// Serves until `stop`. Let it outlive the drain: whoever scrapes wants the last
/// jobs too.
///
/// # Errors
/// When `listener` fails.
pub async fn serve(
    listener: TcpListener,
    probes: Probes,
    stop: CancellationToken,
) -> std::io::Result<()> {
    axum::serve(listener, routes(probes)).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn routes(probes: Probes) -> Router {
    let Probes { ready, metrics } = probes;
    let told = |result: Result<&str, String>| {
        let (status, text) = match result {
            Ok(text) => (StatusCode::OK, format!("{text}\n")),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        };
        (status, [(CACHE_CONTROL, "no-store")], text)
    };
    let pulse = ready.pulse().clone();
    let healthz = move || async move {
        told(pulse.check().map(|()| "ok").map_err(|stuck| format!("not alive: {stuck}")))
    };
    let readyz = move || async move {
        told(ready.check().map(|()| "ready").map_err(|why| format!("not ready: {why}")))
    };
    let metrics = move || async move {
        ([(CONTENT_TYPE, Render::TYPE), (CACHE_CONTROL, "no-store")], metrics.text())
            .into_response()
    };
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
}

/// Binds the address that `--listen` names.
///
/// # Errors
/// A text that says what to do.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|e| {
        format!("cannot listen on {address}: {e}; is another replica running? choose another --listen (port 0: any)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// A clock that stands still until it is moved; its sleeps are tokio's.
    #[derive(Debug, Default)]
    struct Stopped(Mutex<Duration>);

    impl Stopped {
        fn pass(&self, time: Duration) {
            *self.0.lock().unwrap() += time;
        }
    }

    impl Clock for Stopped {
        fn wall(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }

        fn monotonic(&self) -> Monotonic {
            Monotonic(*self.0.lock().unwrap())
        }

        #[expect(clippy::disallowed_methods, reason = "this is the clock that tests pass in")]
        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            tokio::time::sleep(duration).boxed()
        }
    }

    #[test]
    fn a_loop_that_does_not_turn_is_named_with_its_age() {
        let clock = Arc::new(Stopped::default());
        let pulse = Pulse::new(Arc::clone(&clock) as Arc<dyn Clock>);
        assert_eq!(pulse.check(), Ok(()), "nothing to turn yet");
        let (intake, sweep) = (pulse.watch("the intake"), pulse.watch("the sweep"));
        clock.pass(STUCK_AFTER);
        assert_eq!(pulse.check(), Ok(()));
        sweep.turn();
        clock.pass(Duration::from_secs(2));
        let stuck = pulse.check().unwrap_err();
        assert_eq!(stuck.to_string(), "the intake has not turned for 32 s");
        intake.turn();
        assert_eq!(pulse.check(), Ok(()));
        drop((intake, sweep));
        clock.pass(STUCK_AFTER * 2);
        assert_eq!(pulse.check(), Ok(()), "loops that ended are not missed");
    }

    #[tokio::test(start_paused = true)]
    async fn the_runtime_beats_while_it_turns() {
        let clock = Arc::new(Stopped::default());
        let pulse = Pulse::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let mut keeping = Box::pin(pulse.keep());
        assert!(futures_util::poll!(&mut keeping).is_pending());
        clock.pass(STUCK_AFTER * 2);
        assert!(pulse.check().is_err(), "it did not turn meanwhile");
        tokio::time::advance(BEAT_EVERY).await;
        assert!(futures_util::poll!(&mut keeping).is_pending());
        assert_eq!(pulse.check(), Ok(()));
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn liveness_does_not_hang_on_readiness() {
        let clock = Arc::new(Stopped::default());
        let pulse = Pulse::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let beat = pulse.watch("the intake");
        let probes = Probes {
            ready: Arc::new(Readiness::new(pulse)),
            metrics: Render::new(|| "fleet_ready 0\n".to_owned()),
        };
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, probes, stop.clone()));
        let ready = get(address, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("not ready: "), "{ready}");
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        clock.pass(STUCK_AFTER * 2);
        let dead = get(address, "/healthz").await;
        assert!(dead.starts_with("HTTP/1.1 503"), "{dead}");
        assert!(dead.contains("the intake has not turned for 60 s"), "{dead}");
        let metrics = get(address, "/metrics").await;
        assert!(metrics.contains("text/plain; version=0.0.4") && metrics.ends_with("_ready 0\n"));
        drop(beat);
        stop.cancel();
        serving.await.unwrap().unwrap();
    }
}

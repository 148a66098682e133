//! Time and randomness, given and never taken.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::secret::Secret;

/// A point on this process's monotonic clock: time since an arbitrary start
/// that is the same for the whole process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Monotonic(pub Duration);

impl Monotonic {
    /// Time that has passed since `earlier`; zero when it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The point `after` later.
    #[must_use]
    pub fn plus(self, after: Duration) -> Self {
        Self(self.0.saturating_add(after))
    }
}

/// Both clocks, read together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Now {
    /// The wall clock; it may be wrong, and is only compared with expiry times.
    pub wall: Timestamp,
    /// The monotonic clock; every wait and lease counts on it.
    pub monotonic: Monotonic,
}

/// Where the store gets its time from.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The wall clock.
    fn wall(&self) -> Timestamp;

    /// A clock that never goes back and counts time spent suspended, where the
    /// system has one.
    fn monotonic(&self) -> Monotonic;

    /// Ends after `duration`. Dropping it is harmless.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// Both clocks.
    fn now(&self) -> Now {
        Now { wall: self.wall(), monotonic: self.monotonic() }
    }
}

/// A seeded source of jitter and identifiers, shared by one process.
pub struct Randomness(Mutex<StdRng>);

impl Randomness {
    /// The same seed draws the same sequence.
    pub fn seeded(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    /// Seeded by the operating system.
    pub fn from_system() -> Self {
        Self(Mutex::new(StdRng::from_os_rng()))
    }

    /// A number in `0.0..1.0`.
    pub fn unit(&self) -> f64 {
        self.draw(rand::Rng::random)
    }

    /// A 64-bit number, to seed another source with.
    pub fn seed(&self) -> u64 {
        self.draw(rand::Rng::random)
    }

    /// A fresh identifier: 128 random bits as 32 hex digits.
    pub fn id(&self) -> String {
        format!("{:032x}", self.draw(rand::Rng::random::<u128>))
    }

    /// A fresh secret: 256 random bits as base64url without padding.
    pub fn secret(&self) -> Secret {
        Secret::new(URL_SAFE_NO_PAD.encode(self.draw(rand::Rng::random::<[u8; 32]>)))
    }

    fn draw<T>(&self, from: impl FnOnce(&mut StdRng) -> T) -> T {
        // A panic while drawing leaves the generator valid.
        from(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl fmt::Debug for Randomness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Randomness")
    }
}

//! How much memory the bodies of all running jobs may take together.
//!
//! A job takes all that it may need before it sends its first request, at once, and gives it
//! back when it has ended. Nothing is taken while a body is read: jobs that each hold a part
//! and wait for more would wait for each other. Who waits longest comes first, so that large
//! needs are met too.

use tokio::sync::{Semaphore, SemaphorePermit};

use super::upload::CHUNK;

/// What is counted at once, in bytes.
const UNIT: usize = 64 * 1024;
/// An answer for the outcome, and the piece of it that was read last.
const INLINE: usize = 2 * UNIT;
/// The chunk that Cloud Storage has not confirmed, and what is read meanwhile.
const UPLOAD: usize = CHUNK + 1024 * 1024;

/// What one job may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    bytes: usize,
    is_upload: bool,
}

impl Need {
    /// For an answer in the outcome, and a request with a body of so many bytes.
    pub(super) fn inline(body: usize) -> Self {
        Self { bytes: INLINE + body, is_upload: false }
    }

    /// For an answer in an object, and a request with a body of so many bytes.
    pub(super) fn upload(body: usize) -> Self {
        Self { bytes: UPLOAD + body, is_upload: true }
    }
}

/// Memory for bodies.
#[derive(Debug)]
pub(super) struct BodyMemory {
    all: Semaphore,
    all_units: u32,
    /// Uploads take as long as the API and Cloud Storage do, so half is left for other jobs.
    uploads: Semaphore,
    upload_units: u32,
}

/// A job's part, until it is dropped.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    _all: Option<SemaphorePermit<'a>>,
    _upload: Option<SemaphorePermit<'a>>,
}

/// The least that can be given to `--body-memory`: about what one upload needs, which then
/// waits until it is alone.
pub const MIN_BODY_MEMORY: usize = 4 * 1024 * 1024;

impl BodyMemory {
    /// So many bytes, at least [`MIN_BODY_MEMORY`].
    pub(super) fn new(bytes: usize) -> Self {
        let all_units = units(bytes.max(MIN_BODY_MEMORY));
        let upload_units = (all_units / 2).max(units(UPLOAD));
        let semaphore = |units: u32| Semaphore::new(units as usize);
        Self {
            all: semaphore(all_units),
            all_units,
            uploads: semaphore(upload_units),
            upload_units,
        }
    }

    /// Takes what a job needs, or everything if it needs more. Cancelling it takes nothing.
    pub(super) async fn take(&self, need: Need) -> Taken<'_> {
        let units = units(need.bytes);
        let upload = if need.is_upload {
            self.uploads.acquire_many(units.min(self.upload_units)).await.ok()
        } else {
            None
        };
        // Neither semaphore is ever closed.
        let all = self.all.acquire_many(units.min(self.all_units)).await.ok();
        Taken { _all: all, _upload: upload }
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX >> 4).min(u32::MAX >> 4)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn uploads_leave_half_to_others() {
        let memory = BodyMemory::new(20 * 1024 * 1024);
        let upload = || memory.take(Need::upload(0)).now_or_never();
        let uploads: Vec<_> = std::iter::from_fn(upload).collect();
        assert_eq!(uploads.len(), 10 * 1024 * 1024 / UPLOAD);
        let inline = || memory.take(Need::inline(0)).now_or_never();
        let others: Vec<_> = std::iter::from_fn(inline).collect();
        assert!(others.len() * INLINE >= 10 * 1024 * 1024, "{}", others.len());
        assert!(upload().is_none() && inline().is_none());
        drop((uploads, others));
        assert!(upload().is_some());
    }

    #[test]
    fn who_waits_longest_comes_first_and_whatever_is_needed_is_met() {
        let memory = BodyMemory::new(0);
        let first = memory.take(Need::inline(1024 * 1024)).now_or_never().unwrap();
        let mut large = Box::pin(memory.take(Need::upload(100 * 1024 * 1024)));
        assert!(large.as_mut().now_or_never().is_none());
        let mut small = Box::pin(memory.take(Need::inline(0)));
        assert!(small.as_mut().now_or_never().is_none(), "it waits behind the large one");
        drop(first);
        let taken = large.as_mut().now_or_never().unwrap();
        assert!(small.as_mut().now_or_never().is_none());
        drop(taken);
        assert!(small.as_mut().now_or_never().is_some());
    }
}

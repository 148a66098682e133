//! How much memory the bodies of all running jobs may take together.
//!
//! A job takes what it needs at least before it sends its first request, at once, and gives it
//! back when it has ended. It waits for nothing more while a body is read: jobs that each hold a
//! part and wait would wait for each other. What an upload takes beyond, so that it needs fewer
//! requests, it has only if it is free. Who waits longest comes first, so that large needs are met
//! too.

use tokio::sync::{Semaphore, SemaphorePermit};

/// What is counted at once, in bytes.
const UNIT: usize = 64 * 1024;
/// An answer for the outcome, and the piece of it that was read last.
const INLINE: usize = 2 * UNIT;
/// What every upload holds of its content.
pub(super) const START: usize = 256 * 1024;
/// What is read while Cloud Storage has not confirmed what it was sent.
const READ: usize = 512 * 1024;

/// What one job needs at least.
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
        Self { bytes: START + READ + body, is_upload: true }
    }
}

/// Memory for bodies.
#[derive(Debug)]
pub(super) struct BodyMemory {
    all: Semaphore,
    all_units: u32,
    /// Uploads take as long as the API and Cloud Storage do. Three eighths are for what they need,
    /// a quarter for what they take beyond, so that three eighths are left for other jobs.
    uploads: Semaphore,
    upload_units: u32,
    growth: Semaphore,
}

/// A job's part, until it is dropped.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    memory: &'a BodyMemory,
    held: Vec<SemaphorePermit<'a>>,
}

impl Taken<'_> {
    /// Takes so many bytes more, if they are free.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let units = units(bytes);
        let Ok(growth) = self.memory.growth.try_acquire_many(units) else { return false };
        let Ok(all) = self.memory.all.try_acquire_many(units) else { return false };
        self.held.extend([growth, all]);
        true
    }
}

/// The least that can be given to `--body-memory`.
pub const MIN_BODY_MEMORY: usize = 8 * 1024 * 1024;

impl BodyMemory {
    /// So many bytes, at least [`MIN_BODY_MEMORY`].
    pub(super) fn new(bytes: usize) -> Self {
        let all_units = units(bytes.max(MIN_BODY_MEMORY));
        let upload_units = all_units / 8 * 3;
        let semaphore = |units: u32| Semaphore::new(units as usize);
        Self {
            all: semaphore(all_units),
            all_units,
            uploads: semaphore(upload_units),
            upload_units,
            growth: semaphore(all_units / 4),
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
        // No semaphore is ever closed.
        let all = self.all.acquire_many(units.min(self.all_units)).await.ok();
        Taken { memory: self, held: upload.into_iter().chain(all).collect() }
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX >> 4).min(u32::MAX >> 4)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// As many small uploads as a worker has slots by default, and three eighths for others.
    #[test]
    fn uploads_leave_room_to_others() {
        const ALL: usize = 128 * 1024 * 1024;
        let memory = BodyMemory::new(ALL);
        let upload = || memory.take(Need::upload(0)).now_or_never();
        let mut uploads: Vec<_> = std::iter::from_fn(upload).collect();
        assert_eq!(uploads.len(), 64);
        let grown = uploads.iter_mut().filter_map(|upload| upload.grow(ALL / 32).then_some(()));
        assert_eq!(grown.count(), 8);
        let inline = || memory.take(Need::inline(0)).now_or_never();
        let others: Vec<_> = std::iter::from_fn(inline).collect();
        assert_eq!(others.len() * INLINE, ALL / 8 * 3);
        assert!(upload().is_none() && inline().is_none());
        drop((uploads, others));
        assert!(upload().is_some());
        let free = |memory: &BodyMemory| {
            [&memory.all, &memory.uploads, &memory.growth].map(Semaphore::available_permits)
        };
        assert_eq!(free(&memory), free(&BodyMemory::new(ALL)));
    }

    /// What is refused takes nothing, whichever of the two is used up.
    #[test]
    fn growth_waits_for_nobody() {
        let memory = BodyMemory::new(0);
        let mut upload = memory.take(Need::upload(0)).now_or_never().unwrap();
        assert!(!upload.grow(MIN_BODY_MEMORY / 2));
        let others = memory.take(Need::inline(MIN_BODY_MEMORY - 2 * 1024 * 1024)).now_or_never();
        assert!(others.is_some() && !upload.grow(MIN_BODY_MEMORY / 4));
        drop(others);
        assert!(upload.grow(MIN_BODY_MEMORY / 4));
        assert!(!upload.grow(1));
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

//! How much memory the bodies of all running jobs may take together.
//!
//! A job takes all that it may need before it sends its first request, at once, and gives it
//! back when it has ended. Nothing is taken while a body is read: jobs that each hold a part
//! and wait for more would wait for each other. Who waits longest comes first, so that large
//! needs are met too. A job whose answer says that it is short gives the rest back at once.

use tokio::sync::{Semaphore, SemaphorePermit};

use super::upload::{CHUNK, SINGLE};

/// What is counted at once, in bytes.
const UNIT: usize = 64 * 1024;
/// An answer for the outcome, and the piece of it that was read last.
const INLINE: usize = 2 * UNIT;
/// What is read while Cloud Storage has not confirmed what it was sent.
const READ: usize = 1024 * 1024;
/// An object whose length is not known.
const UPLOAD: usize = SINGLE + READ;

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

    /// What is left of it when the answer has so many bytes: all of them in one request, or a
    /// chunk. The request has been sent, but may be sent again.
    pub(super) fn of_length(self, length: u64) -> Self {
        let held = usize::try_from(length).ok().filter(|length| *length <= SINGLE);
        let spared = SINGLE - held.unwrap_or(CHUNK);
        Self { bytes: self.bytes - spared, ..self }
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
    all: Option<SemaphorePermit<'a>>,
    upload: Option<SemaphorePermit<'a>>,
}

impl Taken<'_> {
    /// Gives back what is beyond `need`.
    pub(super) fn shrink(&mut self, need: Need) {
        for permit in [&mut self.all, &mut self.upload].into_iter().flatten() {
            let beyond = permit.num_permits().saturating_sub(units(need.bytes) as usize);
            drop(permit.split(beyond));
        }
    }
}

/// The least that can be given to `--body-memory`: about what one upload needs, which then
/// waits until it is alone.
pub const MIN_BODY_MEMORY: usize = 8 * 1024 * 1024;

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
        Taken { all, upload }
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
        let memory = BodyMemory::new(40 * 1024 * 1024);
        let upload = || memory.take(Need::upload(0)).now_or_never();
        let uploads: Vec<_> = std::iter::from_fn(upload).collect();
        assert_eq!(uploads.len(), 20 * 1024 * 1024 / UPLOAD);
        let inline = || memory.take(Need::inline(0)).now_or_never();
        let others: Vec<_> = std::iter::from_fn(inline).collect();
        assert!(others.len() * INLINE >= 20 * 1024 * 1024, "{}", others.len());
        assert!(upload().is_none() && inline().is_none());
        drop((uploads, others));
        assert!(upload().is_some());
    }

    #[test]
    fn an_answer_that_says_its_length_leaves_the_rest_to_others() {
        let memory = BodyMemory::new(128 * 1024 * 1024);
        let need = Need::upload(1000);
        let left = |length| {
            memory.all_units as usize - {
                let mut taken = memory.take(need).now_or_never().unwrap();
                taken.shrink(need.of_length(length));
                let left = memory.all.available_permits();
                assert_eq!(left - memory.uploads.available_permits(), 64 * 1024 * 1024 / UNIT);
                left
            }
        };
        let of = |bytes: usize| units(bytes + READ + 1000) as usize;
        assert_eq!(left(0), of(0));
        assert_eq!(left(5_000_000), of(5_000_000));
        assert_eq!(left(SINGLE as u64), of(SINGLE));
        assert_eq!(left(SINGLE as u64 + 1), of(CHUNK));
        assert_eq!(left(u64::MAX), of(CHUNK));
        assert_eq!(memory.all.available_permits(), memory.all_units as usize);
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

//! Goes through the objects of a prefix, page by page.

use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use shared::ports::{Bucket, BucketError, Generation, Hints};

/// No more objects of one kind are listed: that would take minutes.
const MOST: u64 = 1_000_000;

/// How many objects were listed and read so far.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    listed: AtomicU64,
    read: AtomicU64,
}

impl Progress {
    pub(crate) fn listed(&self) -> u64 {
        self.listed.load(Ordering::Relaxed)
    }

    pub(crate) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub(super) fn note_read(&self) {
        self.read.fetch_add(1, Ordering::Relaxed);
    }
}

/// An object as its listing shows it.
pub(super) struct Listed<'a> {
    pub(super) name: &'a str,
    pub(super) generation: Generation,
    pub(super) hints: Option<&'a Hints>,
    pub(super) created: Option<Timestamp>,
}

/// Shows every object whose name begins so to `take`. Whether there are more than [`MOST`], of
/// which the rest was not shown.
pub(super) async fn each(
    bucket: &dyn Bucket,
    prefix: &str,
    progress: &Progress,
    mut take: impl FnMut(Listed<'_>),
) -> Result<bool, BucketError> {
    let (mut page, mut seen) = (None, 0);
    loop {
        let listing = bucket.list(prefix, page).await?;
        for (name, generation) in &listing.objects {
            let hints = listing.hints.get(name);
            let created = listing.created.get(name).copied();
            take(Listed { name, generation: *generation, hints, created });
        }
        let found = listing.objects.len() as u64;
        progress.listed.fetch_add(found, Ordering::Relaxed);
        seen += found;
        page = listing.next_page;
        if page.is_none() || seen >= MOST {
            return Ok(page.is_some());
        }
    }
}

//! How much and how long a job of kind `api` may take, all in one place.
//!
//! The longest call stays well below the day for which Pub/Sub's client extends
//! a message, so that a job is not handed to another replica while it runs.

use std::time::Duration;

/// The largest object that a job may write, in bytes after decoding: a small
/// compressed answer must not fill a bucket.
pub(super) const MAX_OUTPUT_BYTES: u64 = 16 * 1024 * 1024 * 1024;
/// From the request to the headers of its answer, for each request.
pub(super) const HEADERS: Duration = Duration::from_secs(60);
/// A whole job whose answer goes into its outcome, redirects and pages included.
pub(super) const INLINE: Duration = Duration::from_secs(5 * 60);
/// A whole job that writes an object.
pub(super) const OUTPUT: Duration = Duration::from_secs(30 * 60);
/// Between two pieces that Cloud Storage takes.
pub(super) const STORAGE_STALL: Duration = Duration::from_secs(120);
/// One look at an object's metadata, or its removal.
pub(super) const STORAGE_CALL: Duration = Duration::from_secs(10);
/// Redirects of one request.
pub(super) const REDIRECTS: u32 = 5;
/// Headers that a job may set.
pub(super) const JOB_HEADERS: usize = 64;
/// Pages, unless the job says otherwise, and at most.
pub(super) const PAGES: u32 = 100;
pub(super) const MAX_PAGES: u32 = 10_000;

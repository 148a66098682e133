//! One replica's way to the bucket, which can be cut while the others' stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use shared::ports::{Bucket, BucketError};

use super::GatedBucket;

/// The switch of a way that can be cut.
#[derive(Debug, Clone, Default)]
pub struct Link(Arc<AtomicBool>);

impl Link {
    /// Nothing passes from now on, or everything again.
    pub fn cut(&self, cut: bool) {
        self.0.store(cut, Ordering::Relaxed);
    }

    /// The bucket at the other end.
    pub(super) fn to(&self, bucket: Arc<dyn Bucket>) -> Arc<dyn Bucket> {
        let is_cut = Arc::clone(&self.0);
        Arc::new(GatedBucket::new(bucket, move |_| {
            let passes = if is_cut.load(Ordering::Relaxed) {
                Err(BucketError::Unavailable("cut off for the test".into()))
            } else {
                Ok(())
            };
            async { passes }.boxed()
        }))
    }
}

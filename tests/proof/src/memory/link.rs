//! One replica's way to the bucket, which can be cut while the others' stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shared::ports::{Bucket, BucketError, Generation, Hints, Listing, Object};

use super::FaultyBucket;

/// A bucket that only some reach.
#[derive(Debug)]
pub struct Link {
    bucket: Arc<FaultyBucket>,
    cut: AtomicBool,
}

impl Link {
    pub(super) fn new(bucket: Arc<FaultyBucket>) -> Self {
        Self { bucket, cut: AtomicBool::new(false) }
    }

    /// Nothing passes from now on, or everything again.
    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }

    fn passes(&self) -> Result<(), BucketError> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(BucketError::Unavailable("cut off for the test".into()));
        }
        Ok(())
    }
}

impl Bucket for Link {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Object>, BucketError>> {
        async move {
            self.passes()?;
            self.bucket.get(name).await
        }
        .boxed()
    }

    fn put_with_hints<'a>(
        &'a self,
        name: &'a str,
        content: Bytes,
        hints: Hints,
        expected: Generation,
    ) -> BoxFuture<'a, Result<Generation, BucketError>> {
        async move {
            self.passes()?;
            self.bucket.put_with_hints(name, content, hints, expected).await
        }
        .boxed()
    }

    fn delete<'a>(
        &'a self,
        name: &'a str,
        expected: Generation,
    ) -> BoxFuture<'a, Result<bool, BucketError>> {
        async move {
            self.passes()?;
            self.bucket.delete(name, expected).await
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        page: Option<String>,
    ) -> BoxFuture<'a, Result<Listing, BucketError>> {
        async move {
            self.passes()?;
            self.bucket.list(prefix, page).await
        }
        .boxed()
    }
}

//! A bucket with a gate before it, where a test counts, interrupts and refuses requests.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shared::ports::{Bucket, BucketError, Generation, Hints, Listing, Object};

/// A request at the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtGate<'a> {
    /// It reads an object, or lists names.
    Read,
    /// It writes or deletes the object of this name.
    Change(&'a str),
}

/// What happens to a request before the bucket has it; an error is its answer.
type Gate = dyn Fn(AtGate<'_>) -> BoxFuture<'static, Result<(), BucketError>> + Send + Sync;

/// See the module's page.
pub struct GatedBucket {
    inner: Arc<dyn Bucket>,
    gate: Box<Gate>,
}

impl GatedBucket {
    /// `inner`, where each request waits for what `gate` returns.
    pub fn new(
        inner: Arc<dyn Bucket>,
        gate: impl Fn(AtGate<'_>) -> BoxFuture<'static, Result<(), BucketError>> + Send + Sync + 'static,
    ) -> Self {
        Self { inner, gate: Box::new(gate) }
    }
}

impl fmt::Debug for GatedBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatedBucket").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Bucket for GatedBucket {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Object>, BucketError>> {
        async move {
            (self.gate)(AtGate::Read).await?;
            self.inner.get(name).await
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
            (self.gate)(AtGate::Change(name)).await?;
            self.inner.put_with_hints(name, content, hints, expected).await
        }
        .boxed()
    }

    fn delete<'a>(
        &'a self,
        name: &'a str,
        expected: Generation,
    ) -> BoxFuture<'a, Result<bool, BucketError>> {
        async move {
            (self.gate)(AtGate::Change(name)).await?;
            self.inner.delete(name, expected).await
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        page: Option<String>,
    ) -> BoxFuture<'a, Result<Listing, BucketError>> {
        async move {
            (self.gate)(AtGate::Read).await?;
            self.inner.list(prefix, page).await
        }
        .boxed()
    }
}

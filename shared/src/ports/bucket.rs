//! A bucket of versioned objects.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use jiff::Timestamp;

/// The version of one object. Generations of one name only grow, also across
/// delete and re-creation. Zero as a precondition means "must not exist".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Generation(pub i64);

impl Generation {
    /// As a precondition: the object must not exist.
    pub const ABSENT: Self = Self(0);
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An object's content and the version it was read at.
#[derive(Clone, PartialEq, Eq)]
pub struct Object {
    /// The bytes.
    pub content: Bytes,
    /// The version of exactly these bytes.
    pub generation: Generation,
}

/// Token records hold secrets, so the content is not shown.
impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("len", &self.content.len())
            .field("generation", &self.generation)
            .finish()
    }
}

/// What a writer notes beside an object's content, for whoever lists: custom metadata. It only
/// helps to choose what to read; nothing is decided by it, since whoever can write into the
/// bucket can write it, and earlier versions write none.
pub type Hints = BTreeMap<String, String>;

/// One page of object names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Names and generations, in lexicographic order of the names.
    pub objects: Vec<(String, Generation)>,
    /// The hints of those objects that have some, by their names.
    pub hints: BTreeMap<String, Hints>,
    /// When these versions were created, by the objects' names, as far as the bucket tells.
    pub created: BTreeMap<String, Timestamp>,
    /// Pass it on to get the next page; `None` after the last.
    pub next_page: Option<String>,
}

/// Why a bucket call did not succeed, by what the caller can do about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BucketError {
    /// The object's generation is not the expected one (HTTP 412). After a
    /// write it may be the caller's own: a client that retried a write whose
    /// reply was lost sees the result of its first attempt.
    #[error("the object is at another generation than expected")]
    PreconditionFailed,
    /// Too many requests (HTTP 429). Nothing was written; try again later.
    #[error("the bucket is throttling requests")]
    Throttled,
    /// Timeout, connection failure or server error. A write may have been
    /// applied or may still be.
    #[error("the bucket did not answer: {0}")]
    Unavailable(Arc<str>),
    /// Missing bucket, missing permission or a wrong configuration: trying
    /// again does not help before an operator acts.
    #[error("{0}")]
    Refused(Arc<str>),
}

/// Reads and conditionally writes small objects.
///
/// Every call must end within a bound that the adapter sets. Dropping a
/// returned future abandons the call; a write may still be applied.
pub trait Bucket: Send + Sync + fmt::Debug + 'static {
    /// Reads an object; `None` when it does not exist.
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Object>, BucketError>>;

    /// Writes an object if its generation is `expected`
    /// ([`Generation::ABSENT`]: if it does not exist); the new generation.
    fn put<'a>(
        &'a self,
        name: &'a str,
        content: Bytes,
        expected: Generation,
    ) -> BoxFuture<'a, Result<Generation, BucketError>> {
        self.put_with_hints(name, content, Hints::new(), expected)
    }

    /// Writes an object like [`put`](Self::put), in the same one request, with hints for whoever
    /// lists it. A bucket that keeps none (a file) leaves them out.
    fn put_with_hints<'a>(
        &'a self,
        name: &'a str,
        content: Bytes,
        hints: Hints,
        expected: Generation,
    ) -> BoxFuture<'a, Result<Generation, BucketError>>;

    /// Deletes an object if its generation is `expected`; `false` when there
    /// was nothing to delete.
    fn delete<'a>(
        &'a self,
        name: &'a str,
        expected: Generation,
    ) -> BoxFuture<'a, Result<bool, BucketError>>;

    /// Lists names that start with `prefix`, one page at a time.
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        page: Option<String>,
    ) -> BoxFuture<'a, Result<Listing, BucketError>>;
}

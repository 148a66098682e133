//! What a request wants, for faults.

/// A kind of request, over either protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Content or metadata of an object.
    Read,
    /// Storing an object: in one request, or each one of an upload session.
    Write,
    /// Deleting an object.
    Delete,
    /// A page of a listing.
    List,
    /// Anything about a bucket itself, its access policy excepted.
    Bucket,
}

//! Why a worker cannot be built.

/// The longest name of a kind, in bytes.
pub(super) const MAX_KIND: usize = 128;

/// What a worker lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A part that has no default was not given.
    #[error("a worker needs {0}; give it to the builder")]
    Missing(&'static str),
    /// Two handlers for one kind.
    #[error("kind {0:?} has two handlers; choose another name for one of them")]
    Twice(String),
    /// The kind's name cannot stand in a job.
    #[error("kind {0:?} must have 1 to {MAX_KIND} bytes")]
    Kind(String),
    /// Nothing could ever run.
    #[error("{0} is 0; it must be at least 1")]
    Zero(&'static str),
}

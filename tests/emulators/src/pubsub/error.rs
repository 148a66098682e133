//! Why a request is refused, and the gRPC code that says so.

use std::borrow::Cow;

use tonic::{Code, Status};

/// A refused request. `Display` is the text that the client sees.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// The named topic or subscription does not exist.
    #[error("resource not found (resource={0})")]
    NotFound(String),
    /// The name is taken.
    #[error("resource already exists in the project (resource={0})")]
    AlreadyExists(String),
    /// Somebody else changed it since it was read.
    #[error("there were concurrent policy changes (resource={0}); read it again and retry")]
    Conflict(String),
    /// The request itself is wrong; repeating it cannot help.
    #[error("{0}")]
    Invalid(String),
    /// Production can do this, the emulator cannot.
    #[error("the Pub/Sub emulator does not implement {0}")]
    Unimplemented(Cow<'static, str>),
    /// It is not in a state for this.
    #[error("{0}")]
    Precondition(String),
    /// A test wants it so.
    #[error("{1}")]
    Injected(Code, &'static str),
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::NotFound(_) => Self::not_found(text),
            Error::AlreadyExists(_) => Self::already_exists(text),
            Error::Conflict(_) => Self::aborted(text),
            Error::Invalid(_) => Self::invalid_argument(text),
            Error::Unimplemented(_) => Self::unimplemented(text),
            Error::Precondition(_) => Self::failed_precondition(text),
            Error::Injected(code, _) => Self::new(code, text),
        }
    }
}

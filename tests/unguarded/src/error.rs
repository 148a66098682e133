//! Why a job failed.

/// Why a job failed. None of these says more than a worker's log should: no token, and
/// no body of an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A client could not be built.
    #[error("the {0} client cannot be built: {1}")]
    Client(&'static str, String),
    /// The user's object cannot be read.
    #[error("{object} cannot be read: {why}")]
    Load {
        /// Its name.
        object: String,
        /// What the bucket or the parser said.
        why: String,
    },
    /// The user's object cannot be written. What the provider issued is lost.
    #[error("{object} cannot be written: {why}")]
    Save {
        /// Its name.
        object: String,
        /// What the bucket said.
        why: String,
    },
    /// The token endpoint refused, or did not answer.
    #[error("the credential cannot be refreshed: {0}")]
    Refresh(String),
    /// The API refused.
    #[error("the API answered with HTTP status {0}")]
    Api(u16),
    /// The API did not answer.
    #[error("the API cannot be reached: {0}")]
    Unreachable(String),
    /// Not a job.
    #[error("the message is no job: {0}")]
    Malformed(String),
    /// The stream of messages ended, or a topic or subscription cannot be made.
    #[error("Pub/Sub: {0}")]
    PubSub(String),
}

/// The innermost cause, without the texts around it.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    shared::innermost(error).to_string()
}

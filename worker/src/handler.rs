//! What a kind of job does.

use futures_util::future::BoxFuture;
use shared::Credentials;

use crate::job::Job;
use crate::outcome::Verdict;

/// Does one kind of job. Called with at most `--concurrency` jobs at once.
pub trait Handler: Send + Sync + 'static {
    /// Runs `job` as the user of `credentials`.
    ///
    /// The credentials are fresh. When an API answers 401 to them the handler
    /// says [`Verdict::Unauthorized`] and is called once more with renewed ones.
    /// A panic fails this delivery only. At shutdown the future may be dropped
    /// when the drain time is over.
    fn handle<'a>(&'a self, job: &'a Job, credentials: &'a Credentials) -> BoxFuture<'a, Verdict>;
}

//! What a kind of job does.

use futures_util::future::BoxFuture;

use crate::job::Job;
use crate::outcome::Verdict;
use crate::places::Places;
use crate::session::Session;

/// Does one kind of job. Called with at most `--concurrency` jobs at once, and with
/// one job of a user at a time unless `--per-user` allows more.
///
/// A closure that returns a boxed future is a handler too:
///
/// ```
/// use futures_util::FutureExt as _;
/// use futures_util::future::BoxFuture;
/// use worker::{Effect, Job, Json, Session, Verdict};
///
/// #[derive(serde::Deserialize)]
/// struct Append {
///     sheet: String,
///     /// As the publisher wrote it, every digit of its numbers.
///     row: Json,
/// }
///
/// fn append<'a>(job: &'a Job, session: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
///     async move {
///         let Ok(Append { sheet, row }) = job.params.read() else {
///             return Verdict::reject("`sheet` and `row` are needed").effect(Effect::None);
///         };
///         let url = format!("https://sheets.googleapis.com/v4/spreadsheets/{sheet}/values/A1:append");
///         let request = match session.request(reqwest::Method::POST, &url) {
///             Ok(request) => request.query(&[("valueInputOption", "RAW")]),
///             Err(why) => return Verdict::reject(why.to_string()).effect(Effect::None),
///         };
///         match request.json(&row).send().await {
///             Ok(response) => Verdict::of_response(response).await,
///             Err(error) => Verdict::of_call_error(&error),
///         }
///     }
///     .boxed()
/// }
/// # fn is_a_handler(_: impl worker::Handler) {}
/// # is_a_handler(append);
/// ```
pub trait Handler: Send + Sync + 'static {
    /// Runs `job` as the user of `session`.
    ///
    /// The session's credentials are fresh. When an API answers 401 to them the
    /// handler says [`Verdict::Unauthorized`] and is called once more with renewed
    /// ones; with [`Verdict::Retry`] and [`Verdict::RateLimited`] it is called again
    /// later. None of these runs the job again once a call of this run that must not be
    /// repeated has, or may have had, its effect: the job is then rejected, with that
    /// effect. So it is after a panic. The session knows the calls of
    /// [`Session::request`]; a handler that acts by other means says by
    /// [`Session::begin_call`], or by [`Verdict::effect`] and [`Verdict::repeatable`], what
    /// they did. At shutdown the future may be dropped when the drain time is over.
    fn handle<'a>(&'a self, job: &'a Job, session: &'a Session<'a>) -> BoxFuture<'a, Verdict>;

    /// What bounds the jobs of this kind besides the worker's slots, if anything: none is
    /// begun before it has one of these places.
    fn places(&self) -> Option<&Places> {
        None
    }
}

impl<F> Handler for F
where
    F: for<'a> Fn(&'a Job, &'a Session<'a>) -> BoxFuture<'a, Verdict> + Send + Sync + 'static,
{
    fn handle<'a>(&'a self, job: &'a Job, session: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
        self(job, session)
    }
}

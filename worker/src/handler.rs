//! What a kind of job does.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::job::Job;
use crate::outcome::Verdict;
use crate::places::Places;
use crate::session::Session;

/// Does one kind of job. Called with at most `--concurrency` jobs at once, and with
/// one job of a user at a time unless `--per-user` allows more.
///
/// An async function is a handler, and so is an async closure whose parameters' types are
/// written down:
///
/// ```
/// use worker::{Effect, Job, Json, Session, Verdict};
///
/// #[derive(serde::Deserialize)]
/// struct Append {
///     sheet: String,
///     /// As the publisher wrote it, every digit of its numbers.
///     row: Json,
/// }
///
/// async fn append(job: &Job, session: &Session<'_>) -> Verdict {
///     let Ok(Append { sheet, row }) = job.params.read() else {
///         return Verdict::reject("`sheet` and `row` are needed").effect(Effect::None);
///     };
///     let url = format!("https://sheets.googleapis.com/v4/spreadsheets/{sheet}/values/A1:append");
///     let request = match session.request(reqwest::Method::POST, &url) {
///         Ok(request) => request.query(&[("valueInputOption", "RAW")]),
///         Err(why) => return Verdict::reject(why.to_string()).effect(Effect::None),
///     };
///     match request.json(&row).send().await {
///         Ok(response) => Verdict::of_response(response).await,
///         Err(error) => Verdict::of_call_error(&error),
///     }
/// }
/// # fn is_a_handler(_: impl worker::Handler) {}
/// # is_a_handler(append);
/// is_a_handler(async |job: &Job, session: &Session| {
///     Verdict::done(serde_json::json!({ "hello": job.user.as_str() }))
/// });
/// ```
///
/// The future must be `Send`, and the closure may capture references to what lives for ever,
/// but own nothing that the future borrows. A handler with state of its own implements the
/// trait.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does no jobs",
    note = "an async function or closure does: `async |job: &Job, session: &Session| {{ … }}`, \
            with both types written down, a `Verdict` in the end, and a future that is `Send` and \
            borrows nothing from the closure; a type with state implements `worker::Handler`"
)]
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

/// An async function of a job and a session; every one whose future is `Send` is one. It is
/// here to be named in the bound of a function that takes some: [`Handler`] is what to
/// implement.
pub trait AsyncHandler<'a>: Fn(&'a Job, &'a Session<'a>) -> Self::Running {
    /// The running job.
    type Running: Future<Output = Verdict> + Send + 'a;
}

impl<'a, F, R> AsyncHandler<'a> for F
where
    F: Fn(&'a Job, &'a Session<'a>) -> R,
    R: Future<Output = Verdict> + Send + 'a,
{
    type Running = R;
}

impl<F> Handler for F
where
    F: for<'a> AsyncHandler<'a> + Send + Sync + 'static,
{
    fn handle<'a>(&'a self, job: &'a Job, session: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
        self(job, session).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::session::stand::carrier;

    async fn function(job: &Job, session: &Session<'_>) -> Verdict {
        tokio::task::yield_now().await;
        Verdict::reject(format!("{} of {}", job.id, session.user().as_str()))
    }

    fn boxed<'a>(job: &'a Job, session: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
        function(job, session).boxed()
    }

    struct WithState(String);

    impl Handler for WithState {
        fn handle<'a>(&'a self, _: &'a Job, _: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
            async { Verdict::reject(self.0.as_str()) }.boxed()
        }
    }

    #[tokio::test]
    async fn whatever_is_async_and_takes_a_job_and_a_session() {
        let (carrier, credentials) = carrier("http://127.0.0.1:1").await;
        let session = Session::new(&carrier, credentials);
        let job = Job::decode(br#"{"id": "j", "user": "ann", "kind": "k"}"#, "m").unwrap();
        let shared = Arc::new("of ann".to_owned());
        let handlers: [Arc<dyn Handler>; 5] = [
            Arc::new(function),
            Arc::new(boxed),
            Arc::new(async |job: &Job, session: &Session| function(job, session).await),
            Arc::new(move |job: &Job, _: &Session| {
                let (id, shared) = (job.id.clone(), Arc::clone(&shared));
                async move { Verdict::reject(format!("{id} {shared}")) }
            }),
            Arc::new(WithState("j of ann".to_owned())),
        ];
        for handler in handlers {
            let verdict = handler.handle(&job, &session).await;
            assert_eq!(verdict, Verdict::reject("j of ann"));
        }
    }
}

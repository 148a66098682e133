//! Ports that count their requests: which, how they ended, and how long they took.
//!
//! The decorators add nothing to a request but two looks at the clock: bounds,
//! cancellation and errors are those of the port within.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shared::Secret;
use shared::ports::{
    Answer, Bucket, BucketError, Clock, EndpointError, Generation, Hints, Limits, Listing,
    Monotonic, Object, TokenEndpoint,
};

use crate::metrics;

/// How a request that its caller gave up is counted.
const ABANDONED: &str = "abandoned";

/// Counts a request when it ends, and also when it is dropped before.
struct Request<'a, F: FnMut(&'static str, Duration)> {
    clock: &'a dyn Clock,
    sent: Monotonic,
    code: &'static str,
    count: F,
}

impl<'a, F: FnMut(&'static str, Duration)> Request<'a, F> {
    fn new(clock: &'a dyn Clock, count: F) -> Self {
        Self { clock, sent: clock.monotonic(), code: ABANDONED, count }
    }

    fn ended(mut self, code: &'static str) {
        self.code = code;
    }
}

impl<F: FnMut(&'static str, Duration)> Drop for Request<'_, F> {
    fn drop(&mut self) {
        (self.count)(self.code, self.clock.monotonic().since(self.sent));
    }
}

/// A bucket that counts its requests by operation and code.
#[derive(Debug)]
pub struct MeteredBucket {
    bucket: Arc<dyn Bucket>,
    clock: Arc<dyn Clock>,
}

impl MeteredBucket {
    /// Counts the requests to `bucket`.
    pub fn new(bucket: Arc<dyn Bucket>, clock: Arc<dyn Clock>) -> Self {
        Self { bucket, clock }
    }

    async fn count<T>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T, BucketError>>,
        code: impl FnOnce(&T) -> &'static str,
    ) -> Result<T, BucketError> {
        let count = move |code, took| metrics::storage_request(operation, code, took);
        let timing = Request::new(&*self.clock, count);
        let answer = request.await;
        timing.ended(match &answer {
            Ok(answer) => code(answer),
            Err(BucketError::PreconditionFailed) => "precondition_failed",
            Err(BucketError::Throttled) => "throttled",
            Err(BucketError::Unavailable(_)) => "unavailable",
            Err(BucketError::Refused(_)) => "refused",
        });
        answer
    }
}

fn ok<T>(_: &T) -> &'static str {
    "ok"
}

fn found(found: bool) -> &'static str {
    if found { "ok" } else { "not_found" }
}

impl Bucket for MeteredBucket {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Object>, BucketError>> {
        let request = self.bucket.get(name);
        self.count("get", request, |object| found(object.is_some())).boxed()
    }

    fn put_with_hints<'a>(
        &'a self,
        name: &'a str,
        content: Bytes,
        hints: Hints,
        expected: Generation,
    ) -> BoxFuture<'a, Result<Generation, BucketError>> {
        let request = self.bucket.put_with_hints(name, content, hints, expected);
        self.count("put", request, ok).boxed()
    }

    fn delete<'a>(
        &'a self,
        name: &'a str,
        expected: Generation,
    ) -> BoxFuture<'a, Result<bool, BucketError>> {
        self.count("delete", self.bucket.delete(name, expected), |there| found(*there)).boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        page: Option<String>,
    ) -> BoxFuture<'a, Result<Listing, BucketError>> {
        self.count("list", self.bucket.list(prefix, page), ok).boxed()
    }
}

/// A token endpoint that counts its requests by outcome.
#[derive(Debug)]
pub struct MeteredEndpoint {
    endpoint: Arc<dyn TokenEndpoint>,
    clock: Arc<dyn Clock>,
}

impl MeteredEndpoint {
    /// Counts the requests to `endpoint`.
    pub fn new(endpoint: Arc<dyn TokenEndpoint>, clock: Arc<dyn Clock>) -> Self {
        Self { endpoint, clock }
    }
}

impl TokenEndpoint for MeteredEndpoint {
    fn refresh<'a>(
        &'a self,
        refresh_token: &'a Secret,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Answer, EndpointError>> {
        async move {
            let timing = Request::new(&*self.clock, metrics::endpoint_request);
            let answer = self.endpoint.refresh(refresh_token, limits).await;
            timing.ended(match &answer {
                Ok(_) => "ok",
                Err(EndpointError::InvalidGrant(_)) => "invalid_grant",
                Err(EndpointError::Refused { .. }) => "refused",
                Err(EndpointError::NotNow { .. } | EndpointError::NotReached(_)) => "transient",
                Err(EndpointError::Ambiguous { .. }) => "ambiguous",
            });
            answer
        }
        .boxed()
    }

    fn client_id(&self) -> &str {
        self.endpoint.client_id()
    }

    fn token_uri(&self) -> &str {
        self.endpoint.token_uri()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::adapters::SystemClock;
    use shared::ports::Resend;

    use crate::telemetry::prometheus::recorder;

    /// Answers by the object's name.
    #[derive(Debug)]
    struct Scripted;

    impl Bucket for Scripted {
        fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Object>, BucketError>> {
            async move {
                match name {
                    "missing" => Ok(None),
                    "throttled" => Err(BucketError::Throttled),
                    "never" => std::future::pending().await,
                    _ => Err(BucketError::Refused("no".into())),
                }
            }
            .boxed()
        }

        fn put_with_hints<'a>(
            &'a self,
            _: &'a str,
            _: Bytes,
            _: Hints,
            _: Generation,
        ) -> BoxFuture<'a, Result<Generation, BucketError>> {
            async { Err(BucketError::PreconditionFailed) }.boxed()
        }

        fn delete<'a>(
            &'a self,
            _: &'a str,
            _: Generation,
        ) -> BoxFuture<'a, Result<bool, BucketError>> {
            async { Ok(true) }.boxed()
        }

        fn list<'a>(
            &'a self,
            _: &'a str,
            _: Option<String>,
        ) -> BoxFuture<'a, Result<Listing, BucketError>> {
            async { Err(BucketError::Unavailable("down".into())) }.boxed()
        }
    }

    #[derive(Debug)]
    struct Provider(EndpointError);

    impl TokenEndpoint for Provider {
        fn refresh<'a>(
            &'a self,
            _: &'a Secret,
            _: Limits,
        ) -> BoxFuture<'a, Result<Answer, EndpointError>> {
            async { Err(self.0.clone()) }.boxed()
        }

        fn client_id(&self) -> &'static str {
            "the client"
        }

        fn token_uri(&self) -> &'static str {
            "https://provider.example/token"
        }
    }

    /// What is counted while `work` runs.
    fn counted(work: impl Future<Output = ()>) -> String {
        let recorder = recorder();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        ::metrics::with_local_recorder(&recorder, || runtime.block_on(work));
        recorder.handle().render()
    }

    #[test]
    fn every_request_to_the_bucket_is_counted_by_its_end() {
        let text = counted(async {
            let bucket = MeteredBucket::new(Arc::new(Scripted), Arc::new(SystemClock::default()));
            assert_eq!(bucket.get("missing").await, Ok(None));
            assert_eq!(bucket.get("throttled").await, Err(BucketError::Throttled));
            assert!(bucket.get("x").await.is_err());
            let lost = bucket.put("x", Bytes::new(), Generation(1)).await;
            assert_eq!(lost, Err(BucketError::PreconditionFailed));
            assert_eq!(bucket.delete("x", Generation(1)).await, Ok(true));
            assert!(bucket.list("x", None).await.is_err());
            // Given up by its caller.
            assert!(bucket.get("never").now_or_never().is_none());
        });
        for (operation, code) in [
            ("get", "not_found"),
            ("get", "throttled"),
            ("get", "refused"),
            ("get", "abandoned"),
            ("put", "precondition_failed"),
            ("delete", "ok"),
            ("list", "unavailable"),
        ] {
            let line = format!(
                "fleet_storage_requests_total{{operation=\"{operation}\",code=\"{code}\"}} 1\n"
            );
            assert!(text.contains(&line), "{line} is not in {text}");
        }
    }

    #[test]
    fn every_request_to_the_token_endpoint_is_counted_by_its_end() {
        for (error, outcome) in [
            (EndpointError::InvalidGrant("x".into()), "invalid_grant"),
            (EndpointError::Refused { code: "x".into(), why: "x".into() }, "refused"),
            (EndpointError::NotNow { code: None, why: "x".into(), retry_after: None }, "transient"),
            (EndpointError::NotReached("x".into()), "transient"),
            (EndpointError::Ambiguous { why: "x".into(), resend_after: Resend::Soon }, "ambiguous"),
        ] {
            let text = counted(async {
                let clock = Arc::new(SystemClock::default());
                let endpoint = MeteredEndpoint::new(Arc::new(Provider(error.clone())), clock);
                let limits = shared::Policy::default().limits();
                assert_eq!(endpoint.client_id(), "the client");
                assert_eq!(endpoint.token_uri(), "https://provider.example/token");
                let answer = endpoint.refresh(&Secret::new("fake"), limits).await;
                assert_eq!(answer, Err(error.clone()));
            });
            let line = format!("fleet_token_endpoint_requests_total{{outcome=\"{outcome}\"}} 1\n");
            assert!(text.contains(&line), "{line} is not in {text}");
        }
    }
}

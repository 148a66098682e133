//! Calls of APIs, counted by host and code, and as spans in the trace of their delivery.

use std::sync::Arc;

use reqwest::{Method, Response};
use shared::ports::Clock;
use tracing::Instrument as _;

use crate::audit::Usage;
use crate::metrics::ApiSeries;
use crate::spans;

/// Counts calls, for metrics and the audit trail, and times them.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) usage: Arc<Usage>,
    series: ApiSeries,
}

impl Observer {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, usage: Arc::default(), series: ApiSeries::default() }
    }

    /// Carries out `call`, which asks `host`. Dropping this drops `call`, uncounted.
    pub(crate) async fn observe<E>(
        &self,
        method: &Method,
        host: &str,
        call: impl Future<Output = Result<Response, E>>,
    ) -> Result<Response, E> {
        let span = spans::api(method.as_str(), host);
        let sent = self.clock.monotonic();
        let answer = call.instrument(span.clone()).await;
        let status = answer.as_ref().ok().map(|response| response.status().as_u16());
        spans::api_answered(&span, status);
        self.series.note(host, status, self.clock.monotonic().since(sent));
        answer
    }
}

//! A token endpoint for what must not need one.

use futures_util::future::BoxFuture;
use shared::Secret;
use shared::ports::{Answer, EndpointError, Limits, TokenEndpoint};

/// Panics when it is asked for a token.
#[derive(Debug)]
pub(crate) struct NoEndpoint;

impl TokenEndpoint for NoEndpoint {
    fn refresh<'a>(
        &'a self,
        _refresh_token: &'a Secret,
        _limits: Limits,
    ) -> BoxFuture<'a, Result<Answer, EndpointError>> {
        panic!("a token that is at hand needs no I/O")
    }

    fn client_id(&self) -> &'static str {
        "client"
    }

    fn token_uri(&self) -> &'static str {
        "https://token.test/"
    }
}

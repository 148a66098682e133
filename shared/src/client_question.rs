//! Is the client refused, or one user? The endpoint itself is asked.
//!
//! A refusal that is no dead grant's may be about the OAuth client, which stops everybody,
//! or about one user alone. A refresh token that was never issued tells them apart: what
//! the endpoint says to it is not about any user.

use std::sync::Arc;

use crate::ports::{EndpointError, Limits, TokenEndpoint};
use crate::secret::Secret;

/// Obviously no refresh token, for whoever reads the provider's logs.
const MADE_UP: &str = "fleet-asks-whether-its-client-is-accepted-this-is-no-token";

/// What the endpoint said to a made-up refresh token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientQuestion {
    /// `invalid_grant`: there is no such grant, so the client is accepted.
    Accepted,
    /// Another code. `invalid_client` is about the client; any other is this provider's
    /// word for an unknown grant, or about the client as well.
    Code {
        /// The provider's code, in lower case.
        code: Arc<str>,
        /// Who said what.
        why: Arc<str>,
    },
    /// It granted a token: this is no token endpoint.
    Granted,
    /// No answer that tells anything, and why.
    Undecided(EndpointError),
}

/// Asks `endpoint` with a made-up refresh token. One request; nobody's secret is sent but
/// the client's own. Cancelling it is harmless.
pub async fn ask_about_client(endpoint: &dyn TokenEndpoint, limits: Limits) -> ClientQuestion {
    match endpoint.refresh(&Secret::new(MADE_UP), limits).await {
        Ok(_) => ClientQuestion::Granted,
        Err(EndpointError::InvalidGrant(_)) => ClientQuestion::Accepted,
        Err(EndpointError::Refused { code, why }) => ClientQuestion::Code { code, why },
        Err(error) => ClientQuestion::Undecided(error),
    }
}

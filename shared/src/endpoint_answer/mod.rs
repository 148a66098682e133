//! What a token endpoint says, and what it means: the one parser and the one
//! classification for refreshes, code exchanges and revocations.
//!
//! Two principles. A 2xx with an access token or a refresh token is a grant, and nothing
//! else in it may cost it. An error is one user's until the client itself has been asked
//! ([`crate::ask_about_client`]), so a code that is not understood is handed on as it is.
//!
//! | answer | is |
//! |---|---|
//! | 2xx with a token | a grant |
//! | 2xx without, with an `error` | as that error with status 400 |
//! | `invalid_grant` and its synonyms | this grant is dead |
//! | `temporarily_unavailable` and its like, 429, 503, 4xx without a code | not now |
//! | 3xx | not reached; never followed |
//! | 408, every other 5xx, a 2xx without token and error, or above 1 MiB | ambiguous |
//! | every other code | refused: the client, or this user alone? |
//!
//! Whose secrets were just sent is known here: no text of an answer is passed on before
//! they have been removed from it.

pub(crate) mod fields;
mod granted;
mod refused;
mod retry_after;

use std::time::Duration;

use crate::ports::{EndpointError, Resend, Revocation};
use crate::secret::Secret;

use fields::Fields;
pub(crate) use granted::Granted;
use refused::{Said, refused};
pub use retry_after::{LONGEST_WAIT, retry_after};

/// A larger answer is none.
pub(crate) const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// A `Retry-After` beyond this counts as this.
pub(crate) const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(10);

const KNOWN: &[&str] = &[
    "access_token",
    "refresh_token",
    "id_token",
    "expires_in",
    "token_type",
    "scope",
    "error",
    "error_description",
    "error_subtype",
    "code",
    "type",
    "status",
    "message",
];

/// An answer as it came over the wire, decompressed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reply<'a> {
    /// The endpoint's address, for messages.
    pub(crate) from: &'a str,
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: &'a [u8],
    /// There was more: it was above [`MAX_ANSWER_BYTES`], or its end was lost.
    pub(crate) incomplete: bool,
}

/// What an answer to a refresh or a code exchange means. `secrets` are those that were
/// sent. With `long_tokens` a lifetime above 24 h is believed.
///
/// # Errors
/// [`EndpointError`], whose texts hold none of the secrets.
pub(crate) fn classify(
    reply: &Reply<'_>,
    secrets: &[&Secret],
    long_tokens: bool,
) -> Result<Granted, EndpointError> {
    let fields = Fields::read(reply.body, KNOWN);
    let said = Said::read(&fields, reply.status, secrets);
    if !(200..300).contains(&reply.status) {
        return Err(refused(reply, reply.status, &said));
    }
    let lost = |what: &str| EndpointError::Ambiguous {
        why: format!("{} answered with HTTP status {}, {what}", reply.from, reply.status).into(),
        resend_after: Resend::Soon,
    };
    if reply.incomplete {
        return Err(lost("and the answer is too large or was cut off"));
    }
    if let Some(granted) = granted::granted(&fields, long_tokens) {
        return Ok(granted);
    }
    if said.code.is_some() {
        return Err(refused(reply, 400, &said));
    }
    Err(lost("and neither a token nor an error"))
}

/// What an answer to a revocation means (RFC 7009, section 2.2): a 200, and a 400 that
/// says that the token is no good any more, mean that it is over. After every other
/// answer the grant may live.
///
/// # Errors
/// [`EndpointError`], whose texts hold none of the secrets.
pub(crate) fn classify_revocation(
    reply: &Reply<'_>,
    secrets: &[&Secret],
) -> Result<Revocation, EndpointError> {
    let said = Said::read(&Fields::read(reply.body, KNOWN), reply.status, secrets);
    let status = match reply.status {
        200 if said.code.is_none() => return Ok(Revocation::Revoked),
        // Some providers say everything with a 200.
        200 => 400,
        other => other,
    };
    if status == 400 && said.code.as_deref() == Some("invalid_token") {
        return Ok(Revocation::AlreadyInvalid);
    }
    match refused(reply, status, &said) {
        EndpointError::InvalidGrant(_) if status == 400 => Ok(Revocation::AlreadyInvalid),
        // That the token is dead is believed with the status that the standard asks for.
        EndpointError::InvalidGrant(why) => {
            Err(EndpointError::NotNow { code: said.code, why, retry_after: None })
        }
        other => Err(other),
    }
}

#[cfg(test)]
mod tests;

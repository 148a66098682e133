//! What an answer that grants nothing means, by what may be done next.

use std::sync::Arc;

use super::Reply;
use super::fields::Fields;
use crate::ports::{EndpointError, Resend};
use crate::scrub::scrub;
use crate::secret::Secret;

/// A provider's words for a grant that has ended.
const DEAD_GRANT: [&str; 4] =
    ["invalid_grant", "bad_refresh_token", "invalid_refresh_token", "token_revoked"];
/// What a description that has "refresh" and "token" says against that token. Without one of these words
/// it may speak of the grant type of that name, which the client is not allowed to use (RFC 6749,
/// section 5.2).
const AGAINST_THE_TOKEN: [&str; 8] = [
    "invalid",
    "not valid",
    "no longer",
    "unknown",
    "not found",
    "does not exist",
    "expired",
    "revoked",
];
/// A description that has these words says nothing against the grant: another request presents
/// its token at this moment.
const OVERLAP: &str = "already being processed";
/// The request was not carried out, and nothing is wrong with it.
const NOT_NOW: [&str; 4] =
    ["temporarily_unavailable", "slow_down", "rate_limit_exceeded", "ratelimited"];
/// The provider failed: with a status of 4xx it did not carry the request out, with 5xx it may
/// have.
const FAULTS: [&str; 4] = ["server_error", "internal_failure", "internal_error", "unknown_error"];
/// Longer codes and descriptions are cut.
const LONGEST_CODE: usize = 64;
const LONGEST_TEXT: usize = 200;
/// Only so many characters of a description are looked at.
const LONGEST_LOOK: usize = 4096;

/// What the provider said: its code in lower case, and both code and description with
/// the secrets removed.
pub(super) struct Said {
    pub(super) code: Option<Arc<str>>,
    description: String,
}

impl Said {
    /// Reads an answer with the HTTP status `status`. In a 2xx, `{"status": "ok"}` is no error.
    pub(super) fn read(fields: &Fields, status: u16, secrets: &[&Secret]) -> Self {
        let error = fields.object("error");
        let code = fields
            .text("error")
            .or_else(|| error?.text("code"))
            .or_else(|| error?.text("type"))
            .or_else(|| error?.text("status"))
            .or_else(|| fields.text("status").filter(|_| !(200..300).contains(&status)));
        let description = fields
            .text("error_description")
            .or_else(|| error?.text("message"))
            .or_else(|| fields.text("message"))
            .unwrap_or_default();
        let mut description = shown(description, secrets);
        if let Some(subtype) = fields.text("error_subtype") {
            description = format!("{} ({description})", shown(subtype, secrets));
        }
        let code = code.map(|code| {
            let plain =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.:".contains(c);
            let code = shown(code.trim(), secrets).to_ascii_lowercase();
            let code: String = code.chars().take(LONGEST_CODE).collect();
            code.replace(|c| !plain(c), "_").into()
        });
        Self { code, description }
    }

    /// Code and description in one line, for people.
    fn text(&self) -> String {
        match (&self.code, self.description.as_str()) {
            (Some(code), "") => code.to_string(),
            (Some(code), description) => format!("{code}: {description}"),
            (None, description) => description.to_owned(),
        }
    }

    /// Whether it says that the grant has ended.
    fn ends_the_grant(&self) -> bool {
        let code = self.code.as_deref().unwrap_or_default();
        DEAD_GRANT.contains(&code)
            || (code == "unauthorized_client" && self.speaks_against_the_refresh_token())
    }

    fn speaks_against_the_refresh_token(&self) -> bool {
        self.has("refresh")
            && self.has("token")
            && !self.has("grant")
            && AGAINST_THE_TOKEN.iter().any(|words| self.has(words))
    }

    fn has(&self, word: &str) -> bool {
        self.description.to_ascii_lowercase().contains(word)
    }
}

/// A part of an answer that may be passed on: without secrets, in one line, short.
fn shown(text: &str, secrets: &[&Secret]) -> String {
    let start: String = text.chars().take(LONGEST_LOOK).collect();
    let clean = scrub(&start, secrets);
    clean.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(LONGEST_TEXT).collect()
}

/// What an answer without a token means. `status` is the answer's, or 400 for an error
/// that came with a success.
pub(super) fn refused(reply: &Reply<'_>, status: u16, said: &Said) -> EndpointError {
    let code = said.code.as_ref();
    let named = |list: &[&str]| code.is_some_and(|code| list.contains(&&**code));
    let why = || -> Arc<str> {
        let text = match said.text() {
            text if text.is_empty() => String::new(),
            text => format!(" ({text})"),
        };
        format!("{} answered with HTTP status {}{text}", reply.from, reply.status).into()
    };
    let not_now = || EndpointError::NotNow {
        code: code.cloned(),
        why: why(),
        retry_after: reply.retry_after,
    };
    let ambiguous = |resend_after| EndpointError::Ambiguous { why: why(), resend_after };
    if said.ends_the_grant() {
        if said.has(OVERLAP) {
            return not_now();
        }
        return EndpointError::InvalidGrant(said.text().into());
    }
    if named(&NOT_NOW) {
        return not_now();
    }
    match status {
        // Never followed: a redirect would carry the token elsewhere.
        300..=399 => EndpointError::NotReached(why()),
        429 | 503 => not_now(),
        504 | 524 => ambiguous(Resend::Late),
        408 | 500..=599 => ambiguous(Resend::Soon),
        400..=499 => match code {
            Some(code) if !named(&FAULTS) => {
                EndpointError::Refused { code: Arc::clone(code), why: why() }
            }
            _ => not_now(),
        },
        _ => ambiguous(Resend::Soon),
    }
}

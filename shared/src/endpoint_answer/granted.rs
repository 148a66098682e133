//! What a 2xx answer grants (RFC 6749, section 5.1), read leniently: nothing else in it
//! may cost a token that it holds.

use std::time::Duration;

use super::fields::{Fields, Value};
use crate::ports::Answer;
use crate::secret::Secret;

/// A longer token counts as absent.
const MAX_TOKEN_BYTES: usize = 64 * 1024;
/// A longer lifetime counts as this one, unless long tokens were asked for: no provider
/// means an access token that lives for years.
const LONGEST_LIFETIME: Duration = Duration::from_hours(24);
/// The longest that a caller can ask for.
const LONGEST_LONG_LIFETIME: Duration = Duration::from_hours(24 * 3650);

/// What was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) answer: Answer,
    /// Not yet checked.
    pub(crate) id_token: Option<Secret>,
    /// Why the access token in it was left out, for the log.
    pub(crate) left_out: Option<&'static str>,
}

/// The grant in these fields; `None` when they hold no token. With `long_tokens` a
/// lifetime above 24 h is believed.
pub(super) fn granted(fields: &Fields, long_tokens: bool) -> Option<Granted> {
    let access_token = fields.text("access_token").filter(|token| token.len() <= MAX_TOKEN_BYTES);
    let left_out = access_token.and_then(|token| unusable(token, fields));
    let refresh_token = token(fields, "refresh_token");
    if access_token.is_none() && refresh_token.is_none() {
        return None;
    }
    let answer = Answer {
        access_token: access_token.filter(|_| left_out.is_none()).map(Secret::new),
        refresh_token,
        expires_in: fields.get("expires_in").and_then(|value| lifetime(value, long_tokens)),
        scopes: fields.get("scope").and_then(scopes),
    };
    Some(Granted { answer, id_token: token(fields, "id_token"), left_out })
}

fn token(fields: &Fields, name: &str) -> Option<Secret> {
    fields.text(name).filter(|token| token.len() <= MAX_TOKEN_BYTES).map(Secret::new)
}

/// Why an access token cannot be sent as a bearer token (RFC 6750, section 2.1).
fn unusable(token: &str, fields: &Fields) -> Option<&'static str> {
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Some("it has characters that no header may have");
    }
    let kind = fields.text("token_type").unwrap_or_default().trim().to_ascii_lowercase();
    matches!(kind.as_str(), "dpop" | "pop" | "mac")
        .then_some("its token_type is no bearer token's, and proofs of possession are not made")
}

/// A lifetime that is stated: a positive number, or a text that is one.
fn lifetime(value: &Value, long_tokens: bool) -> Option<Duration> {
    let (Value::Text(number) | Value::Number(number)) = value else {
        return None;
    };
    let number = number.trim();
    // `f64` also reads words, such as `inf`.
    if !number.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b)) {
        return None;
    }
    let seconds: f64 = number.parse().ok()?;
    let longest = if long_tokens { LONGEST_LONG_LIFETIME } else { LONGEST_LIFETIME };
    let seconds = seconds.floor().min(longest.as_secs_f64());
    (seconds >= 1.0).then(|| Duration::from_secs_f64(seconds))
}

/// The scopes, sorted; `None` when none are named.
fn scopes(value: &Value) -> Option<Vec<String>> {
    let texts = match value {
        Value::Text(text) => std::slice::from_ref(text),
        Value::Texts(texts) => texts.as_slice(),
        Value::Number(_) | Value::Object(_) => return None,
    };
    let mut scopes: Vec<String> = Vec::new();
    for text in texts {
        // Some providers separate them by commas, which a scope may have otherwise.
        let commas = !text.trim().contains(char::is_whitespace);
        let separates = |c: char| c.is_whitespace() || (commas && c == ',');
        scopes.extend(text.split(separates).filter(|s| !s.is_empty()).map(str::to_owned));
    }
    scopes.sort();
    scopes.dedup();
    (!scopes.is_empty()).then_some(scopes)
}

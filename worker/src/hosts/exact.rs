//! Whether what would be sent is what was given.
//!
//! A parser of URLs folds dot segments, drops fragments and encodes what a URL cannot hold.
//! A job says what is to be called, so only the last is done for it: everything else that
//! would change the path or the query is refused before anything is sent. So is a query that
//! makes another call of it.

use url::Url;

use super::Forbidden;

/// Headers with which a call is another one than its method and its URL say.
pub(crate) const OVERRIDING_HEADERS: [&str; 5] = [
    // An object that the URL does not name is read.
    "x-amz-copy-source",
    "x-goog-copy-source",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

/// Parameters of a query that Google's servers take for the method and for headers.
const OVERRIDING_PARAMETERS: [&str; 2] = ["$httpHeaders", "$httpMethod"];

/// The scheme and everything after the authority of a URL as it was given.
struct Given<'a> {
    authority: &'a str,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Given<'a> {
    /// Takes a URL without a fragment apart.
    fn read(given: &'a str) -> Option<Self> {
        let (_, rest) = given.split_once("://")?;
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Some(Self { authority, path, query })
    }
}

/// Refuses `given` unless `sent`, which it was parsed to, has its path and query, and leaves
/// method and headers alone.
///
/// The spelling of the host is free: the rules look at the host that is sent.
pub(super) fn check(given: &str, sent: &Url) -> Result<(), Forbidden> {
    if given.contains('#') {
        return Err(Forbidden::Fragment);
    }
    let Given { authority, path, query } = Given::read(given).ok_or(Forbidden::NotAUrl)?;
    // `https:///host` has no authority, and a parser looks for one further on.
    if authority.is_empty() {
        return Err(Forbidden::NotAUrl);
    }
    if authority.contains('@') {
        return Err(Forbidden::UserInfo);
    }
    let path = if path.is_empty() { "/" } else { path };
    let is_query = match (query, sent.query()) {
        (None, None) => true,
        (Some(given), Some(sent)) => is_encoded(given, sent),
        _ => false,
    };
    if !is_query || !is_encoded(path, sent.path()) {
        return Err(Forbidden::Altered);
    }
    if sent.query_pairs().any(|(name, _)| overrides(&name)) {
        return Err(Forbidden::Overridden);
    }
    Ok(())
}

/// Whether a parameter of this name stands for a method or a header. Some servers take their
/// headers from the query as well.
fn overrides(parameter: &str) -> bool {
    let mut names = OVERRIDING_PARAMETERS.iter().chain(&OVERRIDING_HEADERS);
    names.any(|name| name.eq_ignore_ascii_case(parameter))
}

/// Whether `sent` is `given`, but for characters that are percent-encoded in `sent`.
fn is_encoded(given: &str, mut sent: &str) -> bool {
    for character in given.chars() {
        let plain = sent.strip_prefix(character);
        let Some(rest) = plain.or_else(|| strip_encoded(sent, character)) else { return false };
        sent = rest;
    }
    sent.is_empty()
}

/// What follows the percent-encoded `character` at the beginning of `sent`.
fn strip_encoded(sent: &str, character: char) -> Option<&str> {
    let mut bytes = [0; 4];
    let mut rest = sent;
    for byte in character.encode_utf8(&mut bytes).bytes() {
        rest = rest.strip_prefix(format!("%{byte:02X}").as_str())?;
    }
    Some(rest)
}

//! `WWW-Authenticate: Bearer`: what a token lacks.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// An API that names more scopes than this, or longer ones, is not believed: what it
/// names is what the user is asked to grant.
const MAX_SCOPES: usize = 32;
const MAX_SCOPE_BYTES: usize = 256;

/// The value of a parameter of a Bearer challenge (RFC 6750, section 3; the syntax
/// is RFC 9110's, section 11.2).
pub(super) fn parameter(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get_all(WWW_AUTHENTICATE).into_iter().find_map(|value| {
        let rest = value.to_str().ok()?.trim_start();
        let (scheme, parameters) = rest.split_at_checked("bearer ".len())?;
        scheme.eq_ignore_ascii_case("bearer ").then_some(())?;
        find(parameters, name)
    })
}

/// Reads `key=token` and `key="quoted"`, separated by commas, up to the one wanted.
fn find(mut rest: &str, name: &str) -> Option<String> {
    loop {
        rest = rest.trim_start_matches([',', ' ', '\t']);
        let (key, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let value;
        (value, rest) = if let Some(quoted) = after.strip_prefix('"') {
            unquote(quoted)?
        } else {
            let end = after.find([',', ' ']).unwrap_or(after.len());
            (after[..end].to_owned(), &after[end..])
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(value);
        }
    }
}

/// What stands before the closing quote, and what follows it.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// The scopes in a list separated by spaces (RFC 6749, section 3.3), as far as they
/// can be some.
pub(crate) fn scopes(list: &str) -> Vec<String> {
    let plain = |scope: &&str| {
        scope.len() <= MAX_SCOPE_BYTES
            && scope.bytes().all(|b| matches!(b, b'!' | b'#'..=b'[' | b']'..=b'~'))
    };
    list.split(' ')
        .filter(|s| !s.is_empty())
        .filter(plain)
        .take(MAX_SCOPES)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn scope(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
        }
        parameter(&headers, "scope")
    }

    #[test]
    fn parameters() {
        for (value, found) in [
            (r#"Bearer scope="a b""#, Some("a b")),
            (r#"bearer realm="x", SCOPE = "a""#, Some("a")),
            (r#"Bearer realm="x, scope=\"no\"", error="e", scope="a""#, Some("a")),
            ("Bearer realm=x,scope=a", Some("a")),
            (r#"Bearer scope="a\"b""#, Some("a\"b")),
            (r#"Basic scope="a""#, None),
            (r#"Bearer realm="x""#, None),
            (r#"Bearer scope="open"#, None),
            (r#"Bearer scope="open\"#, None),
            ("Bearer", None),
            ("", None),
        ] {
            assert_eq!(scope(&[value]).as_deref(), found, "{value}");
        }
        assert_eq!(scope(&["Basic realm=x", r#"Bearer scope="a""#]).as_deref(), Some("a"));
    }

    #[test]
    fn only_what_can_be_a_scope() {
        assert_eq!(scopes("openid  https://a.test/x"), ["openid", "https://a.test/x"]);
        assert_eq!(scopes("a\"b c\\d \u{e9} ok"), ["ok"]);
        assert!(scopes(&"x".repeat(257)).is_empty());
        assert_eq!(scopes(&"x ".repeat(100)).len(), MAX_SCOPES);
    }
}

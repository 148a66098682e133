//! What an API's answer means, decided once.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::Value;

use crate::outcome::Verdict;

/// The longest text of an API that goes into an outcome, in characters.
const LONGEST_DETAIL: usize = 500;

/// The verdict on a status other than 2xx; `body` is what was read of the answer.
pub(super) fn judge(status: u16, headers: &HeaderMap, body: &[u8]) -> Verdict {
    let said = Said::of(body);
    match status {
        401 => Verdict::Unauthorized,
        403 if said.is(&["rateLimitExceeded", "userRateLimitExceeded"]) => limited(status, headers),
        403 if lacks_scope(headers, &said) => {
            Verdict::MissingScopes { scopes: challenge(headers, "scope") }
        }
        408 | 425 => retry(status, headers, "the API asks to try again"),
        429 => limited(status, headers),
        500..=599 => retry(status, headers, "the API failed"),
        300..=399 => Verdict::Reject {
            reason: format!("the API redirects (HTTP status {status}), which is not followed"),
            detail: None,
            http_status: Some(status),
        },
        _ => Verdict::Reject {
            reason: match said.code() {
                Some(code) => format!("the API refused: HTTP status {status}, {code}"),
                None => format!("the API refused: HTTP status {status}"),
            },
            detail: said.message,
            http_status: Some(status),
        },
    }
}

fn retry(status: u16, headers: &HeaderMap, why: &str) -> Verdict {
    Verdict::Retry {
        why: format!("{why} (HTTP status {status})"),
        http_status: Some(status),
        after: retry_after(headers),
    }
}

fn limited(status: u16, headers: &HeaderMap) -> Verdict {
    Verdict::RateLimited { http_status: Some(status), after: retry_after(headers) }
}

/// `Retry-After` in seconds (RFC 9110, section 10.2.3); dates are not read,
/// since two clocks would have to agree.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn lacks_scope(headers: &HeaderMap, said: &Said) -> bool {
    said.is(&["insufficientPermissions", "ACCESS_TOKEN_SCOPE_INSUFFICIENT", "insufficientScopes"])
        && (said.is(&["ACCESS_TOKEN_SCOPE_INSUFFICIENT"])
            || challenge(headers, "error").iter().any(|e| e == "insufficient_scope"))
}

/// The words of one parameter of a `WWW-Authenticate: Bearer` challenge
/// (RFC 6750, section 3).
fn challenge(headers: &HeaderMap, name: &str) -> Vec<String> {
    let Some(value) = headers.get(WWW_AUTHENTICATE).and_then(|v| v.to_str().ok()) else {
        return Vec::new();
    };
    let found = value.split(',').find_map(|part| {
        let (key, value) = part.trim().split_once('=')?;
        let key = key.rsplit(' ').next()?;
        key.eq_ignore_ascii_case(name).then(|| value.trim_matches('"').to_owned())
    });
    found.map_or_else(Vec::new, |words| words.split_whitespace().map(str::to_owned).collect())
}

/// Google's error body (AIP-193 and the older `errors` list).
#[derive(Default)]
struct Said {
    reasons: Vec<String>,
    message: Option<String>,
}

impl Said {
    fn of(body: &[u8]) -> Self {
        let Ok(value) = serde_json::from_slice::<Value>(body) else {
            return Self::default();
        };
        let error = &value["error"];
        let listed = ["errors", "details"]
            .into_iter()
            .filter_map(|list| error[list].as_array())
            .flatten()
            .filter_map(|item| item["reason"].as_str());
        let status = error["status"].as_str();
        Self {
            reasons: listed.chain(status).map(str::to_owned).collect(),
            message: error["message"].as_str().map(|m| {
                m.chars()
                    .map(|c| if c.is_control() { ' ' } else { c })
                    .take(LONGEST_DETAIL)
                    .collect()
            }),
        }
    }

    fn is(&self, any_of: &[&str]) -> bool {
        self.reasons.iter().any(|r| any_of.contains(&r.as_str()))
    }

    /// The first reason, if it looks like a code: it goes into logs.
    fn code(&self) -> Option<&str> {
        let code = self.reasons.first()?;
        let plain = code.len() <= 64
            && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        plain.then_some(code.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;
    use serde_json::json;

    fn verdict(status: u16, headers: &[(&'static str, &str)], body: &Value) -> Verdict {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        judge(status, &map, body.to_string().as_bytes())
    }

    fn reason(reason: &str) -> Value {
        json!({"error": {"message": "said", "errors": [{"reason": reason}]}})
    }

    #[test]
    fn the_contracts_table() {
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            let verdict = verdict(status, &[("retry-after", "7")], &Value::Null);
            let Verdict::Retry { http_status, after, .. } = verdict else {
                panic!("{status}: {verdict:?}");
            };
            assert_eq!(http_status, Some(status));
            assert_eq!(after, Some(Duration::from_secs(7)));
        }
        assert_eq!(verdict(401, &[], &Value::Null), Verdict::Unauthorized);
        for name in ["rateLimitExceeded", "userRateLimitExceeded"] {
            assert!(matches!(verdict(403, &[], &reason(name)), Verdict::Retry { .. }));
        }
        let bearer = r#"Bearer realm="x", error="insufficient_scope", scope="https://a https://b""#;
        let missing =
            verdict(403, &[("www-authenticate", bearer)], &reason("insufficientPermissions"));
        let scopes = vec!["https://a".to_owned(), "https://b".to_owned()];
        assert_eq!(missing, Verdict::MissingScopes { scopes });
        for status in [400, 402, 403, 404, 409, 410, 418, 451] {
            let verdict = verdict(status, &[], &reason("somethingElse"));
            let Verdict::Reject { reason, detail, .. } = verdict else {
                panic!("{status}: {verdict:?}");
            };
            assert!(reason.contains("somethingElse"));
            assert_eq!(detail.as_deref(), Some("said"));
        }
    }

    #[test]
    fn what_an_api_says_does_not_reach_a_log() {
        let body =
            json!({"error": {"message": "fake-secret", "errors": [{"reason": "fake secret!"}]}});
        let Verdict::Reject { reason, .. } = verdict(400, &[], &body) else {
            panic!("a 400 is rejected");
        };
        assert!(!reason.contains("fake"), "{reason}");
    }
}

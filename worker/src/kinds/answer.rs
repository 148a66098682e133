//! What an API's answer means, decided once.

use reqwest::header::HeaderMap;
use serde_json::Value;
use shared::{Secret, is_active, scrub};

use crate::calls::SentCall;
use crate::effect::Effect;
use crate::json::Json;
use crate::outcome::{Limit, Verdict};
use crate::retry_after::{asks_to_wait, retry_after};

use super::challenge;

/// The longest text of an API that goes into an outcome, in characters.
const LONGEST_DETAIL: usize = 500;
/// Reasons with which a 403 is a limit that passes, in the old and the new form: on the rate,
/// and quotas, which take longer. Others (`storageQuotaExceeded`) do not pass by themselves.
const RATE_LIMITS: [&str; 3] =
    ["rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED"];
const QUOTAS: [&str; 5] = [
    "quotaExceeded",
    "dailyLimitExceeded",
    "concurrentLimitExceeded",
    "QUOTA_EXCEEDED",
    "RESOURCE_EXHAUSTED",
];
/// Those that are named as the user's own.
const OF_THE_USER: [&str; 2] = ["userRateLimitExceeded", "concurrentLimitExceeded"];

/// Why a call is not made again.
pub(super) const NOT_REPEATED: &str = "whether it was carried out is not known, and a call that is not said to be idempotent is not repeated";

/// The verdict on a status other than 2xx; `body` is what was read of the answer to `call`.
/// Without one, only the status tells whether to try again.
pub(super) fn judge(
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    call: Option<&SentCall>,
) -> Verdict {
    let said = Said::of(body);
    let spent = call.is_some_and(|call| !call.repeatable)
        && Effect::of_status(status, asks_to_wait(headers)) == Effect::Unknown;
    let http_status = Some(status);
    match status {
        408 | 500..=599 if spent => Verdict::Reject {
            reason: format!("the API failed (HTTP status {status}); {NOT_REPEATED}"),
            detail: said.message,
            http_status,
        },
        // It comes only to who asked for it by a conditional header: there is nothing new.
        304 => Verdict::Done { http_status, result: Json::null(), warning: None },
        303 if call.is_none_or(|call| !call.safe) => Verdict::Done {
            http_status,
            result: Json::null(),
            warning: Some(
                "the API carried out the call and answered with a redirect (HTTP status 303), which is not followed"
                    .to_owned(),
            ),
        },
        401 => Verdict::Unauthorized,
        403 if said.is_limit() => limited(status, headers, &said, call),
        403 if lacks_scope(headers, &said) => {
            let token = call.map(|call| &call.token);
            Verdict::MissingScopes { scopes: said.missing_scopes(headers, token.as_slice()) }
        }
        408 | 425 => retry(status, headers, "the API asks to try again"),
        429 => limited(status, headers, &said, call),
        500..=599 => retry(status, headers, "the API failed"),
        300..=399 => Verdict::Reject {
            reason: format!("the API redirects (HTTP status {status}), which is not followed"),
            detail: None,
            http_status,
        },
        _ => Verdict::Reject {
            reason: match said.code() {
                Some(code) => format!("the API refused: HTTP status {status}, {code}"),
                None => format!("the API refused: HTTP status {status}"),
            },
            detail: said.message,
            http_status,
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

fn limited(status: u16, headers: &HeaderMap, said: &Said, call: Option<&SentCall>) -> Verdict {
    let host = call.filter(|_| !said.is_of_the_user()).map(|call| call.host.to_string());
    let limit = Limit { quota: said.is_quota(status), host };
    Verdict::RateLimited { http_status: Some(status), after: retry_after(headers), limit }
}

/// Whether the token lacks a scope: Google says so in the error's details, older
/// APIs in the challenge and with a reason that alone says less.
fn lacks_scope(headers: &HeaderMap, said: &Said) -> bool {
    said.is(&["ACCESS_TOKEN_SCOPE_INSUFFICIENT"])
        || (said.is(&["insufficientPermissions", "insufficientScopes"])
            && challenge::parameter(headers, "error").as_deref() == Some("insufficient_scope"))
}

/// The same of an answer that a program of somebody's own may have worded: RFC 6750's challenge
/// alone says so as well.
pub(crate) fn insufficient_scope(headers: &HeaderMap, said: &Said) -> bool {
    lacks_scope(headers, said)
        || challenge::parameter(headers, "error").as_deref() == Some("insufficient_scope")
}

/// Google's error body (AIP-193 and the older `errors` list).
#[derive(Default)]
pub(crate) struct Said {
    /// There is one.
    googles: bool,
    reasons: Vec<String>,
    message: Option<String>,
    /// As the details' metadata names them, separated by spaces.
    scopes: Option<String>,
    /// The details' metadata names a limit that counts each user's calls.
    per_user: bool,
}

impl Said {
    pub(crate) fn of(body: &[u8]) -> Self {
        let Ok(value) = serde_json::from_slice::<Value>(body) else {
            return Self::default();
        };
        // Methods that stream their answer send errors as its first element.
        let error = value.get("error").or_else(|| value.get(0)?.get("error"));
        let error = error.unwrap_or(&Value::Null);
        let items = |list: &str| error[list].as_array().into_iter().flatten();
        let listed = items("errors").chain(items("details"));
        let listed = listed.filter_map(|item| item["reason"].as_str());
        let status = error["status"].as_str();
        let metadata =
            |name: &str| items("details").find_map(|detail| detail["metadata"][name].as_str());
        // `ReadRequestsPerMinutePerUser`, and `1/min/{project}/{user}`.
        let limit = metadata("quota_limit").unwrap_or_default().to_ascii_lowercase();
        let unit = metadata("quota_unit").unwrap_or_default();
        Self {
            googles: error.is_object(),
            reasons: listed.chain(status).map(str::to_owned).collect(),
            scopes: metadata("scopes").or_else(|| metadata("scope")).map(str::to_owned),
            per_user: limit.contains("peruser") || unit.contains("{user}"),
            message: error["message"].as_str().map(|message| {
                let shown = message.chars().map(|c| if is_active(c) { ' ' } else { c });
                shown.take(LONGEST_DETAIL).collect()
            }),
        }
    }

    fn is(&self, any_of: &[&str]) -> bool {
        self.reasons.iter().any(|r| any_of.contains(&r.as_str()))
    }

    /// Whether the body has Google's form of an error.
    pub(crate) fn is_googles(&self) -> bool {
        self.googles
    }

    /// Whether it is a limit that passes.
    pub(crate) fn is_limit(&self) -> bool {
        self.is(&RATE_LIMITS) || self.is(&QUOTAS)
    }

    /// Whether that limit is the user's own, so that others may go on.
    fn is_of_the_user(&self) -> bool {
        self.per_user || self.is(&OF_THE_USER)
    }

    /// Whether that limit, told with this status, is a quota.
    pub(crate) fn is_quota(&self, status: u16) -> bool {
        // A plain limit on the rate has the status RESOURCE_EXHAUSTED as well.
        let is_rate = self.is(&RATE_LIMITS) || (status == 429 && self.is(&["RESOURCE_EXHAUSTED"]));
        !is_rate && self.is(&QUOTAS)
    }

    /// The scopes that would do, from the challenge or else from the details; none when
    /// the API does not say. What repeats one of `secrets` is none: it would be told to the user
    /// and to whoever reads the outcome.
    pub(crate) fn missing_scopes(self, headers: &HeaderMap, secrets: &[&Secret]) -> Vec<String> {
        let listed = challenge::parameter(headers, "scope").or(self.scopes).unwrap_or_default();
        let mut scopes = challenge::scopes(&listed);
        scopes.retain(|scope| scrub(scope, secrets) == *scope);
        scopes
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
    use std::time::Duration;

    use std::sync::Arc;

    use proptest::prelude::*;
    use reqwest::header::HeaderValue;
    use serde_json::json;

    use super::*;
    use crate::conclusion::Conclusion;
    use crate::effect::CallLedger;
    use crate::kinds::calls_table::{self, Cell};

    fn verdict(status: u16, headers: &[(&'static str, &str)], body: &Value) -> Verdict {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        let said = judge(status, &map, body.to_string().as_bytes(), None);
        // Methods that stream their answer say the same in an array.
        let streamed = judge(status, &map, json!([body]).to_string().as_bytes(), None);
        assert_eq!(streamed, said, "{body}");
        said
    }

    fn reason(reason: &str) -> Value {
        json!({"error": {"message": "said", "errors": [{"reason": reason}]}})
    }

    #[test]
    fn limits() {
        let call = SentCall {
            safe: true,
            repeatable: true,
            host: "www.googleapis.com".into(),
            token: "fake-token".into(),
        };
        let limit = |status: u16, body: &Value| {
            let of = |body: &Value| {
                judge(status, &HeaderMap::new(), body.to_string().as_bytes(), Some(&call))
            };
            assert_eq!(of(&json!([body])), of(body), "what is streamed says the same");
            match of(body) {
                Verdict::RateLimited { limit, http_status, .. } => {
                    assert_eq!(http_status, Some(status));
                    Some((limit.quota, limit.host.is_some()))
                }
                Verdict::Reject { .. } => None,
                other => panic!("{other:?}"),
            }
        };
        let status = |name: &str| json!({"error": {"code": 403, "status": name}});
        let detail = |name: &str| json!({"error": {"status": "PERMISSION_DENIED", "details": [{"reason": name}]}});
        for (body, says) in [
            (reason("rateLimitExceeded"), Some((false, true))),
            (reason("userRateLimitExceeded"), Some((false, false))),
            (detail("RATE_LIMIT_EXCEEDED"), Some((false, true))),
            (reason("quotaExceeded"), Some((true, true))),
            (reason("dailyLimitExceeded"), Some((true, true))),
            (reason("concurrentLimitExceeded"), Some((true, false))),
            (status("RESOURCE_EXHAUSTED"), Some((true, true))),
            (detail("QUOTA_EXCEEDED"), Some((true, true))),
            (reason("storageQuotaExceeded"), None),
            (reason("dailyLimitExceededUnreg"), None),
            (status("PERMISSION_DENIED"), None),
        ] {
            assert_eq!(limit(403, &body), says, "{body}");
        }
        assert_eq!(limit(429, &Value::Null), Some((false, true)));
        assert_eq!(limit(429, &status("RESOURCE_EXHAUSTED")), Some((false, true)));
        assert_eq!(limit(429, &reason("quotaExceeded")), Some((true, true)));
        assert_eq!(limit(404, &reason("quotaExceeded")), None);
        let today = |metadata: Value| {
            json!({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [
                {"reason": "RATE_LIMIT_EXCEEDED", "metadata": metadata},
            ]}})
        };
        for (metadata, host) in [
            (json!({"quota_limit": "ReadRequestsPerMinutePerUser"}), false),
            (json!({"quota_limit": "defaultPerMinutePerUser"}), false),
            (
                json!({"quota_limit": "reads_per_minute", "quota_unit": "1/min/{project}/{user}"}),
                false,
            ),
            (json!({"quota_limit": "ReadRequestsPerMinutePerProject"}), true),
            (json!({"quota_limit": "reads_per_minute", "quota_unit": "1/min/{project}"}), true),
            (json!({}), true),
        ] {
            assert_eq!(limit(429, &today(metadata.clone())), Some((false, host)), "{metadata}");
        }
    }

    /// A host may echo the token in the challenge, which is not read as a body is.
    #[test]
    fn a_scope_that_repeats_the_token_is_none() {
        let call = SentCall {
            safe: true,
            repeatable: true,
            host: "www.googleapis.com".into(),
            token: "ya29.fake-access-token".into(),
        };
        for listed in ["ya29.fake-access-token", "https://a.test/?t=ya29%2Efake-access-token"] {
            let mut headers = HeaderMap::new();
            let challenge =
                format!(r#"Bearer error="insufficient_scope", scope="https://b {listed}""#);
            headers.insert("www-authenticate", HeaderValue::from_str(&challenge).unwrap());
            let body = reason("insufficientPermissions").to_string();
            let missing = Verdict::MissingScopes { scopes: vec!["https://b".to_owned()] };
            assert_eq!(judge(403, &headers, body.as_bytes(), Some(&call)), missing);
        }
    }

    #[test]
    fn the_contracts_table() {
        for status in [408, 425, 500, 502, 503, 504, 599] {
            let verdict = verdict(status, &[("retry-after", "7")], &Value::Null);
            let Verdict::Retry { http_status, after, .. } = verdict else {
                panic!("{status}: {verdict:?}");
            };
            assert_eq!(http_status, Some(status));
            assert_eq!(after, Some(Duration::from_secs(7)));
        }
        assert_eq!(verdict(401, &[], &Value::Null), Verdict::Unauthorized);
        for name in ["rateLimitExceeded", "userRateLimitExceeded"] {
            let limit = Limit::default();
            let limited = Verdict::RateLimited { http_status: Some(403), after: None, limit };
            assert_eq!(verdict(403, &[], &reason(name)), limited);
        }
        let after = Some(Duration::from_secs(7));
        let limit = Limit::default();
        let limited = Verdict::RateLimited { http_status: Some(429), after, limit };
        assert_eq!(verdict(429, &[("retry-after", "7")], &Value::Null), limited);
        let bearer = r#"Bearer realm="x", error="insufficient_scope", scope="https://a https://b""#;
        let missing =
            verdict(403, &[("www-authenticate", bearer)], &reason("insufficientPermissions"));
        let scopes = vec!["https://a".to_owned(), "https://b".to_owned()];
        assert_eq!(missing, Verdict::MissingScopes { scopes });
        // Without the challenge it may be a permission on the object that is missing.
        let permission = verdict(403, &[], &reason("insufficientPermissions"));
        assert!(matches!(permission, Verdict::Reject { .. }), "{permission:?}");
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
    fn scopes_in_the_details() {
        let detail = |metadata: Value| {
            json!({"error": {"code": 403, "status": "PERMISSION_DENIED", "details": [
                {"@type": "type.googleapis.com/google.rpc.Help"},
                {"@type": "type.googleapis.com/google.rpc.ErrorInfo",
                 "reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT", "metadata": metadata},
            ]}})
        };
        let method = json!({"service": "drive.googleapis.com", "method": "Files.List"});
        let unsaid = Verdict::MissingScopes { scopes: Vec::new() };
        assert_eq!(verdict(403, &[], &detail(method)), unsaid);
        let named = Verdict::MissingScopes { scopes: vec!["https://a".to_owned()] };
        assert_eq!(verdict(403, &[], &detail(json!({"scopes": "https://a"}))), named);
    }

    #[test]
    fn reasons_in_the_details_come_with_the_message() {
        let body = json!({"error": {"message": "no such\nfile", "status": "NOT_FOUND",
            "details": [{"reason": "FILE_GONE"}]}});
        let Verdict::Reject { reason, detail, http_status } = verdict(404, &[], &body) else {
            panic!("a 404 is rejected");
        };
        assert!(reason.ends_with("HTTP status 404, FILE_GONE"), "{reason}");
        assert_eq!((detail.as_deref(), http_status), (Some("no such file"), Some(404)));
        let bare = json!({"error": {"status": "NOT_FOUND"}});
        let Verdict::Reject { reason, detail, .. } = verdict(404, &[], &bare) else {
            panic!("a 404 is rejected");
        };
        assert!(reason.ends_with("404, NOT_FOUND") && detail.is_none(), "{reason}");
        // OAuth's form, and none at all.
        for body in [json!({"error": "invalid_request"}), json!([1]), Value::Null] {
            assert!(matches!(verdict(400, &[], &body), Verdict::Reject { .. }));
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

    fn reasons() -> impl Strategy<Value = Value> {
        prop::sample::select(vec![
            Value::Null,
            reason("rateLimitExceeded"),
            reason("quotaExceeded"),
            reason("insufficientPermissions"),
            json!({"error": {"details": [{"reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}]}}),
        ])
    }

    /// Where an answer stands in the table: the beginning of its row.
    fn row_of(status: u16, waits: bool, body: &str) -> &'static str {
        match status {
            303 => "303",
            304 => "304",
            307 | 308 => "307, 308",
            300..=399 | 600.. => "other 3xx",
            401 => "401",
            403 if body.contains("SCOPE_INSUFFICIENT") => "403 for want of a scope",
            403 if body.contains("quota") => "403 for a quota",
            403 if body.contains("rateLimit") => "429",
            429 => "429",
            425 => "425",
            503 if waits => "425",
            408 | 500..=599 => "408",
            499 => "499",
            _ => "other 4xx",
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

        /// For every status but 2xx: what may not be repeated and may have been done ends
        /// here, and what was not done is never told as done.
        #[test]
        fn every_status_ends_as_the_table_says(
            status in 300_u16..700,
            safe in any::<bool>(),
            idempotent in any::<bool>(),
            waits in any::<bool>(),
            body in reasons(),
        ) {
            let repeatable = safe || idempotent;
            let host = "www.googleapis.com".into();
            let call = SentCall { safe, repeatable, host, token: "fake-token".into() };
            let mut answer = http::Response::builder().status(status);
            if waits {
                answer = answer.header("retry-after", "7");
            }
            let response = reqwest::Response::from(answer.body("").unwrap());
            let ledger = Arc::new(CallLedger::default());
            ledger.begin(repeatable).ended(call.effect(&response));
            let body = body.to_string();
            let verdict = judge(status, response.headers(), body.as_bytes(), Some(&call));
            match &verdict {
                Verdict::RateLimited { after, .. } => prop_assert_eq!(after.is_some(), waits),
                Verdict::Reject { reason, .. } if reason.contains(NOT_REPEATED) => {
                    prop_assert!(!repeatable);
                }
                _ => {}
            }
            let row = calls_table::row(row_of(status, waits, &body));
            let expected = match (safe, status) {
                // The way to the answer, and not the answer.
                (true, 300..=302) => Cell { verdict: "rejected", effect: "none" },
                (true, 303) => Cell { verdict: "rejected", effect: "done" },
                _ if repeatable => row.again,
                _ => row.once,
            };
            let conclusion = Conclusion::of(verdict.clone().effect(Effect::None), &ledger.calls());
            prop_assert_eq!(Cell::of(&conclusion), expected);
            // What the run comes to is no other verdict.
            prop_assert_eq!(conclusion.verdict, verdict);
        }
    }
}

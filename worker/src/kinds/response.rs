//! Reading an API's answer into a verdict, by the table of [`Verdict::of_response`].

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Response, StatusCode};
use serde_json::Value;

use crate::calls::{CallError, SentCall};
use crate::effect::Effect;
use crate::json::Json;
use crate::outcome::Verdict;
use crate::retry_after::asks_to_wait;

use super::answer::{NOT_REPEATED, judge};
use super::body::{Body, Broken, Ended};

/// The largest answer that goes into an outcome, in bytes after decoding; for
/// pages, of what they were merged into.
pub(super) const MAX_INLINE_BYTES: usize = 64 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Between two pieces of an answer's body.
pub(super) const IDLE: Duration = Duration::from_secs(60);

impl Verdict {
    /// What an API's whole answer means, as for kind `api`: a 2xx with JSON or text
    /// of up to 64 KiB is [`Verdict::Done`] with it; what else it means is decided
    /// by status, Google's `reason` and `Retry-After`.
    ///
    /// A call that the API carried out is done, with a warning where its answer cannot be
    /// used; only one that may be repeated is tried again or rejected for that. Of the answer
    /// to a request that was not made by [`Session::request`](crate::Session::request), the
    /// effect is stated by its status alone.
    ///
    /// With [`Verdict::of_call_error`], and each with the effect of the call:
    ///
    #[doc = include_str!("calls.md")]
    ///
    /// Cancelling it loses the answer.
    pub async fn of_response(response: Response) -> Self {
        let status = response.status();
        let is_known = SentCall::of(&response).is_some();
        let effect = Effect::of_status(status.as_u16(), asks_to_wait(response.headers()));
        let verdict = if status.is_success() {
            inline(response).await
        } else {
            refusal(response, IDLE).await
        };
        if is_known { verdict } else { verdict.effect(effect) }
    }

    /// What it means for the job that a call has no answer: it is tried again if nothing was
    /// sent, or if the call may be repeated.
    pub fn of_call_error(error: &CallError) -> Self {
        match error {
            CallError::NotARequest(_) => Self::reject(error.to_string()),
            CallError::Paused { wait } => {
                Self::Retry { why: error.to_string(), http_status: None, after: Some(*wait) }
            }
            CallError::Lost { repeatable: false, .. }
            | CallError::TimedOut { repeatable: false, .. } => {
                Self::reject(format!("{error}; {NOT_REPEATED}"))
            }
            CallError::Unreachable(_) | CallError::Lost { .. } | CallError::TimedOut { .. } => {
                Self::retry(error.to_string())
            }
        }
    }
}

/// Why the answer to a call that the API carried out cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("{0}")]
    Broken(Broken),
    #[error(
        "the answer is larger than {MAX_INLINE_BYTES} bytes, the most that fits into an outcome; use `output`"
    )]
    TooLarge,
    #[error("the answer is larger than {0} bytes, the most that is stored; nothing was stored")]
    LargeObject(u64),
    #[error("the answer is neither JSON nor text in UTF-8; use `output`")]
    NotText,
    #[error("the whole answer did not come within {0:?}")]
    Late(Duration),
}

impl Unusable {
    /// Whether another answer to the same call may be better.
    fn may_pass(self) -> bool {
        matches!(self, Self::Broken(Broken::Cut | Broken::Idle))
    }

    /// The verdict on the call: it is done, and only one that may be repeated is tried again
    /// or rejected.
    pub(super) fn verdict(self, repeatable: bool, http_status: Option<u16>) -> Verdict {
        if !repeatable {
            let warning = format!("the API carried out the call, but {self}");
            return Verdict::Done { http_status, result: Json::null(), warning: Some(warning) };
        }
        if self.may_pass() {
            return Verdict::Retry { why: self.to_string(), http_status, after: None };
        }
        Verdict::Reject { reason: self.to_string(), detail: None, http_status }
    }
}

/// The verdict of a handler that acts by [`Session::request`](crate::Session::request) alone,
/// so that what its calls did is all that it did.
pub(super) fn by_session_alone(verdict: Verdict) -> Verdict {
    match verdict {
        done @ Verdict::Done { .. } => done,
        other => other.effect(Effect::None),
    }
}

/// A 2xx as an outcome's result. A call of which nothing is known may not be repeated.
pub(super) async fn inline(response: Response) -> Verdict {
    let repeatable = SentCall::of(&response).is_some_and(|call| call.repeatable);
    let http_status = Some(response.status().as_u16());
    match result(response).await {
        Ok(result) => Verdict::Done { http_status, result, warning: None },
        Err(unusable) => unusable.verdict(repeatable, http_status),
    }
}

/// What an answer other than a 2xx means, judged by what can be read of it. Between two pieces of
/// it may pass `idle`.
pub(super) async fn refusal(response: Response, idle: Duration) -> Verdict {
    let status = response.status().as_u16();
    let call = SentCall::of(&response).cloned();
    let headers = response.headers().clone();
    let body = match Body::new(response, idle) {
        Ok(body) => body.read(MAX_INLINE_BYTES).await.0,
        Err(_) => Vec::new(),
    };
    judge(status, &headers, &body, call.as_ref())
}

/// What an answer says: its JSON, byte for byte, or its text as a JSON string.
pub(super) async fn result(response: Response) -> Result<Json, Unusable> {
    let is_json = says_whole_json(&response);
    let body = Body::new(response, IDLE).map_err(Unusable::Broken)?;
    let is_framed = body.is_framed();
    match body.read(MAX_INLINE_BYTES).await {
        (content, Ended::Whole) => read_content(content, is_json, is_framed),
        (_, Ended::TooLarge) => Err(Unusable::TooLarge),
        (_, Ended::Broken(broken)) => Err(Unusable::Broken(broken)),
    }
}

/// The media type that an answer says it has, in small letters and without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next()).unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// Whether the answer says that it is a whole JSON, and not the part that a `Range` asked for.
pub(super) fn says_whole_json(response: &Response) -> bool {
    response.status() != StatusCode::PARTIAL_CONTENT && says_json(response.headers())
}

/// Whether the answer says that it is JSON.
pub(crate) fn says_json(headers: &HeaderMap) -> bool {
    let essence = media_type(headers);
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

/// The JSON of a content that is some: without a byte-order mark and white space around it.
pub(crate) fn json_of(content: &[u8]) -> &[u8] {
    content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content).trim_ascii()
}

/// Tells half a JSON from a text. An end that nothing announced may be any place in a text or
/// a number, but closes an object.
fn read_content(content: Vec<u8>, is_json: bool, is_framed: bool) -> Result<Json, Unusable> {
    const CUT: Unusable = Unusable::Broken(Broken::Cut);
    let json = json_of(&content);
    if json.is_empty() && (is_json || content.is_empty()) {
        return if is_framed { Ok(Json::null()) } else { Err(CUT) };
    }
    let is_closed = json.starts_with(b"{") || json.starts_with(b"[") || json.starts_with(b"\"");
    match Json::parse(json) {
        Ok(json) if is_framed || is_closed => return Ok(json),
        Err(error) if error.is_eof() && (is_json || (!is_framed && is_closed)) => return Err(CUT),
        Ok(_) | Err(_) => {}
    }
    let text = String::from_utf8(content).map_err(|_| Unusable::NotText)?;
    if !is_framed {
        return Err(Unusable::Broken(Broken::NoLength));
    }
    Ok(Json::from(Value::String(text)))
}

#[cfg(test)]
mod tests {
    use async_compression::tokio::bufread::GzipEncoder;
    use reqwest::Method;
    use serde_json::json;
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::conclusion::Conclusion;
    use crate::kinds::calls_table::{self, Cell};
    use crate::session::Session;
    use crate::session::stand::{carrier, raw};

    /// How a call is made.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Made {
        Get,
        Put,
        Post,
        /// A POST that is said to be idempotent.
        PostAgain,
    }
    use Made::{Get, Post, PostAgain, Put};

    /// Makes one call, which is answered with these bytes and the end of the connection, and
    /// reads it as a handler of one's own does.
    async fn run(made: Made, answer: &[u8]) -> Conclusion {
        let (origin, mut requests) = raw([answer.to_vec()]).await;
        let (carrier, credentials) = carrier(&origin).await;
        let session = Session::new(&carrier, credentials);
        let method = match made {
            Get => Method::GET,
            Put => Method::PUT,
            Post | PostAgain => Method::POST,
        };
        let request = session.request(method, "https://tasks.googleapis.com/").unwrap();
        let request = if made == PostAgain { request.idempotent() } else { request };
        let verdict = match request.send().await {
            Ok(response) => Verdict::of_response(response).await,
            Err(error) => Verdict::of_call_error(&error),
        };
        requests.recv().await.unwrap();
        assert!(requests.try_recv().is_err(), "{made:?}: it was sent once");
        Conclusion::of(verdict, &session.ledger().calls())
    }

    fn status(status: &str, headers: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status} Said\r\n{headers}content-length: 2\r\n\r\n{{}}").into_bytes()
    }

    fn ok(headers: &str, body: &[u8]) -> Vec<u8> {
        let head = format!("HTTP/1.1 200 OK\r\n{headers}content-length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    }

    /// Whatever the API says or does not say, a POST that may have had its effect is neither
    /// tried again nor forgotten, and one that had it is done.
    #[tokio::test]
    async fn what_came_of_a_call() {
        let answers = answers().await;
        for row in calls_table::rows() {
            let of_row = answers.iter().filter(|(came, _)| row.came.starts_with(came));
            let of_row: Vec<&Vec<u8>> = of_row.flat_map(|(_, answers)| answers).collect();
            // The others are tested below, and with kind `api`.
            let elsewhere = row.came.contains("nothing was sent") || row.came.contains("expects");
            assert_ne!(of_row.is_empty(), !elsewhere, "{}", row.came);
            for answer in of_row {
                let shown = String::from_utf8_lossy(&answer[..answer.len().min(80)]);
                let made = async |made: Made| Cell::of(&run(made, answer).await);
                assert_eq!(made(Post).await, row.once, "{shown}");
                for again in [Put, PostAgain] {
                    assert_eq!(made(again).await, row.again, "{again:?}: {shown}");
                }
                let got = match &answer[..12.min(answer.len())] {
                    // The way to the answer, and not the answer.
                    b"HTTP/1.1 302" => Cell { verdict: "rejected", effect: "none" },
                    b"HTTP/1.1 303" => Cell { verdict: "rejected", effect: "done" },
                    _ => row.again,
                };
                assert_eq!(made(Get).await, got, "{shown}");
            }
        }
    }

    /// Answers by the beginning of their row in the table.
    async fn answers() -> Vec<(&'static str, Vec<Vec<u8>>)> {
        let large = ok("", "x".repeat(70_000).as_bytes());
        let latin = ok("content-type: text/plain; charset=ISO-8859-1\r\n", b"caf\xe9");
        let brotli = ok("content-encoding: br\r\n", b"\x0b\x02\x80{}\x03");
        let mut gzip = Vec::new();
        GzipEncoder::new(&b"{\"a\": 1}"[..]).read_to_end(&mut gzip).await.unwrap();
        let unframed =
            |head: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}").into_bytes();
        let json_type = "content-type: application/json; charset=UTF-8\r\n";
        let half_gzip = ok("content-encoding: gzip\r\n", &gzip[..gzip.len() / 2]);
        let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"a\":".to_vec();
        let cut_chunk =
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n".to_vec();
        let part = b"HTTP/1.1 206 Part\r\ncontent-type: application/json\r\n\
            content-length: 5\r\n\r\n{\"a\":"
            .to_vec();
        let cut_head = b"HTTP/1.1 200 OK\r\ncontent-len".to_vec();
        let scope = "www-authenticate: Bearer error=\"insufficient_scope\", scope=\"s\"\r\n";
        let refused = |headers: &str, reason: &str| {
            let body = json!({"error": {"errors": [{"reason": reason}]}}).to_string();
            let head =
                format!("HTTP/1.1 403 No\r\n{headers}content-length: {}\r\n\r\n", body.len());
            [head, body].concat().into_bytes()
        };
        let said = |reasons: &[&str]| reasons.iter().map(|reason| refused("", reason)).collect();
        let redirect = "location: /x\r\n";
        vec![
            ("nothing, and it was sent", vec![vec![], cut_head]),
            (
                "2xx, and its content",
                vec![
                    unframed(json_type, "{\"a\": 1} "),
                    ok("", b"{\"a\":"),
                    ok(json_type, b""),
                    ok("", b"{}"),
                    ok("content-encoding: gzip\r\n", &gzip),
                    status("201", ""),
                    part,
                    b"HTTP/1.1 204 No\r\n\r\n".to_vec(),
                ],
            ),
            (
                "2xx, and it was cut off",
                vec![
                    cut,
                    cut_chunk,
                    half_gzip,
                    ok(json_type, b"{\"a\":"),
                    ok(json_type, b"{\"a\":\"caf\xc3"),
                    unframed(json_type, "{\"a\": 1"),
                    unframed("", "[{\"a\": 1}"),
                    unframed(json_type, ""),
                ],
            ),
            (
                "2xx that is too large",
                vec![large, latin, brotli, unframed("", "some te"), unframed(json_type, "12")],
            ),
            ("303", vec![status("303", redirect)]),
            ("304", vec![status("304", "")]),
            ("307, 308", vec![status("307", redirect), status("308", redirect)]),
            ("other 3xx", vec![status("302", redirect)]),
            ("401", vec![status("401", "")]),
            ("403 for want of a scope", vec![refused(scope, "insufficientPermissions")]),
            (
                "429",
                [vec![status("429", "")], said(&["rateLimitExceeded", "userRateLimitExceeded"])]
                    .concat(),
            ),
            (
                "403 for a quota",
                said(&["quotaExceeded", "dailyLimitExceeded", "concurrentLimitExceeded"]),
            ),
            ("425", vec![status("425", ""), status("503", "retry-after: 7\r\n")]),
            (
                "408",
                vec![
                    status("408", ""),
                    status("500", ""),
                    status("503", ""),
                    status("503", "retry-after: soon\r\n"),
                ],
            ),
            ("499", vec![status("499", "")]),
            ("other 4xx", vec![status("404", ""), refused("", "storageQuotaExceeded")]),
        ]
    }

    #[tokio::test]
    async fn nothing_was_sent() {
        let row = calls_table::row("nothing, and nothing was sent");
        let (carrier, credentials) = carrier("http://127.0.0.1:1").await;
        for (method, expected) in [(Method::GET, row.again), (Method::POST, row.once)] {
            let session = Session::new(&carrier, credentials.clone());
            let request = session.request(method, "https://tasks.googleapis.com/").unwrap();
            let verdict = Verdict::of_call_error(&request.send().await.unwrap_err());
            let conclusion = Conclusion::of(verdict, &session.ledger().calls());
            assert_eq!(Cell::of(&conclusion), expected);
        }
    }

    #[test]
    fn what_an_answer_says() {
        let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
        let of = |content: &str, is_json| read_content(content.as_bytes().to_vec(), is_json, true);
        for json in [
            "117.63331139400017",
            "{\"a\": 9007199254740991.0}",
            "1e400",
            "123456789012345678901234567890",
            &deep,
        ] {
            for is_json in [true, false] {
                assert_eq!(of(json, is_json).unwrap().text(), json);
                assert_eq!(of(&format!("\u{feff}{json}\n"), is_json).unwrap().text(), json);
            }
        }
        assert_eq!(of("NaN", true).unwrap().text(), "\"NaN\"");
        assert_eq!(of("{\"a\"", false).unwrap().text(), r#""{\"a\"""#);
        assert_eq!(of("", true).unwrap().text(), "null");
        assert_eq!(of("\n", false).unwrap().text(), r#""\n""#);
        assert_eq!(read_content(vec![b'"', 0xff, b'"'], true, true), Err(Unusable::NotText));
        for (value, is_json) in [
            ("application/json", true),
            ("Application/JSON ; charset=utf-8", true),
            ("application/problem+json", true),
            ("text/json", true),
            ("application/jsonl", false),
            ("text/plain", false),
        ] {
            let answer = |status: u16| {
                let answer = http::Response::builder().status(status).header(CONTENT_TYPE, value);
                Response::from(answer.body("").unwrap())
            };
            assert_eq!(says_whole_json(&answer(200)), is_json, "{value}");
            assert!(!says_whole_json(&answer(206)), "{value}, and a part of it");
        }
    }

    /// A host that echoes the request must not make the token public.
    #[tokio::test]
    async fn a_token_that_is_repeated_is_hidden() {
        for body in [r#"{"a": "Bearer fake-access"}"#, "Bearer fake-access"] {
            let Verdict::Done { result, .. } = run(Get, &ok("", body.as_bytes())).await.verdict
            else {
                panic!("it is done");
            };
            let text = result.text();
            assert!(text.contains("Bearer ***********") && !text.contains("fake"), "{text}");
        }
        let refused = r#"{"error": {"message": "no fake-access here"}}"#;
        let length = refused.len();
        let answer = format!("HTTP/1.1 404 No\r\ncontent-length: {length}\r\n\r\n{refused}");
        let Verdict::Reject { detail, .. } = run(Get, answer.as_bytes()).await.verdict else {
            panic!("it is rejected");
        };
        assert_eq!(detail.as_deref(), Some("no *********** here"));
    }

    #[tokio::test]
    async fn a_warning_says_what_is_wrong_with_the_answer() {
        let conclusion = run(Post, &ok("content-encoding: br\r\n", b"x")).await;
        let Verdict::Done { warning: Some(warning), http_status, .. } = conclusion.verdict else {
            panic!("{conclusion:?}");
        };
        assert_eq!(http_status, Some(200));
        assert!(warning.contains("carried out the call, but"), "{warning}");
        assert!(warning.contains("other than gzip"), "{warning}");
    }

    /// The answer to a request that the session did not make: its effect is stated.
    #[tokio::test]
    async fn an_answer_of_another_client() {
        let answer = |status: u16| {
            Response::from(http::Response::builder().status(status).body("{}").unwrap())
        };
        let none = crate::effect::Calls::default();
        for (status, verdict, effect) in [
            (200, "done", "done"),
            (404, "rejected", "none"),
            (500, "retry", "unknown"),
            (429, "limited", "none"),
            (302, "rejected", "unknown"),
        ] {
            let said = Verdict::of_response(answer(status)).await;
            let told = Cell::of(&Conclusion::of(said, &none));
            assert_eq!(told, Cell { verdict, effect }, "{status}");
        }
    }

    /// What the user grants later must not do the first call again.
    #[tokio::test]
    async fn a_run_is_spent_by_another_of_its_calls() {
        let refused =
            json!({"error": {"details": [{"reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}]}});
        let refused = refused.to_string();
        let length = refused.len();
        let refused = format!("HTTP/1.1 403 No\r\ncontent-length: {length}\r\n\r\n{refused}");
        let unauthorized = "HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n".to_owned();
        let limited = "HTTP/1.1 429 No\r\ncontent-length: 0\r\n\r\n".to_owned();
        for (second, says) in
            [(refused, "more scopes"), (unauthorized, "401"), (limited, "limits the user's rate")]
        {
            let (origin, _requests) = raw([ok("", b"{}"), second.into_bytes()]).await;
            let (carrier, credentials) = carrier(&origin).await;
            let session = Session::new(&carrier, credentials);
            let url = "https://tasks.googleapis.com/";
            let first = session.request(Method::POST, url).unwrap().send().await.unwrap();
            assert_eq!(first.status(), 200);
            let second = session.request(Method::GET, url).unwrap().send().await.unwrap();
            let verdict = Verdict::of_response(second).await;
            let conclusion = Conclusion::of(verdict, &session.ledger().calls());
            let spent = Cell { verdict: "rejected", effect: "done" };
            assert_eq!(Cell::of(&conclusion), spent, "{says}");
            let Verdict::Reject { reason, .. } = conclusion.verdict else { unreachable!() };
            assert!(reason.contains(says) && reason.contains("had its effect"), "{reason}");
        }
    }
}

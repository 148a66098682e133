//! Each row of the table, and that the first match counts.

use http::{HeaderName, HeaderValue};
use serde_json::json;

use super::*;

const JSON: [(&str, &str); 1] = [("content-type", "application/json; charset=utf-8")];
const PROBLEM: [(&str, &str); 1] = [("content-type", "application/problem+json")];

/// The kind's handler has shown that it does such jobs; nothing else is known.
fn facts() -> Facts {
    Facts { once: false, noted: None, asked_again: false, proven: true, secrets: Vec::new() }
}

fn once() -> Facts {
    Facts { once: true, ..facts() }
}

fn noted() -> Facts {
    Facts { noted: Some(ConsentReason::Unknown), ..facts() }
}

fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Came {
    let headers = headers.iter().map(|(name, value)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
    });
    Came::Answer(Answer {
        status,
        headers: headers.collect(),
        body: body.as_bytes().to_vec(),
        whole: true,
    })
}

fn status(status: u16) -> Came {
    answer(status, &[], "")
}

fn late() -> Came {
    Came::Late(Duration::from_secs(600))
}

/// What it means, in one word.
fn word(came: &Came, facts: &Facts) -> &'static str {
    match came.meaning(facts) {
        Meaning::Renew(Verdict::Retry { .. }) => "renew",
        Meaning::KindWaits(_, Verdict::Retry { .. }) => "kind waits",
        Meaning::Misrouted(Verdict::Unasked { at_most: Some(MISROUTED), .. }) => "misrouted",
        Meaning::Down(Verdict::Unasked { at_most: None, .. }) => "down",
        Meaning::Verdict(Verdict::Done { .. }) => "done",
        Meaning::Verdict(Verdict::Retry { .. }) => "retry",
        Meaning::Verdict(Verdict::NeedsConsent(_)) => "parked",
        Meaning::Verdict(Verdict::MissingScopes { .. }) => "scopes",
        Meaning::Verdict(Verdict::RateLimited { .. }) => "user waits",
        Meaning::Verdict(Verdict::Reject { reason, .. }) if reason.contains("not known") => {
            "unknown"
        }
        Meaning::Verdict(Verdict::Reject { .. }) => "rejected",
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_2xx_is_done_whatever_its_body_is() {
    let told = |came: Came, secrets: Vec<Secret>| {
        let facts = Facts { secrets, ..once() };
        let Meaning::Verdict(Verdict::Done { result, warning, http_status }) = came.meaning(&facts)
        else {
            panic!("{came:?}")
        };
        (http_status, result.text().to_owned(), warning.unwrap_or_default())
    };
    let none = || ("null".to_owned(), String::new());
    for (came, (result, warning)) in [
        (answer(200, &JSON, r#" {"n": 1.0}"#), (r#"{"n": 1.0}"#.to_owned(), String::new())),
        (
            answer(201, &[("content-type", "application/ld+json")], "[1]"),
            ("[1]".into(), String::new()),
        ),
        (
            answer(200, &[("content-type", "text/json")], "\u{feff}[2]\n"),
            ("[2]".into(), String::new()),
        ),
        (answer(200, &[("content-type", "text/html")], "OK"), none()),
        (answer(200, &[], r#"{"a":1}"#), none()),
        (answer(204, &JSON, ""), none()),
        (answer(200, &JSON, "{"), ("null".into(), "the handler's answer is no JSON".into())),
    ] {
        let (http_status, ..) = told(answer(201, &[], ""), Vec::new());
        assert_eq!(http_status, Some(201));
        let (_, told_result, told_warning) = told(came, Vec::new());
        assert_eq!((told_result, told_warning), (result, warning));
    }
    let Came::Answer(mut cut) = answer(200, &JSON, r#"{"a":"#) else { unreachable!() };
    cut.whole = false;
    let (_, result, warning) = told(Came::Answer(cut), Vec::new());
    assert!(result == "null" && warning.contains("cut off"), "{warning}");
    // A handler that returns its event.
    let body = json!({"credentials": {"client_secret": "fake-handle-fake-handle"}, "t": "ya29.fake-token"});
    let secrets = vec![Secret::new("fake-handle-fake-handle"), Secret::new("ya29.fake-token")];
    let (_, result, _) = told(answer(200, &JSON, &body.to_string()), secrets);
    let hidden = body.to_string().replace("fake-handle-fake-handle", &"*".repeat(23));
    assert_eq!(result, hidden.replace("ya29.fake-token", &"*".repeat(15)));
}

#[test]
fn what_may_have_been_done_is_not_done_again_by_a_once_kind() {
    for came in [
        Came::Lost,
        late(),
        status(408),
        status(499),
        status(500),
        status(501),
        status(503),
        status(504),
        status(302),
        status(303),
        status(600),
    ] {
        for facts in [once(), Facts { once: true, proven: false, asked_again: true, ..noted() }] {
            assert_eq!(word(&came, &facts), "unknown", "{came}");
        }
        assert_eq!(came.effect(), Effect::Unknown, "{came}");
    }
    // These say that nothing was done.
    let waits = [("retry-after", "7")];
    assert_eq!(word(&answer(503, &waits, ""), &once()), "kind waits");
    for (code, means) in [
        (429, "user waits"),
        (409, "retry"),
        (425, "retry"),
        (401, "renew"),
        (422, "rejected"),
        (404, "misrouted"),
    ] {
        assert_eq!(word(&status(code), &once()), means, "{code}");
        assert_eq!(status(code).effect(), Effect::None, "{code}");
    }
    assert_eq!(word(&Came::Unsent, &once()), "down");
}

#[test]
fn a_job_that_was_told_to_have_its_user_consent_is_parked_for_that() {
    for came in
        [status(401), status(403), status(500), status(501), status(502), Came::Lost, late()]
    {
        assert_eq!(word(&came, &noted()), "parked", "{came}");
        assert_ne!(word(&came, &facts()), "parked", "{came}");
    }
    let scopes = ConsentReason::MissingScopes(vec!["s".to_owned()]);
    let meaning = status(500).meaning(&Facts { noted: Some(scopes.clone()), ..facts() });
    assert_eq!(meaning, Meaning::Verdict(Verdict::NeedsConsent(scopes)));
    // An answer that has another reason.
    let waits = answer(503, &[("retry-after", "7")], "");
    for (came, means) in [
        (status(200), "done"),
        (waits, "kind waits"),
        (status(422), "rejected"),
        (status(429), "user waits"),
        (status(409), "retry"),
    ] {
        assert_eq!(word(&came, &noted()), means, "{came}");
    }
}

#[test]
fn a_token_may_have_been_rejected() {
    let again = Facts { asked_again: true, ..facts() };
    assert_eq!(word(&status(401), &facts()), "renew");
    for code in [500, 502, 503, 504] {
        assert_eq!(word(&status(code), &again), "renew", "{code}");
        assert_eq!(word(&status(code), &facts()), "retry", "{code}: one ask says nothing");
    }
    assert_eq!(word(&status(501), &again), "misrouted");
    assert_eq!(word(&answer(500, &[("retry-after", "7")], ""), &again), "retry");
    assert_eq!(word(&Came::Lost, &again), "retry");
}

#[test]
fn scopes_that_an_api_misses() {
    let header = r#"Bearer error="insufficient_scope", scope="https://a.test/x""#;
    let came = answer(403, &[("www-authenticate", header)], "");
    let scopes = vec!["https://a.test/x".to_owned()];
    assert_eq!(came.meaning(&facts()), Meaning::Verdict(Verdict::MissingScopes { scopes }));
    let echoing = Facts { secrets: vec!["fake-token/https".into()], ..facts() };
    let header = header.replace("scope=\"", "scope=\"fake-token/https ");
    let came = answer(403, &[("www-authenticate", &header)], "");
    let scopes = vec!["https://a.test/x".to_owned()];
    assert_eq!(came.meaning(&echoing), Meaning::Verdict(Verdict::MissingScopes { scopes }));
    let body = json!({"error": {"code": 403, "status": "PERMISSION_DENIED",
        "details": [{"reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}]}});
    assert_eq!(word(&answer(403, &[], &body.to_string()), &facts()), "scopes");
    // Google's client libraries hand on what a method that streams its answer says.
    let streamed = json!([body]).to_string();
    assert_eq!(word(&answer(403, &[], &streamed), &facts()), "scopes");
    assert_eq!(word(&status(403), &facts()), "rejected", "a permission is another thing");
}

#[test]
fn limits_on_the_users_rate() {
    let body = |reason: &str| json!({"error": {"errors": [{"reason": reason}]}}).to_string();
    let limited = |came: Came| match came.meaning(&facts()) {
        Meaning::Verdict(Verdict::RateLimited { after, limit, .. }) => (after, limit.quota),
        other => panic!("{other:?}"),
    };
    let after = Some(Duration::from_secs(7));
    assert_eq!(limited(answer(429, &[("retry-after", "7")], "")), (after, false));
    assert_eq!(limited(answer(403, &[], &body("userRateLimitExceeded"))), (None, false));
    assert_eq!(limited(answer(403, &[], &body("dailyLimitExceeded"))), (None, true));
    assert_eq!(word(&answer(403, &[], &body("storageQuotaExceeded")), &facts()), "rejected");
}

#[test]
fn a_kind_that_asks_to_wait() {
    let waits = |value: &str| match answer(503, &[("retry-after", value)], "").meaning(&facts()) {
        Meaning::KindWaits(wait, Verdict::Retry { after, http_status: Some(503), .. }) => {
            assert_eq!(after, Some(wait));
            wait
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(waits("7").as_secs(), 7);
    assert_eq!(waits("Sun, 06 Nov 1994 08:49:37 GMT"), KIND_WAITS, "a date of no clock of ours");
    assert_eq!(word(&status(503), &facts()), "retry");
}

#[test]
fn a_wrong_path_is_no_refusal() {
    let unproven = Facts { proven: false, ..facts() };
    let googles = json!({"error": {"code": 404, "message": "no such file"}}).to_string();
    for code in [301, 308, 404, 405, 501] {
        assert_eq!(word(&status(code), &unproven), "misrouted", "{code}");
        assert_eq!(word(&answer(code, &PROBLEM, "{}"), &unproven), "misrouted", "{code}");
        assert_eq!(word(&status(code), &facts()), "misrouted", "{code}");
        let means = if code == 501 { "retry" } else { "rejected" };
        assert_eq!(word(&answer(code, &PROBLEM, "{}"), &facts()), means, "{code}");
        assert_eq!(word(&answer(code, &[], &googles), &facts()), means, "{code}");
    }
    for code in [400, 415] {
        assert_eq!(word(&status(code), &unproven), "misrouted", "{code}");
        assert_eq!(word(&status(code), &facts()), "rejected", "{code}");
    }
    for code in [402, 406, 410, 422] {
        assert_eq!(word(&status(code), &unproven), "rejected", "{code}");
    }
}

#[test]
fn what_may_come_right_is_tried_again() {
    let seven = [("retry-after", "7")];
    for came in
        [status(408), status(409), status(425), status(500), status(599), Came::Lost, late()]
    {
        assert_eq!(word(&came, &facts()), "retry", "{came}");
    }
    let Meaning::Verdict(Verdict::Retry { why, http_status, after }) =
        answer(502, &seven, "").meaning(&facts())
    else {
        panic!("a 502 is tried again")
    };
    assert_eq!(why, "the handler answered HTTP status 502");
    assert_eq!((http_status, after), (Some(502), Some(Duration::from_secs(7))));
}

#[test]
fn a_refusal_says_its_title_and_detail_and_nothing_else() {
    let rejected = |came: Came| {
        let secrets = vec![Secret::new("fake-handle-0123456789"), Secret::new("ya29.fake-token")];
        match came.meaning(&Facts { secrets, ..facts() }) {
            Meaning::Verdict(Verdict::Reject { reason, detail, http_status }) => {
                assert_eq!(http_status, Some(422));
                assert_eq!(reason, "the handler refused: HTTP status 422");
                detail
            }
            other => panic!("{other:?}"),
        }
    };
    let body = json!({"title": "No such sheet", "detail": "with fake-handle-0123456789 and\nya29.fake-token", "other": "x"});
    let told = rejected(answer(422, &PROBLEM, &body.to_string()));
    assert_eq!(told.as_deref(), Some("No such sheet: with [redacted] and [redacted]"));
    let long = json!({"title": "é".repeat(9000)}).to_string();
    assert_eq!(rejected(answer(422, &PROBLEM, &long)).unwrap().chars().count(), 500);
    for (headers, body) in [
        (&[("content-type", "text/html")][..], "<pre>secret request</pre>"),
        (&[("content-type", "application/json")], r#"{"title": "x"}"#),
        (&PROBLEM, "no JSON"),
        (&PROBLEM, r#"{"status": 422}"#),
    ] {
        assert_eq!(rejected(answer(422, headers, body)), None, "{body}");
    }
}

#[test]
fn the_readme_has_the_table() {
    assert!(include_str!("../../../docs/languages.md").contains(include_str!("../answers.md")));
}

#[test]
fn answers_by_class() {
    for (came, class) in [
        (status(204), "2xx"),
        (status(308), "3xx"),
        (status(404), "4xx"),
        (status(503), "5xx"),
        (Came::Lost, "none"),
        (late(), "none"),
        (Came::Unsent, "unsent"),
    ] {
        assert_eq!(came.class(), class);
    }
}

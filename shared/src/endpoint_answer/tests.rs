//! Every row of the tables of what a token endpoint says, with its neighbours.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::ports::Answer;

const FROM: &str = "https://provider.test/token";
const REFRESH: &str = "1//fake-refresh-token/with+odd=characters";
const CLIENT_SECRET: &str = "GOCSPX-fake-client-secret";

fn said(status: u16, body: &str) -> Result<Granted, EndpointError> {
    said_bytes(status, body.as_bytes())
}

fn said_bytes(status: u16, body: &[u8]) -> Result<Granted, EndpointError> {
    let reply = Reply { from: FROM, status, retry_after: None, body, incomplete: false };
    let (refresh, client) = (Secret::new(REFRESH), Secret::new(CLIENT_SECRET));
    classify(&reply, &[&refresh, &client], false)
}

fn granted(body: &str) -> Answer {
    match said(200, body) {
        Ok(granted) => granted.answer,
        Err(error) => panic!("{body}: {error}"),
    }
}

fn token(token: Option<&Secret>) -> Option<&str> {
    token.map(Secret::expose)
}

/// The kind of an error, for tables.
fn kind(said: &Result<Granted, EndpointError>) -> String {
    match said {
        Ok(_) => "granted".to_owned(),
        Err(EndpointError::InvalidGrant(_)) => "dead".to_owned(),
        Err(EndpointError::Refused { code, .. }) => format!("refused {code}"),
        Err(EndpointError::NotNow { code: Some(code), .. }) => format!("not now {code}"),
        Err(EndpointError::NotNow { code: None, .. }) => "not now".to_owned(),
        Err(EndpointError::NotReached(_)) => "not reached".to_owned(),
        Err(EndpointError::Ambiguous { resend_after: Resend::Soon, .. }) => "ambiguous".to_owned(),
        Err(EndpointError::Ambiguous { resend_after: Resend::Late, .. }) => {
            "ambiguous, late".to_owned()
        }
    }
}

#[test]
fn a_grant_as_the_standard_has_it() {
    let answer = granted(
        r#"{"access_token":"fake-a","refresh_token":"fake-r","expires_in":3599,
            "token_type":"Bearer","scope":"openid email"}"#,
    );
    assert_eq!(
        answer,
        Answer {
            access_token: Some(Secret::new("fake-a")),
            refresh_token: Some(Secret::new("fake-r")),
            expires_in: Some(Duration::from_secs(3599)),
            scopes: Some(vec!["email".into(), "openid".into()]),
        }
    );
}

#[test]
fn any_success_with_a_token_is_a_grant() {
    for status in [200, 201, 202, 203, 206, 299] {
        assert_eq!(kind(&said(status, r#"{"access_token":"fake-a"}"#)), "granted", "{status}");
    }
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for body in [
        "\u{feff}{\"access_token\":\"fake-a\"}".to_owned(),
        "{\"access_token\":\"fake-a\"}<!-- served by -->".to_owned(),
        "access_token=fake-a&token_type=bearer&scope=".to_owned(),
        "{\"access_token\":\"fake-a\",\"x\":1e400}".to_owned(),
        "{\"access_token\":\"fake-a\",\"x\":\"\\ud800\"}".to_owned(),
        format!("{{\"x\":{deep},\"access_token\":\"fake-a\"}}"),
        "{\"access_token\":\"fake-b\",\"access_token\":\"fake-a\"}".to_owned(),
        "{\"access_token\":\"fake-a\",\"error\":\"\"}".to_owned(),
        "{\"access_token\":\"fake-a\",\"error\":\"invalid_grant\"}".to_owned(),
        "{\"access_token\":\"fake-a\",\"expires_in\":".to_owned(),
    ] {
        assert_eq!(token(granted(&body).access_token.as_ref()), Some("fake-a"), "{body}");
    }
    let latin = b"{\"access_token\":\"fake-a\",\"greeting\":\"Gr\xfc\xdfe\"}";
    assert_eq!(kind(&said_bytes(200, latin)), "granted");
}

#[test]
fn an_access_token_is_visible_ascii_or_none() {
    for bad in ["a b", "a\\r\\nb", "a\\u0000", "\\u00e9", "a\\u007f", "\\ud800"] {
        let body = format!(r#"{{"access_token":"{bad}","refresh_token":"fake-r"}}"#);
        let answer = granted(&body);
        assert_eq!(token(answer.access_token.as_ref()), None, "{bad}");
        assert_eq!(token(answer.refresh_token.as_ref()), Some("fake-r"), "{bad}");
    }
    // Alone it is a grant that cannot be used: the user is blocked, and nothing is lost.
    let alone = said(200, r#"{"access_token":"a\r\nb"}"#).unwrap();
    assert!(alone.answer.access_token.is_none() && alone.left_out.is_some());
    let odd = granted(r#"{"access_token":"!~fake/+=.-_"}"#);
    assert_eq!(token(odd.access_token.as_ref()), Some("!~fake/+=.-_"));
}

#[test]
fn a_refresh_token_alone_is_a_grant() {
    let answer = granted(r#"{"refresh_token":"fake-r","id_token":"x.y.z"}"#);
    assert_eq!(
        (token(answer.access_token.as_ref()), token(answer.refresh_token.as_ref())),
        (None, Some("fake-r"))
    );
    for none in [r#""""#, "null", "false", "7", "{}", r#""  ""#] {
        let body = format!(r#"{{"access_token":"fake-a","refresh_token":{none}}}"#);
        assert_eq!(granted(&body).refresh_token, None, "{none}");
        let body = format!(r#"{{"access_token":{none},"refresh_token":"fake-r"}}"#);
        assert_eq!(granted(&body).access_token, None, "{none}");
    }
}

#[test]
fn tokens_above_64_kib_count_as_absent() {
    let (fits, long) = ("t".repeat(64 * 1024), "t".repeat(64 * 1024 + 1));
    let answer = granted(&format!(r#"{{"access_token":"{fits}","refresh_token":"{long}"}}"#));
    assert_eq!(token(answer.access_token.as_ref()), Some(&*fits));
    assert_eq!(answer.refresh_token, None);
    assert_eq!(kind(&said(200, &format!(r#"{{"access_token":"{long}"}}"#))), "ambiguous");
}

#[test]
fn a_lifetime_is_any_positive_number_up_to_a_day() {
    for (stated, seconds) in [
        ("3599", Some(3599)),
        (r#""3599""#, Some(3599)),
        (r#"" 3599 ""#, Some(3599)),
        ("3145.327", Some(3145)),
        (r#""3145.9""#, Some(3145)),
        ("3.6e3", Some(3600)),
        ("1", Some(1)),
        ("86400", Some(86_400)),
        ("86401", Some(86_400)),
        ("9223372036854775807", Some(86_400)),
        ("18446744073709551616", Some(86_400)),
        ("1e400", Some(86_400)),
        ("0", None),
        ("0.9", None),
        ("-1", None),
        ("-0", None),
        (r#""""#, None),
        (r#""soon""#, None),
        (r#""inf""#, None),
        (r#""NaN""#, None),
        ("null", None),
        ("true", None),
        ("[3599]", None),
        ("{}", None),
    ] {
        let body = format!(r#"{{"access_token":"fake-a","expires_in":{stated}}}"#);
        let answer = granted(&body);
        assert_eq!(answer.expires_in, seconds.map(Duration::from_secs), "{stated}");
        let life = seconds.unwrap_or(300);
        assert_eq!(answer.lifetime(), Duration::from_secs(life), "{stated}");
    }
    assert_eq!(granted(r#"{"access_token":"fake-a"}"#).expires_in, None);
    let form = granted("access_token=fake-a&expires_in=28800");
    assert_eq!(form.expires_in, Some(Duration::from_secs(28_800)));
}

#[test]
fn long_tokens_are_believed_when_asked_for() {
    let body = br#"{"access_token":"fake-a","expires_in":5184000}"#;
    let reply = Reply { from: FROM, status: 200, retry_after: None, body, incomplete: false };
    let answer = classify(&reply, &[], true).unwrap().answer;
    assert_eq!(answer.expires_in, Some(Duration::from_hours(24 * 60)));
    let endless = br#"{"access_token":"fake-a","expires_in":1e300}"#;
    let answer = classify(&Reply { body: endless, ..reply }, &[], true).unwrap().answer;
    assert_eq!(answer.expires_in, Some(Duration::from_hours(24 * 3650)));
}

#[test]
fn what_is_no_bearer_token_is_left_out() {
    for kind in ["DPoP", "pop", "MAC", " mac "] {
        let body = format!(
            r#"{{"access_token":"fake-a","refresh_token":"fake-r","token_type":"{kind}"}}"#
        );
        let granted = said(200, &body).unwrap();
        assert!(granted.answer.access_token.is_none() && granted.left_out.is_some(), "{kind}");
        assert_eq!(token(granted.answer.refresh_token.as_ref()), Some("fake-r"));
    }
    for kind in [r#""Bearer""#, r#""bearer""#, r#""JWT""#, r#""""#, "null", "7"] {
        let body = format!(r#"{{"access_token":"fake-a","token_type":{kind}}}"#);
        assert_eq!(token(granted(&body).access_token.as_ref()), Some("fake-a"), "{kind}");
    }
}

#[test]
fn scopes_are_read_however_they_are_separated() {
    for (stated, scopes) in [
        (r#""b a""#, Some(vec!["a", "b"])),
        (r#""a  b""#, Some(vec!["a", "b"])),
        (r#"" a\tb ""#, Some(vec!["a", "b"])),
        (r#""b,a,a""#, Some(vec!["a", "b"])),
        (r#""a,b c""#, Some(vec!["a,b", "c"])),
        (r#"["b","a"]"#, Some(vec!["a", "b"])),
        (r#"["a b",7,null,""]"#, Some(vec!["a", "b"])),
        (r#""""#, None),
        (r#""  ""#, None),
        (r#"",""#, None),
        ("[]", None),
        (r#"[""]"#, None),
        ("null", None),
        ("{}", None),
        ("7", None),
    ] {
        let body = format!(r#"{{"access_token":"fake-a","scope":{stated}}}"#);
        let scopes = scopes.map(|all| all.into_iter().map(str::to_owned).collect());
        assert_eq!(granted(&body).scopes, scopes, "{stated}");
    }
}

#[test]
fn a_success_without_a_token_is_its_error_or_ambiguous() {
    for (body, is) in [
        (r#"{"error":"bad_refresh_token","error_description":"expired"}"#, "dead"),
        (r#"{"ok":false,"error":"invalid_refresh_token"}"#, "dead"),
        ("error=bad_refresh_token&error_description=The+refresh+token", "dead"),
        (r#"{"ok":false,"error":"ratelimited"}"#, "not now ratelimited"),
        (r#"{"error":"incorrect_client_credentials"}"#, "refused incorrect_client_credentials"),
        (r#"{"error":"server_error"}"#, "not now server_error"),
        (r#"{"access_token":null,"error":"access_denied"}"#, "refused access_denied"),
        ("{}", "ambiguous"),
        ("", "ambiguous"),
        ("null", "ambiguous"),
        ("[]", "ambiguous"),
        (r#"{"access_token":""}"#, "ambiguous"),
        (r#"{"token_type":"Bearer","expires_in":3600}"#, "ambiguous"),
        (r#"{"status":"ok"}"#, "ambiguous"),
        (r#"{"status":"success","error":"access_denied"}"#, "refused access_denied"),
        (r#"{"access_token":"fake-cut"#, "ambiguous"),
        ("<html><p>Sign in to the network: ?a=1&access_token=x</p></html>", "ambiguous"),
    ] {
        assert_eq!(kind(&said(200, body)), is, "{body}");
        assert_eq!(kind(&said(201, body)), is, "{body}");
    }
}

#[test]
fn a_success_that_is_incomplete_is_ambiguous() {
    let body = br#"{"access_token":"fake-a","refresh_token":"fake-r"}"#;
    let reply = Reply { from: FROM, status: 200, retry_after: None, body, incomplete: true };
    assert_eq!(kind(&classify(&reply, &[], false)), "ambiguous");
    let reply = Reply { status: 503, ..reply };
    assert_eq!(kind(&classify(&reply, &[], false)), "not now");
}

#[test]
fn a_dead_grant_in_every_providers_words() {
    for (status, body) in [
        (400, r#"{"error":"invalid_grant","error_description":"Token has been revoked."}"#),
        (400, r#"{"error":"INVALID_GRANT"}"#),
        (401, r#"{"error":"invalid_grant"}"#),
        (403, r#"{"error":"unauthorized_client","error_description":"refresh_token is invalid"}"#),
        (400, r#"{"error":"unauthorized_client","error_description":"Unknown refresh token."}"#),
        (
            400,
            r#"{"error":"unauthorized_client","error_description":"Refresh token no longer valid"}"#,
        ),
        (400, r#"{"error":"bad_refresh_token"}"#),
        (400, r#"{"error":"invalid_refresh_token"}"#),
        (400, r#"{"error":"token_revoked"}"#),
        (400, r#"{"error":{"code":"invalid_grant","message":"gone"}}"#),
        (400, r#"{"error":{"type":"invalid_grant"}}"#),
        (400, r#"{"status":"invalid_grant"}"#),
        (400, "error=invalid_grant"),
    ] {
        assert_eq!(kind(&said(status, body)), "dead", "{body}");
    }
    for (status, body, is) in [
        // Salesforce, while another request presents the same token.
        (
            400,
            r#"{"error":"invalid_grant","error_description":"token request is already being processed"}"#,
            "not now invalid_grant",
        ),
        (
            400,
            r#"{"error":"unauthorized_client","error_description":"grant type not allowed"}"#,
            "refused unauthorized_client",
        ),
        // The client may not use the grant type of that name.
        (
            400,
            r#"{"error":"unauthorized_client","error_description":"Client is not authorized to use refresh_token grant type"}"#,
            "refused unauthorized_client",
        ),
        (
            400,
            r#"{"error":"unauthorized_client","error_description":"Invalid grant type refresh_token"}"#,
            "refused unauthorized_client",
        ),
        (
            401,
            r#"{"error":"unauthorized_client","error_description":"refresh_token is not allowed for this client"}"#,
            "refused unauthorized_client",
        ),
        (400, r#"{"error":"invalid_grants"}"#, "refused invalid_grants"),
    ] {
        assert_eq!(kind(&said(status, body)), is, "{body}");
    }
}

#[test]
fn every_other_code_is_handed_on() {
    for (status, body, code) in [
        (400, r#"{"error":"admin_policy_enforced"}"#, "admin_policy_enforced"),
        (
            403,
            r#"{"error":"access_denied","error_description":"Account restricted"}"#,
            "access_denied",
        ),
        (401, r#"{"error":"invalid_client"}"#, "invalid_client"),
        (400, r#"{"error":"invalid_request"}"#, "invalid_request"),
        (400, r#"{"error":"unsupported_grant_type"}"#, "unsupported_grant_type"),
        (400, r#"{"error":{"code":400,"type":"OAuthException"}}"#, "oauthexception"),
        (400, r#"{"error":{"code":403,"status":"PERMISSION_DENIED"}}"#, "permission_denied"),
        (400, r#"{"error":"Bad Request","status":400}"#, "bad_request"),
        (404, r#"{"error":"not_found"}"#, "not_found"),
    ] {
        assert_eq!(kind(&said(status, body)), format!("refused {code}"), "{body}");
    }
    let long = format!(r#"{{"error":"{}"}}"#, "x".repeat(10_000));
    assert_eq!(kind(&said(400, &long)), format!("refused {}", "x".repeat(64)));
}

#[test]
fn what_is_only_not_now() {
    for code in [
        "temporarily_unavailable",
        "server_error",
        "slow_down",
        "rate_limit_exceeded",
        "ratelimited",
        "internal_failure",
        "internal_error",
        "unknown_error",
        "Temporarily_Unavailable",
    ] {
        let body = format!(r#"{{"error":"{code}"}}"#);
        let is = format!("not now {}", code.to_lowercase());
        assert_eq!(kind(&said(400, &body)), is, "{code}");
        assert_eq!(kind(&said(503, &body)), is, "{code}");
    }
    let page = "<html><title>Sorry...</title>We're sorry, but your computer may be …</html>";
    for (status, body, is) in [
        (429, "", "not now"),
        (429, r#"{"error":"invalid_request"}"#, "not now invalid_request"),
        (503, page, "not now"),
        (403, page, "not now"),
        (400, page, "not now"),
        (401, "", "not now"),
        (404, page, "not now"),
        (400, r#"{"error":7}"#, "not now"),
        (400, r#"{"error":""}"#, "not now"),
        (400, r#"{"error":{"code":400,"message":"x"}}"#, "not now"),
    ] {
        assert_eq!(kind(&said(status, body)), is, "{status} {body}");
    }
}

#[test]
fn a_wait_that_was_asked_for_is_handed_on() {
    let wait = Some(Duration::from_secs(60));
    let reply = Reply { from: FROM, status: 429, retry_after: wait, body: b"", incomplete: false };
    for status in [429, 503, 403] {
        let error = classify(&Reply { status, ..reply }, &[], false).unwrap_err();
        assert!(
            matches!(error, EndpointError::NotNow { retry_after, .. } if retry_after == wait),
            "{status}"
        );
    }
}

#[test]
fn redirects_are_not_reached_and_lost_answers_ambiguous() {
    for status in [300, 301, 302, 303, 307, 308] {
        assert_eq!(kind(&said(status, "")), "not reached", "{status}");
    }
    for status in [408, 500, 501, 502, 505, 520, 522, 599, 600, 99] {
        assert_eq!(kind(&said(status, "<html>")), "ambiguous", "{status}");
    }
    for status in [504, 524] {
        assert_eq!(kind(&said(status, "<html>")), "ambiguous, late", "{status}");
    }
    // Where it went wrong is not said, so the work may have been done.
    assert_eq!(kind(&said(500, r#"{"error":"server_error"}"#)), "ambiguous");
    assert_eq!(kind(&said(500, r#"{"error":"invalid_client"}"#)), "ambiguous");
    assert_eq!(kind(&said(502, r#"{"error":"slow_down"}"#)), "not now slow_down");
}

#[test]
fn no_text_holds_a_secret_or_forges_a_line() {
    let quoted = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("refresh_token", REFRESH)
        .append_pair("client_secret", CLIENT_SECRET)
        .finish();
    for status in [200, 400, 401, 403, 429, 500, 503, 504] {
        for error in ["invalid_grant", "access_denied", "server_error", REFRESH, CLIENT_SECRET] {
            for text in [&quoted, REFRESH, "a\r\nfake: line\u{202e}"] {
                let body = serde_json::json!({
                    "error": error, "error_description": text, "error_subtype": text,
                });
                let told = format!("{:?}", said(status, &body.to_string()).unwrap_err());
                for secret in ["fake-refresh", "fake-client"] {
                    assert!(!told.contains(secret), "{told}");
                }
                assert!(!told.contains("\\r") && !told.contains("\\u{202e}"), "{told}");
            }
        }
    }
    let long = format!(r#"{{"error":"x","error_description":"{}"}}"#, "word ".repeat(100_000));
    assert!(said(400, &long).unwrap_err().to_string().len() < 500);
}

#[test]
fn a_refusal_says_who_said_what() {
    let body =
        r#"{"error":"invalid_client","error_description":"The OAuth client was not found."}"#;
    assert_eq!(
        said(401, body).unwrap_err().to_string(),
        "https://provider.test/token answered with HTTP status 401 \
         (invalid_client: The OAuth client was not found.)"
    );
    let rapt = r#"{"error":"invalid_grant","error_description":"reauth related error (invalid_rapt)",
        "error_subtype":"invalid_rapt"}"#;
    let Err(EndpointError::InvalidGrant(said)) = said(400, rapt) else { panic!("{rapt}") };
    assert_eq!(crate::Reason::of_ended_grant(&said), crate::Reason::SessionExpired);
}

#[test]
fn a_revocation_is_over_when_the_standard_says_so() {
    let revoked = |status, body: &str| {
        let body = body.as_bytes();
        let reply = Reply { from: FROM, status, retry_after: None, body, incomplete: false };
        classify_revocation(&reply, &[])
    };
    for body in ["", "{}", "<html>", "ok", r#"{"status":"success"}"#] {
        assert_eq!(revoked(200, body), Ok(Revocation::Revoked), "{body}");
    }
    for code in ["invalid_token", "invalid_grant", "token_revoked", "INVALID_TOKEN"] {
        let body = format!(r#"{{"error":"{code}"}}"#);
        assert_eq!(revoked(400, &body), Ok(Revocation::AlreadyInvalid), "{code}");
    }
    for (status, body) in [
        (400, r#"{"error":"unsupported_token_type"}"#),
        (400, r#"{"error":"invalid_client"}"#),
        (400, r#"{"error":"invalid_request"}"#),
        (400, "<html>Bad gateway</html>"),
        (400, ""),
        (200, r#"{"ok":false,"error":"token_expired_or_so"}"#),
        (401, r#"{"error":"invalid_client"}"#),
        (401, r#"{"error":"invalid_grant"}"#),
        (401, r#"{"error":"invalid_token"}"#),
        (302, ""),
        (403, "<html>"),
        (404, ""),
        (429, ""),
        (500, ""),
        (503, r#"{"error":"temporarily_unavailable"}"#),
        (504, ""),
    ] {
        assert!(revoked(status, body).is_err(), "{status} {body}");
    }
}

/// What providers and proxies put together, and anything else.
fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let pieces = vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\\u00",
        "\\ud800",
        "\u{feff}",
        "null",
        "1e400",
        "-1",
        "\"access_token\":",
        "\"refresh_token\":",
        "\"expires_in\":",
        "\"scope\":",
        "\"error\":\"invalid_grant\"",
        "\"error\":{\"code\":",
        "\"error_description\":\"",
        "access_token=",
        "&",
        "%zz",
        "<html>",
        REFRESH,
        CLIENT_SECRET,
    ];
    let piece = prop_oneof![
        3 => proptest::sample::select(pieces).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    /// Whatever an endpoint answers means something, and tells nobody what was sent.
    #[test]
    fn any_answer_is_classified_and_tells_no_secret(status in 100_u16..600, body in any_body()) {
        let (refresh, client) = (Secret::new(REFRESH), Secret::new(CLIENT_SECRET));
        let reply =
            Reply { from: FROM, status, retry_after: None, body: &body, incomplete: false };
        let mut errors = Vec::new();
        match classify(&reply, &[&refresh, &client], false) {
            Ok(Granted { answer, left_out, .. }) => {
                let tokens: Vec<_> =
                    answer.access_token.iter().chain(&answer.refresh_token).collect();
                prop_assert!((200..300).contains(&status));
                prop_assert!(left_out.is_some() || !tokens.is_empty());
                prop_assert!(tokens.iter().all(|token| !token.expose().is_empty()));
                let life = answer.expires_in.unwrap_or_default();
                prop_assert!(life <= Duration::from_secs(24 * 3600), "{life:?}");
            }
            Err(error) => errors.push(error),
        }
        errors.extend(classify_revocation(&reply, &[&refresh, &client]).err());
        for error in errors {
            let told = format!("{error} {error:?}");
            prop_assert!(!told.contains(REFRESH) && !told.contains(CLIENT_SECRET), "{told}");
        }
    }
}

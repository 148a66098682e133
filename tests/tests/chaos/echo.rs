//! Servers that quote what they were sent, tokens and client secret included, in every answer
//! that is no success.

use emulators::faults::{Answer, Fault};
use emulators::google::Operation;
use http::StatusCode;

/// The token endpoint refuses users whose names begin so for good.
pub(crate) const REFUSED: &str = "refused-";
/// How many there are.
pub(crate) const REFUSED_USERS: usize = 5;

/// A word of the token endpoint, with the request in whatever else it says.
fn complaint(status: StatusCode, code: &str) -> Answer {
    let body = format!(
        r#"{{"error":"{code}","error_subtype":"{{refresh_token}}","error_description":"{{sent}} with {{client_secret}}","error_uri":"https://mirror.example/{{refresh_token}}?{{sent}}"}}"#
    );
    Answer::new(status, body)
        .header("content-type", "application/json")
        .header("www-authenticate", "Basic realm=\"{client_secret}\"")
        .header("x-sent", "{sent}")
}

/// Nothing is done for the next requests.
pub(crate) fn endpoint_burst() -> Fault<Operation> {
    let answer = complaint(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable");
    Fault::answer(answer).on(Operation::Token).times(40)
}

/// Their administrator does not allow it.
pub(crate) fn endpoint_refusal() -> Fault<Operation> {
    let answer = complaint(StatusCode::BAD_REQUEST, "admin_policy_enforced");
    Fault::answer(answer).on(Operation::Token).under(REFUSED)
}

/// The APIs ask to come again in a second.
pub(crate) fn api_burst() -> Fault<Operation> {
    let body = r#"{"error":{"code":503,"message":"{sent}","status":"{authorization}","errors":[{"reason":"{authorization}","message":"{sent}"}]}}"#;
    let answer = Answer::new(StatusCode::SERVICE_UNAVAILABLE, body)
        .header("content-type", "application/json")
        .header("retry-after", "1")
        .header("location", "https://mirror.example/?{authorization}")
        .header("www-authenticate", "{authorization}");
    Fault::answer(answer).on(Operation::Api).times(20)
}

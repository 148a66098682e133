//! One request with the user's token, redirects followed.

use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Response, StatusCode};
use url::Url;

use crate::json::Json;
use crate::kinds::response::{IDLE, refusal, result};
use crate::outcome::Verdict;
use crate::session::Session;

use super::call::Call;
use super::limits::{HEADERS, REDIRECTS};
use super::reject;

/// The 2xx answer to `call` at `url`, which `name` names in what is said of it, with these of
/// the job's `headers`; every other answer as its verdict. Refusals that are expected are done.
///
/// A redirect is followed where it cannot change what is done: any for GET and
/// HEAD, and 307 and 308, which keep method and body, for all methods. Each hop
/// is checked by the session; a host that may have the token may also have the headers
/// and the body that the job sends with it, so nothing is dropped on the way
/// from one allowed host to another.
pub(super) async fn send(
    session: &Session<'_>,
    call: &Call,
    url: &Url,
    name: &str,
    headers: &HeaderMap,
    expect: &[u16],
) -> Result<Response, Verdict> {
    let (mut url, mut name) = (url.clone(), name);
    let mut status = None;
    for _ in 0..=REDIRECTS {
        let request = session
            .request(call.method.clone(), url.as_str())
            .map_err(|why| reject(format!("{name}: {why}"), status))?;
        let request = if call.repeatable { request.idempotent() } else { request };
        let mut request = request
            .headers(headers.clone())
            .header(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        if let Some(body) = &call.body {
            request = request.body(body.clone());
        }
        // A limit of the job's own holds for the whole job, this call included.
        let request = if call.timeout.is_some() { request } else { request.within(HEADERS) };
        let response = request.send().await.map_err(|error| Verdict::of_call_error(&error))?;
        if !follows(call, response.status()) {
            return answer(response, expect).await;
        }
        status = Some(response.status().as_u16());
        url = target(&url, &response)
            .ok_or_else(|| reject("the API redirects to nowhere".to_owned(), status))?;
        name = "the API redirects to where it may not";
    }
    Err(reject(format!("more than {REDIRECTS} redirects"), status))
}

fn follows(call: &Call, status: StatusCode) -> bool {
    match status.as_u16() {
        301..=303 => call.method.is_safe(),
        307 | 308 => true,
        _ => false,
    }
}

/// Where a redirect leads. Its fragment is for whoever shows a page.
fn target(from: &Url, response: &Response) -> Option<Url> {
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    let mut target = from.join(location).ok()?;
    target.set_fragment(None);
    Some(target)
}

/// Tells a 2xx from the rest.
async fn answer(response: Response, expect: &[u16]) -> Result<Response, Verdict> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    if expect.contains(&status.as_u16()) {
        return Err(expected(response).await);
    }
    Err(refusal(response, IDLE).await)
}

/// The end of a job whose call was refused as it expected; what the API said is its result.
async fn expected(response: Response) -> Verdict {
    let http_status = Some(response.status().as_u16());
    let (result, warning) = match result(response).await {
        Ok(result) => (result, None),
        Err(unusable) => {
            (Json::null(), Some(format!("the API refused as expected, but {unusable}")))
        }
    };
    Verdict::Done { http_status, result, warning }
}

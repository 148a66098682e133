//! The kind `profile`: the user's profile as the provider tells it.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use reqwest::{Method, Response};
use serde::Deserialize;
use shared::profile::LIMIT;
use url::Url;

use crate::handler::Handler;
use crate::job::Job;
use crate::json::Json;
use crate::outcome::Verdict;
use crate::session::Session;

use super::body::{Body, Ended};
use super::response::{by_session_alone, refusal};

/// A profile is small; more than this is not one.
const MAX_PROFILE_BYTES: usize = 256 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParams {}

/// Fetches the profile from the operator's userinfo endpoint.
#[derive(Debug)]
pub struct ProfileHandler {
    /// Read once: it is the same for every job.
    url: Result<Url, url::ParseError>,
}

impl ProfileHandler {
    /// A handler that asks `userinfo_url`.
    pub fn new(userinfo_url: &str) -> Self {
        Self { url: Url::parse(userinfo_url) }
    }

    async fn fetch(&self, session: &Session<'_>) -> Verdict {
        let url = match &self.url {
            Ok(url) => url,
            Err(error) => {
                return Verdict::retry(format!("the userinfo endpoint is not a URL: {error}"));
            }
        };
        match session.request_trusted(Method::GET, url).within(LIMIT).send().await {
            Ok(response) => read(response).await,
            Err(error) => Verdict::retry(format!("the userinfo endpoint gave no answer: {error}")),
        }
    }
}

/// Reads the endpoint's answer, which may be asked for again.
async fn read(response: Response) -> Verdict {
    if !response.status().is_success() {
        return match refusal(response, LIMIT).await {
            // The userinfo endpoint needs `openid` or `profile`.
            Verdict::Reject { http_status: Some(403), .. } => {
                Verdict::MissingScopes { scopes: vec!["openid".to_owned()] }
            }
            other => other,
        };
    }
    let http_status = Some(response.status().as_u16());
    let (body, ended) = match Body::new(response, LIMIT) {
        Ok(body) => body.read(MAX_PROFILE_BYTES).await,
        Err(broken) => (Vec::new(), Ended::Broken(broken)),
    };
    let why = match ended {
        Ended::Whole => match Json::parse(&body) {
            Ok(result) if result.is_object() => {
                return Verdict::Done { http_status, result, warning: None };
            }
            _ => "gave an answer that is no JSON object".to_owned(),
        },
        Ended::TooLarge => "gave an answer that is too large".to_owned(),
        Ended::Broken(broken) => format!("gave no whole answer: {broken}"),
    };
    Verdict::Retry { why: format!("the userinfo endpoint {why}"), http_status, after: None }
}

impl Handler for ProfileHandler {
    fn handle<'a>(&'a self, job: &'a Job, session: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
        async move {
            if job.params.read::<NoParams>().is_err() {
                let reason = "kind `profile` takes no parameters";
                return by_session_alone(Verdict::reject(reason));
            }
            by_session_alone(self.fetch(session).await)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::session::stand::{carrier, raw};
    use crate::telemetry::prometheus::recorder;

    /// What became of a job whose endpoint answers with these bytes, or not at all.
    async fn profile(answer: Option<&str>) -> Verdict {
        let (origin, _requests) = raw(answer.map(|answer| answer.as_bytes().to_vec())).await;
        let (carrier, credentials) = carrier(&origin).await;
        let session = Session::new(&carrier, credentials);
        let job = Job::decode(br#"{"user": "ann", "kind": "profile"}"#, "j").unwrap();
        let handler = ProfileHandler::new(&format!("{origin}/userinfo"));
        handler.handle(&job, &session).await.into_parts().0
    }

    #[tokio::test]
    async fn answers_of_the_endpoint() {
        let of = |status: &str, body: &str| {
            format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        };
        let done = Verdict::Done {
            http_status: Some(200),
            result: json!({"sub": "ann"}).into(),
            warning: None,
        };
        assert_eq!(profile(Some(&of("200", r#" {"sub":"ann"}"#))).await, done);
        let openid = Verdict::MissingScopes { scopes: vec!["openid".to_owned()] };
        assert_eq!(profile(Some(&of("403", ""))).await, openid);
        assert_eq!(profile(Some(&of("401", ""))).await, Verdict::Unauthorized);
        for (answer, says) in [
            (of("200", "[]"), "no JSON object"),
            (of("200", &" ".repeat(MAX_PROFILE_BYTES + 1)), "too large"),
            ("HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\n{".to_owned(), "cut off"),
            (of("503", ""), "HTTP status 503"),
            (String::new(), "the connection to the API failed"),
        ] {
            let verdict = profile(Some(&answer)).await;
            let Verdict::Retry { why, .. } = &verdict else { panic!("{verdict:?}") };
            assert!(why.contains(says), "{why}");
        }
    }

    /// Time passes as soon as everything waits.
    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_says_nothing_is_given_up() {
        let recorder = recorder();
        let counting = ::metrics::set_default_local_recorder(&recorder);
        let start = tokio::time::Instant::now();
        let verdict = profile(None).await;
        let Verdict::Retry { why, .. } = verdict else { panic!("{verdict:?}") };
        assert!(why.ends_with("did not answer within 15s"), "{why}");
        assert_eq!(start.elapsed().as_secs(), 15);
        drop(counting);
        let text = recorder.handle().render();
        // No host has a label of its own before it has answered.
        let line = "fleet_api_requests_total{host=\"other\",code=\"error\"} 1\n";
        assert!(text.contains(line), "{text}");
    }
}

//! How subscriptions stand: what Cloud Monitoring knows of them. Pub/Sub itself does not tell.

use std::fmt;
use std::time::Duration;

use google_cloud_auth::credentials::{Builder, CacheableResource, Credentials, anonymous};
use http::{Extensions, HeaderMap, StatusCode};
use jiff::{SignedDuration, Timestamp};
use reqwest::Response;
use serde::{Deserialize, Serialize};

use shared::innermost;

const GOOGLE: &str = "https://monitoring.googleapis.com";
/// Bound on one request, its credentials included.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Figures come two or three minutes late; older ones than this say nothing about now.
const WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// No answer with one point is larger.
const LARGEST: usize = 64 * 1024;

const MESSAGES: &str = "num_undelivered_messages";
const OLDEST: &str = "oldest_unacked_message_age";

/// How a subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Backlog {
    /// Messages that are not acknowledged.
    pub(crate) messages: u64,
    /// Age of the oldest of them, in seconds.
    pub(crate) oldest_seconds: u64,
}

/// Asks Cloud Monitoring, or a Pub/Sub emulator that answers in its place.
pub(crate) struct Backlogs {
    http: reqwest::Client,
    credentials: Credentials,
    root: String,
    is_emulated: bool,
}

impl Backlogs {
    /// With Application Default Credentials, or without any at the Pub/Sub emulator at this
    /// `host:port`. Sends nothing yet.
    ///
    /// # Errors
    /// A text that says what is wrong with the credentials.
    pub(crate) fn new(http: reqwest::Client, emulator: Option<&str>) -> Result<Self, String> {
        let credentials = match emulator {
            Some(_) => anonymous::Builder::new().build(),
            None => Builder::default().build().map_err(|error| {
                format!(
                    "there are no Application Default Credentials for Cloud Monitoring: {error}"
                )
            })?,
        };
        let root = emulator.map_or_else(|| GOOGLE.to_owned(), |host| format!("http://{host}"));
        Ok(Self { http, credentials, root, is_emulated: emulator.is_some() })
    }

    /// How the subscription of this full name stands at `now`. Ends within [`TIME_LIMIT`].
    ///
    /// # Errors
    /// A text that says why it is not known, and what to do.
    pub(crate) async fn of(&self, subscription: &str, now: Timestamp) -> Result<Backlog, String> {
        let both = async {
            tokio::join!(
                self.latest(subscription, MESSAGES, now),
                self.latest(subscription, OLDEST, now)
            )
        };
        let (messages, oldest_seconds) = tokio::time::timeout(TIME_LIMIT, both)
            .await
            .map_err(|_| format!("{} does not answer within {TIME_LIMIT:?}", self.service()))?;
        Ok(Backlog { messages: messages?, oldest_seconds: oldest_seconds? })
    }

    fn service(&self) -> &'static str {
        if self.is_emulated { "the Pub/Sub emulator" } else { "Cloud Monitoring" }
    }

    /// The newest point of a figure.
    async fn latest(
        &self,
        subscription: &str,
        figure: &str,
        now: Timestamp,
    ) -> Result<u64, String> {
        let (project, id) = subscription
            .strip_prefix("projects/")
            .and_then(|name| name.split_once("/subscriptions/"))
            .ok_or_else(|| format!("{subscription} is no subscription's full name"))?;
        let headers = self.headers().await?;
        let filter = format!(
            "metric.type = \"pubsub.googleapis.com/subscription/{figure}\" AND resource.labels.subscription_id = \"{id}\""
        );
        let from = now.checked_sub(WINDOW).unwrap_or(now);
        let request = self.http.get(format!("{}/v3/projects/{project}/timeSeries", self.root));
        let request = request.headers(headers).query(&[
            ("filter", filter),
            ("interval.startTime", format!("{from:.0}")),
            ("interval.endTime", format!("{now:.0}")),
            ("pageSize", "1".to_owned()),
        ]);
        let answer = request.send().await.map_err(|error| self.unreachable(error))?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(format!(
                    "this account may not read Cloud Monitoring: grant it roles/monitoring.viewer in project {project}"
                ));
            }
            StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED if self.is_emulated => {
                return Err("this Pub/Sub emulator cannot tell".to_owned());
            }
            status => return Err(format!("{} answers with HTTP status {status}", self.service())),
        }
        let found: Found = self.read(answer).await?;
        let point = found.series.into_iter().flat_map(|series| series.points).next();
        let value = point.and_then(|point| point.value.int64.parse().ok());
        value.ok_or_else(|| {
            format!("{} knows no subscription {id} of project {project}", self.service())
        })
    }

    async fn headers(&self) -> Result<HeaderMap, String> {
        match self.credentials.headers(Extensions::new()).await {
            Ok(CacheableResource::New { data, .. }) => Ok(data),
            Ok(CacheableResource::NotModified) => Ok(HeaderMap::new()),
            Err(error) => Err(format!("no access token for Cloud Monitoring can be had: {error}")),
        }
    }

    async fn read(&self, mut answer: Response) -> Result<Found, String> {
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.unreachable(error))? {
            if body.len() + chunk.len() > LARGEST {
                return Err(format!("the answer of {} is too large", self.service()));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body)
            .map_err(|_| format!("the answer of {} is not understood", self.service()))
    }

    fn unreachable(&self, error: reqwest::Error) -> String {
        let error = error.without_url();
        format!("{} cannot be reached: {}", self.service(), innermost(&error))
    }
}

impl fmt::Debug for Backlogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backlogs").field("root", &self.root).finish_non_exhaustive()
    }
}

/// The part of the answer that is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Found {
    #[serde(rename = "timeSeries")]
    series: Vec<Series>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Series {
    /// The newest first.
    points: Vec<Point>,
}

#[derive(Debug, Deserialize)]
struct Point {
    value: PointValue,
}

#[derive(Debug, Deserialize)]
struct PointValue {
    #[serde(rename = "int64Value")]
    int64: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::stand::raw;

    const NAME: &str = "projects/p/subscriptions/jobs-workers";

    fn answer(status: &str, body: &str) -> Vec<u8> {
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }

    async fn asked(answers: [Vec<u8>; 2], is_emulated: bool) -> Result<Backlog, String> {
        let (root, _requests) = raw(answers).await;
        let http = shared::adapters::http_client("test").unwrap();
        let credentials = anonymous::Builder::new().build();
        let now = "2026-01-31T12:00:00Z".parse().unwrap();
        Backlogs { http, credentials, root, is_emulated }.of(NAME, now).await
    }

    #[tokio::test]
    async fn the_newest_points_are_told() {
        let series = r#"{"timeSeries":[{"points":[{"value":{"int64Value":"7"}},{"value":{"int64Value":"9"}}]}]}"#;
        let backlog = asked([answer("200 OK", series), answer("200 OK", series)], false).await;
        assert_eq!(backlog, Ok(Backlog { messages: 7, oldest_seconds: 7 }));
    }

    #[tokio::test]
    async fn what_is_not_known_says_why() {
        for (status, body, is_emulated, says) in [
            ("403 Forbidden", "{}", false, "grant it roles/monitoring.viewer in project p"),
            ("404 Not Found", "", true, "this Pub/Sub emulator cannot tell"),
            ("404 Not Found", "", false, "Cloud Monitoring answers with HTTP status 404"),
            ("200 OK", "{}", false, "knows no subscription jobs-workers of project p"),
            ("200 OK", "[", false, "is not understood"),
        ] {
            let told = asked([answer(status, body), answer(status, body)], is_emulated).await;
            let told = told.unwrap_err();
            assert!(told.contains(says), "{status} {body}: {told}");
        }
        let http = shared::adapters::http_client("test").unwrap();
        let nobody = Backlogs::new(http, Some("127.0.0.1:1")).unwrap();
        let told = nobody.of(NAME, Timestamp::UNIX_EPOCH).await.unwrap_err();
        assert!(told.starts_with("the Pub/Sub emulator cannot be reached: "), "{told}");
    }
}

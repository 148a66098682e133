//! The kind `profile`: the user's profile as the provider tells it.

use std::pin::pin;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use shared::profile::{LIMIT, ProfileError, fetch_profile};
use url::Url;

use crate::handler::Handler;
use crate::job::Job;
use crate::outcome::Verdict;
use crate::session::Session;

use super::answer::judge;

/// Fetches the profile from the operator's userinfo endpoint.
#[derive(Debug)]
pub struct ProfileHandler {
    http: reqwest::Client,
    /// Read once: it is the same for every job.
    url: Result<Url, url::ParseError>,
}

impl ProfileHandler {
    /// A handler that asks `userinfo_url`.
    pub fn new(http: reqwest::Client, userinfo_url: &str) -> Self {
        Self { http, url: Url::parse(userinfo_url) }
    }
}

impl ProfileHandler {
    async fn fetch<T: DeserializeOwned>(
        &self,
        url: &Url,
        session: &Session<'_>,
    ) -> Result<T, ProfileError> {
        // Pinned, here and below: whoever is handed a future has room for it twice.
        let fetch = pin!(fetch_profile(&self.http, url.clone(), session.credentials()));
        let fetch = pin!(async {
            let ended = tokio::time::timeout(LIMIT, fetch).await;
            ended.unwrap_or_else(|_late| Err(ProfileError::in_no_time()))
        });
        let status = |fetched: &Result<T, ProfileError>| match fetched {
            Ok(_) => Some(200),
            Err(ProfileError::Status { status, .. }) => Some(*status),
            Err(ProfileError::Credentials(_) | ProfileError::NoAnswer(_)) => None,
        };
        let host = url.host_str().unwrap_or_default();
        session.observer().observe(&Method::GET, host, fetch, status).await
    }
}

impl Handler for ProfileHandler {
    fn handle<'a>(&'a self, job: &'a Job, session: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
        async move {
            if let Some(name) = job.params.keys().next() {
                let name: String = name.chars().take(64).collect();
                return Verdict::Reject {
                    reason: format!("kind `profile` takes no parameters, and got {name:?}"),
                    detail: None,
                    http_status: None,
                };
            }
            let url = match &self.url {
                Ok(url) => url,
                Err(error) => {
                    let why = format!("the userinfo endpoint is not a URL: {error}");
                    return Verdict::Retry { why, http_status: None, after: None };
                }
            };
            let fetched = self.fetch::<Map<String, Value>>(url, session).await;
            match fetched {
                Ok(profile) => Verdict::Done {
                    http_status: Some(200),
                    result: Value::Object(profile),
                    warning: None,
                },
                Err(ProfileError::Status { status, retry_after }) => {
                    match judge(status, &reqwest::header::HeaderMap::new(), b"") {
                        Verdict::Retry { why, http_status, .. } => {
                            Verdict::Retry { why, http_status, after: retry_after }
                        }
                        // The userinfo endpoint needs `openid` or `profile`.
                        Verdict::Reject { http_status: Some(403), .. } => {
                            Verdict::MissingScopes { scopes: vec!["openid".to_owned()] }
                        }
                        other => other,
                    }
                }
                Err(error) => {
                    Verdict::Retry { why: error.to_string(), http_status: None, after: None }
                }
            }
        }
        .boxed()
    }
}

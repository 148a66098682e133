//! The kind `profile`: the user's profile as the provider tells it.

use std::fmt;
use std::pin::pin;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use reqwest::Method;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
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
            let ended = session.within(LIMIT, fetch).await;
            ended.unwrap_or_else(|| Err(ProfileError::in_no_time()))
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

/// A JSON object that is read to see that it is one.
struct AnyObject;

impl<'de> Deserialize<'de> for AnyObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = AnyObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<AnyObject, A::Error> {
                while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(AnyObject)
            }
        }

        deserializer.deserialize_map(Members)
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
            let fetched = if session.tells_result() {
                self.fetch::<Map<String, Value>>(url, session).await.map(Value::Object)
            } else {
                self.fetch::<AnyObject>(url, session).await.map(|_read| Value::Null)
            };
            match fetched {
                Ok(result) => Verdict::Done { http_status: Some(200), result },
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a method's future holds.
    fn size<'a, F: Future>(
        _: impl FnOnce(&'a ProfileHandler, &'a Url, &'a Session<'a>) -> F,
    ) -> usize {
        size_of::<F>()
    }

    /// One is made, moved and freed for every job.
    #[test]
    fn the_future_of_a_profile_is_small() {
        let bytes = size(ProfileHandler::fetch::<AnyObject>);
        assert!(bytes <= 1000, "{bytes} bytes; pin what is handed on");
    }
}

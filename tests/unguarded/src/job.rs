//! A job, as Fleet's publishers write it.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::Error;

/// The part of a job message that this worker understands.
#[derive(Debug, Deserialize)]
pub(crate) struct Job {
    pub(crate) user: String,
    kind: String,
    #[serde(default)]
    params: Params,
}

#[derive(Debug, Default, Deserialize)]
struct Params {
    method: Option<String>,
    url: Option<url::Url>,
    #[serde(default)]
    headers: HashMap<String, String>,
    body: Option<Value>,
}

impl Job {
    pub(crate) fn read(data: &[u8]) -> Result<Self, Error> {
        // The parser's text may quote the message.
        serde_json::from_slice(data)
            .map_err(|e| Error::Malformed(format!("line {}, column {}", e.line(), e.column())))
    }

    /// The call that the job asks for, if it asks for one. Its path and query alone
    /// matter: `root` is where every API is.
    pub(crate) fn call(
        &self,
        http: &reqwest::Client,
        root: &url::Url,
    ) -> Result<Option<reqwest::RequestBuilder>, Error> {
        let mut target = root.clone();
        match (self.kind.as_str(), &self.params.url) {
            ("profile", _) => target.set_path("/v1/userinfo"),
            ("api", Some(url)) => {
                target.set_path(url.path());
                target.set_query(url.query());
            }
            ("token", _) => return Ok(None),
            _ => return Err(Error::Malformed("a kind that is not known here".to_owned())),
        }
        let method = self.params.method.as_deref().unwrap_or("GET");
        let method = method
            .parse()
            .map_err(|_| Error::Malformed("a method that HTTP does not have".to_owned()))?;
        let mut call = http.request(method, target);
        for (name, value) in &self.params.headers {
            call = call.header(name, value);
        }
        if let Some(body) = &self.params.body {
            call = call.json(body);
        }
        Ok(Some(call))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_to_the_root_whatever_the_host() {
        let job = Job::read(
            br#"{"id": "1", "user": "ann", "kind": "api", "params": {"method": "POST",
                "url": "https://tasks.googleapis.com/tasks/v1/x?a=b", "headers": {"x-effect-id": "1"}, "body": {}}}"#,
        )
        .unwrap();
        let root = "http://127.0.0.1:1".parse().unwrap();
        let http = reqwest::Client::new();
        let call = job.call(&http, &root).unwrap().unwrap().build().unwrap();
        assert_eq!(call.url().as_str(), "http://127.0.0.1:1/tasks/v1/x?a=b");
        assert_eq!(
            (call.method().as_str(), &call.headers()["x-effect-id"]),
            ("POST", &"1".parse().unwrap())
        );
        let profile = Job::read(br#"{"user": "ann", "kind": "profile"}"#).unwrap();
        let call = profile.call(&http, &root).unwrap().unwrap().build().unwrap();
        assert_eq!(call.url().path(), "/v1/userinfo");
        assert!(Job::read(br#"{"user": "ann"}"#).is_err());
    }
}

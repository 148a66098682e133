//! Reading an API's answer into a verdict.

use reqwest::Response;
use serde_json::Value;

use crate::outcome::Verdict;

use super::answer::judge;
use super::api::MAX_INLINE_BYTES;

impl Verdict {
    /// What an API's whole answer means, as for kind `api`: a 2xx with JSON or text
    /// of up to 64 KiB is [`Verdict::Done`] with it; what else it means is decided
    /// by status, Google's `reason` and `Retry-After`.
    pub async fn of_response(mut response: Response) -> Self {
        let status = response.status();
        let http_status = Some(status.as_u16());
        let mut body = Vec::new();
        // A failure is judged by what was read of it.
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_INLINE_BYTES {
                break;
            }
        }
        if !status.is_success() {
            return judge(status.as_u16(), response.headers(), &body);
        }
        let result = if body.len() > MAX_INLINE_BYTES {
            // It is done, and too large to be told about.
            Value::Null
        } else {
            serde_json::from_slice(&body).unwrap_or_else(|_| match String::from_utf8(body) {
                Ok(text) if !text.is_empty() => Value::String(text),
                _ => Value::Null,
            })
        };
        Self::Done { http_status, result, warning: None }
    }
}

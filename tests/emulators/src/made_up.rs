//! Answers that a test makes up, byte by byte.

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

/// An answer that a test makes up.
#[derive(Clone, Debug)]
pub struct Answer {
    pub(crate) status: StatusCode,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    pub(crate) after: Duration,
    pub(crate) carried_out: bool,
}

impl Answer {
    /// This status with this body, at once, without doing anything. At the identity provider and
    /// the APIs `{NAME}` in the body or in a header stands for what the request said, as servers
    /// quote it that have something to complain about: a field of its form, its `authorization`,
    /// or all of it (`{sent}`).
    pub fn new(status: StatusCode, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            after: Duration::ZERO,
            carried_out: false,
        }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// So much after the request arrived.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.after = delay;
        self
    }

    /// After the request was carried out. `{NAME}` stands for the text field NAME of the real
    /// answer then, as in `{"access_token":"{access_token}","expires_in":"60"}`.
    /// A request that is refused anyhow gets its refusal, and the fault waits for the next.
    #[must_use]
    pub fn carried_out(mut self) -> Self {
        self.carried_out = true;
        self
    }

    /// The answer, with these texts in their places.
    pub(crate) fn response(&self, texts: &serde_json::Value) -> http::Response<Vec<u8>> {
        let filled = |text: &[u8]| {
            let texts = texts.as_object().into_iter().flatten();
            texts.fold(text.to_vec(), |text, (name, value)| match value.as_str() {
                Some(value) => replaced(&text, format!("{{{name}}}").as_bytes(), value.as_bytes()),
                None => text,
            })
        };
        let mut response = http::Response::new(filled(&self.body));
        *response.status_mut() = self.status;
        for (name, value) in &self.headers {
            let value = HeaderValue::from_bytes(&filled(value.as_bytes()));
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), value) {
                response.headers_mut().append(name, value);
            }
        }
        response
    }
}

/// `text` with `new` for every `old`. A body need not be a text.
fn replaced(text: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut result = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(old.len()).position(|window| window == old) {
        result.extend_from_slice(&rest[..at]);
        result.extend_from_slice(new);
        rest = &rest[at + old.len()..];
    }
    result.extend_from_slice(rest);
    result
}

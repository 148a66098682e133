//! What a test has done with a request.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::wire;

/// Makes an answer of the emulator's status and JSON.
type Edit = dyn Fn(u16, &Value) -> Vec<u8> + Send + Sync;

/// What a client is answered.
#[derive(Clone)]
pub(super) enum Reply {
    /// What the emulator answers.
    Honest,
    /// What this makes of the emulator's answer.
    Edited(Arc<Edit>),
    /// These bytes; the connection is closed after them.
    Raw(Arc<[u8]>),
    /// Nothing; the connection is closed.
    Cut,
}

/// What happens to one request.
#[derive(Clone)]
pub struct Manner {
    /// The emulator carries it out when it arrives.
    pub(super) work: bool,
    pub(super) pause: Duration,
    pub(super) reply: Reply,
}

impl Manner {
    /// It is carried out and answered.
    pub fn honest() -> Self {
        Self { work: true, pause: Duration::ZERO, reply: Reply::Honest }
    }

    /// It is carried out, and the connection closed without an answer.
    pub fn lost() -> Self {
        Self { reply: Reply::Cut, ..Self::honest() }
    }

    /// It is not carried out, and the connection closed without an answer.
    pub fn dead() -> Self {
        Self { work: false, ..Self::lost() }
    }

    /// It is not carried out, and this is the answer: status, headers and body.
    pub fn refused(status: u16, headers: &[(&str, &str)], body: &str) -> Self {
        let bytes = wire::answer(status, headers, body.as_bytes());
        Self { work: false, ..Self::raw(bytes) }
    }

    /// It is not carried out and refused with an OAuth error.
    pub fn error(status: u16, code: &str, description: &str) -> Self {
        let body = serde_json::json!({"error": code, "error_description": description});
        Self::refused(status, &[JSON], &body.to_string())
    }

    /// It is carried out and answered with these bytes, whatever they are.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { reply: Reply::Raw(bytes.into().into()), ..Self::honest() }
    }

    /// It is carried out and answered with the bytes that are made of the emulator's status
    /// and JSON; see [`answer`].
    pub fn edited(edit: impl Fn(u16, &Value) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self { reply: Reply::Edited(Arc::new(edit)), ..Self::honest() }
    }

    /// The same, so much after the request arrived; its work is done before.
    #[must_use]
    pub fn after(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }
}

impl fmt::Debug for Manner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manner")
            .field("work", &self.work)
            .field("pause", &self.pause)
            .finish_non_exhaustive()
    }
}

/// The content type of OAuth answers.
pub const JSON: (&str, &str) = ("content-type", "application/json");

/// A whole HTTP answer, for [`Manner::raw`] and [`Manner::edited`].
pub fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    wire::answer(status, headers, body)
}

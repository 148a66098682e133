//! Outcomes, read back from the topic that they are published to.

use jiff::Timestamp;
use serde::Deserialize;
use shared::UserId;

use crate::job::Received;
use crate::json::Json;
use crate::outcome::Status;
use crate::pubsub::{Connection, IntakeError, NotOpened, OwnSubscription};

/// The longest filter that Pub/Sub takes, in bytes.
const MAX_FILTER: usize = 256;

/// An outcome that was published.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    /// The whole outcome, as JSON in one line.
    pub(crate) line: String,
    /// When it was published.
    pub(crate) at: Option<Timestamp>,
    pub(crate) outcome: ToldOutcome,
}

/// The fields of an [`Outcome`](crate::outcome::Outcome) that commands and pages read.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ToldOutcome {
    pub(crate) job: String,
    pub(crate) user: String,
    pub(crate) kind: String,
    pub(crate) status: Status,
    pub(crate) duration_ms: u64,
    #[serde(default)]
    pub(crate) result: Json,
    #[serde(default)]
    pub(crate) warning: Option<String>,
    #[serde(default)]
    pub(crate) error: Option<String>,
}

impl Told {
    /// Reads a message of the outcomes topic; `None` for what is no outcome.
    fn read(received: &Received) -> Option<Self> {
        let text = std::str::from_utf8(&received.data).ok()?;
        let outcome = serde_json::from_str(text).ok()?;
        // A result is as an API wrote it, line breaks included: inside of strings JSON has none.
        let line = text.replace(['\n', '\r'], " ");
        Some(Self { line, at: received.publish_time, outcome })
    }
}

/// The outcomes that are published while this is open.
#[derive(Debug)]
pub(crate) struct Outcomes(OwnSubscription);

impl Outcomes {
    /// Reads the topic with this full name from now on. Where `users` are named and few, those of
    /// others are kept away as far as Pub/Sub can; some may come all the same.
    ///
    /// # Errors
    /// As [`OwnSubscription::open`], and cancelling it likewise.
    pub(crate) async fn open<'a>(
        connection: &Connection,
        topic: &str,
        users: impl IntoIterator<Item = &'a UserId>,
    ) -> Result<Self, NotOpened> {
        OwnSubscription::open(connection, topic, &filter(users)).await.map(Self)
    }

    /// The full name of the subscription.
    pub(crate) fn subscription(&self) -> &str {
        self.0.name()
    }

    /// The next outcome. Cancelling it loses none.
    ///
    /// # Errors
    /// [`IntakeError`].
    pub(crate) async fn next(&mut self) -> Result<Told, IntakeError> {
        loop {
            if let Some(told) = Told::read(&*self.0.next().await?) {
                return Ok(told);
            }
        }
    }

    /// Removes the subscription.
    ///
    /// # Errors
    /// A text that says what is left.
    pub(crate) async fn close(self) -> Result<(), String> {
        self.0.close().await
    }
}

/// Lets through the outcomes of these users; of everybody where a filter cannot say who.
fn filter<'a>(users: impl IntoIterator<Item = &'a UserId>) -> String {
    let mut parts = Vec::new();
    for user in users {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
        if !user.as_str().chars().all(is_plain) {
            return String::new();
        }
        parts.push(format!("attributes.user = \"{}\"", user.as_str()));
    }
    let filter = parts.join(" OR ");
    if filter.len() > MAX_FILTER { String::new() } else { filter }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter_of(users: &[&str]) -> String {
        let users: Vec<UserId> = users.iter().map(|user| UserId::new(*user).unwrap()).collect();
        filter(&users)
    }

    #[test]
    fn a_filter_names_few_users_with_plain_names() {
        assert_eq!(filter_of(&[]), "");
        assert_eq!(filter_of(&["1097"]), "attributes.user = \"1097\"");
        let two = "attributes.user = \"ann@example.com\" OR attributes.user = \"ben\"";
        assert_eq!(filter_of(&["ann@example.com", "ben"]), two);
        assert_eq!(filter_of(&["ann", "a\" OR attributes:x"]), "");
        assert_eq!(filter_of(&[&"x".repeat(300)]), "");
        let many: Vec<String> = (0..20).map(|n| format!("user-{n}")).collect();
        assert_eq!(filter_of(&many.iter().map(String::as_str).collect::<Vec<_>>()), "");
    }

    #[test]
    fn an_outcome_is_one_line_and_keeps_its_digits() {
        let data = "{\"job\":\"j\",\"user\":\"ann\",\"kind\":\"api\",\"status\":\"done\",\"later\":1,\
                    \"duration_ms\":7,\"result\":{\n  \"n\": 1e400,\r\n \"t\": \"a\\nb\"}}";
        let received = Received { data: data.as_bytes().to_vec().into(), ..Received::default() };
        let told = Told::read(&received).unwrap();
        assert_eq!(told.line.lines().count(), 1, "{}", told.line);
        assert!(told.line.contains("\"n\": 1e400,") && told.line.contains("a\\nb"));
        assert_eq!(told.outcome.status, Status::Done);
        assert!(told.outcome.result.text().contains("1e400"));
        for data in ["", "{}", "{\"job\": 1}", "\u{fffd}"] {
            let received = Received { data: data.as_bytes().to_vec().into(), ..received.clone() };
            assert!(Told::read(&received).is_none(), "{data}");
        }
    }
}

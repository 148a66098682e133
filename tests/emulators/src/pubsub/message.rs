//! A published message and the limits it has to respect.

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::PubsubMessage;
use prost::Message as _;

use super::error::Error;

/// Messages in one `Publish` request.
const MAX_BATCH: usize = 1_000;
/// Bytes of one message, and of one `Publish` request.
const MAX_BYTES: usize = 10_000_000;
const MAX_ATTRIBUTES: usize = 100;
const MAX_ATTRIBUTE_KEY: usize = 256;
const MAX_ATTRIBUTE_VALUE: usize = 1_024;
const MAX_ORDERING_KEY: usize = 1_024;

/// A message with its ID and publish time, shared by all subscriptions.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) content: PubsubMessage,
    /// Encoded size in bytes, which is what flow control counts.
    pub(super) size: u64,
}

impl Message {
    pub(super) fn new(content: PubsubMessage) -> Self {
        let size = content.encoded_len() as u64;
        Self { content, size }
    }

    /// Its ID as the number that it is: grows in the order of publishing.
    pub(super) fn number(&self) -> u64 {
        self.content.message_id.parse().unwrap_or_default()
    }
}

/// Checks what one `Publish` request carries.
pub(super) fn check_batch(messages: &[PubsubMessage]) -> Result<(), Error> {
    if messages.is_empty() || messages.len() > MAX_BATCH {
        return invalid(format!(
            "a publish request carries 1 to {MAX_BATCH} messages, this one {}",
            messages.len()
        ));
    }
    let mut total = 0;
    for message in messages {
        total += check(message)?;
    }
    if total > MAX_BYTES {
        return invalid(format!(
            "a publish request has at most {MAX_BYTES} bytes, this one {total}"
        ));
    }
    Ok(())
}

/// Checks one message and returns its encoded size.
fn check(message: &PubsubMessage) -> Result<usize, Error> {
    if message.data.is_empty() && message.attributes.is_empty() {
        return invalid("a message needs data or at least one attribute".to_owned());
    }
    if message.ordering_key.len() > MAX_ORDERING_KEY {
        return invalid(format!(
            "an ordering key has at most {MAX_ORDERING_KEY} bytes, this one {}",
            message.ordering_key.len()
        ));
    }
    if message.attributes.len() > MAX_ATTRIBUTES {
        return invalid(format!(
            "a message has at most {MAX_ATTRIBUTES} attributes, this one {}",
            message.attributes.len()
        ));
    }
    for (key, value) in &message.attributes {
        if key.is_empty() || key.len() > MAX_ATTRIBUTE_KEY || value.len() > MAX_ATTRIBUTE_VALUE {
            return invalid(format!(
                "an attribute's key has 1 to {MAX_ATTRIBUTE_KEY} bytes and its value at most \
                 {MAX_ATTRIBUTE_VALUE}; this key has {}, its value {}",
                key.len(),
                value.len()
            ));
        }
    }
    let size = message.encoded_len();
    if size > MAX_BYTES {
        return invalid(format!("a message has at most {MAX_BYTES} bytes, this one {size}"));
    }
    Ok(size)
}

fn invalid<T>(text: String) -> Result<T, Error> {
    Err(Error::Invalid(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(data: &str) -> PubsubMessage {
        PubsubMessage { data: data.into(), ..PubsubMessage::default() }
    }

    #[test]
    fn data_or_an_attribute_is_enough() {
        let attribute_only = PubsubMessage {
            attributes: [("k".to_owned(), "v".to_owned())].into(),
            ..PubsubMessage::default()
        };
        assert_eq!(check_batch(&[text("x"), attribute_only]), Ok(()));
    }

    #[test]
    fn an_empty_message_is_refused_even_with_a_key() {
        let message = PubsubMessage { ordering_key: "k".to_owned(), ..PubsubMessage::default() };
        assert!(check_batch(&[text("x"), message]).is_err());
    }

    #[test]
    fn limits_hold_at_their_edge() {
        let keyed = |bytes| PubsubMessage { ordering_key: "k".repeat(bytes), ..text("x") };
        assert!(check_batch(&[keyed(1_024)]).is_ok());
        assert!(check_batch(&[keyed(1_025)]).is_err());

        assert!(check_batch(&vec![text("x"); 1_000]).is_ok());
        assert!(check_batch(&vec![text("x"); 1_001]).is_err());
        assert!(check_batch(&[]).is_err());

        assert!(check_batch(&[text(&"x".repeat(10_000_001))]).is_err());
        let half = text(&"x".repeat(5_000_001));
        assert!(check_batch(std::slice::from_ref(&half)).is_ok());
        assert!(check_batch(&[half.clone(), half]).is_err());
    }
}

//! An event as a message: `CloudEvents` 1.0 in Pub/Sub's binding, binary mode.

use std::collections::HashMap;

use serde_json::json;
use shared::UserId;
use url::Url;

use crate::pubsub::Outgoing;
use crate::web::connect_link;

use super::object::StoredEvent;
use super::state::Consent;

/// What every type of event begins with.
const TYPE: &str = "fleet.consent.";

/// What is known beyond the stored event when it is published.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Around<'a> {
    /// Where events come from.
    pub(super) source: &'a str,
    /// Where browsers reach `fleet web`.
    pub(super) site: Option<&'a Url>,
    /// How many jobs wait, where it is known.
    pub(super) waiting: Option<usize>,
}

/// The message that tells `event`.
pub(super) fn message(user: &UserId, event: &StoredEvent, around: Around<'_>) -> Outgoing {
    let consent = &event.state.consent;
    let mut data = json!({"user": user.as_str()});
    if let Some(reason) = consent.reason() {
        data["reason"] = reason.into();
    }
    if let Consent::Needed { missing, .. } = consent {
        data["missing_scopes"] = json!(missing);
        data["waiting_jobs"] = json!(around.waiting);
        let link = around.site.map(|site| connect_link(site, user, missing, None));
        data["connect_link"] = json!(link.as_ref().map(Url::as_str));
    }
    let attributes = [
        ("ce-specversion", "1.0".to_owned()),
        ("ce-type", format!("{TYPE}{}", consent.word())),
        ("ce-source", around.source.to_owned()),
        ("ce-id", event.id.clone()),
        ("ce-time", event.changed_at.to_string()),
        ("ce-subject", user.as_str().to_owned()),
        ("Content-Type", "application/json".to_owned()),
    ];
    Outgoing {
        data: data.to_string().into(),
        attributes: HashMap::from(attributes.map(|(name, value)| (name.to_owned(), value))),
        ordering_key: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use shared::Reason;

    use super::super::state::{Ending, State};
    use super::*;

    fn told(consent: Consent) -> (serde_json::Value, HashMap<String, String>) {
        let event = StoredEvent {
            id: "e-1".into(),
            state: State { consent, login: Some("not-told".into()) },
            changed_at: "2026-01-01T00:00:00.5Z".parse().unwrap(),
            told: false,
            claim: None,
        };
        let user = UserId::new("a&b").unwrap();
        let site = "https://connect.example.com".parse().unwrap();
        let around = Around { source: "//storage/b", site: Some(&site), waiting: Some(2) };
        let message = message(&user, &event, around);
        let text = String::from_utf8(message.data.to_vec()).unwrap();
        assert!(!text.contains("not-told"), "{text}");
        (serde_json::from_str(&text).unwrap(), message.attributes)
    }

    #[test]
    fn a_need_names_what_an_application_asks_its_user_for() {
        let missing = vec!["x".to_owned()];
        let (data, attributes) = told(Consent::Needed { reason: Reason::ScopesMissing, missing });
        assert_eq!(
            data,
            json!({
                "user": "a&b", "reason": "scopes_missing", "missing_scopes": ["x"],
                "waiting_jobs": 2,
                "connect_link": "https://connect.example.com/connect?scopes=x&user_hint=a%26b",
            })
        );
        let expected = [
            ("ce-specversion", "1.0"),
            ("ce-type", "fleet.consent.needed"),
            ("ce-source", "//storage/b"),
            ("ce-id", "e-1"),
            ("ce-time", "2026-01-01T00:00:00.5Z"),
            ("ce-subject", "a&b"),
            ("Content-Type", "application/json"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(attributes, HashMap::from(expected));
    }

    #[test]
    fn what_was_given_or_has_ended_is_told_in_few_words() {
        let (data, attributes) = told(Consent::Granted);
        assert_eq!(data, json!({"user": "a&b"}));
        assert_eq!(attributes["ce-type"], "fleet.consent.granted");
        let (data, attributes) = told(Consent::Ended(Ending::Disconnected));
        assert_eq!(data, json!({"user": "a&b", "reason": "disconnected"}));
        assert_eq!(attributes["ce-type"], "fleet.consent.ended");
        let (data, _) = told(Consent::Ended(Ending::ByProvider(Reason::Revoked)));
        assert_eq!(data["reason"], "revoked");
    }
}

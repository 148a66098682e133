//! Resources in the JSON form of the REST API.
//!
//! Fields that the emulator does not know are refused, so that nobody relies on
//! a setting that has no effect.

use std::collections::HashMap;

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use prost_types::FieldMask;
use proto::push_config::{AuthenticationMethod, Wrapper};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A duration as text: `"1.5s"`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
struct Span(prost_types::Duration);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.parse() {
            Ok(duration) => Ok(Self(duration)),
            Err(_) => Err(format!("{text:?} is not a duration such as \"1.5s\"")),
        }
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.0.to_string()
    }
}

/// `google.pubsub.v1.Topic`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Topic {
    name: String,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    labels: HashMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_retention_duration: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_storage_policy: Option<StoragePolicy>,
    #[serde(skip_serializing_if = "String::is_empty")]
    kms_key_name: String,
    /// Written by the server only; ignored when a client sends it back.
    #[serde(skip_serializing_if = "Value::is_null")]
    state: Value,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct StoragePolicy {
    allowed_persistence_regions: Vec<String>,
    enforce_in_transit: bool,
}

impl From<Topic> for proto::Topic {
    fn from(topic: Topic) -> Self {
        Self {
            name: topic.name,
            labels: topic.labels,
            message_retention_duration: topic.message_retention_duration.map(|span| span.0),
            message_storage_policy: topic.message_storage_policy.map(|policy| {
                proto::MessageStoragePolicy {
                    allowed_persistence_regions: policy.allowed_persistence_regions,
                    enforce_in_transit: policy.enforce_in_transit,
                }
            }),
            kms_key_name: topic.kms_key_name,
            ..Self::default()
        }
    }
}

impl From<proto::Topic> for Topic {
    fn from(topic: proto::Topic) -> Self {
        Self {
            state: topic.state().as_str_name().into(),
            name: topic.name,
            labels: topic.labels,
            message_retention_duration: topic.message_retention_duration.map(Span),
            message_storage_policy: topic.message_storage_policy.map(|policy| StoragePolicy {
                allowed_persistence_regions: policy.allowed_persistence_regions,
                enforce_in_transit: policy.enforce_in_transit,
            }),
            kms_key_name: topic.kms_key_name,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct UpdateTopic {
    topic: Topic,
    update_mask: String,
}

impl UpdateTopic {
    pub(super) fn into_request(self, name: String) -> proto::UpdateTopicRequest {
        proto::UpdateTopicRequest {
            topic: Some(proto::Topic { name, ..self.topic.into() }),
            update_mask: Some(mask(&self.update_mask)),
        }
    }
}

/// `google.pubsub.v1.Subscription`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "as the API has it")]
pub(super) struct Subscription {
    name: String,
    topic: String,
    #[serde(skip_serializing_if = "PushConfig::is_none")]
    push_config: PushConfig,
    ack_deadline_seconds: i32,
    retain_acked_messages: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_retention_duration: Option<Span>,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    labels: HashMap<String, String>,
    enable_message_ordering: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_policy: Option<ExpirationPolicy>,
    #[serde(skip_serializing_if = "String::is_empty")]
    filter: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter_policy: Option<DeadLetterPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_policy: Option<RetryPolicy>,
    enable_exactly_once_delivery: bool,
    /// Written by the server only, as the next one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    detached: bool,
    /// Written by the server only; ignored when a client sends it back.
    #[serde(skip_serializing_if = "Value::is_null")]
    state: Value,
}

/// `google.pubsub.v1.PushConfig`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct PushConfig {
    push_endpoint: String,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    attributes: HashMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oidc_token: Option<OidcToken>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pubsub_wrapper: Option<PubsubWrapper>,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_wrapper: Option<NoWrapper>,
}

/// Kept and shown; no token is sent.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct OidcToken {
    service_account_email: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    audience: String,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct PubsubWrapper {}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct NoWrapper {
    write_metadata: bool,
}

impl PushConfig {
    fn is_none(&self) -> bool {
        self.push_endpoint.is_empty()
    }
}

impl From<PushConfig> for proto::PushConfig {
    fn from(json: PushConfig) -> Self {
        let bare = json.no_wrapper.map(|NoWrapper { write_metadata }| {
            Wrapper::NoWrapper(proto::push_config::NoWrapper { write_metadata })
        });
        let wrapped = json
            .pubsub_wrapper
            .map(|_| Wrapper::PubsubWrapper(proto::push_config::PubsubWrapper {}));
        Self {
            push_endpoint: json.push_endpoint,
            attributes: json.attributes,
            authentication_method: json.oidc_token.map(|token| {
                AuthenticationMethod::OidcToken(proto::push_config::OidcToken {
                    service_account_email: token.service_account_email,
                    audience: token.audience,
                })
            }),
            wrapper: bare.or(wrapped),
        }
    }
}

impl From<proto::PushConfig> for PushConfig {
    fn from(config: proto::PushConfig) -> Self {
        let (pubsub_wrapper, no_wrapper) = match config.wrapper {
            Some(Wrapper::PubsubWrapper(_)) => (Some(PubsubWrapper {}), None),
            Some(Wrapper::NoWrapper(bare)) => {
                (None, Some(NoWrapper { write_metadata: bare.write_metadata }))
            }
            None => (None, None),
        };
        let oidc_token =
            config.authentication_method.map(|AuthenticationMethod::OidcToken(token)| OidcToken {
                service_account_email: token.service_account_email,
                audience: token.audience,
            });
        let (push_endpoint, attributes) = (config.push_endpoint, config.attributes);
        Self { push_endpoint, attributes, oidc_token, pubsub_wrapper, no_wrapper }
    }
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct ExpirationPolicy {
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<Span>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct DeadLetterPolicy {
    dead_letter_topic: String,
    max_delivery_attempts: i32,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RetryPolicy {
    #[serde(skip_serializing_if = "Option::is_none")]
    minimum_backoff: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maximum_backoff: Option<Span>,
}

impl From<Subscription> for proto::Subscription {
    fn from(json: Subscription) -> Self {
        let push = json.push_config;
        Self {
            name: json.name,
            topic: json.topic,
            push_config: (!push.is_none()).then(|| push.into()),
            ack_deadline_seconds: json.ack_deadline_seconds,
            retain_acked_messages: json.retain_acked_messages,
            message_retention_duration: json.message_retention_duration.map(|span| span.0),
            labels: json.labels,
            enable_message_ordering: json.enable_message_ordering,
            expiration_policy: json
                .expiration_policy
                .map(|policy| proto::ExpirationPolicy { ttl: policy.ttl.map(|span| span.0) }),
            filter: json.filter,
            dead_letter_policy: json.dead_letter_policy.map(|policy| proto::DeadLetterPolicy {
                dead_letter_topic: policy.dead_letter_topic,
                max_delivery_attempts: policy.max_delivery_attempts,
            }),
            retry_policy: json.retry_policy.map(|policy| proto::RetryPolicy {
                minimum_backoff: policy.minimum_backoff.map(|span| span.0),
                maximum_backoff: policy.maximum_backoff.map(|span| span.0),
            }),
            enable_exactly_once_delivery: json.enable_exactly_once_delivery,
            ..Self::default()
        }
    }
}

impl From<proto::Subscription> for Subscription {
    fn from(resource: proto::Subscription) -> Self {
        Self {
            state: resource.state().as_str_name().into(),
            name: resource.name,
            topic: resource.topic,
            push_config: resource.push_config.map(PushConfig::from).unwrap_or_default(),
            ack_deadline_seconds: resource.ack_deadline_seconds,
            retain_acked_messages: resource.retain_acked_messages,
            message_retention_duration: resource.message_retention_duration.map(Span),
            labels: resource.labels,
            enable_message_ordering: resource.enable_message_ordering,
            expiration_policy: resource
                .expiration_policy
                .map(|policy| ExpirationPolicy { ttl: policy.ttl.map(Span) }),
            filter: resource.filter,
            dead_letter_policy: resource.dead_letter_policy.map(|policy| DeadLetterPolicy {
                dead_letter_topic: policy.dead_letter_topic,
                max_delivery_attempts: policy.max_delivery_attempts,
            }),
            retry_policy: resource.retry_policy.map(|policy| RetryPolicy {
                minimum_backoff: policy.minimum_backoff.map(Span),
                maximum_backoff: policy.maximum_backoff.map(Span),
            }),
            enable_exactly_once_delivery: resource.enable_exactly_once_delivery,
            detached: resource.detached,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct UpdateSubscription {
    subscription: Subscription,
    update_mask: String,
}

impl UpdateSubscription {
    pub(super) fn into_request(self, name: String) -> proto::UpdateSubscriptionRequest {
        proto::UpdateSubscriptionRequest {
            subscription: Some(proto::Subscription { name, ..self.subscription.into() }),
            update_mask: Some(mask(&self.update_mask)),
        }
    }
}

/// A field mask as REST writes it: `"ackDeadlineSeconds,retryPolicy"`.
pub(super) fn mask(text: &str) -> FieldMask {
    let snake = |path: &str| {
        path.chars().fold(String::with_capacity(path.len() + 4), |mut snake, letter| {
            if letter.is_ascii_uppercase() {
                snake.push('_');
            }
            snake.push(letter.to_ascii_lowercase());
            snake
        })
    };
    let paths = text.split(',').filter(|path| !path.is_empty());
    FieldMask { paths: paths.map(snake).collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_subscription_keeps_its_settings_both_ways() {
        let written = json!({
            "name": "projects/p/subscriptions/sub",
            "topic": "projects/p/topics/top",
            "pushConfig": {
                "pushEndpoint": "http://127.0.0.1:9/",
                "attributes": {"x-goog-version": "v1"},
                "oidcToken": {"serviceAccountEmail": "pusher@example.com", "audience": "a"},
                "pubsubWrapper": {}
            },
            "ackDeadlineSeconds": 20,
            "retainAckedMessages": true,
            "messageRetentionDuration": "600s",
            "labels": {"team": "fleet"},
            "enableMessageOrdering": true,
            "expirationPolicy": {},
            "deadLetterPolicy": {
                "deadLetterTopic": "projects/p/topics/dead",
                "maxDeliveryAttempts": 7
            },
            "retryPolicy": {"minimumBackoff": "1.500s", "maximumBackoff": "60s"},
            "enableExactlyOnceDelivery": false,
            "state": "STATE_UNSPECIFIED"
        });
        let read: Subscription = serde_json::from_value(written.clone()).expect("valid");
        let there = proto::Subscription::from(read);
        let back = serde_json::to_value(Subscription::from(there)).expect("serializes");
        assert_eq!(back, written);
    }

    #[test]
    fn a_setting_that_is_not_known_is_refused() {
        let unknown = json!({"bigqueryConfig": {"table": "t"}});
        assert!(serde_json::from_value::<Subscription>(unknown).is_err());
        let unknown = json!({"pushConfig": {"pushEndpoint": "http://127.0.0.1:9/", "other": 1}});
        assert!(serde_json::from_value::<Subscription>(unknown).is_err());
        for unknown in ["schemaSettings", "messageStoragePolicy"] {
            let unknown = json!({unknown: {"schema": "s"}});
            assert!(serde_json::from_value::<Topic>(unknown).is_err());
        }
    }

    #[test]
    fn a_mask_is_read_in_either_spelling() {
        let expected = ["ack_deadline_seconds", "labels"];
        assert_eq!(mask("ackDeadlineSeconds,labels").paths, expected);
        assert_eq!(mask("ack_deadline_seconds,labels").paths, expected);
        assert!(mask("").paths.is_empty());
    }
}

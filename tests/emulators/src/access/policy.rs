//! Policies in JSON, as the REST APIs of Pub/Sub and Cloud Storage have them.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use googleapis_tonic_google_iam_v1::google::iam::v1;
use googleapis_tonic_google_iam_v1::google::r#type::Expr;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::lenient_base64;

/// `google.iam.v1.Policy` without audit settings. Other fields are refused: what is left out
/// of a policy gives other people access.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Policy {
    version: i32,
    bindings: Vec<Binding>,
    /// Base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    etag: String,
    /// Written by Cloud Storage only, as the next one; ignored when a client sends it back.
    #[serde(skip_serializing_if = "Value::is_null")]
    kind: Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    resource_id: Value,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Binding {
    role: String,
    members: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    condition: Option<Condition>,
}

/// `google.type.Expr`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Condition {
    expression: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    title: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    location: String,
}

impl Policy {
    /// The policy that this says; `None` if the etag is not Base64.
    pub(crate) fn into_proto(self) -> Option<v1::Policy> {
        let etag = lenient_base64::decode(self.etag.as_bytes())?.into();
        let bindings = self.bindings.into_iter().map(|binding| v1::Binding {
            role: binding.role,
            members: binding.members,
            condition: binding.condition.map(|condition| Expr {
                expression: condition.expression,
                title: condition.title,
                description: condition.description,
                location: condition.location,
            }),
        });
        let bindings = bindings.collect();
        Some(v1::Policy { version: self.version, bindings, etag, ..v1::Policy::default() })
    }
}

impl From<v1::Policy> for Policy {
    fn from(policy: v1::Policy) -> Self {
        let bindings = policy.bindings.into_iter().map(|binding| Binding {
            role: binding.role,
            members: binding.members,
            condition: binding.condition.map(|condition| Condition {
                expression: condition.expression,
                title: condition.title,
                description: condition.description,
                location: condition.location,
            }),
        });
        let bindings = bindings.collect();
        let etag = BASE64_STANDARD.encode(policy.etag);
        Self { version: policy.version, bindings, etag, ..Self::default() }
    }
}

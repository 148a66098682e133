//! Access policies over REST: `…:getIamPolicy`, `…:setIamPolicy`,
//! `…:testIamPermissions`, as the official Rust client asks for them.

use axum::Json;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use googleapis_tonic_google_iam_v1::google::iam::v1;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::parse;
use crate::pubsub::engine::Engine;
use crate::pubsub::error::Error;

/// `google.iam.v1.Policy`, without conditions and audit settings.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Policy {
    version: i32,
    bindings: Vec<Binding>,
    /// Base64 of bytes.
    #[serde(skip_serializing_if = "String::is_empty")]
    etag: String,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Binding {
    role: String,
    members: Vec<String>,
}

impl From<v1::Policy> for Policy {
    fn from(policy: v1::Policy) -> Self {
        let bindings = policy.bindings.into_iter();
        Self {
            version: policy.version,
            bindings: bindings
                .map(|binding| Binding { role: binding.role, members: binding.members })
                .collect(),
            etag: BASE64_STANDARD.encode(policy.etag),
        }
    }
}

impl TryFrom<Policy> for v1::Policy {
    type Error = Error;

    fn try_from(policy: Policy) -> Result<Self, Error> {
        let etag = BASE64_STANDARD
            .decode(policy.etag)
            .map_err(|_| Error::Invalid("the etag is not base64".to_owned()))?;
        let bindings = policy.bindings.into_iter().map(|binding| v1::Binding {
            role: binding.role,
            members: binding.members,
            condition: None,
        });
        Ok(Self { version: policy.version, bindings: bindings.collect(), etag, ..Self::default() })
    }
}

/// `GET {resource}:{verb}`.
pub(super) fn read(engine: &Engine, resource: &str, verb: &str) -> Result<Response, Error> {
    match verb {
        "getIamPolicy" => {
            let policy = engine.read(|broker| broker.policy(resource))?;
            Ok(Json(Policy::from(policy)).into_response())
        }
        _ => Err(Error::Unimplemented(format!("{resource}:{verb} over REST").into())),
    }
}

/// `POST {resource}:{verb}`.
pub(super) fn change(
    engine: &Engine,
    resource: &str,
    verb: &str,
    body: &[u8],
) -> Result<Response, Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Set {
        policy: Policy,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Test {
        permissions: Vec<String>,
    }
    match verb {
        "setIamPolicy" => {
            let policy = parse::<Set>(body)?.policy.try_into()?;
            let set = engine.run(|broker, _| broker.set_policy(resource, policy))?;
            Ok(Json(Policy::from(set)).into_response())
        }
        "testIamPermissions" => {
            let asked = parse::<Test>(body)?.permissions;
            let permissions = engine.read(|broker| broker.granted(resource, asked))?;
            Ok(Json(json!({ "permissions": permissions })).into_response())
        }
        _ => Err(Error::Unimplemented(format!("{resource}:{verb} over REST").into())),
    }
}

//! Access policies over REST: `…:getIamPolicy`, `…:setIamPolicy`,
//! `…:testIamPermissions`, as the official Rust client asks for them.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::parse;
use crate::access::policy::Policy;
use crate::pubsub::engine::Engine;
use crate::pubsub::error::Error;

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
            let policy = parse::<Set>(body)?.policy.into_proto();
            let policy =
                policy.ok_or_else(|| Error::Invalid("the etag is not base64".to_owned()))?;
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

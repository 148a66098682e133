//! Calls that production answers and the emulator does not: a 501 with their names.

use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{Method, Uri};
use serde_json::Value;
use url::form_urlencoded;

use super::refusal::Refusal;
use super::store::Store;
use super::xml;

const ACCESS_CONTROL_LISTS: &str = "access control lists";
const MANAGED_KEYS: &str = "customer-managed encryption keys";

/// Whether a path is of the JSON API. What is not is of the XML API.
pub(super) fn is_json(path: &str) -> bool {
    let json = ["/storage/", "/upload/", "/resumable/", "/download/", "/batch/"];
    json.iter().any(|prefix| path.starts_with(prefix))
}

/// A path or a method that no route has.
pub(super) async fn other(store: Shared<Arc<Store>>, request: Request) -> Response {
    if is_json(request.uri().path()) {
        return call(request.method().clone(), request.uri().clone()).await.into_response();
    }
    xml::answer(store, request).await
}

/// A method that its path does not have.
pub(super) async fn call(method: Method, uri: Uri) -> Refusal {
    Refusal::Unimplemented(name(&method, uri.path()))
}

/// The call as the reference names it, and the request.
fn name(method: &Method, path: &str) -> String {
    let segments: Vec<&str> = path.trim_start_matches("/storage/v1/").split('/').collect();
    let (collection, item) = match segments.as_slice() {
        ["b", _, "o", _, "acl", item @ ..] => ("objectAccessControls", !item.is_empty()),
        ["b", _, "acl", item @ ..] => ("bucketAccessControls", !item.is_empty()),
        ["b", _, "defaultObjectAcl", item @ ..] => {
            ("defaultObjectAccessControls", !item.is_empty())
        }
        ["b", _, "notificationConfigs", item @ ..] => ("notifications", !item.is_empty()),
        ["projects", _, "hmacKeys", item @ ..] => ("projects.hmacKeys", !item.is_empty()),
        ["b", _, "o", _, "restore"] => return format!("objects.restore ({method} {path})"),
        ["b", _, "restore"] => return format!("buckets.restore ({method} {path})"),
        ["b", _, "lockRetentionPolicy"] => {
            return format!("buckets.lockRetentionPolicy ({method} {path})");
        }
        ["b", _, collection @ ("folders" | "managedFolders" | "anywhereCaches"), item @ ..] => {
            (*collection, !item.is_empty())
        }
        ["b", _, "o"] => ("objects", false),
        _ => return format!("{method} {path}"),
    };
    let verb = match (method.as_str(), item) {
        ("GET", false) => "list",
        ("GET", true) => "get",
        ("POST", _) => "insert",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", _) => "delete",
        _ => return format!("{method} {path}"),
    };
    format!("{collection}.{verb} ({method} {path})")
}

/// Refuses what a known call asks for and does not get here; a layer around all of them.
pub(super) async fn refuse(request: Request, next: Next) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let by_header = request.headers().iter().find_map(|(name, value)| {
        let value = value.to_str().unwrap_or_default();
        Some((asked_by_header(name.as_str(), value)?, name.to_string()))
    });
    let asked = by_header.or_else(|| {
        let mut parameters = form_urlencoded::parse(query.as_bytes());
        parameters.find_map(|(name, value)| Some((asked(&name, &value)?, name.into_owned())))
    });
    match asked {
        None => next.run(request).await,
        Some((what, name)) => Refusal::Unimplemented(format!("{what} ({name})")).into_response(),
    }
}

/// What a parameter asks for that is not here.
fn asked(name: &str, value: &str) -> Option<&'static str> {
    let on = value.eq_ignore_ascii_case("true");
    let given = !value.is_empty();
    match name {
        "softDeleted" if on => Some("soft-deleted objects"),
        "enableObjectRetention" if on => Some("object retention"),
        "X-Goog-Signature" | "Signature" | "X-Amz-Signature" => Some("signed URLs"),
        "predefinedAcl" | "destinationPredefinedAcl" | "predefinedDefaultObjectAcl"
            if given && !is_private(value) =>
        {
            Some(ACCESS_CONTROL_LISTS)
        }
        "kmsKeyName" | "destinationKmsKeyName" if given => Some(MANAGED_KEYS),
        "filter" if given => Some("filters by the contexts of objects"),
        _ => None,
    }
}

/// As [`asked`], of a header.
fn asked_by_header(name: &str, value: &str) -> Option<&'static str> {
    match name {
        "x-goog-encryption-algorithm" | "x-goog-copy-source-encryption-algorithm" => {
            Some("customer-supplied encryption keys")
        }
        "x-goog-encryption-kms-key-name" => Some(MANAGED_KEYS),
        "x-goog-acl" if !is_private(value) => Some(ACCESS_CONTROL_LISTS),
        _ => None,
    }
}

/// Whether a predefined list lets nobody in but the project itself. Clients send these as what
/// is usual, and leaving them out changes nothing here.
fn is_private(predefined: &str) -> bool {
    ["private", "projectPrivate", "project-private"].contains(&predefined)
}

/// Refuses a resource that says what is not kept here. What is empty says nothing: clients send
/// it to clear a field.
pub(super) fn refuse_fields(resource: &Value, fields: &[&str]) -> Result<(), Refusal> {
    let says = |field: &&&str| match &resource[**field] {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    };
    match fields.iter().find(says) {
        None => Ok(()),
        Some(field) => Err(Refusal::Unimplemented(format!("the field {field}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_named_as_the_reference_does() {
        for (method, path, named) in [
            (Method::POST, "/storage/v1/b/b/notificationConfigs", "notifications.insert"),
            (Method::GET, "/storage/v1/b/b/o/o/acl", "objectAccessControls.list"),
            (Method::PUT, "/storage/v1/b/b/o/o/acl/allUsers", "objectAccessControls.update"),
            (Method::POST, "/storage/v1/b/b/o/o/restore", "objects.restore"),
            (Method::POST, "/storage/v1/projects/p/hmacKeys", "projects.hmacKeys.insert"),
            (Method::POST, "/storage/v1/b/b/o", "objects.insert"),
            (Method::GET, "/storage/v1/unheard/of", "GET /storage/v1/unheard/of"),
        ] {
            assert!(name(&method, path).starts_with(named), "{}", name(&method, path));
        }
    }
}

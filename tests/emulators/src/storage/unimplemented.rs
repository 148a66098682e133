//! Calls that production answers and the emulator does not: a 501 with their names.

use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{Method, Uri};

use super::refusal::Refusal;
use super::store::Store;
use super::xml;

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
    let headers = request.headers();
    let query = request.uri().query().unwrap_or_default();
    let asks = |name: &str| {
        query.split('&').any(|pair| {
            pair.strip_prefix(name).is_some_and(|rest| rest.eq_ignore_ascii_case("=true"))
        })
    };
    let signed = ["X-Goog-Signature=", "Signature=", "X-Amz-Signature="];
    let what = if headers.contains_key("x-goog-encryption-algorithm")
        || headers.contains_key("x-goog-copy-source-encryption-algorithm")
    {
        "customer-supplied encryption keys"
    } else if asks("softDeleted") {
        "soft-deleted objects (softDeleted=true)"
    } else if asks("enableObjectRetention") {
        "object retention (enableObjectRetention=true)"
    } else if query.split('&').any(|pair| signed.iter().any(|name| pair.starts_with(name))) {
        "signed URLs"
    } else {
        return next.run(request).await;
    };
    Refusal::Unimplemented(what.to_owned()).into_response()
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

//! Buckets over the JSON API, and their access policies.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use googleapis_tonic_google_iam_v1::google::iam::v1;
use http::{Method, StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use super::conditions::Conditions;
use super::extract::{Content, Params, Segments};
use super::json_api::{decode_page_token, encode_page_token, page_size};
use super::operation::Operation;
use super::refusal::Refusal;
use super::settings::BucketSettings;
use super::store::Store;
use super::unimplemented::refuse_fields;
use crate::access::Conflict;
use crate::access::policy::Policy;
use crate::connection::Cut;

type Answer = Result<Json<Value>, Refusal>;

fn parse(body: &[u8]) -> Result<Value, Refusal> {
    let resource = serde_json::from_slice(body)
        .map_err(|error| Refusal::invalid(format!("Malformed bucket: {error}")))?;
    refuse_fields(&resource, &["acl", "defaultObjectAcl"])?;
    Ok(resource)
}

pub(super) async fn create(
    Shared(store): Shared<Arc<Store>>,
    cut: Cut,
    Content(body): Content,
) -> Answer {
    let resource = parse(&body)?;
    let name = resource["name"].as_str().unwrap_or_default().to_owned();
    let create = || {
        store.step(|state, now| {
            let bucket = state.create_bucket(now, &name, BucketSettings::default())?;
            bucket.say(&resource);
            state.bucket_json(&store.origin, &name, Conditions::default()).map(Json)
        })
    };
    store.pass(cut, Operation::Bucket, &name, create).await
}

pub(super) async fn get(
    Shared(store): Shared<Arc<Store>>,
    Segments(name): Segments<String>,
    Params(conditions): Params<Conditions>,
    cut: Cut,
) -> Answer {
    let get = || store.lock().bucket_json(&store.origin, &name, conditions).map(Json);
    store.pass(cut, Operation::Bucket, &name, get).await
}

/// `PATCH`: field by field; `PUT`: as a whole.
pub(super) async fn update(
    Shared(store): Shared<Arc<Store>>,
    Segments(name): Segments<String>,
    Params(conditions): Params<Conditions>,
    method: Method,
    cut: Cut,
    Content(body): Content,
) -> Answer {
    let change = parse(&body)?;
    let how = (conditions, method == Method::PUT);
    let update = || {
        store.step(|state, now| {
            state.update_bucket(now, &name, &change, how)?;
            state.bucket_json(&store.origin, &name, Conditions::default()).map(Json)
        })
    };
    store.pass(cut, Operation::Bucket, &name, update).await
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListParams {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    page_token: String,
    max_results: Option<usize>,
}

pub(super) async fn list(
    Shared(store): Shared<Arc<Store>>,
    Params(params): Params<ListParams>,
) -> Answer {
    let after = decode_page_token(&params.page_token)?.unwrap_or_default();
    let limit = page_size(params.max_results);
    let state = store.lock();
    let mut buckets = state
        .buckets()
        .filter(|(name, _)| name.starts_with(&params.prefix) && *name > after.as_str())
        .peekable();
    let mut items = Vec::new();
    let mut last = "";
    while items.len() < limit
        && let Some((name, bucket)) = buckets.next()
    {
        items.push(bucket.to_json(&store.origin, name));
        last = name;
    }
    let mut json = json!({"kind": "storage#buckets", "items": items});
    if buckets.peek().is_some() {
        json["nextPageToken"] = encode_page_token(last).into();
    }
    Ok(Json(json))
}

pub(super) async fn delete(
    Shared(store): Shared<Arc<Store>>,
    Segments(name): Segments<String>,
    Params(conditions): Params<Conditions>,
    cut: Cut,
) -> Result<StatusCode, Refusal> {
    let delete = || store.lock().delete_bucket(&name, conditions);
    store.pass(cut, Operation::Bucket, &name, delete).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How a bucket keeps its objects: flat, here.
pub(super) async fn layout(
    Shared(store): Shared<Arc<Store>>,
    Segments(name): Segments<String>,
) -> Answer {
    let state = store.lock();
    let (_, settings) = state.bucket(&name)?;
    Ok(Json(json!({
        "kind": "storage#storageLayout",
        "bucket": name,
        "location": settings.location,
        "hierarchicalNamespace": {"enabled": false},
    })))
}

/// None can be made here, and so there are none.
pub(super) async fn managed_folders(
    Shared(store): Shared<Arc<Store>>,
    Segments(name): Segments<String>,
) -> Answer {
    store.lock().bucket(&name)?;
    Ok(Json(json!({"kind": "storage#managedFolders", "items": []})))
}

fn policy_json(name: &str, policy: v1::Policy) -> Value {
    let version = policy.version.max(1);
    let mut json = json!(Policy::from(policy));
    json["kind"] = "storage#policy".into();
    json["resourceId"] = format!("projects/_/buckets/{name}").into();
    json["version"] = version.into();
    json
}

pub(super) async fn policy(
    Shared(store): Shared<Arc<Store>>,
    Segments(name): Segments<String>,
) -> Answer {
    let policy = store.lock().access_mut(&name)?.policy();
    Ok(Json(policy_json(&name, policy)))
}

pub(super) async fn set_policy(
    Shared(store): Shared<Arc<Store>>,
    Segments(name): Segments<String>,
    Content(body): Content,
) -> Answer {
    let said: Policy = serde_json::from_slice(&body)
        .map_err(|error| Refusal::invalid(format!("Malformed policy: {error}")))?;
    let policy = said.into_proto();
    let policy = policy.ok_or_else(|| Refusal::invalid("The etag of the policy is not base64."))?;
    let mut state = store.lock();
    let set = state.access_mut(&name)?.replace(policy);
    let set = set.map_err(|Conflict| Refusal::PolicyChanged)?;
    Ok(Json(policy_json(&name, set)))
}

pub(super) async fn test_permissions(
    Shared(store): Shared<Arc<Store>>,
    Segments(name): Segments<String>,
    uri: Uri,
) -> Answer {
    let query = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let asked = query.filter(|(key, _)| key == "permissions").map(|(_, asked)| asked.into_owned());
    let granted = store.lock().access_mut(&name)?.granted(asked.collect());
    Ok(Json(json!({
        "kind": "storage#testIamPermissionsResponse",
        "permissions": granted,
    })))
}

/// Whom Cloud Storage acts as in a project.
pub(super) async fn service_account(Segments(project): Segments<String>) -> Json<Value> {
    let email = format!("service-{project}@gs-project-accounts.iam.gserviceaccount.com");
    Json(json!({"kind": "storage#serviceAccount", "email_address": email}))
}

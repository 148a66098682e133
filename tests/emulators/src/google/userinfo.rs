//! The profile of whoever the access token belongs to, as its scopes allow.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::HeaderMap;
use serde_json::{Map, Value, json};

use super::core::Shared;
use super::exchange::Caller;
use super::refusal::Refusal;
use super::user::User;

const OPENID: &str = "openid";
const EMAIL: [&str; 2] = ["email", "https://www.googleapis.com/auth/userinfo.email"];
const PROFILE: [&str; 2] = ["profile", "https://www.googleapis.com/auth/userinfo.profile"];

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/userinfo", get(openid).post(openid))
        .route("/oauth2/v3/userinfo", get(openid).post(openid))
        .route("/oauth2/v2/userinfo", get(version_2))
}

/// The claims of OpenID Connect.
async fn openid(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    match lookup(&shared, &headers) {
        Ok((caller, user)) => {
            let mut claims = profile(&caller, &user);
            claims.insert("sub".to_owned(), user.sub.as_str().into());
            if allows(&caller, &EMAIL) {
                claims.insert("email".to_owned(), user.email.as_str().into());
                claims.insert("email_verified".to_owned(), true.into());
            }
            Json(claims).into_response()
        }
        Err(refusal) => refusal.into_openid_response(),
    }
}

/// The older API, with an `id` and another name for the verified address.
async fn version_2(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Json<Map<String, Value>>, Refusal> {
    let (caller, user) = lookup(&shared, &headers)?;
    let mut fields = profile(&caller, &user);
    fields.insert("id".to_owned(), user.sub.as_str().into());
    if allows(&caller, &EMAIL) {
        fields.insert("email".to_owned(), user.email.as_str().into());
        fields.insert("verified_email".to_owned(), true.into());
    }
    Ok(Json(fields))
}

fn lookup(shared: &Shared, headers: &HeaderMap) -> Result<(Caller, Arc<User>), Refusal> {
    let scopes = [OPENID, EMAIL[0], EMAIL[1], PROFILE[0], PROFILE[1]];
    shared.step(|core, now| {
        let caller = core.authorize(now, headers, &scopes)?;
        let user = core.identity.user(&caller.sub).cloned();
        let user = user.ok_or_else(|| Refusal::not_found("Account"))?;
        Ok((caller, user))
    })
}

fn allows(caller: &Caller, scopes: &[&str]) -> bool {
    let held = |scope: &String| scopes.contains(&scope.as_str());
    caller.scopes.iter().any(held)
}

fn profile(caller: &Caller, user: &User) -> Map<String, Value> {
    if !allows(caller, &PROFILE) {
        return Map::new();
    }
    let (given_name, family_name) = user.name.split_once(' ').unwrap_or((&user.name, ""));
    [
        ("name", user.name.as_str()),
        ("given_name", given_name),
        ("family_name", family_name),
        ("picture", &user.picture),
        ("locale", &user.locale),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(key, value)| (key.to_owned(), json!(value)))
    .collect()
}

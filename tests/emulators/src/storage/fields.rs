//! Partial responses: `fields=items(name,size),nextPageToken`.

use axum::body::{Body, to_bytes};
use axum::extract::{Query, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::refusal::Refusal;

#[derive(Debug, Deserialize)]
struct Asked {
    fields: Option<String>,
}

/// Leaves of a JSON answer what the request asks for; a layer around the JSON API.
pub(super) async fn partial(request: Request, next: Next) -> Response {
    let asked = Query::<Asked>::try_from_uri(request.uri()).ok();
    let fields = asked.and_then(|Query(asked)| asked.fields).filter(|fields| !fields.is_empty());
    let response = next.run(request).await;
    match fields {
        Some(fields) if response.status() == StatusCode::OK => select(&fields, response).await,
        _ => response,
    }
}

async fn select(fields: &str, response: Response) -> Response {
    let is_json = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/json"));
    if !is_json {
        return response;
    }
    let Some(selection) = Selection::parse(fields) else {
        return Refusal::invalid(format!("Invalid field selection {fields}")).into_response();
    };
    let (mut parts, body) = response.into_parts();
    let whole = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let Ok(json) = serde_json::from_slice(&whole) else {
        return (parts, whole).into_response();
    };
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(selection.of(json).to_string()))
}

/// Names, and what is asked for below each; nothing means everything.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection(Vec<(String, Self)>);

impl Selection {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut rest = text;
        let selection = Self::list(&mut rest)?;
        rest.is_empty().then_some(selection)
    }

    fn list(rest: &mut &str) -> Option<Self> {
        let mut names = Vec::new();
        loop {
            names.push(Self::one(rest)?);
            match rest.strip_prefix(',') {
                Some(more) => *rest = more,
                None => return Some(Self(names)),
            }
        }
    }

    fn one(rest: &mut &str) -> Option<(String, Self)> {
        let end = rest.find([',', '/', '(', ')']).unwrap_or(rest.len());
        let name = rest[..end].trim().to_owned();
        *rest = &rest[end..];
        if name.is_empty() {
            return None;
        }
        if let Some(below) = rest.strip_prefix('/') {
            *rest = below;
            return Some((name, Self(vec![Self::one(rest)?])));
        }
        if let Some(below) = rest.strip_prefix('(') {
            *rest = below;
            let below = Self::list(rest)?;
            *rest = rest.strip_prefix(')')?;
            return Some((name, below));
        }
        Some((name, Self::default()))
    }

    /// Leaves what is asked for.
    pub(crate) fn of(&self, json: Value) -> Value {
        if self.0.is_empty() {
            return json;
        }
        match json {
            Value::Array(items) => items.into_iter().map(|item| self.of(item)).collect(),
            Value::Object(fields) => {
                let mut kept = Map::new();
                for (name, value) in fields {
                    let asked = self.0.iter().find(|(asked, _)| *asked == name || *asked == "*");
                    if let Some((_, below)) = asked {
                        kept.insert(name, below.of(value));
                    }
                }
                Value::Object(kept)
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_asked_for_is_left() {
        let whole =
            || json!({"kind": "k", "items": [{"name": "a", "acl": {"x": 1, "y": 2}}], "next": 1});
        for (fields, left) in [
            ("items(name),next", json!({"items": [{"name": "a"}], "next": 1})),
            ("items/name", json!({"items": [{"name": "a"}]})),
            ("items/acl/x", json!({"items": [{"acl": {"x": 1}}]})),
            ("items(acl(y),name)", json!({"items": [{"name": "a", "acl": {"y": 2}}]})),
            ("*", whole()),
            ("none", json!({})),
        ] {
            assert_eq!(Selection::parse(fields).expect(fields).of(whole()), left, "{fields}");
        }
        for malformed in ["", ",", "a,", "a(", "a(b", "a)", "/a"] {
            assert_eq!(Selection::parse(malformed), None, "{malformed}");
        }
    }
}

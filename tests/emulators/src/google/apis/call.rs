//! A call of a method, and what it may be answered with.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use axum::Json;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::super::core::{Core, text};
use super::super::exchange::Caller;
use super::super::refusal::Refusal;
use super::methods::{Ids, Method};
use crate::lenient_base64;
use crate::storage::fields::Selection;
use crate::storage::multipart;

/// A resource as its API shows it.
pub(super) type Resource = Map<String, Value>;

/// Carries a call out, as one atomic step.
pub(super) type Work = fn(&Call, &mut Core) -> Result<Answer, Refusal>;

/// A method that the emulator has.
#[derive(Debug)]
pub(super) struct Implemented {
    /// Its ID in the reference.
    pub(super) id: &'static str,
    /// The scope to ask for where none of those that would do was granted.
    pub(super) scope: &'static str,
    /// The parameters that it heeds.
    pub(super) parameters: &'static [&'static str],
    /// The fields that are answered when the call does not say which; all if empty.
    pub(super) fields: &'static str,
    pub(super) work: Work,
}

/// Parameters that change nothing here: there are no shared drives, and nobody is told.
const INERT: [&str; 14] = [
    "acknowledgeAbuse",
    "alwaysIncludeEmail",
    "dateTimeRenderOption",
    "enforceSingleParent",
    "ignoreDefaultVisibility",
    "includeItemsFromAllDrives",
    "includeTeamDriveItems",
    "responseDateTimeRenderOption",
    "sendNotifications",
    "sendUpdates",
    "showHiddenInvitations",
    "supportsAllDrives",
    "supportsAttachments",
    "supportsTeamDrives",
];

/// One call, on behalf of its caller.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: &'static Method,
    pub(super) ids: Ids,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Whether it came by the path of uploads.
    pub(super) upload: bool,
    pub(super) caller: Caller,
    pub(super) origin: String,
    pub(super) at: Instant,
    pub(super) now: Timestamp,
}

/// What an upload consists of.
#[derive(Debug, Default)]
pub(super) struct Upload {
    pub(super) resource: Resource,
    pub(super) media: Option<(String, Bytes)>,
}

impl Call {
    /// Refuses what the reference has and the emulator does not.
    pub(super) fn check(&self, implemented: &Implemented) -> Result<(), Refusal> {
        let asked = |(name, value): &&(String, String)| {
            let name = name.as_str();
            self.method.parameters.contains(&name)
                && !implemented.parameters.contains(&name)
                && !INERT.contains(&name)
                && !["", "false"].contains(&value.as_str())
        };
        match self.query.iter().find(asked) {
            Some((name, _)) => Err(self.unimplemented(name)),
            None => Ok(()),
        }
    }

    /// Refuses this method with something that it does not have here.
    pub(super) fn unimplemented(&self, with: &str) -> Refusal {
        Refusal::unimplemented(&format!("{} with {with}", self.method.id))
    }

    /// A variable of the path.
    pub(super) fn id(&self, name: &str) -> &str {
        let found = self.ids.iter().find(|(known, _)| *known == name);
        found.map_or("", |(_, value)| value)
    }

    /// A parameter; an empty one counts as none.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let named = self.query.iter().filter(|(known, _)| known == name);
        named.map(|(_, value)| value.as_str()).find(|value| !value.is_empty())
    }

    /// All values of a parameter that may be repeated.
    pub(super) fn parameters<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.query.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.parameter(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Refusal::invalid(format!("Invalid boolean value for {name}."))),
        }
    }

    /// How many are wanted, or `usual`. More than are allowed are as many as are allowed.
    pub(super) fn size(
        &self,
        name: &str,
        allowed: &RangeInclusive<usize>,
        usual: usize,
    ) -> Result<usize, Refusal> {
        let Some(value) = self.parameter(name) else { return Ok(usual) };
        let size: usize = value.parse().map_err(|_| Self::out_of_range(name, allowed))?;
        if size < *allowed.start() {
            return Err(Self::out_of_range(name, allowed));
        }
        Ok(size.min(*allowed.end()))
    }

    pub(super) fn out_of_range(name: &str, allowed: &RangeInclusive<usize>) -> Refusal {
        let (least, most) = (allowed.start(), allowed.end());
        Refusal::invalid(format!("Invalid value for {name}: it must be within [{least}, {most}]."))
    }

    /// So many of these from where the page token says, and the token of the next page.
    pub(super) fn page<T>(
        &self,
        all: impl IntoIterator<Item = T>,
        size: usize,
    ) -> Result<(Vec<T>, Option<String>), Refusal> {
        let start: usize = match self.parameter("pageToken") {
            None => 0,
            Some(token) => token
                .strip_prefix("~page-")
                .and_then(|start| start.parse().ok())
                .ok_or_else(|| Refusal::invalid("Invalid page token."))?,
        };
        let mut rest = all.into_iter().skip(start);
        let page = rest.by_ref().take(size).collect();
        let more = rest.next().is_some();
        Ok((page, more.then(|| format!("~page-{}", start + size))))
    }

    /// The body as a resource; an empty one has no fields.
    pub(super) fn resource(&self) -> Result<Resource, Refusal> {
        resource(&self.body)
    }

    /// The resource and the media of an upload, or the resource alone.
    pub(super) fn uploaded(&self) -> Result<Upload, Refusal> {
        let content_type = text(&self.headers, CONTENT_TYPE.as_str()).unwrap_or_default();
        if !self.upload {
            return Ok(Upload { resource: self.resource()?, media: None });
        }
        match self.parameter("uploadType") {
            Some("media") => {
                let media = Some((content_type.to_owned(), self.body.clone()));
                Ok(Upload { resource: Resource::new(), media })
            }
            Some("multipart") => {
                let parts = multipart::split_as(content_type, &self.body);
                let Some([told, media]) = parts.as_deref() else {
                    return Err(Refusal::invalid("Malformed multipart body."));
                };
                let kind = media.header("content-type").unwrap_or("application/octet-stream");
                let mut body = media.body.clone();
                if media.header("content-transfer-encoding") == Some("base64") {
                    body = lenient_base64::decode(&body)
                        .ok_or_else(|| Refusal::invalid("Malformed multipart body."))?;
                }
                Ok(Upload { resource: resource(&told.body)?, media: Some((kind.to_owned(), body)) })
            }
            Some(other) => Err(self.unimplemented(&format!("uploadType={other}"))),
            None => Err(Refusal::invalid("uploadType is missing.")),
        }
    }
}

fn resource(body: &[u8]) -> Result<Resource, Refusal> {
    if body.is_empty() {
        return Ok(Resource::new());
    }
    serde_json::from_slice(body).map_err(|error| Refusal::invalid(format!("Parse Error: {error}")))
}

/// What a call is answered with.
#[derive(Debug)]
pub(super) enum Answer {
    Json(Value),
    /// 204.
    Empty,
    /// Anything else.
    Content(Response),
}

impl Answer {
    /// Only the fields that are asked for; of what is no JSON all of it.
    pub(super) fn into_response(self, fields: Option<&Selection>) -> Response {
        match (self, fields) {
            (Self::Json(json), Some(fields)) => Json(fields.of(json)).into_response(),
            (Self::Json(json), None) => Json(json).into_response(),
            (Self::Empty, _) => StatusCode::NO_CONTENT.into_response(),
            (Self::Content(response), _) => response,
        }
    }
}

/// A patch as the reference has it: what is null goes, objects are patched, all else is
/// replaced.
pub(super) fn patch(resource: &mut Resource, changes: Resource) {
    for (name, value) in changes {
        match (resource.get_mut(&name), value) {
            (_, Value::Null) => {
                resource.remove(&name);
            }
            (Some(Value::Object(old)), Value::Object(new)) => patch(old, new),
            (_, value) => {
                resource.insert(name, value);
            }
        }
    }
}

/// A field, or null.
pub(super) fn field<'a>(resource: &'a Resource, name: &str) -> &'a Value {
    resource.get(name).unwrap_or(&Value::Null)
}

/// As the APIs write times.
pub(super) fn written(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// What users have, by `sub`.
pub(super) type ByUser<T> = HashMap<String, T>;

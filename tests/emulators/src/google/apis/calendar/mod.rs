//! Calendar: the events of each user's primary calendar.
//!
//! It is in UTC. Events do not recur, and nobody is invited: what is said of attendees is kept
//! and shown.

mod times;

use base64::Engine as _;
use http::StatusCode;
use http::header::IF_MATCH;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::super::core::{Core, text};
use super::super::refusal::Refusal;
use super::call::{Answer, ByUser, Call, Implemented, Resource, field, patch, written};
use times::{Span, instant};

const READ: &str = "https://www.googleapis.com/auth/calendar.events.readonly";
const WRITE: &str = "https://www.googleapis.com/auth/calendar.events";

/// What a caller cannot set.
const READ_ONLY: [&str; 9] =
    ["kind", "etag", "id", "htmlLink", "created", "updated", "creator", "organizer", "hangoutLink"];

pub(super) const METHODS: &[Implemented] = &[
    Implemented {
        id: "calendar.events.list",
        scope: READ,
        parameters: &[
            "iCalUID",
            "maxResults",
            "orderBy",
            "pageToken",
            "q",
            "showDeleted",
            "singleEvents",
            "timeMax",
            "timeMin",
            "updatedMin",
        ],
        fields: "",
        work: list,
    },
    Implemented { id: "calendar.events.get", scope: READ, parameters: &[], fields: "", work: get },
    Implemented {
        id: "calendar.events.insert",
        scope: WRITE,
        parameters: &[],
        fields: "",
        work: insert,
    },
    Implemented {
        id: "calendar.events.update",
        scope: WRITE,
        parameters: &[],
        fields: "",
        work: change,
    },
    Implemented {
        id: "calendar.events.patch",
        scope: WRITE,
        parameters: &[],
        fields: "",
        work: change,
    },
    Implemented {
        id: "calendar.events.delete",
        scope: WRITE,
        parameters: &[],
        fields: "",
        work: delete,
    },
];

/// Events by user, as they were inserted; deleted ones are cancelled and stay.
#[derive(Debug, Default)]
pub(super) struct Calendars {
    events: ByUser<Vec<Resource>>,
    /// How many changes there were.
    changes: u64,
}

/// The caller's events, if the call is about their own calendar.
fn own<'a>(call: &Call, core: &'a mut Core) -> Result<(&'a mut Vec<Resource>, String), Refusal> {
    let sub = &call.caller.sub;
    let email = core.identity.user(sub).map(|user| user.email.clone()).unwrap_or_default();
    if ![email.as_str(), "primary"].contains(&call.id("calendarId")) {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "notFound", "Not Found"));
    }
    core.data.calendars.changes += 1;
    Ok((core.data.calendars.events.entry(sub.clone()).or_default(), email))
}

fn list(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let size = call.size("maxResults", &(1..=2500), 250)?;
    let single = call.flag("singleEvents")?;
    let deleted = call.flag("showDeleted")?;
    let bound = |name: &str| call.parameter(name).map(|time| instant(name, time)).transpose();
    let (from, until, updated) = (bound("timeMin")?, bound("timeMax")?, bound("updatedMin")?);
    if from.zip(until).is_some_and(|(from, until)| from >= until) {
        return Err(times::empty());
    }
    let (events, email) = own(call, core)?;
    let words = call.parameter("q").map(str::to_lowercase);
    let mut found = Vec::new();
    for event in events.iter() {
        let span = Span::of(event)?;
        let changed: Option<Timestamp> =
            field(event, "updated").as_str().and_then(|at| at.parse().ok());
        let shown = (deleted || field(event, "status") != "cancelled")
            && from.is_none_or(|from| span.end > from)
            && until.is_none_or(|until| span.start < until)
            && updated.zip(changed).is_none_or(|(updated, changed)| changed >= updated)
            && call.parameter("iCalUID").is_none_or(|uid| field(event, "iCalUID") == uid)
            && words.as_ref().is_none_or(|words| mentions(event, words));
        if shown {
            found.push((span, event));
        }
    }
    match call.parameter("orderBy") {
        None => {}
        Some("startTime") if single => found.sort_by_key(|(span, _)| span.start),
        Some("updated") => {
            found.sort_by(|(_, a), (_, b)| {
                field(a, "updated").as_str().cmp(&field(b, "updated").as_str())
            });
        }
        Some("startTime") => {
            let message = "The requested ordering is not available for the particular query.";
            return Err(Refusal::invalid(message));
        }
        Some(_) => return Err(Refusal::invalid("Invalid value for orderBy.")),
    }
    let (items, next) = call.page(found.into_iter().map(|(_, event)| event.clone()), size)?;
    let mut json = json!({
        "kind": "calendar#events",
        "etag": "\"fake-events\"",
        "summary": email,
        "updated": written(call.now),
        "timeZone": "UTC",
        "accessRole": "owner",
        "defaultReminders": [],
        "items": items,
    });
    if let Some(next) = next {
        json["nextPageToken"] = next.into();
    }
    Ok(Answer::Json(json))
}

/// Whether every one of these words is in what people write of an event.
fn mentions(event: &Resource, words: &str) -> bool {
    let said = ["summary", "description", "location", "attendees", "organizer"];
    let said = said.iter().filter_map(|name| event.get(*name));
    let said: String = said.map(|value| value.to_string().to_lowercase()).collect();
    words.split_whitespace().all(|word| said.contains(word))
}

fn get(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let (events, _) = own(call, core)?;
    Ok(Answer::Json(one(call, events)?.clone().into()))
}

fn one<'a>(call: &Call, events: &'a mut [Resource]) -> Result<&'a mut Resource, Refusal> {
    let found = events.iter_mut().find(|event| field(event, "id") == call.id("eventId"));
    found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "notFound", "Not Found"))
}

fn insert(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let mut new = given(call)?;
    let id = new.get("id").and_then(Value::as_str).map(str::to_owned);
    new.retain(|name, _| !READ_ONLY.contains(&name.as_str()));
    times::settle(&mut new)?;
    let changes = core.data.calendars.changes;
    let (events, email) = own(call, core)?;
    let id = match id {
        None => made_up_id(&call.caller.sub, changes),
        Some(id) if (5..=1024).contains(&id.len()) && id.bytes().all(is_base32hex) => id,
        Some(_) => return Err(Refusal::invalid("Invalid resource id value.")),
    };
    if events.iter().any(|event| field(event, "id") == id.as_str()) {
        let message = "The requested identifier already exists.";
        return Err(Refusal::new(StatusCode::CONFLICT, "duplicate", message));
    }
    let eid = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(format!("{id} {email}"));
    let mut event = json!({
        "kind": "calendar#event",
        "etag": etag(changes),
        "id": id,
        "status": "confirmed",
        "htmlLink": format!("https://www.google.com/calendar/event?eid={eid}"),
        "created": written(call.now),
        "updated": written(call.now),
        "creator": {"email": email, "self": true},
        "organizer": {"email": email, "self": true},
        "iCalUID": format!("{id}@google.com"),
        "sequence": 0,
        "reminders": {"useDefault": true},
        "eventType": "default",
    });
    if let Some(event) = event.as_object_mut() {
        patch(event, new);
        events.push(event.clone());
    }
    Ok(Answer::Json(event))
}

fn etag(changes: u64) -> String {
    format!("\"{changes}000\"")
}

/// Patches, or replaces everything that a caller may set.
fn change(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let mut changes = given(call)?;
    changes.retain(|name, _| !READ_ONLY.contains(&name.as_str()));
    let number = core.data.calendars.changes;
    let (events, _) = own(call, core)?;
    let event = one(call, events)?;
    unchanged(call, event)?;
    let mut new = event.clone();
    if call.method.id == "calendar.events.update" {
        let kept = [&READ_ONLY[..], &["iCalUID", "sequence", "eventType", "status"]].concat();
        new.retain(|name, _| kept.contains(&name.as_str()));
        new.insert("reminders".to_owned(), json!({"useDefault": true}));
    }
    patch(&mut new, changes);
    times::settle(&mut new)?;
    if (new.get("start"), new.get("end")) != (event.get("start"), event.get("end")) {
        let sequence = field(event, "sequence").as_u64().unwrap_or_default();
        new.insert("sequence".to_owned(), (sequence + 1).into());
    }
    new.insert("etag".to_owned(), etag(number).into());
    new.insert("updated".to_owned(), written(call.now).into());
    *event = new;
    Ok(Answer::Json(event.clone().into()))
}

fn delete(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let number = core.data.calendars.changes;
    let (events, _) = own(call, core)?;
    let event = one(call, events)?;
    unchanged(call, event)?;
    if field(event, "status") == "cancelled" {
        return Err(Refusal::new(StatusCode::GONE, "deleted", "Resource has been deleted"));
    }
    event.insert("status".to_owned(), "cancelled".into());
    event.insert("etag".to_owned(), etag(number).into());
    event.insert("updated".to_owned(), written(call.now).into());
    Ok(Answer::Empty)
}

/// Refuses a change of another version than the caller names.
fn unchanged(call: &Call, event: &Resource) -> Result<(), Refusal> {
    match text(&call.headers, IF_MATCH.as_str()) {
        Some(known) if known != "*" && field(event, "etag") != known => Err(Refusal::new(
            StatusCode::PRECONDITION_FAILED,
            "conditionNotMet",
            "Precondition Failed",
        )),
        _ => Ok(()),
    }
}

/// The event in the body, without what is missing here.
fn given(call: &Call) -> Result<Resource, Refusal> {
    let new = call.resource()?;
    for missing in ["recurrence", "conferenceData", "attachments"] {
        if new.get(missing).is_some_and(|value| !value.is_null()) {
            return Err(call.unimplemented(missing));
        }
    }
    Ok(new)
}

fn is_base32hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'v').contains(&byte)
}

fn made_up_id(sub: &str, changes: u64) -> String {
    let digest = Sha256::digest(format!("{sub} {changes}"));
    let letter = |byte: &u8| char::from_digit(u32::from(byte % 32), 32).unwrap_or('0');
    digest.iter().take(26).map(letter).collect()
}

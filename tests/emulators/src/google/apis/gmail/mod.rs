//! Gmail: each user's mailbox. What is sent to the address of another account of this
//! emulator arrives there; nothing leaves the machine.

mod message;
mod search;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::core::Core;
use super::super::refusal::Refusal;
use super::call::{Answer, ByUser, Call, Implemented, Work};
use crate::lenient_base64;
use message::Entity;
use search::Search;

const READ: &str = "https://www.googleapis.com/auth/gmail.readonly";
const SEND: &str = "https://www.googleapis.com/auth/gmail.send";
const METADATA: &str = "https://www.googleapis.com/auth/gmail.metadata";

/// The labels that every mailbox has.
const LABELS: [&str; 14] = [
    "INBOX",
    "SENT",
    "DRAFT",
    "TRASH",
    "SPAM",
    "UNREAD",
    "STARRED",
    "IMPORTANT",
    "CHAT",
    "CATEGORY_PERSONAL",
    "CATEGORY_SOCIAL",
    "CATEGORY_PROMOTIONS",
    "CATEGORY_UPDATES",
    "CATEGORY_FORUMS",
];

pub(super) const METHODS: &[Implemented] = &[
    method("gmail.users.getProfile", READ, &[], profile),
    method("gmail.users.labels.list", READ, &[], labels),
    method("gmail.users.labels.get", READ, &[], label),
    method(
        "gmail.users.messages.list",
        READ,
        &["includeSpamTrash", "labelIds", "maxResults", "pageToken", "q"],
        list,
    ),
    method("gmail.users.messages.get", READ, &["format", "metadataHeaders"], get),
    method("gmail.users.messages.send", SEND, &[], send),
];

const fn method(
    id: &'static str,
    scope: &'static str,
    parameters: &'static [&'static str],
    work: Work,
) -> Implemented {
    Implemented { id, scope, parameters, fields: "", work }
}

/// Every mailbox, its oldest message first.
#[derive(Debug, Default)]
pub(super) struct Mail {
    boxes: ByUser<Vec<Message>>,
    made: u64,
}

#[derive(Clone, Debug)]
struct Message {
    id: String,
    thread: String,
    labels: Vec<&'static str>,
    raw: Bytes,
    at: Timestamp,
    history: u64,
}

/// As the API writes bytes.
fn encoded(bytes: &[u8]) -> String {
    BASE64_URL_SAFE.encode(bytes)
}

/// The caller's address, if the call is about their own mailbox.
fn own(call: &Call, core: &Core) -> Result<String, Refusal> {
    let user = core.identity.user(&call.caller.sub);
    let email = user.map(|user| user.email.clone()).unwrap_or_default();
    let asked = call.id("userId");
    if asked == "me" || asked.eq_ignore_ascii_case(&email) {
        return Ok(email);
    }
    let message = format!("Delegation denied for {email}");
    Err(Refusal::new(StatusCode::FORBIDDEN, "forbidden", message))
}

fn messages<'a>(call: &Call, core: &'a Core) -> &'a [Message] {
    core.data.mail.boxes.get(&call.caller.sub).map(Vec::as_slice).unwrap_or_default()
}

fn profile(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let email = own(call, core)?;
    let messages = messages(call, core);
    let mut threads: Vec<&str> = messages.iter().map(|message| &*message.thread).collect();
    threads.sort_unstable();
    threads.dedup();
    Ok(Answer::Json(json!({
        "emailAddress": email,
        "messagesTotal": messages.len(),
        "threadsTotal": threads.len(),
        "historyId": (core.data.mail.made + 1).to_string(),
    })))
}

fn label_json(id: &str) -> Value {
    json!({"id": id, "name": id, "type": "system"})
}

fn labels(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    own(call, core)?;
    let labels: Vec<Value> = LABELS.iter().map(|id| label_json(id)).collect();
    Ok(Answer::Json(json!({"labels": labels})))
}

fn label(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    own(call, core)?;
    let id = call.id("id");
    if !LABELS.contains(&id) {
        return Err(missing());
    }
    let with = messages(call, core).iter().filter(|message| message.labels.contains(&id));
    let unread = with.clone().filter(|message| message.labels.contains(&"UNREAD"));
    let mut json = label_json(id);
    json["messagesTotal"] = with.count().into();
    json["messagesUnread"] = unread.count().into();
    Ok(Answer::Json(json))
}

fn missing() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "notFound", "Requested entity was not found.")
}

/// Whether a token may see no more than headers.
fn only_metadata(call: &Call) -> bool {
    let scopes = call.caller.scopes.iter();
    let mut mail = scopes.filter(|scope| call.method.scopes.contains(scope));
    mail.all(|scope| scope == METADATA)
}

/// The newest first.
fn list(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    own(call, core)?;
    let size = call.size("maxResults", &(1..=500), 100)?;
    if only_metadata(call) && call.parameter("q").is_some() {
        let message = "Metadata scope does not support 'q' parameter";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "forbidden", message));
    }
    let search = Search::parse(call.parameter("q").unwrap_or_default())
        .map_err(|operator| call.unimplemented(&format!("q={operator}:")))?;
    let all = call.flag("includeSpamTrash")? || search.names_hidden();
    let shown = |message: &&Message| {
        let hidden = ["TRASH", "SPAM"].iter().any(|label| message.labels.contains(label));
        (all || !hidden)
            && call.parameters("labelIds").all(|label| message.labels.contains(&label))
            && search.finds(message)
    };
    let found = messages(call, core).iter().rev().filter(shown);
    let estimate = found.clone().count();
    let (page, next) = call.page(found, size)?;
    let mut json = json!({"resultSizeEstimate": estimate});
    if !page.is_empty() {
        let named = |message: &Message| json!({"id": message.id, "threadId": message.thread});
        json["messages"] = page.into_iter().map(named).collect();
    }
    if let Some(next) = next {
        json["nextPageToken"] = next.into();
    }
    Ok(Answer::Json(json))
}

fn get(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    own(call, core)?;
    let format = call.parameter("format").unwrap_or("full").to_lowercase();
    let found = messages(call, core).iter().find(|message| message.id == call.id("id"));
    let message = found.ok_or_else(missing)?;
    let mut json = message.brief();
    let entity = Entity::read(&message.raw);
    json["snippet"] = entity.snippet().into();
    json["sizeEstimate"] = message.raw.len().into();
    json["historyId"] = message.history.to_string().into();
    json["internalDate"] = message.at.as_millisecond().to_string().into();
    if only_metadata(call) && ["full", "raw"].contains(&&*format) {
        let message = format!("Metadata scope doesn't allow format {}", format.to_uppercase());
        return Err(Refusal::new(StatusCode::FORBIDDEN, "forbidden", message));
    }
    match format.as_str() {
        "full" => json["payload"] = entity.to_json(""),
        "metadata" => {
            let wanted: Vec<&str> = call.parameters("metadataHeaders").collect();
            json["payload"] = entity.metadata(&wanted);
        }
        "raw" => json["raw"] = encoded(&message.raw).into(),
        "minimal" => {}
        _ => return Err(Refusal::invalid("Invalid value for format.")),
    }
    Ok(Answer::Json(json))
}

impl Message {
    fn brief(&self) -> Value {
        json!({"id": self.id, "threadId": self.thread, "labelIds": self.labels})
    }
}

fn send(call: &Call, core: &mut Core) -> Result<Answer, Refusal> {
    let email = own(call, core)?;
    let uploaded = call.uploaded()?;
    let text = |name: &str| uploaded.resource.get(name).and_then(Value::as_str);
    let raw = match (&uploaded.media, text("raw")) {
        (Some((_, media)), _) => media.clone(),
        (None, Some(raw)) => lenient_base64::decode(raw.as_bytes())
            .ok_or_else(|| Refusal::invalid("Invalid value for ByteString: raw"))?,
        (None, None) => {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "invalidArgument",
                "'raw' RFC822 payload message string or uploading message via /upload/* URL required",
            ));
        }
    };
    let entity = Entity::read(&raw);
    let recipients = entity.recipients();
    if recipients.is_empty() {
        let message = "Recipient address required";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "invalidArgument", message));
    }
    let mail = &mut core.data.mail;
    mail.made += 1;
    let id = format!("{:016x}", 0x19a0_0000_0000_0000 + mail.made);
    let thread = match text("threadId") {
        None => id.clone(),
        Some(thread) => {
            let mut own = mail.boxes.get(&call.caller.sub).into_iter().flatten();
            if !own.any(|message| message.thread == thread) {
                return Err(missing());
            }
            thread.to_owned()
        }
    };
    let raw = entity.completed(&email, &id, call.now, &raw);
    let history = mail.made + 1;
    let mut sent = Message { id, thread, labels: vec!["SENT"], raw, at: call.now, history };
    for recipient in recipients {
        if recipient.eq_ignore_ascii_case(&email) {
            sent.labels = vec!["UNREAD", "SENT", "INBOX"];
            continue;
        }
        let Some(sub) = core.identity.by_email(&recipient).map(ToOwned::to_owned) else { continue };
        let mail = &mut core.data.mail;
        mail.made += 1;
        let id = format!("{:016x}", 0x19a0_0000_0000_0000 + mail.made);
        let labels = vec!["UNREAD", "INBOX"];
        let received = Message { thread: id.clone(), id, labels, ..sent.clone() };
        mail.boxes.entry(sub).or_default().push(received);
    }
    let answer = sent.brief();
    core.data.mail.boxes.entry(call.caller.sub.clone()).or_default().push(sent);
    Ok(Answer::Json(answer))
}

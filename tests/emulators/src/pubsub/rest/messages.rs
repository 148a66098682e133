//! Messages over REST: `publish`, `pull`, `acknowledge`, `modifyAckDeadline`, and the other
//! methods of topics and subscriptions that are no access policy.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::resources::PushConfig;
use super::snapshots::{self, time};
use super::{iam, parse, told};
use crate::lenient_base64;
use crate::pubsub::engine::Engine;
use crate::pubsub::error::Error;
use crate::pubsub::{pull, settings};

/// `google.pubsub.v1.PubsubMessage`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_field_names, reason = "named as the API names them")]
struct Message {
    /// Base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    data: String,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    attributes: HashMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    message_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    publish_time: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    ordering_key: String,
}

impl TryFrom<Message> for proto::PubsubMessage {
    type Error = Error;

    fn try_from(message: Message) -> Result<Self, Error> {
        let data = lenient_base64::decode(message.data.as_bytes())
            .ok_or_else(|| Error::Invalid("the data of a message is not base64".to_owned()))?;
        Ok(Self {
            data: data.into(),
            attributes: message.attributes,
            ordering_key: message.ordering_key,
            ..Self::default()
        })
    }
}

impl From<proto::PubsubMessage> for Message {
    fn from(message: proto::PubsubMessage) -> Self {
        Self {
            data: BASE64_STANDARD.encode(&message.data),
            attributes: message.attributes,
            message_id: message.message_id,
            publish_time: message.publish_time.map(|time| time.to_string()),
            ordering_key: message.ordering_key,
        }
    }
}

/// What the methods are sent; each reads its own fields.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Sent {
    messages: Vec<Message>,
    max_messages: i32,
    return_immediately: bool,
    ack_ids: Vec<String>,
    ack_deadline_seconds: i32,
    push_config: PushConfig,
    time: Option<String>,
    snapshot: String,
}

/// `POST {topic}:{verb}`.
pub(super) fn topic(
    engine: &Engine,
    name: &str,
    verb: &str,
    body: &[u8],
) -> Result<Response, Error> {
    if verb != "publish" {
        return iam::change(engine, name, verb, body);
    }
    let messages = parse::<Sent>(body)?.messages.into_iter().map(TryInto::try_into);
    let messages: Vec<proto::PubsubMessage> = messages.collect::<Result<_, _>>()?;
    let ids = engine.run(|broker, now| broker.publish(name, messages, now))?;
    Ok(Json(json!({ "messageIds": ids })).into_response())
}

/// `POST {subscription}:{verb}`.
pub(super) async fn subscription(
    engine: &Arc<Engine>,
    name: &str,
    verb: &str,
    body: &[u8],
) -> Result<Response, Error> {
    if verb.ends_with("IamPolicy") || verb == "testIamPermissions" {
        return iam::change(engine, name, verb, body);
    }
    let sent: Sent = parse(body)?;
    match verb {
        "pull" => return Ok(pulled(engine, name, &sent).await),
        "acknowledge" => {
            let settled = engine.run(|broker, now| broker.acknowledge(name, &sent.ack_ids, now))?;
            if let Err(status) = settled.into_answer() {
                return Ok(told(&status));
            }
        }
        "modifyAckDeadline" => {
            let extension = settings::extension(sent.ack_deadline_seconds)?;
            let settled =
                engine.run(|broker, now| broker.modify(name, &sent.ack_ids, extension, now))?;
            if let Err(status) = settled.into_answer() {
                return Ok(told(&status));
            }
        }
        "modifyPushConfig" => {
            let request = proto::ModifyPushConfigRequest {
                subscription: name.to_owned(),
                push_config: Some(sent.push_config.into()),
            };
            engine.run(|broker, _| broker.modify_push_config(request))?;
        }
        "seek" => {
            let at = sent.time.as_deref().map(time).transpose()?;
            snapshots::seek(engine, name, at, sent.snapshot)?;
        }
        "detach" => engine.detach(name)?,
        _ => return Err(Error::Unimplemented(format!("POST {name}:{verb}").into())),
    }
    Ok(Json(json!({})).into_response())
}

async fn pulled(engine: &Arc<Engine>, name: &str, sent: &Sent) -> Response {
    #[expect(deprecated, reason = "clients still send it")]
    let request = proto::PullRequest {
        subscription: name.to_owned(),
        return_immediately: sent.return_immediately,
        max_messages: sent.max_messages,
    };
    let received = match pull::pull(engine, &request).await {
        Ok(received) => received,
        Err(status) => return told(&status),
    };
    let received: Vec<Value> = received
        .into_iter()
        .map(|received| {
            let mut json = json!({
                "ackId": received.ack_id,
                "message": received.message.map(Message::from),
            });
            if received.delivery_attempt != 0 {
                json["deliveryAttempt"] = received.delivery_attempt.into();
            }
            json
        })
        .collect();
    if received.is_empty() {
        return Json(json!({})).into_response();
    }
    Json(json!({ "receivedMessages": received })).into_response()
}

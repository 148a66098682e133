//! Push: messages posted to URLs on loopback, one at a time for each subscription.
//!
//! An answer of 102, 200, 201, 202 or 204 acknowledges the message, any other gives it
//! back and slows the subscription down.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use proto::push_config::Wrapper;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;
use url::{Host, Url};

use super::broker::ack_id;
use super::consumer::{Delivery, Limits};
use super::engine::Engine;

/// The pause after a first failure; doubled with each further one, up to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// An endpoint that can be pushed to: `http://` on loopback.
pub(super) fn endpoint(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let loopback = match url.host()? {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    (url.scheme() == "http" && loopback).then_some(url)
}

/// Pushes what is to be pushed, until the server stops.
pub(super) async fn serve(engine: Arc<Engine>) {
    let mut pushes = engine.pushes.subscribe();
    let mut running: HashMap<u64, (proto::PushConfig, AbortOnDropHandle<()>)> = HashMap::new();
    loop {
        let wanted = pushes.borrow_and_update().clone();
        running.retain(|id, (config, task)| {
            !task.is_finished() && wanted.get(id).is_some_and(|(_, wanted)| wanted == config)
        });
        for (id, (name, config)) in wanted {
            running.entry(id).or_insert_with(|| {
                let task = tokio::spawn(run(Arc::clone(&engine), name, config.clone()));
                (config, AbortOnDropHandle::new(task))
            });
        }
        tokio::select! {
            () = engine.stop.cancelled() => return,
            changed = pushes.changed() => if changed.is_err() { return },
        }
    }
}

async fn run(engine: Arc<Engine>, name: String, config: proto::PushConfig) {
    let Some(url) = endpoint(&config.push_endpoint) else { return };
    let opened = engine.open(&name, |settings| Limits {
        messages: Some(1),
        bytes: None,
        ack_deadline: settings.ack_deadline,
    });
    let Ok(session) = opened else { return };
    let mut pause = PAUSES.0;
    loop {
        // It is over when the subscription is deleted.
        let Ok(taken) = session.take(1, u64::MAX) else { return };
        if taken.is_empty() {
            session.ready().await;
        }
        for delivery in taken {
            let patience = engine.read(|broker| {
                broker.settings(session.attachment).map(|settings| settings.ack_deadline)
            });
            let posted = post(&url, request(&url, &name, &config, &delivery));
            let answered = timeout(patience.unwrap_or_default(), posted).await;
            let taken = matches!(answered, Ok(Ok(102 | 200 | 201 | 202 | 204)));
            let ids = [ack_id(session.attachment.subscription, delivery.id)];
            let settled = engine.run(|broker, now| {
                if taken {
                    broker.acknowledge(&name, &ids, now)
                } else {
                    broker.modify(&name, &ids, Duration::ZERO, now)
                }
            });
            if settled.is_err() {
                return;
            }
            if taken {
                pause = PAUSES.0;
            } else {
                sleep_until(Instant::now() + pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

/// The request that brings a message: wrapped in JSON, or bare with its attributes as
/// headers.
fn request(url: &Url, name: &str, config: &proto::PushConfig, delivery: &Delivery) -> Vec<u8> {
    let message = &delivery.message.content;
    let (headers, body) = if let Some(Wrapper::NoWrapper(bare)) = &config.wrapper {
        let headers = if bare.write_metadata { metadata(name, message) } else { String::new() };
        (headers, message.data.clone())
    } else {
        let json = wrapped(name, delivery);
        ("content-type: application/json\r\n".to_owned(), json.to_string().into_bytes())
    };
    let mut path = url.path().to_owned();
    if let Some(query) = url.query() {
        path = format!("{path}?{query}");
    }
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: {}\r\nuser-agent: CloudPubSub-Google\r\n\
         connection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        url.authority(),
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(&body);
    request
}

/// The headers that go with a bare message.
fn metadata(name: &str, message: &proto::PubsubMessage) -> String {
    let own = [
        ("x-goog-pubsub-subscription-name", name),
        ("x-goog-pubsub-message-id", message.message_id.as_str()),
    ];
    let attributes = message.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    // What no header can carry is left out.
    let carried = |(key, value): &(&str, &str)| {
        !key.contains(['\r', '\n', ':', ' ']) && !value.contains(['\r', '\n'])
    };
    let lines = own.into_iter().chain(attributes.filter(carried));
    lines.flat_map(|(key, value)| [key, ": ", value, "\r\n"]).collect()
}

fn wrapped(name: &str, delivery: &Delivery) -> Value {
    let message = &delivery.message.content;
    let time = message.publish_time.unwrap_or_default().to_string();
    let mut json = json!({
        "subscription": name,
        "message": {
            "data": BASE64_STANDARD.encode(&message.data),
            "attributes": message.attributes,
            "messageId": message.message_id,
            "message_id": message.message_id,
            "publishTime": time,
            "publish_time": time,
        },
    });
    if !message.ordering_key.is_empty() {
        json["message"]["orderingKey"] = message.ordering_key.as_str().into();
    }
    if let Some(attempt) = delivery.attempt {
        json["deliveryAttempt"] = attempt.into();
    }
    json
}

/// Sends a request and reads the status of its answer.
async fn post(url: &Url, request: Vec<u8>) -> io::Result<u16> {
    let addresses = url.socket_addrs(|| None)?;
    let mut stream = TcpStream::connect(addresses.as_slice()).await?;
    stream.write_all(&request).await?;
    let mut answer = Vec::new();
    stream.take(64 << 10).read_to_end(&mut answer).await?;
    let head = String::from_utf8_lossy(&answer);
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_pushed_to() {
        for good in ["http://127.0.0.1:80/a", "http://localhost:9/", "http://[::1]:9/x?y=z"] {
            assert!(endpoint(good).is_some(), "{good}");
        }
        for bad in ["https://127.0.0.1/", "http://example.com/", "127.0.0.1:80", ""] {
            assert!(endpoint(bad).is_none(), "{bad}");
        }
    }
}

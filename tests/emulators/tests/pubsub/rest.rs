//! Messages, snapshots and push over REST, as gcloud and curl use them.

use anyhow::{Context as _, Result};
use async_compression::tokio::bufread::GzipEncoder;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::fixture::{Fixture, SUBSCRIPTION, TOPIC};

const SNAPSHOT: &str = "projects/test/snapshots/before";

/// Sends JSON and reads the status and JSON of the answer.
async fn call(fixture: &Fixture, method: Method, path: &str, body: Value) -> Result<(u16, Value)> {
    let url = format!("{}/v1/{path}", fixture.endpoint());
    let answer = Client::new().request(method, url).json(&body).send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

async fn post(fixture: &Fixture, path: &str, body: Value) -> Result<(u16, Value)> {
    call(fixture, Method::POST, path, body).await
}

/// The texts (base64) that wait, acknowledged.
async fn drain(fixture: &Fixture) -> Result<Vec<String>> {
    let asked = json!({"maxMessages": 10, "returnImmediately": true});
    let (status, answer) = post(fixture, &format!("{SUBSCRIPTION}:pull"), asked).await?;
    assert_eq!(status, 200, "{answer}");
    let received = answer["receivedMessages"].as_array().cloned().unwrap_or_default();
    let ids: Vec<&Value> = received.iter().map(|received| &received["ackId"]).collect();
    if !ids.is_empty() {
        let (status, answer) =
            post(fixture, &format!("{SUBSCRIPTION}:acknowledge"), json!({"ackIds": ids})).await?;
        assert_eq!(status, 200, "{answer}");
    }
    let text =
        |received: &Value| received["message"]["data"].as_str().unwrap_or_default().to_owned();
    let mut texts: Vec<String> = received.iter().map(text).collect();
    texts.sort();
    Ok(texts)
}

async fn publish(fixture: &Fixture, data: &str) -> Result<()> {
    let messages = json!({"messages": [{"data": data, "attributes": {"kind": "note"}}]});
    let (status, answer) = post(fixture, &format!("{TOPIC}:publish"), messages).await?;
    assert_eq!((status, answer["messageIds"].as_array().map(Vec::len)), (200, Some(1)));
    Ok(())
}

#[tokio::test]
async fn messages_move_one_request_at_a_time() -> Result<()> {
    let fixture = Fixture::start().await?;
    publish(&fixture, "YQ==").await?;
    let asked = json!({"maxMessages": 1});
    let (_, answer) = post(&fixture, &format!("{SUBSCRIPTION}:pull"), asked).await?;
    let received = &answer["receivedMessages"][0];
    assert_eq!(received["message"]["attributes"], json!({"kind": "note"}));
    let back = json!({"ackIds": [received["ackId"]], "ackDeadlineSeconds": 0});
    let (status, _) = post(&fixture, &format!("{SUBSCRIPTION}:modifyAckDeadline"), back).await?;
    assert_eq!(status, 200);
    assert_eq!(drain(&fixture).await?, ["YQ=="]);
    assert!(drain(&fixture).await?.is_empty());
    let (status, answer) = post(&fixture, &format!("{SUBSCRIPTION}:explode"), json!({})).await?;
    assert_eq!(status, 501);
    assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains("explode")));
    Ok(())
}

/// gcloud writes bytes in the alphabet of URLs.
#[tokio::test]
async fn data_comes_in_either_alphabet_and_without_padding() -> Result<()> {
    let fixture = Fixture::start().await?;
    for data in ["YWI_", "YWI"] {
        publish(&fixture, data).await?;
    }
    assert_eq!(drain(&fixture).await?, ["YWI/", "YWI="]);
    let refused = json!({"messages": [{"data": "no base64!"}]});
    assert_eq!(post(&fixture, &format!("{TOPIC}:publish"), refused).await?.0, 400);
    Ok(())
}

/// As the clients for Java and .NET send them.
#[tokio::test]
async fn bodies_may_be_compressed_and_a_post_may_stand_for_another_method() -> Result<()> {
    let fixture = Fixture::start().await?;
    let post = |path: &str| Client::new().post(format!("{}/v1/{path}", fixture.endpoint()));
    let mut compressed = Vec::new();
    GzipEncoder::new(&br#"{"messages":[{"data":"YQ=="}]}"#[..])
        .read_to_end(&mut compressed)
        .await?;
    let published = post(&format!("{TOPIC}:publish")).header("content-encoding", "gzip");
    assert_eq!(published.body(compressed).send().await?.status(), 200);
    assert_eq!(drain(&fixture).await?, ["YQ=="]);
    let patched = post(TOPIC).header("x-http-method-override", "PATCH");
    let change = json!({"topic": {"labels": {"a": "1"}}, "updateMask": "labels"});
    let patched: Value = patched.json(&change).send().await?.json().await?;
    assert_eq!(patched["labels"], json!({"a": "1"}));
    Ok(())
}

#[tokio::test]
async fn a_snapshot_brings_back_what_it_held_and_what_came_after() -> Result<()> {
    let fixture = Fixture::start().await?;
    publish(&fixture, "YQ==").await?;
    drain(&fixture).await?;
    publish(&fixture, "Yg==").await?;
    let held = json!({"subscription": SUBSCRIPTION});
    let (status, made) = call(&fixture, Method::PUT, SNAPSHOT, held).await?;
    assert_eq!((status, &made["topic"]), (200, &json!(TOPIC)));
    publish(&fixture, "Yw==").await?;
    assert_eq!(drain(&fixture).await?, ["Yg==", "Yw=="]);
    let seek = format!("{SUBSCRIPTION}:seek");
    let (status, answer) = post(&fixture, &seek, json!({"snapshot": SNAPSHOT})).await?;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(drain(&fixture).await?, ["Yg==", "Yw=="], "and not what was acknowledged before");
    publish(&fixture, "ZA==").await?;
    let (status, _) = post(&fixture, &seek, json!({"time": "2999-01-01T00:00:00Z"})).await?;
    assert_eq!(status, 200);
    assert!(drain(&fixture).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_detached_subscription_has_nothing_and_gets_nothing() -> Result<()> {
    let fixture = Fixture::start().await?;
    publish(&fixture, "YQ==").await?;
    post(&fixture, &format!("{SUBSCRIPTION}:detach"), json!({})).await?;
    let (_, found) = call(&fixture, Method::GET, SUBSCRIPTION, json!({})).await?;
    assert_eq!(found["detached"], true);
    let asked = json!({"maxMessages": 1, "returnImmediately": true});
    let (status, answer) = post(&fixture, &format!("{SUBSCRIPTION}:pull"), asked).await?;
    assert_eq!((status, &answer["error"]["status"]), (400, &json!("FAILED_PRECONDITION")));
    Ok(())
}

#[tokio::test]
async fn a_push_that_is_refused_comes_again() -> Result<()> {
    let fixture = Fixture::start().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let config = json!({"pushConfig": {
        "pushEndpoint": format!("http://{}/jobs?x=1", listener.local_addr()?),
    }});
    let (status, answer) =
        post(&fixture, &format!("{SUBSCRIPTION}:modifyPushConfig"), config).await?;
    assert_eq!(status, 200, "{answer}");
    publish(&fixture, "YQ==").await?;
    let mut ids = Vec::new();
    for status in ["500 Internal Server Error", "204 No Content"] {
        let (mut stream, _) = listener.accept().await?;
        let mut read = Vec::new();
        let body = loop {
            let mut part = [0; 4096];
            let length = stream.read(&mut part).await?;
            read.extend_from_slice(&part[..length]);
            let text = String::from_utf8_lossy(&read);
            let body = text.split_once("\r\n\r\n").map(|(_, body)| body);
            if let Some(body) = body.and_then(|body| serde_json::from_str::<Value>(body).ok()) {
                assert!(text.starts_with("POST /jobs?x=1 HTTP/1.1\r\n"));
                break body;
            }
        };
        assert_eq!(body["subscription"], SUBSCRIPTION);
        assert_eq!(body["message"]["data"], "YQ==");
        ids.push(body["message"]["messageId"].as_str().context("an ID")?.to_owned());
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await?;
    }
    assert_eq!(ids[0], ids[1]);
    fixture.pubsub.wait_for(|stats| stats.acknowledged == 1).await;
    Ok(())
}

/// What Cloud Monitoring shows of a subscription, by its own path and filter.
#[tokio::test]
async fn the_backlog_is_shown_as_cloud_monitoring_shows_it() -> Result<()> {
    let fixture = Fixture::start().await?;
    let asked = async |metric: &str, id: &str| -> Result<Value> {
        let filter = format!(
            "metric.type = \"pubsub.googleapis.com/subscription/{metric}\" AND resource.labels.subscription_id = \"{id}\""
        );
        let url = format!("{}/v3/projects/test/timeSeries", fixture.endpoint());
        let query = [("filter", filter.as_str()), ("interval.endTime", "2026-01-01T00:00:00Z")];
        Ok(Client::new().get(url).query(&query).send().await?.json().await?)
    };
    let value = |answer: &Value| answer["timeSeries"][0]["points"][0]["value"].clone();
    for waiting in 0..3 {
        let answer = asked("num_undelivered_messages", "workers").await?;
        assert_eq!(value(&answer), json!({"int64Value": waiting.to_string()}), "{answer}");
        let message = json!({"messages": [{"data": "eA=="}]});
        assert_eq!(post(&fixture, &format!("{TOPIC}:publish"), message).await?.0, 200);
    }
    let answer = asked("oldest_unacked_message_age", "workers").await?;
    assert!(value(&answer)["int64Value"].is_string(), "{answer}");
    assert_eq!(asked("num_undelivered_messages", "others").await?, json!({}));
    let refused = asked("byte_cost", "workers").await?;
    assert_eq!(refused["error"]["status"], "UNIMPLEMENTED", "{refused}");
    Ok(())
}

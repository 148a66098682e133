//! Topics and subscriptions through the official admin clients.

use anyhow::{Context as _, Result};
use google_cloud_gax::error::Error;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::paginator::ItemPaginator as _;
use google_cloud_pubsub::model::{PushConfig, Subscription, Topic, UpdateSubscriptionRequest};
use google_cloud_wkt::{Duration, FieldMask};
use serde_json::{Value, json};

use crate::fixture::{Fixture, SUBSCRIPTION, TOPIC};

fn code<T>(result: Result<T, Error>) -> Option<Code> {
    result.err()?.status().map(|status| status.code)
}

#[tokio::test]
async fn what_is_created_is_found_listed_and_deleted() -> Result<()> {
    let fixture = Fixture::ordered().await?;
    let (topics, subscriptions) = (fixture.topics().await?, fixture.subscriptions().await?);
    for id in ["alpha", "beta"] {
        let name = format!("projects/test/topics/{id}");
        topics.create_topic().set_name(name).send().await?;
    }
    let mut listed = Vec::new();
    let mut all = topics.list_topics().set_project("projects/test").set_page_size(2).by_item();
    while let Some(topic) = all.next().await {
        listed.push(topic?.name);
    }
    assert_eq!(listed, ["projects/test/topics/alpha", "projects/test/topics/beta", TOPIC]);
    let of_topic = topics.list_topic_subscriptions().set_topic(TOPIC);
    assert_eq!(of_topic.send().await?.subscriptions, [SUBSCRIPTION]);
    let of_project = subscriptions.list_subscriptions();
    let of_project = of_project.set_project("projects/test").send().await?;
    assert_eq!(of_project.subscriptions.len(), 1);

    let get = || subscriptions.get_subscription().set_subscription(SUBSCRIPTION);
    let found = get().send().await?;
    assert!(found.enable_message_ordering);
    assert_eq!((found.topic.as_str(), found.ack_deadline_seconds), (TOPIC, 10));

    let delete = subscriptions.delete_subscription();
    delete.set_subscription(SUBSCRIPTION).send().await?;
    assert_eq!(code(get().send().await), Some(Code::NotFound));
    topics.delete_topic().set_topic(TOPIC).send().await?;
    let topic = topics.get_topic().set_topic(TOPIC).send().await;
    assert_eq!(code(topic), Some(Code::NotFound));
    Ok(())
}

#[tokio::test]
async fn refusals_carry_their_code() -> Result<()> {
    let fixture = Fixture::start().await?;
    let (topics, subscriptions) = (fixture.topics().await?, fixture.subscriptions().await?);
    let again = topics.create_topic().set_name(TOPIC).send().await;
    assert_eq!(code(again), Some(Code::AlreadyExists));
    let bad = topics.create_topic().set_name("projects/test/topics/x");
    assert_eq!(code(bad.send().await), Some(Code::InvalidArgument));

    let name = "projects/test/topics/kept";
    let kept = |seconds, nanos| -> Result<Topic> {
        let topic = Topic::new().set_name(name);
        Ok(topic.set_message_retention_duration(Duration::new(seconds, nanos)?))
    };
    for (seconds, nanos) in [(599, 0), (31 * 86_400, 1), (31 * 86_400 + 1, 0)] {
        let created = topics.create_topic().with_request(kept(seconds, nanos)?).send().await;
        assert_eq!(code(created), Some(Code::InvalidArgument), "{seconds} s and {nanos} ns");
    }
    topics.create_topic().with_request(kept(600, 0)?).send().await?;
    let updated = topics.update_topic().set_topic(kept(599, 0)?);
    let mask = FieldMask::default().set_paths(["message_retention_duration"]);
    assert_eq!(code(updated.set_update_mask(mask).send().await), Some(Code::InvalidArgument));
    let found = topics.get_topic().set_topic(name).send().await?;
    assert_eq!(found.message_retention_duration, Some(Duration::new(600, 0)?));

    for (subscription, expected) in [
        (Subscription::new().set_topic("projects/test/topics/missing"), Code::NotFound),
        (Subscription::new().set_topic(TOPIC).set_ack_deadline_seconds(9), Code::InvalidArgument),
        (Subscription::new().set_topic(TOPIC).set_filter("hasPrefix(x)"), Code::InvalidArgument),
        (
            Subscription::new()
                .set_topic(TOPIC)
                .set_push_config(PushConfig::new().set_push_endpoint("https://example.com/")),
            Code::Unimplemented,
        ),
    ] {
        let subscription = subscription.set_name("projects/test/subscriptions/new");
        let created = subscriptions.create_subscription().with_request(subscription).send().await;
        assert_eq!(code(created), Some(expected));
    }
    Ok(())
}

#[tokio::test]
async fn an_update_changes_what_the_mask_names() -> Result<()> {
    let fixture = Fixture::start().await?;
    let admin = fixture.subscriptions().await?;
    let update = |mask| {
        let request = json!({
            "subscription": {
                "name": SUBSCRIPTION,
                "ackDeadlineSeconds": 60,
                "labels": {"team": "fleet"},
                "retryPolicy": {"minimumBackoff": "1.500s"},
            },
            "updateMask": mask,
        });
        serde_json::from_value::<UpdateSubscriptionRequest>(request)
            .map(|request| admin.update_subscription().with_request(request))
    };
    let updated = update("ackDeadlineSeconds,retryPolicy")?.send().await?;
    assert_eq!(updated.ack_deadline_seconds, 60);
    assert!(updated.labels.is_empty());
    let policy = updated.retry_policy.context("set")?;
    let backoff = policy.minimum_backoff.context("set")?;
    assert_eq!(String::from(backoff), "1.5s");
    assert!(policy.maximum_backoff.is_some(), "filled in");
    let fixed = update("labels,enableMessageOrdering")?.send().await;
    assert_eq!(code(fixed), Some(Code::InvalidArgument));
    Ok(())
}

#[tokio::test]
async fn a_plain_http_client_reads_errors_as_google_writes_them() -> Result<()> {
    let fixture = Fixture::empty().await?;
    let url = format!("{}/v1/{TOPIC}", fixture.endpoint());
    let client = reqwest::Client::new();
    let missing = client.get(&url).send().await?;
    assert_eq!(missing.status(), 404);
    let body: Value = missing.json().await?;
    assert_eq!(body["error"]["code"], 404);
    assert_eq!(body["error"]["status"], "NOT_FOUND");

    let unknown = json!({"schemaSettings": {"schema": "s"}});
    let refused = client.put(&url).json(&unknown).send().await?;
    assert_eq!(refused.status(), 501);
    assert!(refused.text().await?.contains("schemaSettings"));
    let created = client.put(&url).send().await?;
    assert_eq!(created.json::<Value>().await?["name"], TOPIC);
    let publish = client.post(format!("{url}:publish")).send().await?;
    assert_eq!(publish.status(), 400, "it has no messages");
    Ok(())
}

//! What is learnt without publishing or receiving.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use googleapis_tonic_google_iam_v1::google::iam::v1 as iam;
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use iam::iam_policy_client::IamPolicyClient;
use tonic::Code;

use crate::scene::{Plan, Scene, Server, message};

pub(crate) async fn a_look_at_what_exists_and_what_does_not(server: Arc<Server>) -> Result<()> {
    let scene = Scene::set(&server, Plan { attempts: Some(7), ..Plan::default() }).await?;
    let (mut publisher, mut subscriber) = (scene.publisher.clone(), scene.subscriber.clone());
    let mut topic = async |topic: &str| {
        publisher.get_topic(proto::GetTopicRequest { topic: topic.to_owned() }).await
    };
    assert_eq!(topic(&scene.topic).await?.into_inner().name, scene.topic);
    let missing = topic("projects/p/topics/missing").await.err().context("no such topic")?;
    assert_eq!(missing.code(), Code::NotFound);

    let mut subscription = async |name: &str| {
        let request = proto::GetSubscriptionRequest { subscription: name.to_owned() };
        subscriber.get_subscription(request).await
    };
    let found = subscription(&scene.subscription).await?.into_inner();
    let policy = found.dead_letter_policy.context("it has one")?;
    assert_eq!((found.topic, policy.max_delivery_attempts), (scene.topic.clone(), 7));
    let missing = subscription("projects/p/subscriptions/missing").await;
    assert_eq!(missing.err().map(|status| status.code()), Some(Code::NotFound));
    Ok(())
}

/// A resource that does not exist gives an empty set, not an error:
/// <https://cloud.google.com/pubsub/docs/reference/rpc/google.iam.v1#iampolicy>. Google's
/// emulator does not know the call; also that answer shows that it was reached.
pub(crate) async fn permissions_are_tested_without_permission(server: Arc<Server>) -> Result<()> {
    let scene = Scene::set(&server, Plan::default()).await?;
    let mut client = IamPolicyClient::new(server.connect().await?);
    for (resource, permission, exists) in [
        (scene.topic.as_str(), "pubsub.topics.publish", true),
        (&scene.subscription, "pubsub.subscriptions.consume", true),
        ("projects/p/topics/missing", "pubsub.topics.publish", false),
        ("projects/p/subscriptions/missing", "pubsub.subscriptions.consume", false),
    ] {
        let request = iam::TestIamPermissionsRequest {
            resource: resource.to_owned(),
            permissions: vec![permission.to_owned()],
        };
        let answer = client.test_iam_permissions(request).await;
        if server.is_google() {
            assert_eq!(answer.err().map(|status| status.code()), Some(Code::Unimplemented));
        } else {
            let granted = answer.context(resource.to_owned())?.into_inner().permissions;
            assert_eq!(granted, if exists { vec![permission] } else { vec![] }, "{resource}");
        }
    }
    Ok(())
}

/// <https://cloud.google.com/pubsub/docs/subscription-message-filter>. Google's emulator
/// stores the filter and delivers everything.
pub(crate) async fn a_filter_keeps_messages_away(server: Arc<Server>) -> Result<()> {
    let filter = r#"attributes.kind = "a" AND NOT attributes:skip"#;
    let scene = Scene::set(&server, Plan { filter, ..Plan::default() }).await?;
    let with = |text: &str, pairs: &[(&str, &str)]| proto::PubsubMessage {
        attributes: pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        ..message("", text)
    };
    let messages = vec![
        with("other", &[("kind", "b")]),
        with("skipped", &[("kind", "a"), ("skip", "")]),
        with("none", &[]),
        with("wanted", &[("kind", "a")]),
    ];
    scene.send(messages).await?;
    let mut stream = scene.stream().await?;
    let mut texts: Vec<String> = Vec::new();
    for received in stream.take(server.expect(1, 4)).await? {
        texts.push(received.text);
    }
    texts.sort_unstable();
    assert_eq!(texts, server.expect(vec!["wanted"], vec!["none", "other", "skipped", "wanted"]));
    if !server.is_google() {
        let more = stream.until(Scene::one_deadline(&server)).await?;
        assert!(more.iter().all(|received| received.text == "wanted"), "{more:?}");
    }
    Ok(())
}

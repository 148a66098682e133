//! Access policies: what a check of a deployment reads.

use anyhow::{Context as _, Result};
use emulators::access::Binding;
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::SchemaService;
use googleapis_tonic_google_iam_v1::google::iam::v1;
use googleapis_tonic_google_iam_v1::google::r#type::Expr;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::fixture::{Fixture, SUBSCRIPTION, TOPIC};

const AGENT: &str = "serviceAccount:service-1@gcp-sa-pubsub.iam.gserviceaccount.com";

/// The official client asks for policies over REST.
async fn official(fixture: &Fixture) -> Result<SchemaService> {
    let builder = SchemaService::builder().with_endpoint(fixture.endpoint());
    Ok(builder.with_credentials(anonymous::Builder::new().build()).build().await?)
}

async fn generic(
    fixture: &Fixture,
) -> Result<v1::iam_policy_client::IamPolicyClient<tonic::transport::Channel>> {
    let channel = Endpoint::from_shared(fixture.endpoint())?.connect().await?;
    Ok(v1::iam_policy_client::IamPolicyClient::new(channel))
}

#[tokio::test]
async fn the_official_client_reads_and_changes_policies() -> Result<()> {
    let fixture = Fixture::start().await?;
    let client = official(&fixture).await?;
    for resource in [TOPIC, SUBSCRIPTION] {
        let get = || client.get_iam_policy().set_resource(resource).send();
        assert!(get().await?.bindings.is_empty(), "as a new resource has it");
        fixture
            .pubsub
            .set_iam_bindings(resource, [Binding::new("roles/pubsub.publisher", [AGENT])])?;
        let policy = get().await?;
        assert_eq!(policy.bindings.len(), 1);
        assert_eq!(policy.bindings[0].role, "roles/pubsub.publisher");
        assert_eq!(policy.bindings[0].members, [AGENT]);

        let emptied = policy.clone().set_bindings(policy.bindings[..0].to_vec());
        let set = || client.set_iam_policy().set_resource(resource).set_policy(emptied.clone());
        assert!(set().send().await?.bindings.is_empty());
        assert!(get().await?.bindings.is_empty());
        let stale = set().send().await.err().context("its etag is old")?;
        assert_eq!(stale.http_status_code(), Some(409));
    }
    Ok(())
}

#[tokio::test]
async fn permissions_are_there_until_denied() -> Result<()> {
    let fixture = Fixture::start().await?;
    let asked = ["pubsub.subscriptions.consume", "pubsub.subscriptions.get"];
    let client = official(&fixture).await?;
    let test = || {
        let test = client.test_iam_permissions().set_resource(SUBSCRIPTION);
        test.set_permissions(asked).send()
    };
    assert_eq!(test().await?.permissions, asked);
    fixture.pubsub.deny_permissions(SUBSCRIPTION, &["pubsub.subscriptions.consume"])?;
    assert_eq!(test().await?.permissions, ["pubsub.subscriptions.get"]);
    let request = v1::TestIamPermissionsRequest {
        resource: SUBSCRIPTION.to_owned(),
        permissions: asked.map(str::to_owned).to_vec(),
    };
    let answer = generic(&fixture).await?.test_iam_permissions(request).await?;
    assert_eq!(answer.into_inner().permissions, ["pubsub.subscriptions.get"]);
    Ok(())
}

#[tokio::test]
async fn policies_over_grpc_are_the_same() -> Result<()> {
    let fixture = Fixture::start().await?;
    let mut client = generic(&fixture).await?;
    let condition = Expr {
        expression: "request.time < timestamp('2030-01-01T00:00:00Z')".to_owned(),
        title: "until 2030".to_owned(),
        ..Expr::default()
    };
    let binding = v1::Binding {
        role: "roles/pubsub.subscriber".to_owned(),
        members: vec![AGENT.to_owned()],
        condition: Some(condition.clone()),
    };
    let set = v1::SetIamPolicyRequest {
        resource: SUBSCRIPTION.to_owned(),
        policy: Some(v1::Policy { bindings: vec![binding], ..v1::Policy::default() }),
        update_mask: None,
    };
    client.set_iam_policy(set).await?;
    let policy =
        official(&fixture).await?.get_iam_policy().set_resource(SUBSCRIPTION).send().await?;
    assert_eq!(policy.bindings[0].members, [AGENT]);
    let shown = policy.bindings[0].condition.clone().context("a condition")?;
    assert_eq!((&shown.expression, &shown.title), (&condition.expression, &condition.title));
    // Written back as it was read, the condition stays.
    let set = official(&fixture).await?;
    set.set_iam_policy().set_resource(SUBSCRIPTION).set_policy(policy).send().await?;
    let get =
        |resource: &str| v1::GetIamPolicyRequest { resource: resource.to_owned(), options: None };
    let same = client.get_iam_policy(get(SUBSCRIPTION)).await?.into_inner();
    assert_eq!(same.bindings[0].role, "roles/pubsub.subscriber");
    assert_eq!(same.bindings[0].condition, Some(condition));
    let missing = client.get_iam_policy(get("projects/test/topics/missing")).await;
    assert_eq!(missing.err().context("refused")?.code(), Code::NotFound);
    Ok(())
}

#[tokio::test]
async fn a_policy_goes_with_its_resource() -> Result<()> {
    let fixture = Fixture::start().await?;
    fixture.pubsub.set_iam_bindings(TOPIC, [Binding::new("roles/viewer", [AGENT])])?;
    let topics = fixture.topics().await?;
    topics.delete_topic().set_topic(TOPIC).send().await?;
    assert!(fixture.pubsub.set_iam_bindings(TOPIC, []).is_err());
    topics.create_topic().set_name(TOPIC).send().await?;
    let client = official(&fixture).await?;
    assert!(client.get_iam_policy().set_resource(TOPIC).send().await?.bindings.is_empty());
    Ok(())
}

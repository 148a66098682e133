//! Generates the gRPC server traits.
//!
//! The message types come from published crates, which carry clients only. The
//! traits are described method by method here, so no `protoc` is needed.
//!
//! Output: one `<package>.<Service>.rs` for each service in `OUT_DIR`.

use std::path::PathBuf;
use std::{env, fs, io};

use tonic_build::manual::{Builder, Method, MethodBuilder, Service, ServiceBuilder};

/// Stands for `google.protobuf.Empty`, which `prost` maps to `()`. The generator
/// takes paths only, and `()` is none, so this is replaced in what it wrote: the
/// including module then needs no alias.
const EMPTY: &str = "placeholder::Empty";

/// The messages of access policies, which two services share.
const IAM: &str = "googleapis_tonic_google_iam_v1::google::iam::v1";
const IAM_METHODS: [(&str, &str, &str); 3] = [
    ("SetIamPolicy", "SetIamPolicyRequest", "Policy"),
    ("GetIamPolicy", "GetIamPolicyRequest", "Policy"),
    ("TestIamPermissions", "TestIamPermissionsRequest", "TestIamPermissionsResponse"),
];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    Builder::new().build_client(false).out_dir(&out).compile(&[
        publisher(),
        subscriber(),
        iam_policy(),
        storage(),
        storage_control(),
    ]);
    for name in [
        "google.pubsub.v1.Publisher.rs",
        "google.pubsub.v1.Subscriber.rs",
        "google.iam.v1.IAMPolicy.rs",
        "google.storage.v2.Storage.rs",
        "google.storage.control.v2.StorageControl.rs",
    ] {
        let path = out.join(name);
        let code = fs::read_to_string(&path)?;
        fs::write(&path, code.replace(EMPTY, "()"))?;
    }
    Ok(())
}

fn publisher() -> Service {
    let types = "googleapis_tonic_google_pubsub_v1::google::pubsub::v1";
    service(
        "google.pubsub.v1",
        "Publisher",
        types,
        &[
            ("CreateTopic", "Topic", "Topic"),
            ("UpdateTopic", "UpdateTopicRequest", "Topic"),
            ("Publish", "PublishRequest", "PublishResponse"),
            ("GetTopic", "GetTopicRequest", "Topic"),
            ("ListTopics", "ListTopicsRequest", "ListTopicsResponse"),
            (
                "ListTopicSubscriptions",
                "ListTopicSubscriptionsRequest",
                "ListTopicSubscriptionsResponse",
            ),
            ("ListTopicSnapshots", "ListTopicSnapshotsRequest", "ListTopicSnapshotsResponse"),
            ("DeleteTopic", "DeleteTopicRequest", EMPTY),
            ("DetachSubscription", "DetachSubscriptionRequest", "DetachSubscriptionResponse"),
        ],
    )
    .build()
}

fn subscriber() -> Service {
    let types = "googleapis_tonic_google_pubsub_v1::google::pubsub::v1";
    service(
        "google.pubsub.v1",
        "Subscriber",
        types,
        &[
            ("CreateSubscription", "Subscription", "Subscription"),
            ("GetSubscription", "GetSubscriptionRequest", "Subscription"),
            ("UpdateSubscription", "UpdateSubscriptionRequest", "Subscription"),
            ("ListSubscriptions", "ListSubscriptionsRequest", "ListSubscriptionsResponse"),
            ("DeleteSubscription", "DeleteSubscriptionRequest", EMPTY),
            ("ModifyAckDeadline", "ModifyAckDeadlineRequest", EMPTY),
            ("Acknowledge", "AcknowledgeRequest", EMPTY),
            ("Pull", "PullRequest", "PullResponse"),
            ("ModifyPushConfig", "ModifyPushConfigRequest", EMPTY),
            ("GetSnapshot", "GetSnapshotRequest", "Snapshot"),
            ("ListSnapshots", "ListSnapshotsRequest", "ListSnapshotsResponse"),
            ("CreateSnapshot", "CreateSnapshotRequest", "Snapshot"),
            ("UpdateSnapshot", "UpdateSnapshotRequest", "Snapshot"),
            ("DeleteSnapshot", "DeleteSnapshotRequest", EMPTY),
            ("Seek", "SeekRequest", "SeekResponse"),
        ],
    )
    .method(
        method(types, "StreamingPull", "StreamingPullRequest", "StreamingPullResponse")
            .client_streaming()
            .server_streaming()
            .build(),
    )
    .build()
}

/// What Pub/Sub serves besides its own two services.
fn iam_policy() -> Service {
    service("google.iam.v1", "IAMPolicy", IAM, &IAM_METHODS).build()
}

fn storage() -> Service {
    let types = "googleapis_tonic_google_storage_v2::google::storage::v2";
    service(
        "google.storage.v2",
        "Storage",
        types,
        &[
            ("CreateBucket", "CreateBucketRequest", "Bucket"),
            ("GetBucket", "GetBucketRequest", "Bucket"),
            ("DeleteBucket", "DeleteBucketRequest", EMPTY),
            ("ListBuckets", "ListBucketsRequest", "ListBucketsResponse"),
            ("GetObject", "GetObjectRequest", "Object"),
            ("ListObjects", "ListObjectsRequest", "ListObjectsResponse"),
            ("DeleteObject", "DeleteObjectRequest", EMPTY),
        ],
    )
    .build()
}

/// Where the official client looks for the access policies of buckets.
fn storage_control() -> Service {
    service("google.storage.control.v2", "StorageControl", IAM, &IAM_METHODS).build()
}

/// A service of unary methods, each given as (name, request, response).
fn service(package: &str, name: &str, types: &str, unary: &[(&str, &str, &str)]) -> ServiceBuilder {
    unary.iter().fold(
        Service::builder().package(package).name(name),
        |service, (name, request, response)| {
            service.method(method(types, name, request, response).build())
        },
    )
}

fn method(types: &str, name: &str, request: &str, response: &str) -> MethodBuilder {
    let path = |message: &str| match message {
        EMPTY => EMPTY.to_owned(),
        _ => format!("{types}::{message}"),
    };
    Method::builder()
        .name(snake_case(name))
        .route_name(name)
        .input_type(path(request))
        .output_type(path(response))
        .codec_path("tonic_prost::ProstCodec")
}

/// `ListTopics` becomes `list_topics`.
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

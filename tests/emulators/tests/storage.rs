//! The storage emulator as the official clients see it.
#![expect(
    clippy::large_futures,
    reason = "the official client's futures are large, and a test's stack has room for them"
)]

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use emulators::access::Binding;
use emulators::storage::{BucketSettings, Config, LifecycleRule, Storage as Emulator};
use google_cloud_auth::credentials::anonymous;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::paginator::ItemPaginator as _;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::client::{Storage, StorageControl};
use google_cloud_storage::model::bucket::IamConfig;
use google_cloud_storage::model::bucket::iam_config::UniformBucketLevelAccess;
use google_cloud_storage::model::{Bucket, Object};
use google_cloud_storage::model_ext::ReadRange;
use google_cloud_storage::streaming_source::{SizeHint, StreamingSource};

const BUCKET: &str = "projects/_/buckets/tokens";

/// An emulator with one bucket and both clients on it.
struct Stand {
    emulator: Emulator,
    storage: Storage,
    control: StorageControl,
}

impl Stand {
    async fn start(config: Config) -> Result<Self> {
        let emulator = Emulator::start(config).await?;
        emulator.create_bucket("tokens")?;
        let storage = Storage::builder()
            .with_endpoint(emulator.http_origin())
            .with_credentials(anonymous::Builder::new().build())
            .with_retry_policy(NeverRetry)
            .build()
            .await?;
        let control = StorageControl::builder()
            .with_endpoint(format!("http://{}", emulator.grpc_address()))
            .with_credentials(anonymous::Builder::new().build())
            .with_retry_policy(NeverRetry)
            .build()
            .await?;
        Ok(Self { emulator, storage, control })
    }

    /// Without the limit on mutations of one name.
    async fn unlimited() -> Result<Self> {
        Self::start(Config { one_mutation_per_second: false, ..Config::default() }).await
    }

    async fn write(&self, name: &str, content: impl Into<Bytes>) -> Result<Object> {
        let write = self.storage.write_object(BUCKET, name, content.into()).send_buffered();
        Ok(write.await?)
    }

    async fn read(&self, name: &str) -> Result<(i64, Bytes)> {
        let mut response = self.storage.read_object(BUCKET, name).send().await?;
        let generation = response.object().generation;
        let mut content = BytesMut::new();
        while let Some(chunk) = response.next().await.transpose()? {
            content.extend_from_slice(&chunk);
        }
        Ok((generation, content.freeze()))
    }
}

fn http_status<T>(result: google_cloud_storage::Result<T>) -> Option<u16> {
    result.err().and_then(|error| error.http_status_code())
}

fn grpc_code<T>(result: google_cloud_storage::Result<T>) -> Option<Code> {
    let error = result.err()?;
    error.status().map(|status| status.code)
}

/// Not compressible, not periodic, the same every time.
fn noise(length: usize) -> Bytes {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let words = length.div_ceil(8);
    let mut noise = BytesMut::with_capacity(words * 8);
    for _ in 0..words {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(length);
    noise.freeze()
}

#[tokio::test]
async fn writes_and_reads_with_growing_generations() -> Result<()> {
    let stand = Stand::unlimited().await?;
    let first = stand
        .storage
        .write_object(BUCKET, "users/a.json", "{}")
        .set_if_generation_match(0)
        .set_content_type("application/json")
        .set_metadata([("writer", "one")])
        .send_buffered()
        .await?;
    assert_eq!(first.bucket, BUCKET);
    assert_eq!(first.name, "users/a.json");
    assert_eq!(first.size, 2);
    assert_eq!(first.content_type, "application/json");
    assert!(first.update_time.is_some());

    let response = stand.storage.read_object(BUCKET, "users/a.json").send().await?;
    let seen = response.object();
    assert_eq!(seen.generation, first.generation);
    assert_eq!(seen.metageneration, 1);
    assert_eq!(seen.content_type, "application/json");
    assert_eq!(seen.metadata["writer"], "one");
    assert_eq!(
        seen.checksums.and_then(|sums| sums.crc32c),
        first.checksums.and_then(|sums| sums.crc32c)
    );

    let second = stand
        .storage
        .write_object(BUCKET, "users/a.json", "{\"v\":2}")
        .set_if_generation_match(first.generation)
        .send_buffered()
        .await?;
    assert!(second.generation > first.generation);
    let (generation, content) = stand.read("users/a.json").await?;
    assert_eq!(generation, second.generation);
    assert_eq!(&content[..], b"{\"v\":2}");
    let old = stand
        .storage
        .read_object(BUCKET, "users/a.json")
        .set_generation(first.generation)
        .send()
        .await;
    assert_eq!(http_status(old), Some(404));

    let stored = stand.emulator.object("tokens", "users/a.json").unwrap();
    assert_eq!(stored.generation, second.generation);
    let stats = stand.emulator.stats();
    assert_eq!((stats.writes, stats.reads, stats.not_found), (2, 2, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_racing_writers_exactly_one_wins() -> Result<()> {
    let stand = Stand::unlimited().await?;
    let mut generation = 0;
    for round in 1..=3 {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..16 {
            let storage = stand.storage.clone();
            writers.spawn(async move {
                storage
                    .write_object(BUCKET, "race", format!("writer {writer}"))
                    .set_if_generation_match(generation)
                    .send_buffered()
                    .await
            });
        }
        let (won, lost): (Vec<_>, Vec<_>) =
            writers.join_all().await.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        assert!(lost.into_iter().all(|lost| http_status(lost) == Some(412)));
        generation = won.into_iter().next().unwrap()?.generation;
        assert_eq!(stand.emulator.stats().precondition_failed, 15 * round);
        assert_eq!(stand.read("race").await?.0, generation);
    }
    Ok(())
}

#[tokio::test]
async fn reads_are_conditional() -> Result<()> {
    let stand = Stand::unlimited().await?;
    let generation = stand.write("a", "x").await?.generation;
    let unchanged =
        stand.storage.read_object(BUCKET, "a").set_if_generation_not_match(generation).send().await;
    assert_eq!(http_status(unchanged), Some(304));
    let changed = stand
        .storage
        .read_object(BUCKET, "a")
        .set_if_generation_not_match(generation - 1)
        .send()
        .await?;
    assert_eq!(changed.object().generation, generation);
    let other =
        stand.storage.read_object(BUCKET, "a").set_if_generation_match(generation - 1).send().await;
    assert_eq!(http_status(other), Some(412));
    let missing = stand.storage.read_object(BUCKET, "b").send().await;
    assert_eq!(http_status(missing), Some(404));
    let nowhere = stand.storage.read_object("projects/_/buckets/nowhere", "a").send().await;
    assert_eq!(http_status(nowhere), Some(404));
    assert_eq!(stand.emulator.stats().not_modified, 1);
    Ok(())
}

#[tokio::test]
async fn ranges_are_read() -> Result<()> {
    let stand = Stand::unlimited().await?;
    stand.write("a", "0123456789").await?;
    for (range, expected) in [
        (ReadRange::segment(2, 3), "234"),
        (ReadRange::offset(7), "789"),
        (ReadRange::tail(4), "6789"),
    ] {
        let read = stand.storage.read_object(BUCKET, "a").set_read_range(range);
        let mut response = read.send().await?;
        let mut content = BytesMut::new();
        while let Some(chunk) = response.next().await.transpose()? {
            content.extend_from_slice(&chunk);
        }
        assert_eq!(&content[..], expected.as_bytes());
    }
    let read = stand.storage.read_object(BUCKET, "a");
    let beyond = read.set_read_range(ReadRange::offset(10)).send().await;
    assert_eq!(http_status(beyond), Some(416));
    Ok(())
}

#[tokio::test]
async fn deletes_name_the_version() -> Result<()> {
    let stand = Stand::unlimited().await?;
    let first = stand.write("a", "1").await?.generation;
    let second = stand.write("a", "2").await?.generation;
    let delete = || {
        let delete = stand.control.delete_object();
        delete.set_bucket(BUCKET).set_object("a")
    };
    let stale = delete().set_if_generation_match(first).send().await;
    assert_eq!(grpc_code(stale), Some(Code::FailedPrecondition));
    let stale = delete().set_generation(first).send().await;
    assert_eq!(grpc_code(stale), Some(Code::NotFound));
    delete().set_if_generation_match(second).send().await?;
    let gone = delete().set_if_generation_match(second).send().await;
    assert_eq!(grpc_code(gone), Some(Code::NotFound));

    let recreated = stand
        .storage
        .write_object(BUCKET, "a", "3")
        .set_if_generation_match(second)
        .send_buffered()
        .await;
    assert_eq!(http_status(recreated), Some(412));
    let third = stand.write("a", "3").await?.generation;
    assert!(third > second);
    Ok(())
}

#[tokio::test]
async fn metadata_comes_over_grpc() -> Result<()> {
    let stand = Stand::unlimited().await?;
    let written = stand.write("a", "xyz").await?;
    let get = || {
        let get = stand.control.get_object();
        get.set_bucket(BUCKET).set_object("a")
    };
    let seen = get().send().await?;
    assert_eq!(seen.generation, written.generation);
    assert_eq!(seen.size, 3);
    assert_eq!(seen.update_time, written.update_time);
    assert_eq!(seen.checksums, written.checksums);
    let unchanged = get().set_if_generation_not_match(written.generation).send().await;
    assert_eq!(grpc_code(unchanged), Some(Code::Aborted));
    let other = get().set_if_generation_match(1).send().await;
    assert_eq!(grpc_code(other), Some(Code::FailedPrecondition));
    Ok(())
}

#[tokio::test]
async fn buckets_are_managed_over_grpc() -> Result<()> {
    let stand = Stand::unlimited().await?;
    let create = |id: &str| {
        let create = stand.control.create_bucket();
        create.set_parent("projects/_").set_bucket_id(id)
    };
    let made = create("another").send().await?;
    assert_eq!(made.name, "projects/_/buckets/another");
    assert_eq!(grpc_code(create("another").send().await), Some(Code::AlreadyExists));
    let get = stand.control.get_bucket().set_name(&made.name);
    assert_eq!(get.send().await?.bucket_id, "another");
    let mut buckets =
        stand.control.list_buckets().set_parent("projects/p").set_page_size(1).by_item();
    let mut ids = Vec::new();
    while let Some(bucket) = buckets.next().await.transpose()? {
        ids.push(bucket.bucket_id);
    }
    assert_eq!(ids, ["another", "tokens"]);
    let delete = || stand.control.delete_bucket().set_name(&made.name);
    delete().send().await?;
    assert_eq!(grpc_code(delete().send().await), Some(Code::NotFound));
    stand.write("a", "x").await?;
    let full = stand.control.delete_bucket().set_name(BUCKET).send().await;
    assert_eq!(grpc_code(full), Some(Code::FailedPrecondition));
    Ok(())
}

#[tokio::test]
async fn lists_a_prefix_in_pages() -> Result<()> {
    let stand = Stand::unlimited().await?;
    for name in ["a/3", "a/1", "b/1", "a/2", "a/x/1", "a/x/2"] {
        stand.write(name, "x").await?;
    }
    let list = || {
        let list = stand.control.list_objects().set_parent(BUCKET);
        list.set_prefix("a/").set_page_size(2)
    };
    let mut objects = list().by_item();
    let mut names = Vec::new();
    while let Some(object) = objects.next().await.transpose()? {
        names.push(object.name);
    }
    assert_eq!(names, ["a/1", "a/2", "a/3", "a/x/1", "a/x/2"]);
    assert_eq!(stand.emulator.stats().lists, 3);
    let folded = list().set_delimiter("/").set_page_size(10).send().await?;
    assert_eq!(folded.prefixes, ["a/x/"]);
    assert_eq!(folded.objects.len(), 3);
    let nowhere = stand.control.list_objects().set_parent("projects/_/buckets/nowhere");
    assert_eq!(grpc_code(nowhere.send().await), Some(Code::NotFound));
    Ok(())
}

#[tokio::test]
async fn names_survive_every_encoding() -> Result<()> {
    let stand = Stand::unlimited().await?;
    let names = [
        "tokens/a b.json",
        "100%.json",
        "%2F",
        "a%252Fb",
        "🦀/é",
        "a/../b",
        "../x",
        "...",
        "a//b/",
        "?q=1&x#f",
        "+ +",
        "\"quoted\"",
    ];
    for name in names {
        let written = stand.write(name, name.to_owned()).await?;
        assert_eq!(written.name, name);
        let (generation, content) = stand.read(name).await?;
        assert_eq!(generation, written.generation, "{name}");
        assert_eq!(&content[..], name.as_bytes());
        let get = stand.control.get_object().set_bucket(BUCKET);
        assert_eq!(get.set_object(name).send().await?.name, name);
    }
    let mut sorted = names;
    sorted.sort_unstable();
    assert_eq!(stand.emulator.object_names("tokens"), sorted);
    Ok(())
}

#[tokio::test]
async fn unbuffered_writes_bring_their_checksum_last() -> Result<()> {
    let stand = Stand::unlimited().await?;
    let content = noise(300_000);
    let written =
        stand.storage.write_object(BUCKET, "a", content.clone()).send_unbuffered().await?;
    let (generation, read) = stand.read("a").await?;
    assert_eq!(generation, written.generation);
    assert_eq!(read, content);
    Ok(())
}

#[tokio::test]
async fn large_objects_are_uploaded_in_chunks() -> Result<()> {
    let stand = Stand::unlimited().await?;
    let content = noise(20 << 20);
    let written = stand
        .storage
        .write_object(BUCKET, "large", content.clone())
        .set_if_generation_match(0)
        .set_content_type("video/mp4")
        .send_buffered()
        .await?;
    assert_eq!(written.size, 20 << 20);
    assert_eq!(written.content_type, "video/mp4");
    assert_eq!(stand.read("large").await?.1, content);
    let again = stand
        .storage
        .write_object(BUCKET, "large", content.clone())
        .set_if_generation_match(0)
        .send_unbuffered()
        .await;
    assert_eq!(http_status(again), Some(412));
    let unbuffered = stand
        .storage
        .write_object(BUCKET, "large", content.clone())
        .set_if_generation_match(written.generation)
        .send_unbuffered()
        .await?;
    assert!(unbuffered.generation > written.generation);
    assert_eq!(stand.emulator.stats().writes, 2);
    Ok(())
}

/// A source that does not know its length.
struct Unmeasured {
    chunks: std::vec::IntoIter<Bytes>,
}

impl StreamingSource for Unmeasured {
    type Error = std::io::Error;

    async fn next(&mut self) -> Option<std::io::Result<Bytes>> {
        self.chunks.next().map(Ok)
    }

    async fn size_hint(&self) -> std::io::Result<SizeHint> {
        Ok(SizeHint::default())
    }
}

#[tokio::test]
async fn sources_of_unknown_length_are_uploaded_in_chunks() -> Result<()> {
    let stand = Stand::unlimited().await?;
    let content = noise(600_000);
    for (name, length) in [("empty", 0), ("whole", 2 * 256 * 1024), ("odd", 600_000)] {
        let content = content.slice(..length);
        let chunks: Vec<Bytes> = content.chunks(10_000).map(Bytes::copy_from_slice).collect();
        let source = Unmeasured { chunks: chunks.into_iter() };
        stand
            .storage
            .write_object(BUCKET, name, source)
            .with_resumable_upload_buffer_size(256 * 1024_usize)
            .send_buffered()
            .await?;
        assert_eq!(stand.read(name).await?.1, content, "{name}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn observers_see_every_write_in_order() -> Result<()> {
    let stand = Stand::unlimited().await?;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    stand.emulator.on_write(move |written| {
        let content = String::from_utf8(written.content.to_vec()).unwrap();
        log.lock().unwrap().push((written.name.clone(), content));
    });
    for round in 0..5 {
        stand.write("a", format!("a{round}")).await?;
    }
    let seen = seen.lock().unwrap();
    let expected: Vec<_> = (0..5).map(|round| ("a".to_owned(), format!("a{round}"))).collect();
    assert_eq!(*seen, expected);
    Ok(())
}

#[tokio::test]
async fn a_dropped_emulator_is_gone() -> Result<()> {
    let stand = Stand::unlimited().await?;
    stand.write("a", "x").await?;
    let address = stand.emulator.http_origin();
    // A request that never completes does not keep it alive.
    let (chunks, body) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(1);
    let body = reqwest::Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(body));
    let hanging = reqwest::Client::new()
        .post(format!("{address}/upload/storage/v1/b/tokens/o?uploadType=media&name=b"))
        .body(body)
        .send();
    let hanging = tokio::spawn(hanging);
    chunks.send(Ok(Bytes::from_static(b"some"))).await?;
    drop(stand.emulator);
    assert!(hanging.await?.is_err());
    let after = stand.storage.read_object(BUCKET, "a").send().await;
    assert!(after.is_err());
    Ok(())
}

#[tokio::test]
async fn a_bucket_shows_its_settings_on_both_sides() -> Result<()> {
    let stand = Stand::unlimited().await?;
    let get = || stand.control.get_bucket().set_name(BUCKET).send();
    let fresh = get().await?;
    let iam = fresh.iam_config.context("set")?;
    assert!(!iam.uniform_bucket_level_access.context("set")?.enabled);
    assert_eq!(iam.public_access_prevention, "inherited");
    let retention = fresh.soft_delete_policy.context("set")?.retention_duration;
    assert_eq!(retention.context("set")?.seconds(), 7 * 86_400);
    assert!(fresh.lifecycle.is_none() && fresh.versioning.is_none());

    stand.emulator.set_bucket_settings(
        "tokens",
        BucketSettings {
            location: "EUROPE-WEST1".to_owned(),
            uniform_access: true,
            public_access_prevention: true,
            soft_delete: None,
            versioning: true,
            lifecycle: vec![LifecycleRule {
                action: "Delete".to_owned(),
                age_days: Some(30),
                prefixes: vec!["leases/".to_owned()],
            }],
        },
    )?;
    let changed = get().await?;
    assert_eq!(changed.location, "EUROPE-WEST1");
    let iam = changed.iam_config.context("set")?;
    assert!(iam.uniform_bucket_level_access.context("set")?.enabled);
    assert_eq!(iam.public_access_prevention, "enforced");
    let retention = changed.soft_delete_policy.context("set")?.retention_duration;
    assert_eq!(retention.context("set")?.seconds(), 0);
    assert!(changed.versioning.context("set")?.enabled);
    let rules = changed.lifecycle.context("set")?.rule;
    assert_eq!(rules.len(), 1);
    let condition = rules[0].condition.clone().context("set")?;
    assert_eq!(condition.matches_prefix, ["leases/"]);
    assert_eq!(condition.age_days, Some(30));
    assert_eq!(rules[0].action.clone().context("set")?.r#type, "Delete");
    assert!(stand.emulator.set_bucket_settings("missing", BucketSettings::default()).is_err());

    let url = format!("{}/storage/v1/b/tokens", stand.emulator.http_origin());
    let json: serde_json::Value = reqwest::get(url).await?.json().await?;
    assert_eq!(json["iamConfiguration"]["publicAccessPrevention"], "enforced");
    assert_eq!(json["softDeletePolicy"]["retentionDurationSeconds"], "0");
    assert_eq!(json["lifecycle"]["rule"][0]["condition"]["age"], 30);
    Ok(())
}

#[tokio::test]
async fn a_bucket_is_made_with_the_settings_asked_for() -> Result<()> {
    let stand = Stand::unlimited().await?;
    let uniform = UniformBucketLevelAccess::new().set_enabled(true);
    let iam = IamConfig::new()
        .set_uniform_bucket_level_access(uniform)
        .set_public_access_prevention("enforced");
    stand
        .control
        .create_bucket()
        .set_parent("projects/_")
        .set_bucket_id("careful")
        .set_bucket(Bucket::new().set_project("projects/p").set_iam_config(iam))
        .send()
        .await?;
    let made = stand.control.get_bucket().set_name("projects/_/buckets/careful").send().await?;
    let iam = made.iam_config.context("set")?;
    assert!(iam.uniform_bucket_level_access.context("set")?.enabled);
    assert_eq!(iam.public_access_prevention, "enforced");
    assert_eq!(made.location, "US");
    Ok(())
}

#[tokio::test]
async fn a_bucket_has_an_access_policy() -> Result<()> {
    let stand = Stand::unlimited().await?;
    let get = || stand.control.get_iam_policy().set_resource(BUCKET).send();
    assert!(get().await?.bindings.is_empty());
    let everybody = Binding::new("roles/storage.objectViewer", ["allUsers"]);
    stand.emulator.set_iam_bindings("tokens", [everybody])?;
    let policy = get().await?;
    assert_eq!(policy.bindings[0].members, ["allUsers"]);
    let emptied = policy.clone().set_bindings(policy.bindings[..0].to_vec());
    let set = || stand.control.set_iam_policy().set_resource(BUCKET).set_policy(emptied.clone());
    assert!(set().send().await?.bindings.is_empty());
    assert_eq!(grpc_code(set().send().await), Some(Code::Aborted), "its etag is old");

    let asked = ["storage.objects.get", "storage.objects.delete"];
    let test = || {
        let test = stand.control.test_iam_permissions().set_resource(BUCKET);
        test.set_permissions(asked).send()
    };
    assert_eq!(test().await?.permissions, asked);
    stand.emulator.deny_permissions("tokens", &["storage.objects.delete"])?;
    assert_eq!(test().await?.permissions, ["storage.objects.get"]);
    let missing = stand.control.get_iam_policy().set_resource("projects/_/buckets/missing");
    assert_eq!(grpc_code(missing.send().await), Some(Code::NotFound));
    Ok(())
}

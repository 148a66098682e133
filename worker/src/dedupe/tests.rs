use serde_json::{Value, json};
use shared::Keyring;
use shared::adapters::{MemoryBucket, SystemClock};

use super::*;

fn job(user: &str, id: &str, kind: &str, params: &str) -> Job {
    let data = format!(r#"{{"id":"{id}","user":"{user}","kind":"{kind}","params":{params}}}"#);
    Job::decode(data.as_bytes(), "m").unwrap()
}

fn told(result: Value) -> Told {
    Told {
        status: Status::Done,
        effect: Effect::Done,
        repeatable: false,
        http_status: Some(200),
        result: result.into(),
        reason: None,
    }
}

fn clock() -> SystemClock {
    SystemClock::default()
}

/// A bucket reader learns nothing of a job's end, and what a bucket writer changes there does
/// not count as the job's end. A plain one does: the release before wrote it.
#[tokio::test]
async fn with_a_keyring_what_is_remembered_is_sealed_whole() {
    let bucket: Arc<dyn Bucket> = Arc::new(MemoryBucket::default());
    let sealing = || Sealing::new(Some(Keyring::new(jiff::Timestamp::UNIX_EPOCH)));
    let own = sealing();
    let job = job("ann", "j", "api", "{}");
    let told = told(json!("fake-result"));
    let dedupe = Dedupe::bucket(Arc::clone(&bucket), own.clone());
    assert_eq!(dedupe.remember(&job, &told, &clock()).await, Ok(None));
    let name = object::name(&job);
    let stored = bucket.get(&name).await.unwrap().unwrap();
    assert!(!String::from_utf8_lossy(&stored.content).contains("fake-result"));
    let recall = async |sealing: Sealing| {
        let elsewhere = Dedupe::bucket(Arc::clone(&bucket), sealing);
        elsewhere.recall(&job).await.unwrap()
    };
    assert_eq!(recall(own.clone()).await, Some(Recalled::Same(told.clone())));
    assert_eq!(recall(sealing()).await, Some(Recalled::Unreadable { object: name.clone() }));
    let (_, plain) = object::new(&job, &told, clock().wall(), &Sealing::default());
    bucket.put(&name, plain, stored.generation).await.unwrap();
    assert_eq!(recall(own).await, Some(Recalled::Same(told)));
}

fn in_bucket() -> (Dedupe, Arc<dyn Bucket>) {
    let bucket: Arc<dyn Bucket> = Arc::new(MemoryBucket::default());
    (Dedupe::bucket(Arc::clone(&bucket), Sealing::default()), bucket)
}

#[tokio::test]
async fn what_ended_is_told_again() {
    let (a, bucket) = in_bucket();
    let b = Dedupe::bucket(bucket, Sealing::default());
    for (first, second) in [(&a, &b), (&b, &b), (&Dedupe::memory(), &Dedupe::Off)] {
        let job = job("ann", "1", "api", r#"{"url":"x"}"#);
        first.remember(&job, &told(json!(7)), &clock()).await.unwrap();
        assert_eq!(first.recall(&job).await.unwrap(), Some(Recalled::Same(told(json!(7)))));
        let elsewhere = second.recall(&job).await.unwrap();
        assert_eq!(elsewhere.is_some(), second.is_on());
    }
}

/// The same ID of another user, of another kind, or in another run is another job; with
/// other parameters it is a mistake of the publisher's.
#[tokio::test]
async fn an_identity_counts_with_all_its_parts() {
    for dedupe in [in_bucket().0, Dedupe::memory()] {
        let first = job("ann", "1", "profile", "{}");
        assert_eq!(dedupe.recall(&first).await.unwrap(), None);
        dedupe.remember(&first, &told(Value::Null), &clock()).await.unwrap();
        for other in [job("bob", "1", "profile", "{}"), job("ann", "1", "api", "{}")] {
            assert_eq!(dedupe.recall(&other).await.unwrap(), None, "{other:?}");
        }
        let again = Job { run: 1, ..first.clone() };
        assert_eq!(dedupe.recall(&again).await.unwrap(), None);
        let changed = job("ann", "1", "profile", r#"{"a":1}"#);
        assert_eq!(dedupe.recall(&changed).await.unwrap(), Some(Recalled::OtherParameters));
    }
}

/// As when the bucket did not take an end: the replica that ran the job runs it no second time,
/// whatever the end has to tell.
#[tokio::test]
async fn an_end_that_only_this_process_knows_counts() {
    for result in [Value::Null, json!("r")] {
        let (dedupe, bucket) = in_bucket();
        let job = job("ann", "1", "api", "{}");
        let told = told(result);
        assert_eq!(dedupe.remember(&job, &told, &clock()).await, Ok(None));
        let name = object::name(&job);
        let stored = bucket.get(&name).await.unwrap().unwrap();
        assert!(bucket.delete(&name, stored.generation).await.unwrap());
        assert_eq!(dedupe.recall(&job).await, Ok(Some(Recalled::Same(told))));
    }
}

/// Two replicas end one job: both tell what the first wrote.
#[tokio::test]
async fn the_second_end_gives_way() {
    let (a, bucket) = in_bucket();
    let b = Dedupe::bucket(bucket, Sealing::default());
    let job = job("ann", "1", "api", "{}");
    assert_eq!(a.remember(&job, &told(json!("a")), &clock()).await.unwrap(), None);
    let first = b.remember(&job, &told(json!("b")), &clock()).await.unwrap();
    assert_eq!(first, Some(told(json!("a"))));
    assert_eq!(b.recall(&job).await.unwrap(), Some(Recalled::Same(told(json!("a")))));
    // A write whose answer was lost is made again.
    assert_eq!(a.remember(&job, &told(json!("a")), &clock()).await.unwrap(), None);
    let memory = Dedupe::memory();
    assert_eq!(memory.remember(&job, &told(json!("a")), &clock()).await.unwrap(), None);
    let first = memory.remember(&job, &told(json!("b")), &clock()).await.unwrap();
    assert_eq!(first, Some(told(json!("a"))));
}

#[tokio::test]
async fn objects_of_the_release_before_count_as_done() {
    let (dedupe, bucket) = in_bucket();
    let old = Bytes::from_static(br#"{"version":1,"done_at":"2026-01-01T00:00:00Z"}"#);
    let job = job("a/b", "../x", "api", r#"{"any":1}"#);
    bucket.put("done/a%2Fb/%2E%2E%2Fx.json", old, Generation::ABSENT).await.unwrap();
    let recalled = dedupe.recall(&job).await.unwrap();
    assert!(
        matches!(recalled, Some(Recalled::Same(Told { status: Status::Done, .. }))),
        "{recalled:?}"
    );
    let again = Job { run: 1, ..job };
    assert_eq!(dedupe.recall(&again).await.unwrap(), None, "it was asked for anew");
}

/// Whatever stands where an end should: the job may have acted.
#[tokio::test]
async fn what_cannot_be_read_is_no_end_and_not_nothing() {
    for content in ["", "{}", r#"{"version":3}"#, r#"{"version":1}"#, "[2]"] {
        let (dedupe, bucket) = in_bucket();
        let job = job("ann", "1", "api", "{}");
        let name = object::name(&job);
        bucket.put(&name, content.into(), Generation::ABSENT).await.unwrap();
        let unreadable = Some(Recalled::Unreadable { object: name });
        assert_eq!(dedupe.recall(&job).await.unwrap(), unreadable, "{content}");
    }
}

/// A job whose ID looks like the digest of another one of its user.
#[tokio::test]
async fn an_id_that_is_a_digest_names_another_job() {
    let (dedupe, _) = in_bucket();
    let first = job("ann", "1", "api", "{}");
    dedupe.remember(&first, &told(Value::Null), &clock()).await.unwrap();
    let other = job("ann", &first.identity().hex(), "api", "{}");
    assert_eq!(dedupe.recall(&other).await.unwrap(), None);
}

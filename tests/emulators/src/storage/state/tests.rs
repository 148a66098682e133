//! Preconditions, the pace, and what names are accepted.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::storage::object::Attributes;
use crate::storage::settings::BucketSettings;

const BUCKET: &str = "bucket";

fn at(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + millis)
}

fn state(limited: bool) -> State {
    let mut state = State::new(limited);
    state.create_bucket(at(0), BUCKET, BucketSettings::default()).unwrap();
    state
}

fn put(
    state: &mut State,
    now: SystemTime,
    name: &str,
    conditions: Conditions,
) -> Result<i64, Refusal> {
    let upload = Upload::new(Bytes::from_static(b"x"), Attributes::default()).unwrap();
    state.write(now, BUCKET, name, upload, conditions).map(|object| object.generation)
}

fn only(generation: i64) -> Conditions {
    Conditions { generation_match: Some(generation), ..Conditions::default() }
}

fn unless(generation: i64) -> Conditions {
    Conditions { generation_not_match: Some(generation), ..Conditions::default() }
}

#[test]
fn generations_grow_across_delete_and_recreate_within_one_instant() {
    let mut state = state(false);
    let first = put(&mut state, at(0), "a", only(0)).unwrap();
    let second = put(&mut state, at(0), "a", only(first)).unwrap();
    state.delete(at(0), BUCKET, "a", Some(second), only(second)).unwrap();
    let third = put(&mut state, at(0), "a", only(0)).unwrap();
    assert!(first < second && second < third);
    assert_eq!(first, 1_700_000_000_000_000);
}

#[test]
fn writes_obey_every_condition() {
    let mut state = state(false);
    let precondition = Err(Refusal::Precondition);
    assert_eq!(put(&mut state, at(0), "a", only(7)), precondition);
    assert_eq!(put(&mut state, at(0), "a", unless(7)), precondition);
    assert_eq!(put(&mut state, at(0), "a", unless(0)), precondition);
    let first = put(&mut state, at(0), "a", only(0)).unwrap();
    assert_eq!(put(&mut state, at(0), "a", only(0)), precondition);
    assert_eq!(put(&mut state, at(0), "a", unless(first)), precondition);
    put(&mut state, at(0), "a", unless(0)).unwrap();
    let metageneration = Conditions { metageneration_match: Some(2), ..Conditions::default() };
    assert_eq!(put(&mut state, at(0), "a", metageneration), precondition);
    assert_eq!(state.stats.precondition_failed, 6);
    assert_eq!(state.stats.writes, 2);
}

#[test]
fn reads_obey_every_condition() {
    let mut state = state(false);
    let generation = put(&mut state, at(0), "a", Conditions::default()).unwrap();
    let mut read = |wanted, conditions| {
        state.read(BUCKET, "a", wanted, conditions).map(|object| object.generation)
    };
    assert_eq!(read(None, only(generation)), Ok(generation));
    assert_eq!(read(None, unless(0)), Ok(generation));
    assert_eq!(read(None, only(0)), Err(Refusal::Precondition));
    assert_eq!(read(None, only(generation - 1)), Err(Refusal::Precondition));
    assert_eq!(read(None, unless(generation)), Err(Refusal::NotModified));
    assert_eq!(read(Some(generation), only(generation)), Ok(generation));
    assert!(matches!(
        read(Some(generation - 1), Conditions::default()),
        Err(Refusal::NoObject { .. })
    ));
    assert_eq!((state.stats.reads, state.stats.not_modified), (3, 1));
    assert_eq!((state.stats.precondition_failed, state.stats.not_found), (2, 1));
}

#[test]
fn a_missing_object_is_not_found_whatever_the_condition() {
    let mut state = state(false);
    for conditions in [Conditions::default(), only(0), only(3), unless(3)] {
        let read = state.read(BUCKET, "a", None, conditions);
        assert!(matches!(read, Err(Refusal::NoObject { .. })));
        let delete = state.delete(at(0), BUCKET, "a", None, conditions);
        assert!(matches!(delete, Err(Refusal::NoObject { .. })));
    }
}

#[test]
fn one_mutation_per_second_and_name() {
    let mut state = state(true);
    let first = put(&mut state, at(0), "a", Conditions::default()).unwrap();
    put(&mut state, at(1), "b", Conditions::default()).unwrap();
    let early = put(&mut state, at(999), "a", Conditions::default());
    assert!(matches!(early, Err(Refusal::Pace { .. })));
    let early = state.delete(at(999), BUCKET, "a", None, only(first));
    assert!(matches!(early, Err(Refusal::Pace { .. })));
    // A refused request does not start another second.
    let second = put(&mut state, at(1_000), "a", only(first)).unwrap();
    state.delete(at(2_000), BUCKET, "a", None, only(second)).unwrap();
    // A delete is a mutation of the name, though the object is gone.
    let early = put(&mut state, at(2_999), "a", only(0));
    assert!(matches!(early, Err(Refusal::Pace { .. })));
    put(&mut state, at(3_000), "a", only(0)).unwrap();
    assert_eq!(state.stats.throttled, 3);
}

#[test]
fn preconditions_are_checked_before_the_pace_and_cost_nothing() {
    let mut state = state(true);
    let first = put(&mut state, at(0), "a", only(0)).unwrap();
    let failed = put(&mut state, at(500), "a", only(0));
    assert_eq!(failed, Err(Refusal::Precondition));
    put(&mut state, at(1_000), "a", only(first)).unwrap();
    assert_eq!(state.stats.throttled, 0);
}

#[test]
fn the_pace_can_be_switched() {
    let mut state = state(false);
    put(&mut state, at(0), "a", Conditions::default()).unwrap();
    put(&mut state, at(0), "a", Conditions::default()).unwrap();
    state.one_mutation_per_second = true;
    let early = put(&mut state, at(1), "a", Conditions::default());
    assert!(matches!(early, Err(Refusal::Pace { .. })));
}

#[test]
fn names_are_checked() {
    let mut state = state(false);
    for name in ["", ".", "..", "a\nb", &"x".repeat(1025)] {
        let refused = put(&mut state, at(0), name, Conditions::default());
        assert!(matches!(refused, Err(Refusal::Invalid(_))), "{name:?}");
    }
    put(&mut state, at(0), &"x".repeat(1024), Conditions::default()).unwrap();
    for name in ["ab", "Bucket", "-ab", "a/b", ""] {
        let refused = state.create_bucket(at(0), name, BucketSettings::default());
        assert!(matches!(refused, Err(Refusal::Invalid(_))), "{name:?}");
    }
}

#[test]
fn buckets_are_unique_and_go_only_when_empty() {
    let mut state = state(false);
    assert_eq!(
        state.create_bucket(at(1), BUCKET, BucketSettings::default()).map(drop),
        Err(Refusal::BucketExists)
    );
    put(&mut state, at(1), "a", Conditions::default()).unwrap();
    assert_eq!(state.delete_bucket(BUCKET, Conditions::default()), Err(Refusal::BucketNotEmpty));
    state.delete(at(1), BUCKET, "a", None, Conditions::default()).unwrap();
    state.delete_bucket(BUCKET, Conditions::default()).unwrap();
    assert_eq!(state.delete_bucket(BUCKET, Conditions::default()), Err(Refusal::NoBucket));
    let orphan = put(&mut state, at(1), "a", Conditions::default());
    assert_eq!(orphan, Err(Refusal::NoBucket));
}

fn move_to(
    state: &mut State,
    now: SystemTime,
    to: &str,
    target: Conditions,
) -> Result<(), Refusal> {
    let from = Place { bucket: BUCKET.to_owned(), name: "a".to_owned() };
    let source = Conditions::default();
    let rewrite = Rewrite { generation: None, source, target, said: None };
    state.rename(now, &from, to, rewrite).map(drop)
}

#[test]
fn a_move_that_is_refused_leaves_both_names_as_they_were() {
    let mut state = state(true);
    put(&mut state, at(0), "a", Conditions::default()).unwrap();
    let early = move_to(&mut state, at(999), "m", only(0));
    assert!(matches!(early, Err(Refusal::Pace { .. })));
    assert_eq!(state.names(BUCKET), ["a"]);
    put(&mut state, at(999), "m", Conditions::default()).unwrap();
    let early = move_to(&mut state, at(1_000), "m", Conditions::default());
    assert!(matches!(early, Err(Refusal::Pace { .. })));
    assert_eq!(move_to(&mut state, at(1_999), "m", only(0)), Err(Refusal::Precondition));
    assert_eq!(state.names(BUCKET), ["a", "m"]);
    assert_eq!((state.stats.writes, state.stats.deletes), (2, 0));
    assert_eq!((state.stats.throttled, state.stats.precondition_failed), (2, 1));
    move_to(&mut state, at(1_999), "m", Conditions::default()).unwrap();
    assert_eq!(state.names(BUCKET), ["m"]);
}

#[test]
fn a_move_spares_what_is_held() {
    let mut state = state(false);
    for name in ["a", "m"] {
        put(&mut state, at(0), name, Conditions::default()).unwrap();
        let hold = |held: bool| {
            move |object: &StoredObject| {
                object.said().patched(&serde_json::json!({"temporaryHold": held}))
            }
        };
        let one = (BUCKET, name, None);
        state.update(at(0), one, Conditions::default(), hold(true)).unwrap();
        let refused = move_to(&mut state, at(0), "m", Conditions::default());
        assert!(matches!(refused, Err(Refusal::Kept { .. })), "{name}");
        state.update(at(0), one, Conditions::default(), hold(false)).unwrap();
    }
    assert_eq!(state.names(BUCKET), ["a", "m"]);
}

#[test]
fn an_object_is_not_moved_onto_itself() {
    let mut state = state(false);
    put(&mut state, at(0), "a", Conditions::default()).unwrap();
    let refused = move_to(&mut state, at(0), "a", Conditions::default());
    assert!(matches!(refused, Err(Refusal::Invalid(_))));
    assert_eq!(state.names(BUCKET), ["a"]);
}

#[test]
fn older_versions_stay_where_versioning_is_on() {
    let mut state = state(false);
    let settings = BucketSettings { versioning: true, ..BucketSettings::default() };
    state.set_settings(BUCKET, settings).unwrap();
    let first = put(&mut state, at(0), "a", Conditions::default()).unwrap();
    let second = put(&mut state, at(1), "a", Conditions::default()).unwrap();
    state.delete(at(2), BUCKET, "a", None, Conditions::default()).unwrap();
    let mut read = |generation| state.read(BUCKET, "a", generation, Conditions::default());
    assert!(matches!(read(None), Err(Refusal::NoObject { .. })));
    assert_eq!(read(Some(first)).unwrap().deleted, Some(at(1)));
    assert_eq!(read(Some(second)).unwrap().deleted, Some(at(2)));
    state.delete(at(3), BUCKET, "a", Some(first), Conditions::default()).unwrap();
    let gone = state.read(BUCKET, "a", Some(first), Conditions::default());
    assert!(matches!(gone, Err(Refusal::NoObject { .. })));
}

#[test]
fn a_change_of_metadata_is_a_metageneration() {
    let mut state = state(false);
    let generation = put(&mut state, at(0), "a", Conditions::default()).unwrap();
    let mut update = |wanted| {
        let conditions = Conditions { metageneration_match: Some(wanted), ..Conditions::default() };
        let change = |object: &StoredObject| {
            object.said().patched(&serde_json::json!({"metadata": {"k": "v"}}))
        };
        state.update(at(1), (BUCKET, "a", None), conditions, change)
    };
    let changed = update(1).unwrap();
    assert_eq!((changed.generation, changed.metageneration), (generation, 2));
    assert_eq!(changed.attributes.metadata["k"], "v");
    assert_eq!(update(1), Err(Refusal::Precondition));
}

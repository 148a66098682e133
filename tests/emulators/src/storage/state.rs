//! The buckets and their objects: every decision, and no I/O.
//!
//! A caller holds the whole [`State`] while it calls, so each method is one
//! atomic step. Time is passed in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::Stats;
use super::conditions::Conditions;
use super::listing::{ListQuery, Page};
use super::object::{StoredObject, Upload};
use super::pace::Pace;
use super::refusal::Refusal;
use super::settings::BucketSettings;
use crate::access::Access;

/// All buckets of the emulator.
#[derive(Debug)]
pub(super) struct State {
    buckets: BTreeMap<String, Bucket>,
    /// The last generation given out, over all names: one counter for everything
    /// makes each name's generations grow across delete and recreate.
    last_generation: i64,
    /// Whether the limit on mutations of one name applies.
    pub(super) one_mutation_per_second: bool,
    /// What was answered so far.
    pub(super) stats: Stats,
}

#[derive(Debug)]
struct Bucket {
    created: SystemTime,
    settings: BucketSettings,
    access: Access,
    objects: BTreeMap<String, Arc<StoredObject>>,
    pace: Pace,
}

impl State {
    pub(super) fn new(one_mutation_per_second: bool) -> Self {
        Self {
            buckets: BTreeMap::new(),
            last_generation: 0,
            one_mutation_per_second,
            stats: Stats::default(),
        }
    }

    pub(super) fn create_bucket(
        &mut self,
        now: SystemTime,
        name: &str,
        settings: BucketSettings,
    ) -> Result<(), Refusal> {
        check_bucket_name(name)?;
        if self.buckets.contains_key(name) {
            return Err(Refusal::BucketExists);
        }
        let bucket = Bucket {
            created: now,
            settings,
            access: Access::default(),
            objects: BTreeMap::new(),
            pace: Pace::default(),
        };
        self.buckets.insert(name.to_owned(), bucket);
        Ok(())
    }

    /// When the bucket was made, and its settings.
    pub(super) fn bucket(&self, name: &str) -> Result<(SystemTime, &BucketSettings), Refusal> {
        let bucket = self.buckets.get(name).ok_or(Refusal::NoBucket)?;
        Ok((bucket.created, &bucket.settings))
    }

    pub(super) fn buckets(&self) -> impl Iterator<Item = (&str, SystemTime, &BucketSettings)> {
        self.buckets.iter().map(|(name, bucket)| (name.as_str(), bucket.created, &bucket.settings))
    }

    pub(super) fn settings_mut(&mut self, name: &str) -> Result<&mut BucketSettings, Refusal> {
        let bucket = self.buckets.get_mut(name).ok_or(Refusal::NoBucket)?;
        Ok(&mut bucket.settings)
    }

    /// Who may do what with the bucket.
    pub(super) fn access_mut(&mut self, name: &str) -> Result<&mut Access, Refusal> {
        let bucket = self.buckets.get_mut(name).ok_or(Refusal::NoBucket)?;
        Ok(&mut bucket.access)
    }

    pub(super) fn delete_bucket(&mut self, name: &str) -> Result<(), Refusal> {
        let bucket = self.buckets.get(name).ok_or(Refusal::NoBucket)?;
        if !bucket.objects.is_empty() {
            return Err(Refusal::BucketNotEmpty);
        }
        self.buckets.remove(name);
        Ok(())
    }

    /// The live version, whatever it is; not counted.
    pub(super) fn peek(&self, bucket: &str, name: &str) -> Option<&Arc<StoredObject>> {
        self.buckets.get(bucket)?.objects.get(name)
    }

    /// All object names of a bucket, sorted; not counted.
    pub(super) fn names(&self, bucket: &str) -> Vec<String> {
        let home = self.buckets.get(bucket);
        home.map_or_else(Vec::new, |home| home.objects.keys().cloned().collect())
    }

    /// Reads an object. `generation` of `Some` other than the live one is not found:
    /// this emulator keeps no older versions.
    pub(super) fn read(
        &mut self,
        bucket: &str,
        name: &str,
        generation: Option<i64>,
        conditions: Conditions,
    ) -> Result<Arc<StoredObject>, Refusal> {
        let found = self.find(bucket, name, generation).and_then(|object| {
            conditions.check_read(object)?;
            Ok(Arc::clone(object))
        });
        match found {
            Ok(_) => self.stats.reads += 1,
            Err(ref refusal) => self.count(refusal),
        }
        found
    }

    /// Refuses an upload in chunks whose preconditions fail already, before its content
    /// is sent. Promises nothing: they are checked again when all of it is there.
    pub(super) fn begin_upload(
        &mut self,
        bucket: &str,
        name: &str,
        conditions: Conditions,
    ) -> Result<(), Refusal> {
        let checked = self.check_write(bucket, name, conditions);
        if let Err(refusal) = &checked {
            self.count(refusal);
        }
        checked
    }

    fn check_write(&self, bucket: &str, name: &str, conditions: Conditions) -> Result<(), Refusal> {
        check_object_name(name)?;
        let home = self.buckets.get(bucket).ok_or(Refusal::NoBucket)?;
        conditions.check_mutation(home.objects.get(name).map(AsRef::as_ref))
    }

    /// Writes an object. Of concurrent writes with the same `generation_match` exactly
    /// one succeeds.
    pub(super) fn write(
        &mut self,
        now: SystemTime,
        bucket: &str,
        name: &str,
        upload: Upload,
        conditions: Conditions,
    ) -> Result<Arc<StoredObject>, Refusal> {
        let written = self.try_write(now, bucket, name, upload, conditions);
        match written {
            Ok(_) => self.stats.writes += 1,
            Err(ref refusal) => self.count(refusal),
        }
        written
    }

    fn try_write(
        &mut self,
        now: SystemTime,
        bucket: &str,
        name: &str,
        upload: Upload,
        conditions: Conditions,
    ) -> Result<Arc<StoredObject>, Refusal> {
        self.check_write(bucket, name, conditions)?;
        let limited = self.one_mutation_per_second;
        let home = self.buckets.get_mut(bucket).ok_or(Refusal::NoBucket)?;
        home.take_turn(limited, now, bucket, name)?;
        self.last_generation = next_generation(self.last_generation, now);
        let object = Arc::new(StoredObject::new(upload, self.last_generation, now));
        home.objects.insert(name.to_owned(), Arc::clone(&object));
        Ok(object)
    }

    /// Deletes the live version, which must be `generation` if that is given.
    pub(super) fn delete(
        &mut self,
        now: SystemTime,
        bucket: &str,
        name: &str,
        generation: Option<i64>,
        conditions: Conditions,
    ) -> Result<(), Refusal> {
        let deleted = self.try_delete(now, bucket, name, generation, conditions);
        match deleted {
            Ok(()) => self.stats.deletes += 1,
            Err(ref refusal) => self.count(refusal),
        }
        deleted
    }

    fn try_delete(
        &mut self,
        now: SystemTime,
        bucket: &str,
        name: &str,
        generation: Option<i64>,
        conditions: Conditions,
    ) -> Result<(), Refusal> {
        conditions.check_mutation(Some(self.find(bucket, name, generation)?))?;
        let limited = self.one_mutation_per_second;
        let home = self.buckets.get_mut(bucket).ok_or(Refusal::NoBucket)?;
        home.take_turn(limited, now, bucket, name)?;
        home.objects.remove(name);
        Ok(())
    }

    pub(super) fn list(&mut self, bucket: &str, query: &ListQuery) -> Result<Page, Refusal> {
        let home = self.buckets.get(bucket).ok_or(Refusal::NoBucket)?;
        let page = query.page(&home.objects);
        self.stats.lists += 1;
        Ok(page)
    }

    fn find(
        &self,
        bucket: &str,
        name: &str,
        generation: Option<i64>,
    ) -> Result<&Arc<StoredObject>, Refusal> {
        let home = self.buckets.get(bucket).ok_or(Refusal::NoBucket)?;
        home.objects
            .get(name)
            .filter(|object| generation.is_none_or(|wanted| wanted == object.generation))
            .ok_or_else(|| Refusal::NoObject { bucket: bucket.to_owned(), object: name.to_owned() })
    }

    fn count(&mut self, refusal: &Refusal) {
        match refusal {
            Refusal::Precondition => self.stats.precondition_failed += 1,
            Refusal::NotModified => self.stats.not_modified += 1,
            Refusal::Pace { .. } => self.stats.throttled += 1,
            Refusal::NoObject { .. } => self.stats.not_found += 1,
            _ => {}
        }
    }
}

impl Bucket {
    /// Uses up this second's mutation of `name`.
    fn take_turn(
        &mut self,
        limited: bool,
        now: SystemTime,
        bucket: &str,
        name: &str,
    ) -> Result<(), Refusal> {
        if limited && !self.pace.allows(now, name) {
            return Err(Refusal::Pace { bucket: bucket.to_owned(), object: name.to_owned() });
        }
        self.pace.mutated(now, name);
        Ok(())
    }
}

/// Microseconds since the epoch as production has them, but never the same twice.
fn next_generation(last: i64, now: SystemTime) -> i64 {
    let micros = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(0));
    micros.max(last + 1)
}

fn check_bucket_name(name: &str) -> Result<(), Refusal> {
    let edge = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let inner = |byte: &u8| edge(Some(byte)) || b"-_.".contains(byte);
    let bytes = name.as_bytes();
    let valid = (3..=222).contains(&bytes.len())
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(inner);
    valid.then_some(()).ok_or_else(|| Refusal::invalid(format!("Invalid bucket name: '{name}'")))
}

fn check_object_name(name: &str) -> Result<(), Refusal> {
    let valid = (1..=1024).contains(&name.len())
        && !name.contains(['\r', '\n'])
        && name != "."
        && name != ".."
        && !name.starts_with(".well-known/acme-challenge/");
    valid.then_some(()).ok_or_else(|| Refusal::invalid("The specified object name is not valid."))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::storage::object::Attributes;

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
            state.create_bucket(at(1), BUCKET, BucketSettings::default()),
            Err(Refusal::BucketExists)
        );
        put(&mut state, at(1), "a", Conditions::default()).unwrap();
        assert_eq!(state.delete_bucket(BUCKET), Err(Refusal::BucketNotEmpty));
        state.delete(at(1), BUCKET, "a", None, Conditions::default()).unwrap();
        state.delete_bucket(BUCKET).unwrap();
        assert_eq!(state.delete_bucket(BUCKET), Err(Refusal::NoBucket));
        let orphan = put(&mut state, at(1), "a", Conditions::default());
        assert_eq!(orphan, Err(Refusal::NoBucket));
    }
}

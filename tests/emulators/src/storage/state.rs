//! The buckets and their objects: every decision, and no I/O.
//!
//! A caller holds the whole [`State`] while it calls, so each method is one
//! atomic step. Time is passed in.

mod buckets;
mod copies;
mod kept;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::Stats;
use super::conditions::Conditions;
use super::listing::{ListQuery, Page};
use super::object::{StoredObject, Upload};
use super::refusal::Refusal;
use crate::data::Changes;
pub(super) use buckets::Bucket;
pub(super) use copies::{Component, Place, Rewrite};

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
    /// What is to be kept of the present step, and buckets that it changed.
    changes: Changes,
    changed_buckets: BTreeSet<String>,
}

impl State {
    pub(super) fn new(one_mutation_per_second: bool) -> Self {
        Self {
            buckets: BTreeMap::new(),
            last_generation: 0,
            one_mutation_per_second,
            stats: Stats::default(),
            changes: Changes::default(),
            changed_buckets: BTreeSet::new(),
        }
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

    /// Reads an object: the live version, or the one of a generation.
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
        conditions.check_mutation(self.home(bucket)?.objects.get(name).map(AsRef::as_ref))
    }

    fn home(&self, bucket: &str) -> Result<&Bucket, Refusal> {
        self.buckets.get(bucket).ok_or(Refusal::NoBucket)
    }

    fn home_mut(&mut self, bucket: &str) -> Result<&mut Bucket, Refusal> {
        self.buckets.get_mut(bucket).ok_or(Refusal::NoBucket)
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
        mut upload: Upload,
        conditions: Conditions,
    ) -> Result<Arc<StoredObject>, Refusal> {
        self.check_write(bucket, name, conditions)?;
        let limited = self.one_mutation_per_second;
        let generation = next_generation(self.last_generation, now);
        let home = self.home_mut(bucket)?;
        home.check_kept(now, bucket, name)?;
        home.take_turn(limited, now, bucket, name)?;
        let class = &mut upload.attributes.storage_class;
        *class = class.take().or_else(|| home.storage_class().map(ToOwned::to_owned));
        home.archive(now, name);
        let object = Arc::new(StoredObject::new(upload, generation, now));
        let replaced = home.objects.insert(name.to_owned(), Arc::clone(&object));
        self.last_generation = generation;
        self.version_written(bucket, name, &object, replaced);
        Ok(object)
    }

    /// Deletes the live version, which is kept as an older one in a bucket with
    /// versioning; or the version of a generation, for good.
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
        let home = self.home_mut(bucket)?;
        if let Some(older) = generation.filter(|wanted| home.archived(name, *wanted).is_some()) {
            home.forget(name, older);
            self.version_left(bucket, name, older);
            return Ok(());
        }
        home.check_kept(now, bucket, name)?;
        home.take_turn(limited, now, bucket, name)?;
        if generation.is_none() {
            home.archive(now, name);
        }
        if let Some(removed) = home.objects.remove(name) {
            self.version_left(bucket, name, removed.generation);
        }
        Ok(())
    }

    pub(super) fn list(&mut self, bucket: &str, query: &ListQuery) -> Result<Page, Refusal> {
        let home = self.home(bucket)?;
        let page = query.page(&home.objects, &home.archive);
        self.stats.lists += 1;
        Ok(page)
    }

    fn find(
        &self,
        bucket: &str,
        name: &str,
        generation: Option<i64>,
    ) -> Result<&Arc<StoredObject>, Refusal> {
        let home = self.home(bucket)?;
        let live = home.objects.get(name);
        let found = match generation {
            Some(wanted) => live
                .filter(|object| object.generation == wanted)
                .or_else(|| home.archived(name, wanted)),
            None => live,
        };
        found
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

/// Microseconds since the epoch as production has them, but never the same twice.
fn next_generation(last: i64, now: SystemTime) -> i64 {
    let micros = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(0));
    micros.max(last + 1)
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
mod tests;

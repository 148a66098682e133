//! What is kept of the state across restarts, and how it comes back.
//!
//! A version's content and what is said of it are records of their own: metadata changes
//! without the content. Upload sessions end with the process, as they may at any time.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::{Bucket, State};
use crate::data::{Change, Data, parse, record};
use crate::storage::object::StoredObject;

const BUCKET: &str = "storage/bucket/";
const VERSION: &str = "storage/version/";
const CONTENT: &str = "storage/content/";
const GENERATION: &str = "storage/generation";

impl State {
    /// The state as it was kept; what changes from now on is collected.
    pub(in crate::storage) fn resume(
        data: &Data,
        one_mutation_per_second: bool,
    ) -> io::Result<Self> {
        let mut state = Self::new(one_mutation_per_second);
        for (name, bucket) in data.read(BUCKET)? {
            state.buckets.insert(name, parse(&bucket)?);
        }
        let mut contents: HashMap<String, Bytes> = data.read(CONTENT)?.into_iter().collect();
        for (key, version) in data.read(VERSION)? {
            let mut object: StoredObject = parse(&version)?;
            object.content = contents.remove(&key).unwrap_or_default();
            let mut parts = key.splitn(3, '/');
            let (Some(bucket), _, Some(name)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let Some(home) = state.buckets.get_mut(bucket) else { continue };
            let (name, object) = (name.to_owned(), Arc::new(object));
            if object.deleted.is_some() {
                home.archive.insert((name, object.generation), object);
            } else {
                home.objects.insert(name, object);
            }
        }
        for (_, generation) in data.read(GENERATION)? {
            state.last_generation = parse(&generation)?;
        }
        state.changes.collect();
        Ok(state)
    }

    /// What changed since the last call.
    pub(in crate::storage) fn take_changes(&mut self) -> Vec<Change> {
        for name in std::mem::take(&mut self.changed_buckets) {
            let key = format!("{BUCKET}{name}");
            let bucket: Option<&Bucket> = self.buckets.get(&name);
            self.changes.add(|| match bucket {
                Some(bucket) => Change::Put(key, record(bucket)),
                None => Change::Delete(key),
            });
        }
        self.changes.take()
    }

    /// Whoever holds the state next finds out what the bucket is then.
    pub(super) fn bucket_changes(&mut self, name: &str) {
        if self.changes.are_collected() {
            self.changed_buckets.insert(name.to_owned());
        }
    }

    /// A new version is live, where `replaced` was.
    pub(super) fn version_written(
        &mut self,
        bucket: &str,
        name: &str,
        object: &StoredObject,
        replaced: Option<Arc<StoredObject>>,
    ) {
        if let Some(replaced) = replaced {
            self.version_left(bucket, name, replaced.generation);
        }
        self.changes.put(|| (GENERATION.to_owned(), record(&object.generation)));
        let content = || (key(CONTENT, bucket, name, object.generation), object.content.clone());
        self.changes.put(content);
        self.version_changed(bucket, name, object);
    }

    /// What is said of a version is new.
    pub(super) fn version_changed(&mut self, bucket: &str, name: &str, object: &StoredObject) {
        self.changes.put(|| (key(VERSION, bucket, name, object.generation), record(object)));
    }

    /// A version is not live any more: it is an older one, or none.
    pub(super) fn version_left(&mut self, bucket: &str, name: &str, generation: i64) {
        if !self.changes.are_collected() {
            return;
        }
        let home = self.buckets.get(bucket);
        match home.and_then(|home| home.archived(name, generation)).map(Arc::clone) {
            Some(older) => self.version_changed(bucket, name, &older),
            None => {
                for kind in [VERSION, CONTENT] {
                    self.changes.add(|| Change::Delete(key(kind, bucket, name, generation)));
                }
            }
        }
    }
}

/// A bucket's name has no slash; an object's may.
fn key(kind: &str, bucket: &str, name: &str, generation: i64) -> String {
    format!("{kind}{bucket}/{generation}/{name}")
}

#[cfg(test)]
mod tests;

//! Versions that are not live any more, and metadata that changes.

use std::sync::Arc;
use std::time::SystemTime;

use super::{Bucket, State};
use crate::storage::conditions::Conditions;
use crate::storage::object::{Attributes, StoredObject};
use crate::storage::refusal::Refusal;

impl State {
    /// Changes the metadata of a version.
    pub(in crate::storage) fn update(
        &mut self,
        now: SystemTime,
        (bucket, name, generation): (&str, &str, Option<i64>),
        conditions: Conditions,
        change: impl FnOnce(&StoredObject) -> Result<Attributes, Refusal>,
    ) -> Result<Arc<StoredObject>, Refusal> {
        let updated = self.try_update(now, (bucket, name, generation), conditions, change);
        if let Err(refusal) = &updated {
            self.count(refusal);
        }
        updated
    }

    fn try_update(
        &mut self,
        now: SystemTime,
        (bucket, name, generation): (&str, &str, Option<i64>),
        conditions: Conditions,
        change: impl FnOnce(&StoredObject) -> Result<Attributes, Refusal>,
    ) -> Result<Arc<StoredObject>, Refusal> {
        let current = Arc::clone(self.find(bucket, name, generation)?);
        conditions.check_mutation(Some(&current))?;
        let changed = Arc::new(current.changed(change(&current)?, now));
        let limited = self.one_mutation_per_second;
        let home = self.home_mut(bucket)?;
        home.take_turn(limited, now, bucket, name)?;
        let older = home.archive.get_mut(&(name.to_owned(), changed.generation));
        if let Some(place) = older.or_else(|| home.objects.get_mut(name)) {
            *place = Arc::clone(&changed);
        }
        self.version_changed(bucket, name, &changed);
        Ok(changed)
    }
}

impl Bucket {
    /// Keeps the live version as an older one, in a bucket with versioning.
    pub(super) fn archive(&mut self, now: SystemTime, name: &str) {
        if self.settings.versioning
            && let Some(live) = self.objects.get(name)
        {
            let older = StoredObject { deleted: Some(now), ..(**live).clone() };
            self.archive.insert((name.to_owned(), older.generation), Arc::new(older));
        }
    }

    pub(super) fn archived(&self, name: &str, generation: i64) -> Option<&Arc<StoredObject>> {
        self.archive.get(&(name.to_owned(), generation))
    }

    pub(super) fn forget(&mut self, name: &str, generation: i64) {
        self.archive.remove(&(name.to_owned(), generation));
    }
}

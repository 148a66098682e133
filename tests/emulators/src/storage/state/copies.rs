//! Objects made of others: copied, rewritten call by call, composed, moved.

use std::sync::Arc;
use std::time::SystemTime;

use super::State;
use crate::storage::conditions::Conditions;
use crate::storage::object::{Attributes, StoredObject, Upload};
use crate::storage::refusal::Refusal;

/// Objects in one composition, at most, as in production.
const MAX_COMPONENTS: usize = 32;

/// An object, as a path names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::storage) struct Place {
    pub(in crate::storage) bucket: String,
    pub(in crate::storage) name: String,
}

/// One of the objects that are composed.
#[derive(Debug)]
pub(in crate::storage) struct Component {
    pub(in crate::storage) name: String,
    pub(in crate::storage) generation: Option<i64>,
    pub(in crate::storage) generation_match: Option<i64>,
}

/// How a copy goes.
#[derive(Debug)]
pub(in crate::storage) struct Rewrite {
    pub(in crate::storage) generation: Option<i64>,
    pub(in crate::storage) source: Conditions,
    pub(in crate::storage) target: Conditions,
    /// What the copy says of itself; without it, what its source says.
    pub(in crate::storage) said: Option<Attributes>,
}

impl State {
    /// The source of a copy, and whether its content stays where it is: then one call
    /// copies any size.
    pub(in crate::storage) fn source(
        &mut self,
        from: &Place,
        to: &Place,
        rewrite: &Rewrite,
    ) -> Result<(Arc<StoredObject>, bool), Refusal> {
        let found = self.try_source(from, to, rewrite);
        if let Err(refusal) = &found {
            self.count(refusal);
        }
        found
    }

    fn try_source(
        &self,
        from: &Place,
        to: &Place,
        rewrite: &Rewrite,
    ) -> Result<(Arc<StoredObject>, bool), Refusal> {
        let source = Arc::clone(self.find(&from.bucket, &from.name, rewrite.generation)?);
        rewrite.source.check_mutation(Some(&source))?;
        let (here, there) = (self.home(&from.bucket)?, self.home(&to.bucket)?);
        let said = rewrite.said.as_ref().and_then(|said| said.storage_class.as_deref());
        let class = said.or_else(|| there.storage_class()).unwrap_or("STANDARD");
        let stays = here.location() == there.location() && class == source.storage_class;
        Ok((source, stays))
    }

    /// Copies an object.
    pub(in crate::storage) fn copy(
        &mut self,
        now: SystemTime,
        from: &Place,
        to: &Place,
        rewrite: Rewrite,
    ) -> Result<Arc<StoredObject>, Refusal> {
        let (source, _) = self.source(from, to, &rewrite)?;
        let upload = Upload::copied(&source, rewrite.said);
        self.write(now, &to.bucket, &to.name, upload, rewrite.target)
    }

    /// Gives an object another name in its bucket. It is moved or, if anything is against it,
    /// stays as it is.
    pub(in crate::storage) fn rename(
        &mut self,
        now: SystemTime,
        from: &Place,
        to: &str,
        rewrite: Rewrite,
    ) -> Result<Arc<StoredObject>, Refusal> {
        let target = Place { bucket: from.bucket.clone(), name: to.to_owned() };
        if let Err(refusal) = self.check_rename(now, from, &target, &rewrite) {
            self.count(&refusal);
            return Err(refusal);
        }
        let moved = self.copy(now, from, &target, rewrite)?;
        self.delete(now, &from.bucket, &from.name, None, Conditions::default())?;
        Ok(moved)
    }

    /// Whether both halves of a move, the copy and the delete, can be done.
    fn check_rename(
        &self,
        now: SystemTime,
        from: &Place,
        to: &Place,
        rewrite: &Rewrite,
    ) -> Result<(), Refusal> {
        if from.name == to.name {
            let message = "The source and the destination of a move must have different names.";
            return Err(Refusal::invalid(message));
        }
        self.try_source(from, to, rewrite)?;
        self.check_write(&to.bucket, &to.name, rewrite.target)?;
        let home = self.home(&from.bucket)?;
        for place in [from, to] {
            home.check_kept(now, &place.bucket, &place.name)?;
            home.check_turn(self.one_mutation_per_second, now, &place.bucket, &place.name)?;
        }
        Ok(())
    }

    /// Writes one object with the contents of others of its bucket.
    pub(in crate::storage) fn compose(
        &mut self,
        now: SystemTime,
        target: &Place,
        components: &[Component],
        attributes: Attributes,
        conditions: Conditions,
    ) -> Result<Arc<StoredObject>, Refusal> {
        let parts = self.components(&target.bucket, components);
        if let Err(refusal) = &parts {
            self.count(refusal);
        }
        let upload = Upload::composed(&parts?, attributes);
        self.write(now, &target.bucket, &target.name, upload, conditions)
    }

    fn components(
        &self,
        bucket: &str,
        components: &[Component],
    ) -> Result<Vec<Arc<StoredObject>>, Refusal> {
        if !(1..=MAX_COMPONENTS).contains(&components.len()) {
            return Err(Refusal::invalid(format!(
                "The number of source components provided ({}) must be from 1 to {MAX_COMPONENTS}.",
                components.len()
            )));
        }
        let find = |component: &Component| {
            let object = self.find(bucket, &component.name, component.generation)?;
            let conditions = Conditions {
                generation_match: component.generation_match,
                ..Conditions::default()
            };
            conditions.check_mutation(Some(object))?;
            Ok(Arc::clone(object))
        };
        components.iter().map(find).collect()
    }
}

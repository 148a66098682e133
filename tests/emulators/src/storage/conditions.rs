//! Preconditions on generation and metageneration.

use serde::Deserialize;

use super::object::StoredObject;
use super::refusal::Refusal;

/// What must hold for a request to be carried out; `None` asks nothing. Read from the
/// query of any JSON request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[expect(clippy::struct_field_names, reason = "named as the API names them")]
pub(super) struct Conditions {
    #[serde(rename = "ifGenerationMatch")]
    pub(super) generation_match: Option<i64>,
    #[serde(rename = "ifGenerationNotMatch")]
    pub(super) generation_not_match: Option<i64>,
    #[serde(rename = "ifMetagenerationMatch")]
    pub(super) metageneration_match: Option<i64>,
    #[serde(rename = "ifMetagenerationNotMatch")]
    pub(super) metageneration_not_match: Option<i64>,
}

/// What must hold of the source of a copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SourceConditions {
    #[serde(rename = "sourceGeneration")]
    pub(super) generation: Option<i64>,
    if_source_generation_match: Option<i64>,
    if_source_generation_not_match: Option<i64>,
    if_source_metageneration_match: Option<i64>,
    if_source_metageneration_not_match: Option<i64>,
}

impl From<SourceConditions> for Conditions {
    fn from(source: SourceConditions) -> Self {
        Self {
            generation_match: source.if_source_generation_match,
            generation_not_match: source.if_source_generation_not_match,
            metageneration_match: source.if_source_metageneration_match,
            metageneration_not_match: source.if_source_metageneration_not_match,
        }
    }
}

impl Conditions {
    /// For a bucket, which has a metageneration and no generation.
    pub(super) fn check_bucket(&self, metageneration: i64) -> Result<(), Refusal> {
        let holds = self.metageneration_match.is_none_or(|wanted| wanted == metageneration)
            && self.metageneration_not_match != Some(metageneration);
        holds.then_some(()).ok_or(Refusal::Precondition)
    }

    /// For a mutation: every condition that does not hold is a failed precondition.
    ///
    /// A missing object has generation 0. `NotMatch` holds for existing objects only.
    pub(super) fn check_mutation(&self, live: Option<&StoredObject>) -> Result<(), Refusal> {
        let holds = match live {
            Some(object) => self.matches(object) && !self.names(object),
            None => {
                self.generation_match.unwrap_or(0) == 0
                    && self.generation_not_match.is_none()
                    && self.metageneration_match.is_none()
                    && self.metageneration_not_match.is_none()
            }
        };
        holds.then_some(()).ok_or(Refusal::Precondition)
    }

    /// For a read of an existing object, where a `NotMatch` that names it means
    /// that the caller has this version already.
    pub(super) fn check_read(&self, object: &StoredObject) -> Result<(), Refusal> {
        if !self.matches(object) {
            return Err(Refusal::Precondition);
        }
        if self.names(object) {
            return Err(Refusal::NotModified);
        }
        Ok(())
    }

    fn matches(&self, object: &StoredObject) -> bool {
        self.generation_match.is_none_or(|wanted| wanted == object.generation)
            && self.metageneration_match.is_none_or(|wanted| wanted == object.metageneration)
    }

    fn names(&self, object: &StoredObject) -> bool {
        self.generation_not_match == Some(object.generation)
            || self.metageneration_not_match == Some(object.metageneration)
    }
}

//! Looks at a bucket's settings and access without changing them.

use std::time::Duration;

use google_cloud_storage::model::Bucket as Found;

use super::cloud_storage::CloudStorage;
use crate::ports::BucketError;

/// A bucket's settings, as far as they matter to a token store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketSettings {
    /// `EU`, `EUROPE-WEST1`, ….
    pub location: String,
    /// Whether access is by IAM alone, without lists on objects.
    pub uniform_access: bool,
    /// Whether it can never be made public.
    pub public_access_prevention: bool,
    /// How long a deleted object can be brought back.
    pub soft_delete: Option<Duration>,
    /// Whether overwritten objects are kept.
    pub versioning: bool,
    /// How long an object can neither be overwritten nor deleted.
    pub retention: Option<Duration>,
    /// What happens to objects by themselves.
    pub lifecycle: Vec<LifecycleRule>,
}

/// Something that happens to objects by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifecycleRule {
    /// `Delete`, `SetStorageClass`, ….
    pub action: String,
    /// To objects whose name starts so; to all when there are none.
    pub prefixes: Vec<String>,
}

impl LifecycleRule {
    /// Whether it may concern an object under `prefix`. What else it asks of an object, such as the
    /// end of its name, is not looked at.
    pub fn reaches(&self, prefix: &str) -> bool {
        // An upload that was never finished is no object yet.
        self.action != "AbortIncompleteMultipartUpload"
            && (self.prefixes.is_empty()
                || self
                    .prefixes
                    .iter()
                    .any(|p| p.starts_with(prefix) || prefix.starts_with(p.as_str())))
    }
}

impl CloudStorage {
    /// The bucket's settings. Needs `storage.buckets.get`.
    ///
    /// # Errors
    /// [`BucketError::Refused`] also when the bucket is missing or this process
    /// may not look.
    pub async fn settings(&self) -> Result<BucketSettings, BucketError> {
        let call = self.control()?.get_bucket().set_name(self.resource()).send();
        self.bounded(call).await.map(settings).map_err(|failure| self.failed(failure))
    }

    /// Roles and who has them on the bucket itself. Needs
    /// `storage.buckets.getIamPolicy`.
    ///
    /// # Errors
    /// As [`CloudStorage::settings`].
    pub async fn grants(&self) -> Result<Vec<(String, Vec<String>)>, BucketError> {
        let call = self.control()?.get_iam_policy().set_resource(self.resource()).send();
        let policy = self.bounded(call).await.map_err(|failure| self.failed(failure))?;
        Ok(policy.bindings.into_iter().map(|b| (b.role, b.members)).collect())
    }

    /// Those of `permissions` that this process has on the bucket.
    ///
    /// # Errors
    /// As [`CloudStorage::settings`].
    pub async fn allowed(&self, permissions: &[&str]) -> Result<Vec<String>, BucketError> {
        let call = self.control()?.test_iam_permissions().set_resource(self.resource());
        let call = call.set_permissions(permissions.iter().copied()).send();
        let answer = self.bounded(call).await.map_err(|failure| self.failed(failure))?;
        Ok(answer.permissions)
    }
}

fn settings(found: Found) -> BucketSettings {
    let iam = found.iam_config.unwrap_or_default();
    let positive = |duration: Option<google_cloud_wkt::Duration>| {
        duration.and_then(|d| Duration::try_from(d).ok()).filter(|d| !d.is_zero())
    };
    BucketSettings {
        location: found.location,
        uniform_access: iam.uniform_bucket_level_access.is_some_and(|access| access.enabled),
        public_access_prevention: iam.public_access_prevention == "enforced",
        soft_delete: positive(found.soft_delete_policy.and_then(|p| p.retention_duration)),
        versioning: found.versioning.is_some_and(|versioning| versioning.enabled),
        retention: positive(found.retention_policy.and_then(|p| p.retention_duration)),
        lifecycle: found
            .lifecycle
            .map(|lifecycle| lifecycle.rule)
            .unwrap_or_default()
            .into_iter()
            .map(|rule| {
                let condition = rule.condition.unwrap_or_default();
                LifecycleRule {
                    action: rule.action.map(|action| action.r#type).unwrap_or_default(),
                    prefixes: condition.matches_prefix,
                }
            })
            .collect(),
    }
}

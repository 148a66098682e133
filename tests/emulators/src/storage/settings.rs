//! A bucket's settings: what a check of a deployment looks at.
//!
//! They are stored and shown by both protocols. Versioning keeps what is replaced, and a copy to
//! another location is done in calls, if the client limits each of them; the others change
//! nothing about how the emulator behaves.

use std::time::{Duration, SystemTime};

use googleapis_tonic_google_storage_v2::google::storage::v2;
use prost_types::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use v2::bucket::iam_config::UniformBucketLevelAccess;
use v2::bucket::lifecycle::{Rule, rule};
use v2::bucket::{IamConfig, Lifecycle, SoftDeletePolicy, Versioning};

/// What a bucket is set to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct BucketSettings {
    /// Such as `US` or `EUROPE-WEST1`.
    pub location: String,
    /// Whether only the bucket's policy counts, and no object's.
    pub uniform_access: bool,
    /// Whether public access is refused whatever the policy says.
    pub public_access_prevention: bool,
    /// How long deleted objects can be restored; `None` if not at all.
    pub soft_delete: Option<Duration>,
    /// Whether overwritten objects are kept.
    pub versioning: bool,
    /// What happens to objects by themselves.
    pub lifecycle: Vec<LifecycleRule>,
}

/// An action on the objects that a condition holds for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct LifecycleRule {
    /// Such as `Delete`.
    pub action: String,
    /// How many days old an object is, at least.
    pub age_days: Option<i32>,
    /// What its name begins with, one of these; empty for every name.
    pub prefixes: Vec<String>,
}

impl Default for BucketSettings {
    /// What production gives a bucket whose creator says nothing.
    fn default() -> Self {
        Self {
            location: "US".to_owned(),
            uniform_access: false,
            public_access_prevention: false,
            soft_delete: Some(Duration::from_hours(7 * 24)),
            versioning: false,
            lifecycle: Vec::new(),
        }
    }
}

impl BucketSettings {
    /// What a creator asks for over gRPC.
    pub(super) fn from_proto(bucket: &v2::Bucket) -> Self {
        let default = Self::default();
        let iam = bucket.iam_config.as_ref();
        let uniform = iam.and_then(|iam| iam.uniform_bucket_level_access.as_ref());
        let rules = bucket.lifecycle.as_ref().map(|lifecycle| lifecycle.rule.as_slice());
        Self {
            location: match bucket.location.as_str() {
                "" => default.location,
                location => location.to_uppercase(),
            },
            uniform_access: uniform.is_some_and(|uniform| uniform.enabled),
            public_access_prevention: iam
                .is_some_and(|iam| iam.public_access_prevention == "enforced"),
            soft_delete: match &bucket.soft_delete_policy {
                None => default.soft_delete,
                Some(policy) => policy
                    .retention_duration
                    .and_then(|retention| Duration::try_from(retention).ok())
                    .filter(|retention| !retention.is_zero()),
            },
            versioning: bucket.versioning.is_some_and(|versioning| versioning.enabled),
            lifecycle: rules.unwrap_or_default().iter().map(LifecycleRule::from_proto).collect(),
        }
    }

    /// What a bucket resource of the JSON API says, as far as it is kept here.
    pub(super) fn from_json(bucket: &Value) -> Self {
        let default = Self::default();
        let seconds = &bucket["softDeletePolicy"]["retentionDurationSeconds"];
        let seconds = seconds.as_u64().or_else(|| seconds.as_str()?.parse().ok());
        let iam = &bucket["iamConfiguration"];
        let rules = bucket["lifecycle"]["rule"].as_array();
        Self {
            location: match bucket["location"].as_str().unwrap_or_default() {
                "" => default.location,
                location => location.to_uppercase(),
            },
            uniform_access: iam["uniformBucketLevelAccess"]["enabled"].as_bool().unwrap_or(false),
            public_access_prevention: iam["publicAccessPrevention"] == "enforced",
            soft_delete: match seconds {
                None => default.soft_delete,
                Some(seconds) => Some(Duration::from_secs(seconds)).filter(|kept| !kept.is_zero()),
            },
            versioning: bucket["versioning"]["enabled"].as_bool().unwrap_or(false),
            lifecycle: rules.into_iter().flatten().map(LifecycleRule::from_json).collect(),
        }
    }

    pub(super) fn to_proto(&self, name: &str, created: SystemTime) -> v2::Bucket {
        let time = Some(Timestamp::from(created));
        let rules: Vec<Rule> = self.lifecycle.iter().map(LifecycleRule::to_proto).collect();
        let prevention = if self.public_access_prevention { "enforced" } else { "inherited" };
        v2::Bucket {
            name: format!("projects/_/buckets/{name}"),
            bucket_id: name.to_owned(),
            etag: "CAE=".to_owned(),
            project: "projects/0".to_owned(),
            metageneration: 1,
            location: self.location.clone(),
            location_type: self.location_type().to_owned(),
            storage_class: "STANDARD".to_owned(),
            create_time: time,
            update_time: time,
            iam_config: Some(IamConfig {
                uniform_bucket_level_access: Some(UniformBucketLevelAccess {
                    enabled: self.uniform_access,
                    lock_time: None,
                }),
                public_access_prevention: prevention.to_owned(),
            }),
            // Production reports a policy of zero seconds where there is none.
            soft_delete_policy: Some(SoftDeletePolicy {
                retention_duration: prost_types::Duration::try_from(
                    self.soft_delete.unwrap_or_default(),
                )
                .ok(),
                effective_time: time,
            }),
            versioning: self.versioning.then_some(Versioning { enabled: true }),
            lifecycle: (!rules.is_empty()).then_some(Lifecycle { rule: rules }),
            ..v2::Bucket::default()
        }
    }

    pub(super) fn to_json(&self, origin: &str, name: &str, created: SystemTime) -> Value {
        let time = Timestamp::from(created).to_string();
        let prevention = if self.public_access_prevention { "enforced" } else { "inherited" };
        let mut json = json!({
            "kind": "storage#bucket",
            "id": name,
            "selfLink": format!("{origin}/storage/v1/b/{name}"),
            "name": name,
            "projectNumber": "0",
            "metageneration": "1",
            "location": self.location,
            "locationType": self.location_type(),
            "storageClass": "STANDARD",
            "etag": "CAE=",
            "timeCreated": time,
            "updated": time,
            "iamConfiguration": {
                "uniformBucketLevelAccess": {"enabled": self.uniform_access},
                "publicAccessPrevention": prevention,
            },
            "softDeletePolicy": {
                "retentionDurationSeconds":
                    self.soft_delete.unwrap_or_default().as_secs().to_string(),
                "effectiveTime": time,
            },
        });
        if self.versioning {
            json["versioning"] = json!({"enabled": true});
        }
        if !self.lifecycle.is_empty() {
            let rules: Vec<Value> = self.lifecycle.iter().map(LifecycleRule::to_json).collect();
            json["lifecycle"] = json!({ "rule": rules });
        }
        json
    }

    fn location_type(&self) -> &'static str {
        if self.location.contains('-') { "region" } else { "multi-region" }
    }
}

impl LifecycleRule {
    fn from_proto(rule: &Rule) -> Self {
        let condition = rule.condition.clone().unwrap_or_default();
        Self {
            action: rule.action.clone().unwrap_or_default().r#type,
            age_days: condition.age_days,
            prefixes: condition.matches_prefix,
        }
    }

    fn to_proto(&self) -> Rule {
        Rule {
            action: Some(rule::Action { r#type: self.action.clone(), ..rule::Action::default() }),
            condition: Some(rule::Condition {
                age_days: self.age_days,
                matches_prefix: self.prefixes.clone(),
                ..rule::Condition::default()
            }),
        }
    }

    fn from_json(rule: &Value) -> Self {
        let condition = &rule["condition"];
        let prefixes = condition["matchesPrefix"].as_array();
        Self {
            action: rule["action"]["type"].as_str().unwrap_or_default().to_owned(),
            age_days: condition["age"].as_i64().and_then(|age| age.try_into().ok()),
            prefixes: prefixes
                .into_iter()
                .flatten()
                .filter_map(|prefix| Some(prefix.as_str()?.to_owned()))
                .collect(),
        }
    }

    fn to_json(&self) -> Value {
        let mut condition = json!({});
        if let Some(age) = self.age_days {
            condition["age"] = age.into();
        }
        if !self.prefixes.is_empty() {
            condition["matchesPrefix"] = json!(self.prefixes);
        }
        json!({"action": {"type": self.action}, "condition": condition})
    }
}

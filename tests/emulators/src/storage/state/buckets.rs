//! Buckets: make, look up, change, delete; and what a bucket keeps of its objects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::State;
use crate::access::Access;
use crate::storage::conditions::Conditions;
use crate::storage::object::{StoredObject, merge};
use crate::storage::pace::Pace;
use crate::storage::refusal::Refusal;
use crate::storage::settings::BucketSettings;

/// What a bucket resource may say beside the settings: stored and shown. Of these the
/// default storage class and the retention policy have an effect.
const KEPT: [&str; 14] = [
    "autoclass",
    "billing",
    "cors",
    "defaultEventBasedHold",
    "encryption",
    "hierarchicalNamespace",
    "ipFilter",
    "labels",
    "lifecycle",
    "logging",
    "retentionPolicy",
    "rpo",
    "storageClass",
    "website",
];

/// A bucket and everything in it.
#[derive(Debug, Deserialize, Serialize)]
pub(in crate::storage) struct Bucket {
    pub(super) created: SystemTime,
    updated: SystemTime,
    metageneration: i64,
    pub(super) settings: BucketSettings,
    /// The fields of [`KEPT`] that were said.
    more: Value,
    pub(super) access: Access,
    #[serde(skip)]
    pub(super) objects: BTreeMap<String, Arc<StoredObject>>,
    /// Versions that are not live any more, by name and generation.
    #[serde(skip)]
    pub(super) archive: BTreeMap<(String, i64), Arc<StoredObject>>,
    #[serde(skip)]
    pub(super) pace: Pace,
}

impl State {
    pub(in crate::storage) fn create_bucket(
        &mut self,
        now: SystemTime,
        name: &str,
        settings: BucketSettings,
    ) -> Result<&mut Bucket, Refusal> {
        check_bucket_name(name)?;
        if self.buckets.contains_key(name) {
            return Err(Refusal::BucketExists);
        }
        let bucket = Bucket {
            created: now,
            updated: now,
            metageneration: 1,
            settings,
            more: json!({}),
            access: Access::default(),
            objects: BTreeMap::new(),
            archive: BTreeMap::new(),
            pace: Pace::default(),
        };
        self.bucket_changes(name);
        Ok(self.buckets.entry(name.to_owned()).or_insert(bucket))
    }

    /// When the bucket was made, and its settings.
    pub(in crate::storage) fn bucket(
        &self,
        name: &str,
    ) -> Result<(SystemTime, &BucketSettings), Refusal> {
        let bucket = self.home(name)?;
        Ok((bucket.created, &bucket.settings))
    }

    pub(in crate::storage) fn buckets(&self) -> impl Iterator<Item = (&str, &Bucket)> {
        self.buckets.iter().map(|(name, bucket)| (name.as_str(), bucket))
    }

    /// Replaces the settings.
    pub(in crate::storage) fn set_settings(
        &mut self,
        name: &str,
        settings: BucketSettings,
    ) -> Result<(), Refusal> {
        let bucket = self.home_mut(name)?;
        bucket.settings = settings;
        // What a client said in more detail.
        bucket.more.as_object_mut().and_then(|more| more.remove("lifecycle"));
        self.bucket_changes(name);
        Ok(())
    }

    /// The bucket resource, if the conditions hold.
    pub(in crate::storage) fn bucket_json(
        &self,
        origin: &str,
        name: &str,
        conditions: Conditions,
    ) -> Result<Value, Refusal> {
        let bucket = self.home(name)?;
        if conditions.metageneration_not_match == Some(bucket.metageneration) {
            return Err(Refusal::NotModified);
        }
        conditions.check_bucket(bucket.metageneration)?;
        Ok(bucket.to_json(origin, name))
    }

    /// Changes what the resource says: field by field, or as a whole.
    pub(in crate::storage) fn update_bucket(
        &mut self,
        now: SystemTime,
        name: &str,
        change: &Value,
        (conditions, whole): (Conditions, bool),
    ) -> Result<(), Refusal> {
        let bucket = self.home_mut(name)?;
        conditions.check_bucket(bucket.metageneration)?;
        let mut resource = if whole {
            json!({"location": bucket.settings.location})
        } else {
            bucket.to_json("", name)
        };
        merge(&mut resource, change);
        // Where a bucket is stays as it was made.
        resource["location"] = bucket.settings.location.as_str().into();
        bucket.say(&resource);
        bucket.metageneration += 1;
        bucket.updated = now;
        self.bucket_changes(name);
        Ok(())
    }

    /// Who may do what with the bucket.
    pub(in crate::storage) fn access_mut(&mut self, name: &str) -> Result<&mut Access, Refusal> {
        self.bucket_changes(name);
        Ok(&mut self.home_mut(name)?.access)
    }

    pub(in crate::storage) fn delete_bucket(
        &mut self,
        name: &str,
        conditions: Conditions,
    ) -> Result<(), Refusal> {
        let bucket = self.home(name)?;
        conditions.check_bucket(bucket.metageneration)?;
        if !bucket.objects.is_empty() || !bucket.archive.is_empty() {
            return Err(Refusal::BucketNotEmpty);
        }
        self.buckets.remove(name);
        self.bucket_changes(name);
        Ok(())
    }
}

impl Bucket {
    /// Takes over what a resource of the JSON API says.
    pub(in crate::storage) fn say(&mut self, resource: &Value) {
        self.settings = BucketSettings::from_json(resource);
        self.more = json!({});
        for field in KEPT {
            if let Some(value) = resource.get(field).filter(|value| !value.is_null()) {
                self.more[field] = value.clone();
            }
        }
    }

    pub(in crate::storage) fn to_json(&self, origin: &str, name: &str) -> Value {
        let mut json = self.settings.to_json(origin, name, self.created);
        for (field, value) in self.more.as_object().into_iter().flatten() {
            json[field] = value.clone();
        }
        // Shown empty by nobody: a cleared set of rules is no lifecycle.
        if json["lifecycle"]["rule"].as_array().is_none_or(Vec::is_empty)
            && let Some(fields) = json.as_object_mut()
        {
            fields.remove("lifecycle");
        }
        json["metageneration"] = self.metageneration.to_string().into();
        json["updated"] = Timestamp::from(self.updated).to_string().into();
        json
    }

    pub(in crate::storage) fn to_proto(
        &self,
        name: &str,
    ) -> googleapis_tonic_google_storage_v2::google::storage::v2::Bucket {
        self.settings.to_proto(name, self.created)
    }

    /// What objects get whose writer says nothing.
    pub(super) fn storage_class(&self) -> Option<&str> {
        self.more["storageClass"].as_str()
    }

    /// Where the content of a copy may stay: the location, and the class of the source.
    pub(super) fn location(&self) -> &str {
        &self.settings.location
    }

    /// Refuses when a hold or the retention policy keeps the live version.
    pub(super) fn check_kept(
        &self,
        now: SystemTime,
        bucket: &str,
        name: &str,
    ) -> Result<(), Refusal> {
        let Some(object) = self.objects.get(name) else {
            return Ok(());
        };
        let period = &self.more["retentionPolicy"]["retentionPeriod"];
        let period = period.as_u64().or_else(|| period.as_str()?.parse().ok());
        let retained =
            period.is_some_and(|period| now < object.created + Duration::from_secs(period));
        let held = object.attributes.temporary_hold || object.attributes.event_based_hold;
        let why = match (held, retained) {
            (true, _) => "under active hold",
            (_, true) => "subject to the bucket's retention policy",
            _ => return Ok(()),
        };
        Err(Refusal::Kept { bucket: bucket.to_owned(), object: name.to_owned(), why })
    }

    /// Refuses when this second's mutation of `name` is used up.
    pub(super) fn check_turn(
        &self,
        limited: bool,
        now: SystemTime,
        bucket: &str,
        name: &str,
    ) -> Result<(), Refusal> {
        if limited && !self.pace.allows(now, name) {
            return Err(Refusal::Pace { bucket: bucket.to_owned(), object: name.to_owned() });
        }
        Ok(())
    }

    /// Uses up this second's mutation of `name`.
    pub(super) fn take_turn(
        &mut self,
        limited: bool,
        now: SystemTime,
        bucket: &str,
        name: &str,
    ) -> Result<(), Refusal> {
        self.check_turn(limited, now, bucket, name)?;
        self.pace.mutated(now, name);
        Ok(())
    }
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

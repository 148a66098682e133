//! One version of an object, as it is kept and as each protocol shows it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use googleapis_tonic_google_storage_v2::google::storage::v2;
use prost_types::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::crc32c;
use super::received::Received;
use super::refusal::Refusal;
use super::unimplemented::refuse_fields;

/// One version of an object. The content is what the writer sent, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct StoredObject {
    /// The bytes; none if there were more than [`Storage::keep_up_to`] allows.
    ///
    /// [`Storage::keep_up_to`]: super::Storage::keep_up_to
    #[serde(skip)]
    pub content: Bytes,
    /// How many bytes the writer sent.
    pub size: usize,
    /// Identifies this version; grows with every write of this name, also after a delete.
    pub generation: i64,
    /// 1 when written, and one more for each change of the metadata.
    pub metageneration: i64,
    /// `application/octet-stream` unless the writer said otherwise.
    pub content_type: String,
    /// When this version was written, or its metadata changed last.
    pub updated: SystemTime,
    pub(super) created: SystemTime,
    /// Since when another version is the live one, or none.
    pub(super) deleted: Option<SystemTime>,
    /// What the writer said that is kept nowhere else.
    pub(super) attributes: Attributes,
    pub(super) storage_class: String,
    pub(super) crc32c: u32,
    /// Absent for what was composed, as in production, and for what was not kept.
    pub(super) md5: Option<[u8; 16]>,
    /// Of how many objects this one was composed, if it was.
    pub(super) components: Option<u32>,
}

/// What a writer may say about an object; the JSON it sends. Of other fields those are refused
/// that would have an effect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Attributes {
    /// Used when the request's query does not name the object.
    #[serde(skip_serializing)]
    pub(super) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content_language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cache_control: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) metadata: BTreeMap<String, String>,
    /// A time in RFC 3339, kept as it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) custom_time: Option<String>,
    /// While either is on, the version is neither deleted nor replaced.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) temporary_hold: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) event_based_hold: bool,
    #[serde(skip_serializing)]
    pub(super) storage_class: Option<String>,
    /// The writer's checksums (base64); an upload that does not match one is refused.
    #[serde(skip_serializing)]
    pub(super) crc32c: Option<String>,
    #[serde(skip_serializing)]
    pub(super) md5_hash: Option<String>,
}

impl Attributes {
    /// Reads what a writer sent; nothing at all stands for an empty object.
    pub(super) fn parse(json: &[u8]) -> Result<Self, Refusal> {
        if json.is_empty() {
            return Ok(Self::default());
        }
        let sent = serde_json::from_slice(json)
            .map_err(|error| Refusal::invalid(format!("Malformed object metadata: {error}")))?;
        Self::default().patched(&sent)
    }

    /// These with a change, in which `null` takes a field away.
    pub(super) fn patched(&self, change: &Value) -> Result<Self, Refusal> {
        refuse_fields(change, &["acl", "contexts", "kmsKeyName", "retention"])?;
        let mut whole = json!(self);
        merge(&mut whole, change);
        serde_json::from_value(whole)
            .map_err(|error| Refusal::invalid(format!("Malformed object metadata: {error}")))
    }
}

/// Changes a document as RFC 7396 says: objects field by field, anything else as a whole.
pub(super) fn merge(document: &mut Value, change: &Value) {
    let Value::Object(change) = change else {
        *document = change.clone();
        return;
    };
    if !document.is_object() {
        *document = json!({});
    }
    for (key, value) in change {
        if value.is_null() {
            document.as_object_mut().and_then(|fields| fields.remove(key));
        } else {
            merge(&mut document[key.as_str()], value);
        }
    }
}

/// Everything a write brings, complete before any decision is taken.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    content: Bytes,
    size: usize,
    pub(super) attributes: Attributes,
    crc32c: u32,
    md5: Option<[u8; 16]>,
    components: Option<u32>,
}

impl Upload {
    /// Computes the checksums, outside any lock, and compares them with the writer's.
    pub(super) fn new(content: Bytes, attributes: Attributes) -> Result<Self, Refusal> {
        let (size, crc32c) = (content.len(), crc32c::extend(0, &content));
        let md5 = Some(md5::compute(&content).0);
        Self { content, size, attributes, crc32c, md5, components: None }.checked()
    }

    /// What has arrived in chunks.
    pub(super) fn of(received: &Received, attributes: Attributes) -> Result<Self, Refusal> {
        let (content, size) = (received.content(), received.size());
        let md5 = (content.len() == size).then(|| md5::compute(&content).0);
        let crc32c = received.crc32c();
        Self { content, size, attributes, crc32c, md5, components: None }.checked()
    }

    /// The contents of some objects, one after the other.
    pub(super) fn composed(parts: &[Arc<StoredObject>], attributes: Attributes) -> Self {
        let content: Bytes = parts.iter().flat_map(|part| part.content.iter().copied()).collect();
        let components = parts.iter().map(|part| part.components.unwrap_or(1)).sum();
        Self {
            size: content.len(),
            crc32c: crc32c::extend(0, &content),
            content,
            attributes,
            md5: None,
            components: Some(components),
        }
    }

    /// The content of an object, with its metadata or with what a copier says instead.
    pub(super) fn copied(source: &StoredObject, said: Option<Attributes>) -> Self {
        let mut attributes = said.unwrap_or_else(|| source.attributes.clone());
        if attributes.content_type.is_none() {
            attributes.content_type = Some(source.content_type.clone());
        }
        attributes.temporary_hold = false;
        Self {
            content: source.content.clone(),
            size: source.size,
            attributes,
            crc32c: source.crc32c,
            md5: source.md5,
            components: source.components,
        }
    }

    /// The checksums, as `x-goog-hash` tells them.
    pub(super) fn hashes(&self) -> String {
        hashes(self.crc32c, self.md5)
    }

    fn checked(self) -> Result<Self, Refusal> {
        let calculated = crc32c::encode(self.crc32c);
        if let Some(provided) = &self.attributes.crc32c
            && *provided != calculated
        {
            return Err(Refusal::invalid(format!(
                "Provided CRC32C \"{provided}\" doesn't match calculated CRC32C \"{calculated}\"."
            )));
        }
        if let (Some(provided), Some(md5)) = (&self.attributes.md5_hash, self.md5)
            && *provided != BASE64_STANDARD.encode(md5)
        {
            return Err(Refusal::invalid(format!(
                "Provided MD5 hash \"{provided}\" doesn't match calculated MD5 hash \"{}\".",
                BASE64_STANDARD.encode(md5)
            )));
        }
        Ok(self)
    }
}

impl StoredObject {
    pub(super) fn new(upload: Upload, generation: i64, now: SystemTime) -> Self {
        let Upload { content, size, mut attributes, crc32c, md5, components } = upload;
        (attributes.crc32c, attributes.md5_hash, attributes.name) = (None, None, None);
        let class = attributes.storage_class.take();
        Self {
            content,
            size,
            generation,
            metageneration: 1,
            content_type: or_default(attributes.content_type.take()),
            updated: now,
            created: now,
            deleted: None,
            attributes,
            storage_class: class.unwrap_or_else(|| "STANDARD".to_owned()).to_uppercase(),
            crc32c,
            md5,
            components,
        }
    }

    /// This version with other metadata.
    pub(super) fn changed(&self, mut attributes: Attributes, now: SystemTime) -> Self {
        // What the content says of itself stays; a class changes by a rewrite only.
        (attributes.crc32c, attributes.md5_hash, attributes.name) = (None, None, None);
        attributes.storage_class = None;
        let content_type = or_default(attributes.content_type.take());
        let metageneration = self.metageneration + 1;
        Self { content_type, attributes, metageneration, updated: now, ..self.clone() }
    }

    /// What a change of the metadata is applied to.
    pub(super) fn said(&self) -> Attributes {
        Attributes { content_type: Some(self.content_type.clone()), ..self.attributes.clone() }
    }

    /// An opaque tag of this version, without quotes.
    pub(super) fn etag(&self) -> String {
        format!("{:x}.{}", self.generation, self.metageneration)
    }

    /// The object resource of the JSON API.
    pub(super) fn to_json(&self, origin: &str, bucket: &str, name: &str) -> Value {
        let time = Timestamp::from(self.created).to_string();
        let path = format!("/b/{bucket}/o/{}", encode_segment(name));
        let generation = self.generation;
        let mut json = json!({
            "kind": "storage#object",
            "id": format!("{bucket}/{name}/{generation}"),
            "selfLink": format!("{origin}/storage/v1{path}"),
            "mediaLink": format!(
                "{origin}/download/storage/v1{path}?generation={generation}&alt=media"
            ),
            "name": name,
            "bucket": bucket,
            "generation": generation.to_string(),
            "metageneration": self.metageneration.to_string(),
            "contentType": self.content_type,
            "storageClass": self.storage_class,
            "size": self.size.to_string(),
            "crc32c": crc32c::encode(self.crc32c),
            "etag": self.etag(),
            "timeCreated": time,
            "timeFinalized": time,
            "timeStorageClassUpdated": time,
            "updated": Timestamp::from(self.updated).to_string(),
        });
        if let Some(md5) = self.md5 {
            json["md5Hash"] = BASE64_STANDARD.encode(md5).into();
        }
        if let Some(components) = self.components {
            json["componentCount"] = components.into();
        }
        if let Some(deleted) = self.deleted {
            json["timeDeleted"] = Timestamp::from(deleted).to_string().into();
        }
        merge(&mut json, &json!(self.attributes));
        json
    }

    /// The object message of the gRPC API.
    pub(super) fn to_proto(&self, bucket: &str, name: &str) -> v2::Object {
        let time = Some(Timestamp::from(self.created));
        let said = &self.attributes;
        v2::Object {
            name: name.to_owned(),
            bucket: format!("projects/_/buckets/{bucket}"),
            etag: self.etag(),
            generation: self.generation,
            metageneration: self.metageneration,
            storage_class: self.storage_class.clone(),
            size: i64::try_from(self.size).unwrap_or(i64::MAX),
            content_encoding: said.content_encoding.clone().unwrap_or_default(),
            content_disposition: said.content_disposition.clone().unwrap_or_default(),
            content_language: said.content_language.clone().unwrap_or_default(),
            cache_control: said.cache_control.clone().unwrap_or_default(),
            content_type: self.content_type.clone(),
            metadata: said.metadata.clone().into_iter().collect(),
            checksums: Some(v2::ObjectChecksums {
                crc32c: Some(self.crc32c),
                md5_hash: self.md5.map(Vec::from).unwrap_or_default(),
            }),
            create_time: time,
            finalize_time: time,
            update_time: Some(Timestamp::from(self.updated)),
            update_storage_class_time: time,
            ..v2::Object::default()
        }
    }
}

/// As `x-goog-hash` tells them.
pub(super) fn hashes(crc32c: u32, md5: Option<[u8; 16]>) -> String {
    let crc32c = crc32c::encode(crc32c);
    match md5 {
        Some(md5) => format!("crc32c={crc32c},md5={}", BASE64_STANDARD.encode(md5)),
        None => format!("crc32c={crc32c}"),
    }
}

fn or_default(content_type: Option<String>) -> String {
    content_type
        .filter(|given| !given.is_empty())
        .unwrap_or_else(|| "application/octet-stream".to_owned())
}

/// `text` as one segment of a URL path.
pub(super) fn encode_segment(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            write!(encoded, "%{byte:02X}").unwrap_or_default();
        }
    }
    encoded
}

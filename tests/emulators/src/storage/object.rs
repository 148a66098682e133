//! One version of an object, as it is kept and as each protocol shows it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use googleapis_tonic_google_storage_v2::google::storage::v2;
use prost_types::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::crc32c;
use super::received::Received;
use super::refusal::Refusal;

/// One version of an object. The content is what the writer sent, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredObject {
    /// The bytes; none if there were more than [`Storage::keep_up_to`] allows.
    ///
    /// [`Storage::keep_up_to`]: super::Storage::keep_up_to
    pub content: Bytes,
    /// How many bytes the writer sent.
    pub size: usize,
    /// Identifies this version; grows with every write of this name, also after a delete.
    pub generation: i64,
    /// Always 1: this emulator has no metadata updates.
    pub metageneration: i64,
    /// `application/octet-stream` unless the writer said otherwise.
    pub content_type: String,
    /// When this version was written.
    pub updated: SystemTime,
    pub(super) attributes: Attributes,
    pub(super) crc32c: u32,
}

/// What a writer may say about an object; the JSON it sends, other fields ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Attributes {
    /// Used when the request's query does not name the object.
    pub(super) name: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) content_encoding: Option<String>,
    pub(super) content_disposition: Option<String>,
    pub(super) content_language: Option<String>,
    pub(super) cache_control: Option<String>,
    pub(super) metadata: BTreeMap<String, String>,
    /// The writer's checksum (base64); an upload that does not match it is refused.
    pub(super) crc32c: Option<String>,
}

/// Everything a write brings, complete before any decision is taken.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    content: Bytes,
    size: usize,
    attributes: Attributes,
    crc32c: u32,
}

impl Upload {
    /// Computes the checksum, outside any lock, and compares it with the writer's.
    pub(super) fn new(content: Bytes, attributes: Attributes) -> Result<Self, Refusal> {
        let (size, crc32c) = (content.len(), crc32c::extend(0, &content));
        Self::checked(content, size, crc32c, attributes)
    }

    /// What has arrived in chunks.
    pub(super) fn of(received: &Received, attributes: Attributes) -> Result<Self, Refusal> {
        Self::checked(received.content(), received.size(), received.crc32c(), attributes)
    }

    fn checked(
        content: Bytes,
        size: usize,
        crc32c: u32,
        attributes: Attributes,
    ) -> Result<Self, Refusal> {
        let calculated = crc32c::encode(crc32c);
        match &attributes.crc32c {
            Some(provided) if *provided != calculated => Err(Refusal::invalid(format!(
                "Provided CRC32C \"{provided}\" doesn't match calculated CRC32C \"{calculated}\"."
            ))),
            _ => Ok(Self { content, size, attributes, crc32c }),
        }
    }
}

impl StoredObject {
    pub(super) fn new(upload: Upload, generation: i64, now: SystemTime) -> Self {
        let Upload { content, size, mut attributes, crc32c } = upload;
        Self {
            content,
            size,
            generation,
            metageneration: 1,
            content_type: attributes
                .content_type
                .take()
                .filter(|given| !given.is_empty())
                .unwrap_or_else(|| "application/octet-stream".to_owned()),
            updated: now,
            attributes,
            crc32c,
        }
    }

    /// An opaque tag of this version, without quotes.
    pub(super) fn etag(&self) -> String {
        format!("{:x}.{}", self.generation, self.metageneration)
    }

    /// The object resource of the JSON API.
    pub(super) fn to_json(&self, origin: &str, bucket: &str, name: &str) -> Value {
        let time = Timestamp::from(self.updated).to_string();
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
            "storageClass": "STANDARD",
            "size": self.size.to_string(),
            "crc32c": crc32c::encode(self.crc32c),
            "etag": self.etag(),
            "timeCreated": time,
            "timeFinalized": time,
            "timeStorageClassUpdated": time,
            "updated": time,
        });
        let said = &self.attributes;
        for (key, value) in [
            ("contentEncoding", &said.content_encoding),
            ("contentDisposition", &said.content_disposition),
            ("contentLanguage", &said.content_language),
            ("cacheControl", &said.cache_control),
        ] {
            if let Some(value) = value {
                json[key] = value.as_str().into();
            }
        }
        if !said.metadata.is_empty() {
            json["metadata"] = json!(said.metadata);
        }
        json
    }

    /// The object message of the gRPC API.
    pub(super) fn to_proto(&self, bucket: &str, name: &str) -> v2::Object {
        let time = Some(Timestamp::from(self.updated));
        let said = &self.attributes;
        v2::Object {
            name: name.to_owned(),
            bucket: format!("projects/_/buckets/{bucket}"),
            etag: self.etag(),
            generation: self.generation,
            metageneration: self.metageneration,
            storage_class: "STANDARD".to_owned(),
            size: i64::try_from(self.size).unwrap_or(i64::MAX),
            content_encoding: said.content_encoding.clone().unwrap_or_default(),
            content_disposition: said.content_disposition.clone().unwrap_or_default(),
            content_language: said.content_language.clone().unwrap_or_default(),
            cache_control: said.cache_control.clone().unwrap_or_default(),
            content_type: self.content_type.clone(),
            metadata: said.metadata.clone().into_iter().collect(),
            checksums: Some(v2::ObjectChecksums {
                crc32c: Some(self.crc32c),
                md5_hash: Vec::new(),
            }),
            create_time: time,
            finalize_time: time,
            update_time: time,
            update_storage_class_time: time,
            ..v2::Object::default()
        }
    }
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

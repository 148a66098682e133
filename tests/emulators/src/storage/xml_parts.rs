//! Uploads of the XML API in parts, which may arrive at the same time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::header::ETAG;
use http::{HeaderName, StatusCode};

use super::conditions::Conditions;
use super::object::{Attributes, Upload};
use super::operation::Operation;
use super::refusal::Refusal;
use super::state::Place;
use super::store::Store;
use super::xml::{Call, attributes, conditions, document, escape};
use crate::connection::Cut;

/// Of the documents that tell of uploads in parts.
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// The uploads that are neither complete nor given up.
#[derive(Debug, Default)]
pub(super) struct PartUploads {
    by_id: HashMap<String, PartUpload>,
    started: u64,
}

#[derive(Debug)]
struct PartUpload {
    place: Place,
    attributes: Attributes,
    conditions: Conditions,
    parts: BTreeMap<u32, Bytes>,
}

impl PartUploads {
    fn open(&mut self, upload: PartUpload) -> String {
        self.started += 1;
        let id = format!("parts-{}", self.started);
        self.by_id.insert(id.clone(), upload);
        id
    }

    fn find(&mut self, id: &str, place: &Place) -> Result<&mut PartUpload, Refusal> {
        self.by_id.get_mut(id).filter(|upload| upload.place == *place).ok_or(Refusal::NoUpload)
    }

    /// The content of the parts that are named, in their order.
    fn joined(&mut self, id: &str, place: &Place, named: &[u32]) -> Result<Upload, Refusal> {
        let upload = self.find(id, place)?;
        let mut content = BytesMut::new();
        for number in named {
            let part = upload.parts.get(number).ok_or_else(|| {
                Refusal::invalid(format!("Part {number} of the upload has not been sent."))
            })?;
            content.extend_from_slice(part);
        }
        Upload::new(content.freeze(), upload.attributes.clone())
    }
}

/// `POST ?uploads`, `PUT ?partNumber&uploadId`, `POST ?uploadId`, `DELETE ?uploadId`.
pub(super) async fn answer(store: &Arc<Store>, call: Call, cut: Cut) -> Result<Response, Refusal> {
    let place = call.place;
    let id = call.query.get("uploadId").map(String::as_str).unwrap_or_default();
    let number = call.query.get("partNumber").and_then(|number| number.parse::<u32>().ok());
    match (call.method.as_str(), call.query.contains_key("uploads"), number) {
        ("POST", true, _) => {
            let upload = PartUpload {
                place: place.clone(),
                attributes: attributes(&call.headers),
                conditions: conditions(&call.headers),
                parts: BTreeMap::new(),
            };
            let open = || {
                store.lock().begin_upload(&place.bucket, &place.name, upload.conditions)?;
                Ok(store.parts().open(upload))
            };
            let id = store.pass(cut, Operation::Write, &place.name, open).await?;
            let xml = format!(
                "<InitiateMultipartUploadResult xmlns=\"{NAMESPACE}\"><Bucket>{}</Bucket><Key>{}</Key>\
                 <UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
                escape(&place.bucket),
                escape(&place.name)
            );
            Ok(document(StatusCode::OK, &xml))
        }
        ("PUT", false, Some(number)) => {
            // Its checksums are those of a part.
            let part = Upload::new(call.body.clone(), attributes(&call.headers))?;
            let keep = || {
                store.parts().find(id, &place)?.parts.insert(number, call.body);
                Ok(())
            };
            store.pass(cut, Operation::Write, &place.name, keep).await?;
            let hash = HeaderName::from_static("x-goog-hash");
            let etag = format!("\"part-{number}\"");
            Ok([(ETAG, etag), (hash, part.hashes())].into_response())
        }
        ("POST", false, None) => {
            let named = part_numbers(&call.body);
            let upload = store.parts().joined(id, &place, &named)?;
            let conditions = store.parts().find(id, &place)?.conditions;
            let write = || store.write(&place.bucket, &place.name, upload, conditions);
            let object = store.pass(cut, Operation::Write, &place.name, write).await?;
            store.parts().by_id.remove(id);
            let xml = format!(
                "<CompleteMultipartUploadResult xmlns=\"{NAMESPACE}\"><Bucket>{}</Bucket><Key>{}</Key>\
                 <ETag>\"{}\"</ETag></CompleteMultipartUploadResult>",
                escape(&place.bucket),
                escape(&place.name),
                object.etag()
            );
            Ok(document(StatusCode::OK, &xml))
        }
        ("DELETE", false, None) => {
            store.parts().find(id, &place)?;
            store.parts().by_id.remove(id);
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        (method, ..) => {
            Err(Refusal::Unimplemented(format!("{method} of a multipart upload of the XML API")))
        }
    }
}

/// The numbers in a `CompleteMultipartUpload`, as it lists them.
fn part_numbers(xml: &[u8]) -> Vec<u32> {
    let text = String::from_utf8_lossy(xml);
    let numbers = text.split("<PartNumber>").skip(1);
    numbers.filter_map(|rest| rest.split('<').next()?.trim().parse().ok()).collect()
}

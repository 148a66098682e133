//! The gRPC API: buckets, and what needs no content of objects.

use std::sync::Arc;

use googleapis_tonic_google_storage_v2::google::storage::v2;
use tonic::{Request, Response, Status};

use super::conditions::Conditions;
use super::glob::Glob;
use super::json_api::{decode_page_token, encode_page_token, page_size};
use super::listing::ListQuery;
use super::operation::Operation;
use super::refusal::Refusal;
use super::settings::BucketSettings;
use super::store::Store;
use crate::connection::Cut;

mod service {
    #![allow(
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        clippy::clone_on_ref_ptr,
        reason = "generated"
    )]
    include!(concat!(env!("OUT_DIR"), "/google.storage.v2.Storage.rs"));
}

use service::storage_server::{Storage, StorageServer};

/// The service `google.storage.v2.Storage` over the same objects as the JSON API.
pub(super) fn server(store: Arc<Store>) -> StorageServer<impl Storage> {
    StorageServer::new(Service { store })
}

#[derive(Debug)]
struct Service {
    store: Arc<Store>,
}

impl Service {
    fn bucket(&self, name: &str) -> Result<v2::Bucket, Refusal> {
        let state = self.store.lock();
        let (created, settings) = state.bucket(name)?;
        Ok(settings.to_proto(name, created))
    }
}

#[tonic::async_trait]
impl Storage for Service {
    async fn create_bucket(
        &self,
        request: Request<v2::CreateBucketRequest>,
    ) -> Result<Response<v2::Bucket>, Status> {
        let cut = Cut::of(request.extensions());
        let v2::CreateBucketRequest { bucket_id: name, bucket, .. } = request.into_inner();
        let settings = BucketSettings::from_proto(&bucket.unwrap_or_default());
        let create = || {
            self.store.create_bucket(&name, settings)?;
            self.bucket(&name)
        };
        let created = self.store.pass(cut, Operation::Bucket, &name, create).await?;
        Ok(Response::new(created))
    }

    async fn get_bucket(
        &self,
        request: Request<v2::GetBucketRequest>,
    ) -> Result<Response<v2::Bucket>, Status> {
        let cut = Cut::of(request.extensions());
        let request = request.into_inner();
        let name = bucket_id(&request.name)?;
        let get = || self.bucket(name);
        Ok(Response::new(self.store.pass(cut, Operation::Bucket, name, get).await?))
    }

    async fn delete_bucket(
        &self,
        request: Request<v2::DeleteBucketRequest>,
    ) -> Result<Response<()>, Status> {
        let cut = Cut::of(request.extensions());
        let request = request.into_inner();
        let name = bucket_id(&request.name)?;
        let delete = || self.store.lock().delete_bucket(name, Conditions::default());
        self.store.pass(cut, Operation::Bucket, name, delete).await?;
        Ok(Response::new(()))
    }

    async fn list_buckets(
        &self,
        request: Request<v2::ListBucketsRequest>,
    ) -> Result<Response<v2::ListBucketsResponse>, Status> {
        let request = request.into_inner();
        let after = decode_page_token(&request.page_token)?.unwrap_or_default();
        let limit = page_size(usize::try_from(request.page_size).ok());
        let mut buckets: Vec<_> = {
            let state = self.store.lock();
            state
                .buckets()
                .filter(|(name, _)| name.starts_with(&request.prefix) && *name > after.as_str())
                .take(limit + 1)
                .map(|(name, bucket)| bucket.to_proto(name))
                .collect()
        };
        let more = buckets.len() > limit;
        buckets.truncate(limit);
        let last = buckets.last().filter(|_| more);
        let next_page_token =
            last.map_or_else(String::new, |last| encode_page_token(&last.bucket_id));
        Ok(Response::new(v2::ListBucketsResponse {
            buckets,
            next_page_token,
            unreachable: Vec::new(),
        }))
    }

    async fn get_object(
        &self,
        request: Request<v2::GetObjectRequest>,
    ) -> Result<Response<v2::Object>, Status> {
        let cut = Cut::of(request.extensions());
        let request = request.into_inner();
        let bucket = bucket_id(&request.bucket)?;
        let conditions = Conditions {
            generation_match: request.if_generation_match,
            generation_not_match: request.if_generation_not_match,
            metageneration_match: request.if_metageneration_match,
            metageneration_not_match: request.if_metageneration_not_match,
        };
        let generation = generation(request.generation);
        let read = || self.store.lock().read(bucket, &request.object, generation, conditions);
        let object = self.store.pass(cut, Operation::Read, &request.object, read).await?;
        Ok(Response::new(object.to_proto(bucket, &request.object)))
    }

    async fn list_objects(
        &self,
        request: Request<v2::ListObjectsRequest>,
    ) -> Result<Response<v2::ListObjectsResponse>, Status> {
        let cut = Cut::of(request.extensions());
        let request = request.into_inner();
        let bucket = bucket_id(&request.parent)?;
        let query = ListQuery {
            prefix: request.prefix,
            delimiter: request.delimiter,
            start: request.lexicographic_start,
            end: request.lexicographic_end,
            after: decode_page_token(&request.page_token)?,
            limit: page_size(usize::try_from(request.page_size).ok()),
            include_trailing: request.include_trailing_delimiter,
            glob: Glob::parse(&request.match_glob),
            versions: request.versions,
        };
        let list = || self.store.lock().list(bucket, &query);
        let page = self.store.pass(cut, Operation::List, &query.prefix, list).await?;
        let objects = page.objects.iter();
        Ok(Response::new(v2::ListObjectsResponse {
            objects: objects.map(|(name, object)| object.to_proto(bucket, name)).collect(),
            prefixes: page.prefixes,
            next_page_token: page.next.as_deref().map_or_else(String::new, encode_page_token),
        }))
    }

    async fn delete_object(
        &self,
        request: Request<v2::DeleteObjectRequest>,
    ) -> Result<Response<()>, Status> {
        let cut = Cut::of(request.extensions());
        let request = request.into_inner();
        let bucket = bucket_id(&request.bucket)?;
        let conditions = Conditions {
            generation_match: request.if_generation_match,
            generation_not_match: request.if_generation_not_match,
            metageneration_match: request.if_metageneration_match,
            metageneration_not_match: request.if_metageneration_not_match,
        };
        let generation = generation(request.generation);
        let delete = || self.store.delete(bucket, &request.object, generation, conditions);
        self.store.pass(cut, Operation::Delete, &request.object, delete).await?;
        Ok(Response::new(()))
    }
}

/// `projects/_/buckets/NAME`, whatever the project.
pub(super) fn bucket_id(name: &str) -> Result<&str, Refusal> {
    name.strip_prefix("projects/")
        .and_then(|rest| rest.split_once("/buckets/"))
        .map(|(_, id)| id)
        .ok_or_else(|| Refusal::invalid(format!("Invalid bucket name: '{name}'")))
}

/// Zero asks for the live version.
fn generation(asked: i64) -> Option<i64> {
    (asked != 0).then_some(asked)
}

//! Access policies of buckets, in the gRPC service where the official client looks.

use std::sync::Arc;

use googleapis_tonic_google_iam_v1::google::iam::v1;
use tonic::{Request, Response, Status};

use super::grpc::bucket_id;
use super::refusal::Refusal;
use super::store::Store;
use crate::access::Conflict;

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
    include!(concat!(env!("OUT_DIR"), "/google.storage.control.v2.StorageControl.rs"));
}

use service::storage_control_server::{StorageControl, StorageControlServer};

/// The service `google.storage.control.v2.StorageControl`, as far as it is about policies.
pub(super) fn server(store: Arc<Store>) -> StorageControlServer<impl StorageControl> {
    StorageControlServer::new(Service { store })
}

#[derive(Debug)]
struct Service {
    store: Arc<Store>,
}

#[tonic::async_trait]
impl StorageControl for Service {
    async fn set_iam_policy(
        &self,
        request: Request<v1::SetIamPolicyRequest>,
    ) -> Result<Response<v1::Policy>, Status> {
        let v1::SetIamPolicyRequest { resource, policy, .. } = request.into_inner();
        let mut state = self.store.lock();
        let access = state.access_mut(bucket_id(&resource)?)?;
        let set = access.replace(policy.unwrap_or_default());
        Ok(Response::new(set.map_err(|Conflict| Refusal::PolicyChanged)?))
    }

    async fn get_iam_policy(
        &self,
        request: Request<v1::GetIamPolicyRequest>,
    ) -> Result<Response<v1::Policy>, Status> {
        let resource = request.into_inner().resource;
        let policy = self.store.lock().access_mut(bucket_id(&resource)?)?.policy();
        Ok(Response::new(policy))
    }

    async fn test_iam_permissions(
        &self,
        request: Request<v1::TestIamPermissionsRequest>,
    ) -> Result<Response<v1::TestIamPermissionsResponse>, Status> {
        let v1::TestIamPermissionsRequest { resource, permissions } = request.into_inner();
        let permissions = self.store.lock().access_mut(bucket_id(&resource)?)?.granted(permissions);
        Ok(Response::new(v1::TestIamPermissionsResponse { permissions }))
    }
}

//! The gRPC service `google.iam.v1.IAMPolicy`, for topics and subscriptions.

use std::sync::Arc;

use googleapis_tonic_google_iam_v1::google::iam::v1;
use tonic::{Request, Response, Status, async_trait};

use super::engine::Engine;
use super::fault::{Operation, pass};
use super::service::i_a_m_policy_server::IAMPolicy;
use crate::connection::Cut;

/// Translates between requests and the broker.
#[derive(Debug)]
pub(super) struct IamService {
    pub(super) engine: Arc<Engine>,
}

#[async_trait]
impl IAMPolicy for IamService {
    async fn set_iam_policy(
        &self,
        request: Request<v1::SetIamPolicyRequest>,
    ) -> Result<Response<v1::Policy>, Status> {
        let v1::SetIamPolicyRequest { resource, policy, .. } = request.into_inner();
        let policy = policy.unwrap_or_default();
        let set = self.engine.run(|broker, _| broker.set_policy(&resource, policy))?;
        Ok(Response::new(set))
    }

    async fn get_iam_policy(
        &self,
        request: Request<v1::GetIamPolicyRequest>,
    ) -> Result<Response<v1::Policy>, Status> {
        let resource = request.into_inner().resource;
        let policy = self.engine.read(|broker| broker.policy(&resource))?;
        Ok(Response::new(policy))
    }

    async fn test_iam_permissions(
        &self,
        request: Request<v1::TestIamPermissionsRequest>,
    ) -> Result<Response<v1::TestIamPermissionsResponse>, Status> {
        let cut = Cut::of(request.extensions());
        let v1::TestIamPermissionsRequest { resource, permissions } = request.into_inner();
        let granted = || Ok(self.engine.read(|broker| broker.granted(&resource, permissions))?);
        let operation = (Operation::TestPermissions, resource.as_str());
        let permissions = pass(&self.engine, operation, cut, granted).await?;
        Ok(Response::new(v1::TestIamPermissionsResponse { permissions }))
    }
}

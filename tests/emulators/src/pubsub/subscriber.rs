//! The gRPC service `google.pubsub.v1.Subscriber`.

use std::sync::Arc;

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::engine::Engine;
use super::error::Error;
use super::fault::{Operation, pass};
use super::page::page;
use super::pull;
use super::service::subscriber_server::Subscriber;
use super::settings;
use super::stream::{self, Responses};
use crate::connection::Cut;

/// Translates between requests and the broker.
#[derive(Debug)]
pub(super) struct SubscriberService {
    pub(super) engine: Arc<Engine>,
}

#[async_trait]
impl Subscriber for SubscriberService {
    async fn create_subscription(
        &self,
        request: Request<proto::Subscription>,
    ) -> Result<Response<proto::Subscription>, Status> {
        let cut = Cut::of(request.extensions());
        let resource = request.into_inner();
        let name = resource.name.clone();
        let create = || Ok(self.engine.run(|broker, _| broker.create_subscription(resource))?);
        let created = pass(&self.engine, (Operation::Manage, &name), cut, create).await?;
        Ok(Response::new(created))
    }

    async fn get_subscription(
        &self,
        request: Request<proto::GetSubscriptionRequest>,
    ) -> Result<Response<proto::Subscription>, Status> {
        let cut = Cut::of(request.extensions());
        let name = request.into_inner().subscription;
        let get = || Ok(self.engine.read(|broker| broker.subscription(&name).cloned())?);
        let resource = pass(&self.engine, (Operation::Get, &name), cut, get).await?;
        Ok(Response::new(resource))
    }

    async fn update_subscription(
        &self,
        request: Request<proto::UpdateSubscriptionRequest>,
    ) -> Result<Response<proto::Subscription>, Status> {
        let cut = Cut::of(request.extensions());
        let request = request.into_inner();
        let name = request.subscription.as_ref().map(|new| new.name.clone()).unwrap_or_default();
        let update = || Ok(self.engine.run(|broker, _| broker.update_subscription(request))?);
        let updated = pass(&self.engine, (Operation::Manage, &name), cut, update).await?;
        Ok(Response::new(updated))
    }

    async fn list_subscriptions(
        &self,
        request: Request<proto::ListSubscriptionsRequest>,
    ) -> Result<Response<proto::ListSubscriptionsResponse>, Status> {
        let request = request.into_inner();
        let (subscriptions, next_page_token) = self.engine.read(|broker| {
            let all = broker.subscriptions(&request.project, &request.page_token)?;
            Ok::<_, Error>(page(all.cloned(), request.page_size, |resource| &resource.name))
        })?;
        Ok(Response::new(proto::ListSubscriptionsResponse { subscriptions, next_page_token }))
    }

    async fn delete_subscription(
        &self,
        request: Request<proto::DeleteSubscriptionRequest>,
    ) -> Result<Response<()>, Status> {
        let cut = Cut::of(request.extensions());
        let name = request.into_inner().subscription;
        let delete = || Ok(self.engine.run(|broker, _| broker.delete_subscription(&name))?);
        pass(&self.engine, (Operation::Manage, &name), cut, delete).await?;
        Ok(Response::new(()))
    }

    async fn modify_ack_deadline(
        &self,
        request: Request<proto::ModifyAckDeadlineRequest>,
    ) -> Result<Response<()>, Status> {
        let cut = Cut::of(request.extensions());
        let request = request.into_inner();
        let extension = settings::extension(request.ack_deadline_seconds)?;
        let subscription = &request.subscription;
        let modify = || {
            let settlement = self
                .engine
                .run(|broker, now| broker.modify(subscription, &request.ack_ids, extension, now))?;
            settlement.into_answer()
        };
        let operation = (Operation::ModifyDeadline, subscription.as_str());
        pass(&self.engine, operation, cut, modify).await.map(Response::new)
    }

    async fn acknowledge(
        &self,
        request: Request<proto::AcknowledgeRequest>,
    ) -> Result<Response<()>, Status> {
        let cut = Cut::of(request.extensions());
        let proto::AcknowledgeRequest { subscription, ack_ids } = request.into_inner();
        let acknowledge = || {
            let settlement =
                self.engine.run(|broker, now| broker.acknowledge(&subscription, &ack_ids, now))?;
            settlement.into_answer()
        };
        let operation = (Operation::Acknowledge, subscription.as_str());
        pass(&self.engine, operation, cut, acknowledge).await.map(Response::new)
    }

    async fn pull(
        &self,
        request: Request<proto::PullRequest>,
    ) -> Result<Response<proto::PullResponse>, Status> {
        let cut = Cut::of(request.extensions());
        let request = request.into_inner();
        let operation = (Operation::Receive, request.subscription.as_str());
        pass(&self.engine, operation, cut, || Ok(())).await?;
        let received_messages = pull::pull(&self.engine, &request).await?;
        Ok(Response::new(proto::PullResponse { received_messages }))
    }

    type StreamingPullStream = Responses;

    async fn streaming_pull(
        &self,
        request: Request<Streaming<proto::StreamingPullRequest>>,
    ) -> Result<Response<Self::StreamingPullStream>, Status> {
        let cut = Cut::of(request.extensions());
        let responses = stream::open(&self.engine, request.into_inner(), cut).await?;
        Ok(Response::new(responses))
    }

    async fn modify_push_config(
        &self,
        request: Request<proto::ModifyPushConfigRequest>,
    ) -> Result<Response<()>, Status> {
        let cut = Cut::of(request.extensions());
        let request = request.into_inner();
        let name = request.subscription.clone();
        let work = || Ok(self.engine.run(|broker, _| broker.modify_push_config(request))?);
        pass(&self.engine, (Operation::Manage, &name), cut, work).await.map(Response::new)
    }

    async fn get_snapshot(
        &self,
        request: Request<proto::GetSnapshotRequest>,
    ) -> Result<Response<proto::Snapshot>, Status> {
        let cut = Cut::of(request.extensions());
        let request = request.into_inner();
        let name = request.snapshot;
        let work = || Ok(self.engine.read(|broker| broker.snapshot(&name).cloned())?);
        pass(&self.engine, (Operation::Get, &name), cut, work).await.map(Response::new)
    }

    async fn list_snapshots(
        &self,
        request: Request<proto::ListSnapshotsRequest>,
    ) -> Result<Response<proto::ListSnapshotsResponse>, Status> {
        let request = request.into_inner();
        let (snapshots, next_page_token) = self.engine.read(|broker| {
            let all = broker.snapshots(&request.project, &request.page_token)?;
            Ok::<_, Error>(page(all.cloned(), request.page_size, |resource| &resource.name))
        })?;
        Ok(Response::new(proto::ListSnapshotsResponse { snapshots, next_page_token }))
    }

    async fn create_snapshot(
        &self,
        request: Request<proto::CreateSnapshotRequest>,
    ) -> Result<Response<proto::Snapshot>, Status> {
        let cut = Cut::of(request.extensions());
        let request = request.into_inner();
        let name = request.name.clone();
        let work = || Ok(self.engine.run(|broker, now| broker.create_snapshot(request, now))?);
        pass(&self.engine, (Operation::Manage, &name), cut, work).await.map(Response::new)
    }

    async fn update_snapshot(
        &self,
        request: Request<proto::UpdateSnapshotRequest>,
    ) -> Result<Response<proto::Snapshot>, Status> {
        let cut = Cut::of(request.extensions());
        let request = request.into_inner();
        let name = request.snapshot.as_ref().map(|new| new.name.clone()).unwrap_or_default();
        let work = || Ok(self.engine.run(|broker, _| broker.update_snapshot(request))?);
        pass(&self.engine, (Operation::Manage, &name), cut, work).await.map(Response::new)
    }

    async fn delete_snapshot(
        &self,
        request: Request<proto::DeleteSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let cut = Cut::of(request.extensions());
        let request = request.into_inner();
        let name = request.snapshot;
        let work = || Ok(self.engine.run(|broker, _| broker.delete_snapshot(&name))?);
        pass(&self.engine, (Operation::Manage, &name), cut, work).await.map(Response::new)
    }

    async fn seek(
        &self,
        request: Request<proto::SeekRequest>,
    ) -> Result<Response<proto::SeekResponse>, Status> {
        let cut = Cut::of(request.extensions());
        let request = request.into_inner();
        let name = request.subscription.clone();
        let seek = || Ok(self.engine.run(|broker, now| broker.seek(request, now))?);
        pass(&self.engine, (Operation::Manage, &name), cut, seek).await?;
        Ok(Response::new(proto::SeekResponse {}))
    }
}

//! The gRPC service `google.pubsub.v1.Publisher`.

use std::sync::Arc;

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use tonic::{Request, Response, Status, async_trait};

use super::engine::Engine;
use super::error::Error;
use super::fault::{self, Operation, pass};
use super::page::page;
use super::service::publisher_server::Publisher;
use crate::connection::Cut;

/// Translates between requests and the broker.
#[derive(Debug)]
pub(super) struct PublisherService {
    pub(super) engine: Arc<Engine>,
}

#[async_trait]
impl Publisher for PublisherService {
    async fn create_topic(
        &self,
        request: Request<proto::Topic>,
    ) -> Result<Response<proto::Topic>, Status> {
        let cut = Cut::of(request.extensions());
        let topic = request.into_inner();
        let name = topic.name.clone();
        let create = || Ok(self.engine.run(|broker, _| broker.create_topic(topic))?);
        let created = pass(&self.engine, (Operation::Manage, &name), cut, create).await?;
        Ok(Response::new(created))
    }

    async fn update_topic(
        &self,
        request: Request<proto::UpdateTopicRequest>,
    ) -> Result<Response<proto::Topic>, Status> {
        let cut = Cut::of(request.extensions());
        let request = request.into_inner();
        let name = request.topic.as_ref().map(|topic| topic.name.clone()).unwrap_or_default();
        let update = || Ok(self.engine.run(|broker, _| broker.update_topic(request))?);
        let updated = pass(&self.engine, (Operation::Manage, &name), cut, update).await?;
        Ok(Response::new(updated))
    }

    async fn publish(
        &self,
        request: Request<proto::PublishRequest>,
    ) -> Result<Response<proto::PublishResponse>, Status> {
        let cut = Cut::of(request.extensions());
        let proto::PublishRequest { topic, messages } = request.into_inner();
        let operation = (Operation::Publish, topic.as_str());
        let entered = fault::enter(&self.engine, operation, &messages, cut).await;
        let passage = entered.map_err(fault::refused)?;
        let published = self.engine.run(|broker, now| broker.publish(&topic, messages, now));
        passage.leave(published.is_ok()).await;
        let message_ids = published?;
        Ok(Response::new(proto::PublishResponse { message_ids }))
    }

    async fn get_topic(
        &self,
        request: Request<proto::GetTopicRequest>,
    ) -> Result<Response<proto::Topic>, Status> {
        let cut = Cut::of(request.extensions());
        let name = request.into_inner().topic;
        let get = || Ok(self.engine.read(|broker| broker.topic(&name).cloned())?);
        let topic = pass(&self.engine, (Operation::Get, &name), cut, get).await?;
        Ok(Response::new(topic))
    }

    async fn list_topics(
        &self,
        request: Request<proto::ListTopicsRequest>,
    ) -> Result<Response<proto::ListTopicsResponse>, Status> {
        let request = request.into_inner();
        let (topics, next_page_token) = self.engine.read(|broker| {
            let topics = broker.topics(&request.project, &request.page_token)?;
            Ok::<_, Error>(page(topics.cloned(), request.page_size, |topic| &topic.name))
        })?;
        Ok(Response::new(proto::ListTopicsResponse { topics, next_page_token }))
    }

    async fn list_topic_subscriptions(
        &self,
        request: Request<proto::ListTopicSubscriptionsRequest>,
    ) -> Result<Response<proto::ListTopicSubscriptionsResponse>, Status> {
        let request = request.into_inner();
        let names = self
            .engine
            .read(|broker| broker.topic_subscriptions(&request.topic, &request.page_token))?;
        let (subscriptions, next_page_token) = page(names, request.page_size, |name| name);
        Ok(Response::new(proto::ListTopicSubscriptionsResponse { subscriptions, next_page_token }))
    }

    async fn list_topic_snapshots(
        &self,
        request: Request<proto::ListTopicSnapshotsRequest>,
    ) -> Result<Response<proto::ListTopicSnapshotsResponse>, Status> {
        let request = request.into_inner();
        let names = self
            .engine
            .read(|broker| broker.topic_snapshots(&request.topic, &request.page_token))?;
        let (snapshots, next_page_token) = page(names, request.page_size, |name| name);
        Ok(Response::new(proto::ListTopicSnapshotsResponse { snapshots, next_page_token }))
    }

    async fn delete_topic(
        &self,
        request: Request<proto::DeleteTopicRequest>,
    ) -> Result<Response<()>, Status> {
        let cut = Cut::of(request.extensions());
        let name = request.into_inner().topic;
        let delete = || Ok(self.engine.run(|broker, _| broker.delete_topic(&name))?);
        pass(&self.engine, (Operation::Manage, &name), cut, delete).await?;
        Ok(Response::new(()))
    }

    async fn detach_subscription(
        &self,
        request: Request<proto::DetachSubscriptionRequest>,
    ) -> Result<Response<proto::DetachSubscriptionResponse>, Status> {
        let cut = Cut::of(request.extensions());
        let name = request.into_inner().subscription;
        let detach = || Ok(self.engine.detach(&name)?);
        pass(&self.engine, (Operation::Manage, &name), cut, detach).await?;
        Ok(Response::new(proto::DetachSubscriptionResponse {}))
    }
}

//! What a process of a run works with: the store's ports, and a model's site.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use shared::Secret;
use shared::ports::{
    Answer, Bucket, BucketError, Clock as _, EndpointError, Generation, Hints, Limits, Listing,
    Object, Resend, TokenEndpoint,
};
use unguarded::guards::{Failure, Grant, Site, Stored, WallClockLease};

use super::trouble::Request;
use super::world::{LIFETIME, World, object_of};
use crate::simulation::process::{Process, ProcessClock};

/// One process's way into the world.
#[derive(Debug, Clone)]
pub(super) struct Port {
    pub(super) world: Arc<World>,
    pub(super) process: Arc<Process>,
}

/// Fleet's leases are what its lock service is.
fn kind(name: &str, otherwise: Request) -> Request {
    if name.starts_with("leases/") { Request::Lock } else { otherwise }
}

fn no_answer() -> BucketError {
    BucketError::Unavailable("no answer".into())
}

impl Bucket for Port {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Object>, BucketError>> {
        async move {
            let read =
                self.world.carry(&self.process, kind(name, Request::Read), name, |s| s.read(name));
            read.await.ok_or_else(no_answer)
        }
        .boxed()
    }

    fn put_with_hints<'a>(
        &'a self,
        name: &'a str,
        content: Bytes,
        _hints: Hints,
        expected: Generation,
    ) -> BoxFuture<'a, Result<Generation, BucketError>> {
        async move {
            let written = self.world.carry(&self.process, kind(name, Request::Write), name, |s| {
                s.write(name, content, Some(expected))
            });
            written.await.ok_or_else(no_answer)?.ok_or(BucketError::PreconditionFailed)
        }
        .boxed()
    }

    fn delete<'a>(
        &'a self,
        name: &'a str,
        expected: Generation,
    ) -> BoxFuture<'a, Result<bool, BucketError>> {
        async move {
            let deleted = self.world.carry(&self.process, kind(name, Request::Write), name, |s| {
                s.delete(name, expected)
            });
            deleted.await.ok_or_else(no_answer)?.ok_or(BucketError::PreconditionFailed)
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        _page: Option<String>,
    ) -> BoxFuture<'a, Result<Listing, BucketError>> {
        let objects = self.world.with(|s| s.names(prefix));
        async move { Ok(Listing { objects, ..Listing::default() }) }.boxed()
    }
}

impl Port {
    async fn spend(&self, token: &str) -> Option<Result<Answer, EndpointError>> {
        let user = self.world.with(|s| s.provider.place(token).map(|place| place.user.clone()));
        let name = format!("endpoint {}", user.unwrap_or_default());
        let (world, process) = (&self.world, &self.process);
        world
            .carry(process, Request::Refresh, &name, |s| world.refresh(s, process.index, token))
            .await
    }
}

impl TokenEndpoint for Port {
    fn refresh<'a>(
        &'a self,
        refresh_token: &'a Secret,
        _limits: Limits,
    ) -> BoxFuture<'a, Result<Answer, EndpointError>> {
        async move {
            let answer = self.spend(refresh_token.expose()).await;
            answer.unwrap_or_else(|| {
                Err(EndpointError::Ambiguous {
                    why: "no answer".into(),
                    resend_after: Resend::Soon,
                })
            })
        }
        .boxed()
    }

    fn client_id(&self) -> &'static str {
        "test-client"
    }

    fn token_uri(&self) -> &'static str {
        "https://provider.test/token"
    }
}

impl Site for Port {
    fn now(&self) -> Timestamp {
        ProcessClock(Arc::clone(&self.process)).wall()
    }

    async fn sleep(&self, time: Duration) {
        ProcessClock(Arc::clone(&self.process)).sleep(time).await;
    }

    async fn read(&self, user: &str) -> Result<Stored, Failure> {
        let name = object_of(user);
        let read = self.world.carry(&self.process, Request::Read, &name, |s| s.read(&name));
        let object = read.await.flatten().ok_or(Failure::Unavailable)?;
        let grant = serde_json::from_slice(&object.content).map_err(|_| Failure::Unavailable)?;
        Ok(Stored { grant, version: object.generation.0 })
    }

    async fn write(&self, user: &str, grant: &Grant, over: Option<i64>) -> Result<(), Failure> {
        let name = object_of(user);
        let content = Bytes::from(serde_json::to_vec(grant).map_err(|_| Failure::Unavailable)?);
        let over = over.map(Generation);
        let written = self
            .world
            .carry(&self.process, Request::Write, &name, |s| s.write(&name, content, over));
        written.await.ok_or(Failure::Unavailable)?.map(drop).ok_or(Failure::Conflict)
    }

    async fn refresh(&self, token: &str) -> Result<Grant, Failure> {
        match self.spend(token).await {
            None => Err(Failure::Unavailable),
            Some(Err(_)) => Err(Failure::InvalidGrant),
            Some(Ok(answer)) => {
                let refresh_token = answer.refresh_token.ok_or(Failure::Unavailable)?;
                Ok(Grant {
                    refresh_token: refresh_token.expose().to_owned(),
                    expires_at: self.now() + answer.expires_in.unwrap_or(LIFETIME),
                })
            }
        }
    }

    async fn lock(&self, user: &str, ttl: Duration) -> Result<bool, Failure> {
        let name = format!("lock {user}");
        let set = self.world.carry(&self.process, Request::Lock, &name, |s| s.lock(user, ttl));
        set.await.ok_or(Failure::Unavailable)
    }

    async fn unlock(&self, user: &str) -> Result<(), Failure> {
        let name = format!("lock {user}");
        let deleted = self.world.carry(&self.process, Request::Lock, &name, |s| s.unlock(user));
        deleted.await.ok_or(Failure::Unavailable)
    }

    async fn lease(&self, user: &str) -> Result<WallClockLease, Failure> {
        let name = format!("leases/{user}");
        let read = self.world.carry(&self.process, Request::Lock, &name, |s| s.read(&name));
        let Some(object) = read.await.ok_or(Failure::Unavailable)? else {
            return Ok(WallClockLease { until: Timestamp::MIN, version: 0 });
        };
        let until = serde_json::from_slice(&object.content).map_err(|_| Failure::Unavailable)?;
        Ok(WallClockLease { until, version: object.generation.0 })
    }

    async fn write_lease(&self, user: &str, until: Timestamp, over: i64) -> Result<i64, Failure> {
        let name = format!("leases/{user}");
        let content = Bytes::from(serde_json::to_vec(&until).map_err(|_| Failure::Unavailable)?);
        let over = Some(Generation(over));
        let written = self
            .world
            .carry(&self.process, Request::Lock, &name, |s| s.write(&name, content, over));
        written.await.ok_or(Failure::Unavailable)?.map(|g| g.0).ok_or(Failure::Conflict)
    }
}

//! The store's ports, each on behalf of one process of the world.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shared::Secret;
use shared::ports::{
    Answer, Bucket, BucketError, EndpointError, Generation, Hints, Limits, Listing, Object, Resend,
    TokenEndpoint,
};
use shared::protocol::SeenLease;
use tokio::time::Instant;

use super::process::Process;
use super::world::{BUCKET_TIMEOUT, Fate, SharedWorld, user_of};

async fn travel(duration: Duration) {
    tokio::time::sleep_until(Instant::now() + duration).await;
}

#[derive(Debug, Clone)]
pub(super) struct BucketPort {
    pub(super) world: SharedWorld,
    pub(super) process: Arc<Process>,
}

impl BucketPort {
    fn unavailable() -> BucketError {
        BucketError::Unavailable("no answer in time".into())
    }

    /// Carries one mutation through the network. A stalled one arrives after its
    /// sender gave up, even when its sender is gone by then.
    async fn mutate<T: Send + 'static>(
        &self,
        name: &str,
        apply: impl FnOnce(&Self) -> Result<T, BucketError> + Send + 'static,
    ) -> Result<T, BucketError> {
        let way = self.world.way(&self.process, name, false);
        travel(way.there).await;
        if way.fate != Fate::Answered || self.world.with(|s| s.bucket_down) {
            self.world.stumbles(&self.process, Duration::ZERO);
        }
        if self.world.with(|s| s.bucket_down) {
            self.world.reply(&self.process, way).await;
            return Err(Self::unavailable());
        }
        let outcome = match way.fate {
            Fate::Answered => apply(self),
            Fate::Refused => Err(Self::unavailable()),
            Fate::ReplyLost => {
                drop(apply(self));
                Err(Self::unavailable())
            }
            Fate::ConflictWithItself => match apply(self) {
                Ok(_) => Err(BucketError::PreconditionFailed),
                other => other,
            },
            Fate::Stalled(stall) => {
                let late = self.clone();
                tokio::spawn(async move {
                    travel(stall).await;
                    drop(apply(&late));
                });
                travel(BUCKET_TIMEOUT).await;
                Err(Self::unavailable())
            }
            other => unreachable!("{other:?} is the endpoint's"),
        };
        self.world.reply(&self.process, way).await;
        outcome
    }
}

impl Bucket for BucketPort {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Object>, BucketError>> {
        async move {
            self.process.runs().await;
            let way = self.world.way(&self.process, name, false);
            travel(way.there).await;
            if way.fate != Fate::Answered || self.world.with(|s| s.bucket_down) {
                self.world.stumbles(&self.process, Duration::ZERO);
            }
            let outcome = match way.fate {
                _ if self.world.with(|s| s.bucket_down) => Err(Self::unavailable()),
                Fate::Answered | Fate::ConflictWithItself => Ok(self.world.read(name)),
                Fate::Refused | Fate::ReplyLost => Err(Self::unavailable()),
                // What was read is old when it arrives.
                Fate::Stalled(stall) => {
                    let read = self.world.read(name);
                    travel(stall.min(BUCKET_TIMEOUT)).await;
                    Ok(read)
                }
                other => unreachable!("{other:?} is the endpoint's"),
            };
            self.world.reply(&self.process, way).await;
            outcome
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
            self.process.runs().await;
            if name.starts_with("leases/")
                && let Some(lease) = SeenLease::decode(&content, expected).body
            {
                let (now, index) = (self.world.now(), self.process.index);
                self.world.with(|s| s.ledger.lease_sent(index, &user_of(name), &lease, now));
            }
            let owned = name.to_owned();
            let apply =
                move |port: &Self| port.world.write(&port.process, &owned, &content, expected);
            self.mutate(name, apply).await
        }
        .boxed()
    }

    fn delete<'a>(
        &'a self,
        name: &'a str,
        expected: Generation,
    ) -> BoxFuture<'a, Result<bool, BucketError>> {
        async move {
            self.process.runs().await;
            let owned = name.to_owned();
            let apply = move |port: &Self| port.world.delete(&port.process, &owned, expected);
            self.mutate(name, apply).await
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        _page: Option<String>,
    ) -> BoxFuture<'a, Result<Listing, BucketError>> {
        async move { Ok(Listing { objects: self.world.names(prefix), ..Listing::default() }) }
            .boxed()
    }
}

#[derive(Debug, Clone)]
pub(super) struct EndpointPort {
    pub(super) world: SharedWorld,
    pub(super) process: Arc<Process>,
}

impl EndpointPort {
    /// Somebody asks whether the client is accepted.
    async fn made_up(&self) -> Result<Answer, EndpointError> {
        let way = self.world.way(&self.process, "endpoint question", true);
        travel(way.there).await;
        let down = self.world.with(|s| s.endpoint_down) || way.fate != Fate::Answered;
        self.world.reply(&self.process, way).await;
        if down {
            return Err(EndpointError::NotReached("connection refused".into()));
        }
        Err(EndpointError::InvalidGrant("invalid_grant".into()))
    }
}

impl TokenEndpoint for EndpointPort {
    fn refresh<'a>(
        &'a self,
        refresh_token: &'a Secret,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Answer, EndpointError>> {
        async move {
            let asked_at = self.world.now();
            self.process.runs().await;
            let token = refresh_token.expose();
            let Some(place) = self.world.with(|s| s.provider.place(token).cloned()) else {
                return self.made_up().await;
            };
            let user = place.user;
            let series = self.world.with(|s| s.ledger.series(self.process.index, &user));
            let way = self.world.way(&self.process, &format!("endpoint {user}"), true);
            travel(way.there).await;
            let not_now = |retry_after| EndpointError::NotNow {
                code: None,
                why: "HTTP status 503".into(),
                retry_after,
            };
            let lost =
                |resend_after| EndpointError::Ambiguous { why: "no answer".into(), resend_after };
            let carried_out =
                |lost| self.world.refresh(&self.process, token, &series, asked_at, lost);
            let outcome = match way.fate {
                _ if self.world.with(|s| s.endpoint_down) => Err(not_now(None)),
                Fate::Refused => Err(not_now(None)),
                Fate::Told(time) => Err(not_now(Some(time))),
                Fate::Denied(code) => {
                    Err(EndpointError::Refused { code: code.into(), why: code.into() })
                }
                Fate::NotReached => Err(EndpointError::NotReached("connection refused".into())),
                Fate::Answered | Fate::ConflictWithItself => carried_out(false),
                Fate::Stalled(stall) => {
                    travel(stall.min(limits.answer)).await;
                    carried_out(false)
                }
                Fate::AnsweredLate(late) => {
                    let outcome = carried_out(false);
                    travel(late.min(limits.answer)).await;
                    outcome
                }
                Fate::ReplyLost => {
                    drop(carried_out(true));
                    Err(lost(Resend::Soon))
                }
                Fate::Orphaned(after) => {
                    let (late, token, series) = (self.clone(), token.to_owned(), series.clone());
                    tokio::spawn(async move {
                        travel(after).await;
                        drop(late.world.refresh(&late.process, &token, &series, asked_at, true));
                    });
                    Err(lost(Resend::Soon))
                }
                Fate::GatewayTimeout(after) => {
                    travel(after.min(limits.answer)).await;
                    drop(carried_out(true));
                    Err(lost(Resend::Late))
                }
            };
            self.world.reply(&self.process, way).await;
            if let Ok(answer) = &outcome {
                let (now, index) = (self.world.now(), self.process.index);
                self.world.with(|s| s.ledger.answered(index, &user, &series, answer, now));
            }
            outcome
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

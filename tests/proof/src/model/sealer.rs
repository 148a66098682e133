//! A re-seal: the same record, written anew under the lease.
//!
//! The rule is the protocol's (*who may write a record*); whether the lease may
//! be taken is judged by the production function. It gives up rather than wait.

use shared::ports::Generation;
use shared::protocol::{Lease, Stored, Verdict, judge};
use shared::record::WriteId;

use super::invariants::TTL;
use super::replica::at;
use super::setup::{Mutant, Setup};
use super::world::World;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Sealer {
    #[default]
    Idle,
    HasRead(Box<Stored>),
    MayTake(Box<Stored>, Generation),
    Holds(Box<Stored>, Generation, u64),
}

impl Sealer {
    pub(super) fn is_active(&self) -> bool {
        *self != Self::Idle
    }

    /// One request of it reaches the world.
    pub(super) fn step(world: &mut World, setup: &Setup) {
        let now = world.now;
        world.sealer = match std::mem::take(&mut world.sealer) {
            Self::Idle => world.bucket.read_token().map_or(Self::Idle, |read| {
                if setup.is(Mutant::ResealWithoutLease) {
                    Self::Holds(read, Generation::ABSENT, now)
                } else {
                    Self::HasRead(read)
                }
            }),
            Self::HasRead(base) => {
                match judge(world.bucket.read_lease().as_ref(), base.generation) {
                    Verdict::Void(expected) => Self::MayTake(base, expected),
                    Verdict::Held | Verdict::Ahead => Self::Idle,
                }
            }
            Self::MayTake(base, expected) => {
                if world.bucket.lease_generation() == expected {
                    let lease = Lease {
                        holder: "sealer".into(),
                        attempt: format!("sealer {now}"),
                        guards: base.generation.0,
                        ttl_ms: 30_000,
                        acquired_at: at(now, 0).wall,
                    };
                    world.watch.lease_written(lease.guards, now);
                    let generation = world.bucket.write_lease(lease);
                    Self::Holds(base, generation, now)
                } else {
                    Self::Idle
                }
            }
            Self::Holds(base, lease, since) => {
                // A moved token refuses the write, which also stands for the
                // second read after a lease that did not exist before.
                if now < since + TTL && world.bucket.token_generation() == base.generation {
                    let mut sealed = base.record;
                    sealed.write_id = WriteId(format!("sealed {}", base.generation.0));
                    if lease != Generation::ABSENT {
                        sealed.lease_generation = Some(lease);
                    }
                    world.write_record(&sealed);
                }
                Self::Idle
            }
        };
    }
}

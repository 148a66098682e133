//! The two objects of one user, with a generation counter each.

use std::sync::Arc;

use shared::ports::Generation;
use shared::protocol::{Lease, SeenLease, Stored};
use shared::record::TokenRecord;

/// Counters per name keep writes of the one from renaming versions of the
/// other: the states that differ in nothing else are one state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bucket {
    pub(super) token: Option<(Arc<TokenRecord>, Generation)>,
    pub(super) lease: Option<(Arc<Lease>, Generation)>,
    last_token: i64,
    last_lease: i64,
}

impl Bucket {
    pub(super) fn new() -> Self {
        Self { token: None, lease: None, last_token: 0, last_lease: 0 }
    }

    pub(super) fn token_generation(&self) -> Generation {
        self.token.as_ref().map_or(Generation::ABSENT, |(_, g)| *g)
    }

    pub(super) fn lease_generation(&self) -> Generation {
        self.lease.as_ref().map_or(Generation::ABSENT, |(_, g)| *g)
    }

    pub(super) fn read_token(&self) -> Option<Box<Stored>> {
        let (record, generation) = self.token.as_ref()?;
        Some(Box::new(Stored { record: (**record).clone(), generation: *generation }))
    }

    pub(super) fn read_lease(&self) -> Option<SeenLease> {
        let (lease, generation) = self.lease.as_ref()?;
        Some(SeenLease { body: Some((**lease).clone()), generation: *generation })
    }

    pub(super) fn write_token(&mut self, record: TokenRecord) -> Generation {
        self.last_token += 1;
        let generation = Generation(self.last_token);
        self.token = Some((Arc::new(record), generation));
        generation
    }

    pub(super) fn write_lease(&mut self, lease: Lease) -> Generation {
        self.last_lease += 1;
        let generation = Generation(self.last_lease);
        self.lease = Some((Arc::new(lease), generation));
        generation
    }
}

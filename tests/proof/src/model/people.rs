//! What people do: logins, deletions, and APIs that reject a token.

use shared::ports::Generation;

use super::provider::place;
use super::setup::{Mutant, Setup};
use super::world::{World, record};

/// A deletion under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Deletion {
    Token { lease: Generation },
    Lease { lease: Generation },
}

impl World {
    pub(super) fn login(&mut self, with_access: bool) {
        self.people -= 1;
        let (refresh_token, access_token) = self.provider.consent();
        let id = format!("login {}", place(&refresh_token).0);
        let mut login = record(refresh_token, with_access.then_some(access_token), &id);
        // As the store does it: the remembered lease is kept, the rest replaced.
        login.lease_generation =
            self.bucket.token.as_ref().and_then(|(before, _)| before.lease_generation);
        self.watch.login(&login);
        self.bucket.write_token(login);
    }

    pub(super) fn delete(&mut self) {
        self.deletion = match self.deletion {
            None => {
                self.people -= 1;
                Some(Deletion::Token { lease: self.bucket.lease_generation() })
            }
            Some(Deletion::Token { lease }) => {
                self.bucket.token = None;
                self.watch.deleted();
                Some(Deletion::Lease { lease })
            }
            Some(Deletion::Lease { lease }) => {
                if self.bucket.lease_generation() == lease {
                    self.bucket.lease = None;
                    self.watch.lease_deleted();
                }
                None
            }
        };
    }

    pub(super) fn reject(&mut self, setup: &Setup, i: usize) {
        self.people -= 1;
        let replica = self.replica(i);
        if let Some(held) = &replica.held {
            let grant = held.record.grant_id.clone();
            if !setup.is(Mutant::RejectionForgotten) {
                replica.memory.rejected.insert(&grant);
            }
            replica.rejected.push(grant);
        }
    }
}

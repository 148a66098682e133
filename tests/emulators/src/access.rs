//! Who may do what with a resource, as far as IAM reads tell.
//!
//! Nobody is authenticated here, so a policy is stored and handed out and keeps
//! nobody from anything. A permission is granted unless a test denied it.

pub(crate) mod policy;

use std::collections::BTreeSet;

use googleapis_tonic_google_iam_v1::google::iam::v1;
use serde::{Deserialize, Serialize};

/// A role and who has it on a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Such as `roles/pubsub.publisher`.
    pub role: String,
    /// Such as `serviceAccount:fake@example.com`.
    pub members: Vec<String>,
}

impl Binding {
    /// A role with its members.
    pub fn new<M: Into<String>>(
        role: impl Into<String>,
        members: impl IntoIterator<Item = M>,
    ) -> Self {
        Self { role: role.into(), members: members.into_iter().map(Into::into).collect() }
    }
}

impl From<Binding> for v1::Binding {
    fn from(binding: Binding) -> Self {
        Self { role: binding.role, members: binding.members, condition: None }
    }
}

/// The etag of a policy that a change must be based on was another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conflict;

/// The policy of one resource; the default has no bindings, as a new resource has.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Access {
    #[serde(with = "crate::data::message")]
    policy: v1::Policy,
    changes: u64,
    denied: BTreeSet<String>,
}

impl Access {
    pub(crate) fn policy(&self) -> v1::Policy {
        v1::Policy { etag: self.etag(), ..self.policy.clone() }
    }

    /// Replaces the policy. One that carries an etag replaces only the policy that it
    /// was read from.
    pub(crate) fn replace(&mut self, policy: v1::Policy) -> Result<v1::Policy, Conflict> {
        if !policy.etag.is_empty() && policy.etag != self.etag() {
            return Err(Conflict);
        }
        self.changes += 1;
        self.policy = v1::Policy { etag: Vec::new(), ..policy };
        Ok(self.policy())
    }

    /// Replaces the bindings, whatever they were.
    pub(crate) fn bind(&mut self, bindings: impl IntoIterator<Item = Binding>) {
        self.changes += 1;
        let bindings = bindings.into_iter().map(v1::Binding::from).collect();
        self.policy = v1::Policy { version: 1, bindings, ..v1::Policy::default() };
    }

    /// Denies these permissions, and no others.
    pub(crate) fn deny<P: Into<String>>(&mut self, permissions: impl IntoIterator<Item = P>) {
        self.denied = permissions.into_iter().map(Into::into).collect();
    }

    /// Which of the permissions are there.
    pub(crate) fn granted(&self, asked: Vec<String>) -> Vec<String> {
        asked.into_iter().filter(|permission| !self.denied.contains(permission)).collect()
    }

    fn etag(&self) -> Vec<u8> {
        format!("change-{}", self.changes).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_replaces_only_the_one_it_was_read_from() {
        let mut access = Access::default();
        let read = access.policy();
        assert!(read.bindings.is_empty());
        access.bind([Binding::new("roles/viewer", ["user:ann@example.com"])]);
        assert_eq!(access.replace(read), Err(Conflict));
        let fresh = access.policy();
        assert_eq!(fresh.bindings[0].members, ["user:ann@example.com"]);
        assert!(access.replace(fresh).is_ok());
        assert!(access.replace(v1::Policy::default()).is_ok(), "no etag: whatever was there");
        assert!(access.policy().bindings.is_empty());
    }

    #[test]
    fn permissions_are_there_unless_denied() {
        let mut access = Access::default();
        let asked = || vec!["a.get".to_owned(), "a.put".to_owned()];
        assert_eq!(access.granted(asked()), asked());
        access.deny(["a.put"]);
        assert_eq!(access.granted(asked()), ["a.get"]);
        access.deny::<String>([]);
        assert_eq!(access.granted(asked()), asked());
    }
}

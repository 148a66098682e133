//! Access policies of topics and subscriptions.

use googleapis_tonic_google_iam_v1::google::iam::v1;

use super::Broker;
use crate::access::{Access, Binding, Conflict};
use crate::pubsub::error::Error;
use crate::pubsub::names::{self, Kind};

impl Broker {
    pub(in crate::pubsub) fn policy(&self, resource: &str) -> Result<v1::Policy, Error> {
        self.check_exists(resource)?;
        Ok(self.access.get(resource).map_or_else(|| Access::default().policy(), Access::policy))
    }

    pub(in crate::pubsub) fn set_policy(
        &mut self,
        resource: &str,
        policy: v1::Policy,
    ) -> Result<v1::Policy, Error> {
        let set = self.access_mut(resource)?.replace(policy);
        self.access_changed(resource);
        set.map_err(|Conflict| Error::Conflict(resource.to_owned()))
    }

    /// Which of the permissions the caller has.
    pub(in crate::pubsub) fn granted(
        &self,
        resource: &str,
        asked: Vec<String>,
    ) -> Result<Vec<String>, Error> {
        match self.check_exists(resource) {
            // As the service says: not an error, an empty set.
            Err(Error::NotFound(_)) => return Ok(Vec::new()),
            exists => exists?,
        }
        Ok(match self.access.get(resource) {
            Some(access) => access.granted(asked),
            None => asked,
        })
    }

    pub(in crate::pubsub) fn bind(
        &mut self,
        resource: &str,
        bindings: impl IntoIterator<Item = Binding>,
    ) -> Result<(), Error> {
        self.access_mut(resource)?.bind(bindings);
        self.access_changed(resource);
        Ok(())
    }

    pub(in crate::pubsub) fn deny(
        &mut self,
        resource: &str,
        permissions: &[&str],
    ) -> Result<(), Error> {
        self.access_mut(resource)?.deny(permissions.iter().copied());
        self.access_changed(resource);
        Ok(())
    }

    fn access_mut(&mut self, resource: &str) -> Result<&mut Access, Error> {
        self.check_exists(resource)?;
        Ok(self.access.entry(resource.to_owned()).or_default())
    }

    fn check_exists(&self, resource: &str) -> Result<(), Error> {
        if names::parse(Kind::Topic, resource).is_ok() {
            self.find_topic(resource).map(drop)
        } else {
            self.find(resource).map(drop)
        }
    }
}

//! Whether the stored records can be used: the keyring opens them, and they belong to the OAuth
//! client.

use std::sync::Arc;

use shared::adapters::HttpTokenEndpoint;
use shared::ports::{Bucket, TokenEndpoint};
use shared::sealing::Sealing;
use shared::{Error, OAuthClient, TokenStore};

use super::super::connect::NoClient;
use super::access::MAY;
use super::finding::Checks;

/// So many records are read. One that somebody has spoilt is no reason to stop everybody.
const READ: usize = 5;

/// What records are read with.
pub(super) struct Records<'a> {
    pub(super) keyring_is_read: bool,
    pub(super) sealing: Sealing,
    /// Without one it is not looked at whose grants they are.
    pub(super) client: Option<OAuthClient>,
    pub(super) http: &'a reqwest::Client,
}

impl Records<'_> {
    /// Checks whether any of the first records can be used.
    pub(super) async fn check(&self, bucket: &Arc<dyn Bucket>, checks: &mut Checks) {
        const CHECK: &str = "records";
        if !self.keyring_is_read {
            return checks.skip(CHECK, "the keyring cannot be read");
        }
        if checks.failed(MAY) || checks.failed("reached") {
            // Reading them would only find the same.
            return;
        }
        match self.look(bucket).await {
            Ok(None) => checks.skip(CHECK, "nobody is stored yet"),
            Ok(Some(Ok(object))) => checks.ok(CHECK, format!("{object} can be used")),
            Ok(Some(Err(why))) => checks.fail(
                CHECK,
                why.to_string(),
                "give this process the keyring and the OAuth client that the other processes have",
            ),
            Err(why) => checks.skip(CHECK, format!("they cannot be read: {why}")),
        }
    }

    /// The first record that can be used, or what is wrong with the last that was read; `None`
    /// where there is none.
    async fn look(&self, bucket: &Arc<dyn Bucket>) -> Result<Option<Result<String, Error>>, Error> {
        let endpoint: Arc<dyn TokenEndpoint> = match &self.client {
            // Its address was looked at already.
            Some(client) => match HttpTokenEndpoint::new(client, self.http.clone()) {
                Ok(endpoint) => Arc::new(endpoint),
                Err(_) => Arc::new(NoClient),
            },
            None => Arc::new(NoClient),
        };
        let store = TokenStore::builder(Arc::clone(bucket), endpoint)
            .sealing(self.sealing.clone())
            .build()
            .expect("the default policy is sound");
        let (users, _) = store.list_users(None).await?;
        let mut found = None;
        for user in users.iter().take(READ) {
            match store.check_record(user).await {
                Ok(()) => return Ok(Some(Ok(user.token_object()))),
                Err(Error::WrongClient { object, .. }) if self.client.is_none() => {
                    return Ok(Some(Ok(object)));
                }
                Err(why @ (Error::Corrupt { .. } | Error::WrongClient { .. })) => {
                    found = Some(Err(why));
                }
                // It was deleted since.
                Err(Error::NeedsConsent(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

//! Google's own clients acting as a stored user.
//!
//! Every official Google Cloud client takes a
//! [`google_cloud_auth::credentials::Credentials`] and asks it for headers before
//! each request. [`TokenStore::google_credentials`] answers from the store, so the
//! client always sends a fresh token of that user, and the fleet still refreshes it
//! once. No task runs and no token is kept besides the store's own memory.
//!
//! ```no_run
//! # async fn example(store: shared::TokenStore) -> Result<(), Box<dyn std::error::Error>> {
//! use google_cloud_storage::client::Storage;
//! use shared::UserId;
//!
//! let user = UserId::new("1097")?;
//! let client = Storage::builder().with_credentials(store.google_credentials(&user)).build().await?;
//! let object = client.read_object("projects/_/buckets/their-bucket", "notes.txt").send().await?;
//! # Ok(())
//! # }
//! ```
//!
//! These clients do not report a rejected token back. Whoever meets a 401 takes the
//! credential from [`TokenStore::get_credentials`], reports it with
//! [`TokenStore::renew`] and tries again.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use google_cloud_auth::credentials::{
    CacheableResource, Credentials as GoogleCredentials, CredentialsProvider, EntityTag,
};
use google_cloud_auth::errors::CredentialsError;
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::record::GrantId;
use crate::store::{Credentials, TokenStore};
use crate::user_id::UserId;

impl TokenStore {
    /// Credentials of `user` for Google's official clients; see the
    /// [module's page](crate::google_credentials). Costs nothing until a client
    /// asks, and a clone costs one reference count. Each request waits as
    /// [`TokenStore::get_credentials`] does, and cancelling it is as harmless.
    ///
    /// The client sees [`Error`] as the source of its authentication error:
    /// transient for [`Error::Busy`] and [`Error::Unavailable`], permanent for the
    /// others.
    pub fn google_credentials(&self, user: &UserId) -> GoogleCredentials {
        let stored =
            StoredUser { store: self.clone(), user: user.clone(), tagged: Mutex::default() };
        GoogleCredentials::from(stored)
    }
}

/// A user of the store, as Google's clients see it.
struct StoredUser {
    store: TokenStore,
    user: UserId,
    /// The last grant that was handed out, and its tag.
    tagged: Mutex<Option<(GrantId, EntityTag)>>,
}

impl StoredUser {
    /// One tag per grant: a write that keeps the grant keeps the token.
    fn tag(&self, grant: &GrantId) -> EntityTag {
        let mut tagged = self.tagged.lock().unwrap_or_else(PoisonError::into_inner);
        match &*tagged {
            Some((of, tag)) if of == grant => tag.clone(),
            _ => {
                let tag = EntityTag::new();
                *tagged = Some((grant.clone(), tag.clone()));
                tag
            }
        }
    }
}

impl CredentialsProvider for StoredUser {
    async fn headers(
        &self,
        extensions: Extensions,
    ) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        let credentials = self.store.get_credentials(&self.user).await.map_err(refused)?;
        let entity_tag = self.tag(credentials.grant_id());
        if extensions.get::<EntityTag>() == Some(&entity_tag) {
            return Ok(CacheableResource::NotModified);
        }
        let mut data = HeaderMap::with_capacity(1);
        data.insert(AUTHORIZATION, bearer(&credentials)?);
        Ok(CacheableResource::New { entity_tag, data })
    }

    async fn universe_domain(&self) -> Option<String> {
        // Google's own.
        None
    }
}

fn bearer(credentials: &Credentials) -> Result<HeaderValue, CredentialsError> {
    let text = Zeroizing::new(format!("Bearer {}", credentials.access_token().expose()));
    let mut value = HeaderValue::from_str(&text).map_err(|_| {
        CredentialsError::from_msg(false, "the access token cannot be sent in a header")
    })?;
    // Neither `Debug` nor header compression shows it.
    value.set_sensitive(true);
    Ok(value)
}

fn refused(error: Error) -> CredentialsError {
    CredentialsError::from_source(error.is_transient(), error)
}

/// No token, and of the user the digest only.
impl fmt::Debug for StoredUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredUser").field("user", &self.user).finish_non_exhaustive()
    }
}

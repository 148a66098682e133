//! One OAuth credential per user, kept in a Cloud Storage bucket and shared
//! safely by a fleet of workers.
//!
//! Many processes need fresh access tokens of the same users. Refreshing is not
//! idempotent where the provider rotates refresh tokens: two processes that
//! refresh at once lock the user out. [`TokenStore`] lets exactly one of them do
//! it. A lease object says who, and *which generation of the token record it
//! guards*: once that generation has been replaced the lease is void by itself,
//! so nothing is ever released, deleted or broken, and no two machines' clocks
//! are compared. Every write of a record is a compare-and-set.
//!
//! ```
//! use std::sync::Arc;
//! use shared::adapters::{CloudStorage, CloudStorageConfig, HttpTokenEndpoint, http_client};
//! use shared::{OAuthClient, TokenStore, UserId};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = OAuthClient::from_json(&std::fs::read("client.json")?)?;
//! let endpoint = HttpTokenEndpoint::new(&client, http_client("my-worker")?)?;
//! let bucket = CloudStorage::connect(CloudStorageConfig {
//!     bucket: "my-tokens".into(),
//!     ..CloudStorageConfig::default()
//! });
//! let store = TokenStore::builder(bucket.await?.shared(), Arc::new(endpoint)).build()?;
//!
//! let credentials = store.get_credentials(&UserId::new("1097")?).await?;
//! println!("fresh until {:?}", credentials.expires_at());
//! # Ok(())
//! # }
//! ```
//!
//! Decisions are pure ([`protocol`]); I/O stands behind small traits ([`ports`])
//! that [`adapters`] implement.

pub mod adapters;
pub mod consent;
mod error;
mod oauth_client;
pub mod policy;
pub mod ports;
pub mod profile;
pub mod protocol;
pub mod record;
mod schedule;
mod secret;
mod store;
mod user_id;

pub use error::{ConsentReason, Error};
pub use oauth_client::{BadClient, ClientKind, OAuthClient, is_loopback, may_have_secrets};
pub use policy::Policy;
pub use schedule::Schedule;
pub use secret::Secret;
pub use store::{
    Builder, Counts, Credentials, DEFAULT_CACHED_USERS, Grant, Health, Imported, Login, Revoked,
    TokenStore,
};
pub use user_id::{InvalidUserId, MAX_ENCODED_LEN, UserId, encode_segment};

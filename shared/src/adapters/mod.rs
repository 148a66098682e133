//! The ports over the real world, and over memory.

mod bucket_inspection;
mod cloud_kms;
mod cloud_storage;
mod http_exchange;
mod memory;
mod provider_http;
mod retrying;
mod system;
mod token_http;

pub use bucket_inspection::{BucketSettings, LifecycleRule};
pub use cloud_kms::CloudKms;
pub use cloud_storage::{CloudStorage, CloudStorageConfig};
pub use http_exchange::{http_client, http_client_builder};
pub use memory::MemoryBucket;
pub use provider_http::{GOOGLE_REVOKE_URL, HttpProvider};
pub use retrying::RetryingBucket;
pub use system::SystemClock;
pub use token_http::HttpTokenEndpoint;

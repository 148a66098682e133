//! The ports over the real world, and over memory.

mod cloud_storage;
mod memory;
mod system;
mod token_http;

pub use cloud_storage::{CloudStorage, CloudStorageConfig};
pub use memory::MemoryBucket;
pub use system::SystemClock;
pub use token_http::{HttpTokenEndpoint, http_client};

//! The outside world, behind small traits.
//!
//! The store decides; these do. Production implements them over Cloud Storage,
//! an OAuth token endpoint and the system clock ([`crate::adapters`]); tests and
//! the simulation over memory and virtual time.

mod audit;
mod bucket;
mod clock;
mod kms;
mod provider;
mod token_endpoint;

pub use audit::{Act, Audit, AuditEntry, NoAudit};
pub use bucket::{Bucket, BucketError, Generation, Hints, Listing, Object};
pub use clock::{Clock, Monotonic, Now, Randomness};
pub use kms::{InvalidKmsKey, Kms, KmsError, KmsKey, KmsUse};
pub use provider::{CodeAnswer, Provider, Revocation};
pub use token_endpoint::{Answer, EndpointError, Limits, Resend, TokenEndpoint, UNSTATED_LIFETIME};

//! What the tests of this workspace share.

pub mod contention;
pub mod dev;
pub mod gateway;
pub mod report;
mod secret_file;
pub mod stage;
pub mod tls;

pub use proof::{guards, memory, model, settling, simulation};
pub use secret_file::write_secret;

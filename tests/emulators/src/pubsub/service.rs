//! The generated server traits.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    dead_code,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    reason = "generated code"
)]

include!(concat!(env!("OUT_DIR"), "/google.pubsub.v1.Publisher.rs"));
include!(concat!(env!("OUT_DIR"), "/google.pubsub.v1.Subscriber.rs"));
include!(concat!(env!("OUT_DIR"), "/google.iam.v1.IAMPolicy.rs"));

//! The Pub/Sub emulator as its clients see it: the official one, and a generic
//! gRPC client for what the official one does not send.

mod admin;
mod delivery;
mod exactly_once;
mod faults;
mod fixture;
mod grpc;
mod iam;
mod ordering;
mod rest;

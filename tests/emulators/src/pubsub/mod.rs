//! The Pub/Sub emulator.

mod service;

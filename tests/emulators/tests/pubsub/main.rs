//! The Pub/Sub emulator as the official client sees it.

mod delivery;
mod fixture;

//! Placeholder of the pubsub emulator.

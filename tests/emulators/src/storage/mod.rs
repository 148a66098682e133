//! Placeholder of the storage emulator.

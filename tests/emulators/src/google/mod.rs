//! Placeholder of the google emulator.

//! Workspace skeleton.

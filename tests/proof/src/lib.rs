//! The store and whole replicas without servers: ports in [`memory`] and virtual
//! time, the [`model`] of the protocol that a checker explores, and the seeded
//! [`simulation`]. A package of its own, since it is compiled with optimizations and
//! the end-to-end suites need not be.

pub mod memory;
pub mod model;
pub mod simulation;

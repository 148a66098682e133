//! The store and whole replicas without servers: ports in [`memory`] and virtual time, two
//! models that a checker explores, of refreshing ([`model`]) and of ending a delivery
//! ([`settling`]), the seeded [`simulation`], and ways to guard a refresh side by side
//! ([`guards`]). A package of its own, since it is compiled with optimizations and the
//! end-to-end suites need not be.

pub mod guards;
pub mod memory;
pub mod model;
pub mod settling;
pub mod simulation;

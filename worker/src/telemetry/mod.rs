//! What a program that runs a [`Worker`](crate::Worker) tells about itself: logs on
//! stderr, traces over OTLP, metrics for whoever asks. `fleet` starts it, and a
//! program of one's own with custom kinds can.

mod escape;
mod exporter;
mod fields;
mod log_line;
mod log_thread;
pub mod logging;
pub mod prometheus;
pub mod traces;

//! What a program that runs a [`Worker`](crate::Worker) tells about itself: logs on
//! stderr, traces over OTLP, metrics for whoever asks. `fleet` starts it, and a
//! program of one's own with custom kinds can.

mod escape;
mod exporter;
mod filter;
mod json_line;
mod log_lines;
mod log_writer;
pub mod logging;
pub mod prometheus;
pub mod traces;

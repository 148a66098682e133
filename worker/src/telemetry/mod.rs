//! What the program tells about itself: logs on stderr, traces over OTLP, metrics
//! for whoever asks.

mod escape;
mod exporter;
mod filter;
mod log_lines;
pub(crate) mod logging;
pub(crate) mod prometheus;
pub(crate) mod traces;

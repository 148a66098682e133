//! What the program tells about itself.

pub(crate) mod prometheus;

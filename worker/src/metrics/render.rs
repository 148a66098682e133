//! What `/metrics` shows.

use std::fmt;
use std::sync::Arc;

/// Renders the metrics of this process in Prometheus' text format. The library
/// counts; the program that installed a recorder knows how to render it.
#[derive(Clone)]
pub struct Render(Arc<dyn Fn() -> String + Send + Sync>);

impl Render {
    /// The media type of what is rendered.
    pub(crate) const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// `render` is called whenever somebody asks.
    pub fn new(render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self(Arc::new(render))
    }

    pub(crate) fn text(&self) -> String {
        (self.0)()
    }
}

impl fmt::Debug for Render {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Render")
    }
}

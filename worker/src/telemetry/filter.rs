//! What is logged and what is exported.

use crate::spans::{DELIVERY, TARGET as SPANS};
use tracing::Metadata;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterFn, filter_fn};

/// The crates whose every line is ours to answer for.
const OURS: [&str; 4] = ["fleet", "worker", "shared", "emulators"];

/// What is logged: what `FLEET_LOG` asks for, less what other crates say below
/// INFO. That is where HTTP libraries describe requests; what they leave out may
/// change with any release, and no filter may turn an `Authorization` header on.
/// Where spans are exported those of deliveries are known whatever is asked for, so
/// that warnings name their span too. What both filters let pass is logged.
///
/// # Errors
/// A text that says what is wrong with the filter.
pub(super) fn logged(
    directives: &str,
    is_exporting: bool,
) -> Result<(EnvFilter, FilterFn<impl Fn(&Metadata<'_>) -> bool + use<>>), String> {
    let mut asked_for = EnvFilter::try_new(directives).map_err(|e| e.to_string())?;
    if is_exporting {
        let spans = format!("{SPANS}=info").parse().map_err(|e| format!("{SPANS}: {e}"))?;
        asked_for = asked_for.add_directive(spans);
    }
    Ok((asked_for, may_be_logged(is_exporting)))
}

fn may_be_logged(is_exporting: bool) -> FilterFn<impl Fn(&Metadata<'_>) -> bool> {
    filter_fn(move |metadata| {
        let target = metadata.target();
        // A span that nobody exports would cost every job more than reading it does.
        if metadata.is_span() && target == SPANS {
            return is_exporting && metadata.name() == DELIVERY;
        }
        let root = target.split("::").next().unwrap_or(target);
        // The exporter's failures are told by our own client, and once.
        OURS.contains(&root)
            || *metadata.level() <= tracing::Level::INFO && !root.starts_with("opentelemetry")
    })
}

/// What is exported: the spans of deliveries. Events stay here, whatever they
/// say, and so do the spans of libraries, which name objects and so users.
pub(super) fn exported() -> FilterFn<impl Fn(&Metadata<'_>) -> bool> {
    filter_fn(|metadata| metadata.is_span() && metadata.target() == SPANS)
}

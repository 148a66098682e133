//! What every answer of a web server tells browsers, so that other sites cannot use its pages.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Sets the content policy, and the rest where nothing else is set. `secure`: browsers come by
/// https.
pub(super) fn harden(headers: &mut HeaderMap, policy: &HeaderValue, secure: bool) {
    headers.insert("content-security-policy", policy.clone());
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
        // `same-origin` where nothing stricter is set: with `no-referrer` browsers would send
        // `Origin: null` with our own forms.
        ("referrer-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        let name = HeaderName::from_static(name);
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if secure {
        headers.insert(
            "strict-transport-security",
            HeaderValue::from_static("max-age=63072000; includeSubDomains"),
        );
    }
}

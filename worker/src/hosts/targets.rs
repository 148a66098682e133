//! What no job may reach on the hosts that it may reach: services that trade in tokens, by
//! their path on a shared host, and the token bucket in every form that Cloud Storage takes.
//!
//! Servers decode a path in more than one place, so names are looked for in the path as it
//! reads when nothing in it is encoded any more.

use std::borrow::Cow;

use url::Url;

use super::{Forbidden, GOOGLE, TOKEN_SERVICES};

/// What an OAuth service offers besides tokens.
const PUBLIC_OAUTH: [&str; 2] = ["userinfo", "certs"];
/// Methods that make tokens or signatures, on whichever host they are. gRPC writes them with a
/// capital letter.
const TOKEN_METHODS: [&str; 4] = ["generateAccessToken", "generateIdToken", "signBlob", "signJwt"];
/// What stands before a bucket's name in a path.
const BEFORE_A_BUCKET: [&str; 3] = ["b", "bucket", "buckets"];

/// Refuses a URL on one of Google's hosts that leads to a token service or to
/// `token_bucket`, where there is one.
pub(super) fn check(url: &Url, token_bucket: Option<&str>) -> Result<(), Forbidden> {
    let Some(service) = url.host_str().and_then(|host| host.strip_suffix(GOOGLE)) else {
        return Ok(());
    };
    let path = decoded(url.path());
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    if is_token_service(service, &segments) {
        return Err(Forbidden::TokenService);
    }
    match token_bucket {
        Some(bucket) if is_bucket(bucket, service, &segments) => Err(Forbidden::TokenBucket),
        _ => Ok(()),
    }
}

/// Whether the path leads to a service that trades in tokens, or may: what a batch of
/// IAM's reaches stands in its body.
fn is_token_service(service: &str, segments: &[&str]) -> bool {
    // A batch names the service second.
    let of_batch = segments.strip_prefix(&["batch"]);
    let named = of_batch.unwrap_or(segments);
    let named = named.strip_prefix(&["o"]).unwrap_or(named);
    let is_service = named.first().is_some_and(|name| TOKEN_SERVICES.contains(name));
    let is_public = of_batch.is_none() && named.iter().any(|name| PUBLIC_OAUTH.contains(name));
    let is_iam = named.first() == Some(&"iam") || service.split(['.', '-']).any(|p| p == "iam");
    (is_service && !is_public) || (of_batch.is_some() && is_iam) || makes_tokens(segments)
}

/// Whether the path names a method that makes tokens: `x:signJwt`, and over gRPC
/// `google.iam.admin.v1.IAM/SignJwt`.
fn makes_tokens(segments: &[&str]) -> bool {
    let is_rest = |segment: &&str| {
        segment.rsplit_once(':').is_some_and(|(_, method)| TOKEN_METHODS.contains(&method))
    };
    let is_grpc = |pair: &[&str]| {
        pair[0].starts_with("google.iam.")
            && TOKEN_METHODS.iter().any(|method| method.eq_ignore_ascii_case(pair[1]))
    };
    segments.iter().any(is_rest) || segments.windows(2).any(is_grpc)
}

/// Whether the path, or the host before `googleapis.com`, leads to the bucket, or may: what a
/// batch or a call of gRPC reaches stands in its body.
fn is_bucket(bucket: &str, service: &str, segments: &[&str]) -> bool {
    let of_host = service.contains("storage");
    // The service's name is the first segment, or follows `$rpc`.
    let is_grpc = segments.iter().any(|segment| segment.starts_with("google.storage."));
    if !of_host && !is_grpc && !segments.contains(&"storage") && segments != ["batch"] {
        return false;
    }
    let is_named =
        segments.windows(2).any(|pair| BEFORE_A_BUCKET.contains(&pair[0]) && pair[1] == bucket);
    let first = segments.first().copied().unwrap_or_default();
    let is_unseen = is_grpc || first == "batch";
    let of_name = service.strip_prefix(bucket).is_some_and(|rest| rest.starts_with('.'));
    is_named || is_unseen || (of_host && (first == bucket || of_name))
}

/// The path without any percent-encoding, even of what was encoded several times.
fn decoded(path: &str) -> Cow<'_, str> {
    let mut path = Cow::Borrowed(path);
    while let Some(less) = decoded_once(&path) {
        path = Cow::Owned(less);
    }
    path
}

/// `None` when nothing is encoded. Each time the text becomes shorter.
fn decoded_once(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = path.get(at + 1..at + 3).filter(|code| {
            bytes[at] == b'%' && code.bytes().all(|digit| digit.is_ascii_hexdigit())
        });
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            // What is no UTF-8 names nothing that is looked for.
            Some(byte) if byte.is_ascii() => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    (out.len() < bytes.len()).then(|| String::from_utf8_lossy(&out).into_owned())
}

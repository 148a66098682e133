//! ID tokens (OpenID Connect Core, section 2), unsigned: TLS to the token endpoint
//! stands for the signature in production, and loopback here.

use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::user::User;

/// The claims about `user`, for `audience`.
pub(super) fn id_token(
    issuer: &str,
    audience: &str,
    user: &User,
    nonce: Option<&str>,
    lifetime: u64,
) -> String {
    #[expect(clippy::disallowed_methods, reason = "the adapter: claims are in wall time")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    let mut claims = json!({
        "iss": issuer, "aud": audience, "azp": audience, "sub": user.sub,
        "iat": now, "exp": now + lifetime, "email": user.email, "email_verified": true,
    });
    if let Some(nonce) = nonce {
        claims["nonce"] = nonce.into();
    }
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(&json!({"alg": "none", "typ": "JWT"})), part(&claims))
}

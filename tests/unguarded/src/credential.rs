//! A credential as it lies in the bucket.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// An `authorized_user` file, as `Credentials.to_json` of `google-auth` writes it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credential {
    /// The access token.
    pub token: Option<String>,
    /// The refresh token.
    pub refresh_token: String,
    /// Where it is exchanged.
    pub token_uri: String,
    /// The OAuth client.
    pub client_id: String,
    /// The OAuth client's secret.
    pub client_secret: String,
    /// What the user granted.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// When the access token expires.
    pub expiry: Option<Timestamp>,
}

impl Credential {
    /// Whether the access token is missing, or has less than `early` left.
    pub(crate) fn has_expired(&self, now: Timestamp, early: Duration) -> bool {
        let early = SignedDuration::try_from(early).unwrap_or(SignedDuration::MAX);
        match (&self.token, self.expiry) {
            (Some(_), Some(expiry)) => expiry.duration_since(now) <= early,
            _ => true,
        }
    }
}

/// It holds secrets.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("expiry", &self.expiry).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential() -> Credential {
        // As google-auth writes it, with fields that are of no interest here.
        serde_json::from_str(
            r#"{"token": "fake-token", "refresh_token": "fake-refresh", "token_uri": "http://127.0.0.1:1/token",
                "client_id": "fake", "client_secret": "fake-secret", "scopes": ["a"],
                "universe_domain": "googleapis.com", "account": "", "expiry": "2026-01-01T10:00:00.5Z"}"#,
        )
        .unwrap()
    }

    #[test]
    fn expires_early() {
        let credential = credential();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let early = Duration::from_secs(10);
        assert!(!credential.has_expired(at("2026-01-01T09:59:50Z"), early));
        assert!(credential.has_expired(at("2026-01-01T09:59:50.5Z"), early));
        assert!(
            Credential { token: None, ..credential.clone() }.has_expired(Timestamp::MIN, early)
        );
        assert!(Credential { expiry: None, ..credential }.has_expired(Timestamp::MIN, early));
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", credential());
        assert!(shown.contains("2026-01-01") && !shown.contains("fake"), "{shown}");
    }
}

//! The people with accounts, and what they granted.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct User {
    /// Google's unchanging account ID.
    pub sub: String,
    /// The address, taken as verified.
    pub email: String,
    /// The full name. The given name is its first word, the family name the rest.
    pub name: String,
    /// The URL of a picture; empty if there is none.
    pub picture: String,
    /// A language, such as `en`; empty if there is none.
    pub locale: String,
}

/// What a user grants a client: a refresh token, and a first live access token.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// Presented to the token endpoint.
    pub refresh_token: String,
    /// Presented to the APIs.
    pub access_token: String,
    /// For how many seconds the access token lives.
    pub expires_in: u64,
    /// What was granted.
    pub scopes: Vec<String>,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("refresh_token", &"[redacted]")
            .field("access_token", &"[redacted]")
            .field("expires_in", &self.expires_in)
            .field("scopes", &self.scopes)
            .finish()
    }
}

//! Strings that must not be seen.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

/// A refresh token, access token, client secret or authorization code.
///
/// `Debug` and `Display` show `[redacted]`; the memory is zeroed when the last
/// clone is dropped. A clone costs one reference count. Reading the value takes
/// a call whose name can be searched for: [`Secret::expose`].
#[derive(Clone)]
pub struct Secret(Arc<SecretString>);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Arc::new(SecretString::from(value.into())))
    }

    /// The value itself, for the one place that sends or seals it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl Hash for Secret {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expose().hash(state);
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self::new(value)
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self::new(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_redacted_everywhere() {
        let secret = Secret::new("fake-very-secret");
        assert_eq!(format!("{secret} {secret:?} {:#?}", Some(&secret)).matches("fake").count(), 0);
        assert_eq!(secret.expose(), "fake-very-secret");
        assert_eq!(secret, Secret::new("fake-very-secret"));
    }
}

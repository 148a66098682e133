//! The OAuth client: the JSON file that Google's console downloads.

use std::fmt;

use serde::Deserialize;
use url::{Host, Url};

use crate::file_text::file_text;
use crate::secret::Secret;

/// Whether the client belongs to a program on a person's computer or to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// "Desktop app" in the console.
    Installed,
    /// "Web application" in the console.
    Web,
}

/// An OAuth client of any provider, as `{"installed": {…}}` or `{"web": {…}}`.
#[derive(Clone)]
pub struct OAuthClient {
    kind: ClientKind,
    client_id: String,
    client_secret: Option<Secret>,
    auth_uri: String,
    token_uri: String,
    redirect_uris: Vec<String>,
}

/// Why a file is not an OAuth client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadClient {
    /// Neither UTF-8 nor UTF-16.
    #[error("it is not text, so it is no JSON file")]
    NotText,
    /// Not JSON at all.
    #[error("it is not JSON (line {line}, column {column})")]
    NotJson {
        /// Line of the first fault.
        line: usize,
        /// Column of the first fault.
        column: usize,
    },
    /// A service account key, a user credential or something else.
    #[error(
        "it holds {found}, not an OAuth client: download the JSON of an OAuth client ID of type \"Desktop app\" or \"Web application\" (APIs & Services > Credentials)"
    )]
    OtherType {
        /// What it seems to be.
        found: &'static str,
    },
    /// A field that is needed is missing, empty or not a string.
    #[error("{section}.{field} is missing, empty or of the wrong type")]
    Field {
        /// `installed` or `web`.
        section: &'static str,
        /// The field.
        field: &'static str,
    },
    /// An endpoint to which a secret must not be sent.
    #[error("{section}.{field} must be an https URL (http is for loopback addresses only)")]
    Insecure {
        /// `installed` or `web`.
        section: &'static str,
        /// The field.
        field: &'static str,
    },
}

#[derive(Deserialize)]
struct Section {
    client_id: Option<serde_json::Value>,
    client_secret: Option<serde_json::Value>,
    auth_uri: Option<serde_json::Value>,
    token_uri: Option<serde_json::Value>,
    #[serde(default)]
    redirect_uris: serde_json::Value,
}

impl OAuthClient {
    /// Reads the file's content.
    ///
    /// # Errors
    /// [`BadClient`]; its text never quotes the content.
    pub fn from_json(content: &[u8]) -> Result<Self, BadClient> {
        let text = file_text(content).ok_or(BadClient::NotText)?;
        let value: serde_json::Value = serde_json::from_str(&text)
            .map_err(|e| BadClient::NotJson { line: e.line(), column: e.column() })?;
        let (kind, section, body) = if let Some(body) = value.get("installed") {
            (ClientKind::Installed, "installed", body)
        } else if let Some(body) = value.get("web") {
            (ClientKind::Web, "web", body)
        } else {
            let found = match value.get("type").and_then(serde_json::Value::as_str) {
                Some("service_account") => "a service account key",
                Some("authorized_user") => "a user credential (gcloud's authorized_user)",
                Some("external_account") => "a workload identity configuration",
                Some("impersonated_service_account") => {
                    "the configuration of an impersonated service account"
                }
                _ if value.get("refresh_token").is_some() => "a user credential",
                _ if value.get("client_id").is_some() => {
                    "a client ID without the section \"installed\" or \"web\" around it"
                }
                _ => "neither \"installed\" nor \"web\"",
            };
            return Err(BadClient::OtherType { found });
        };
        let fields = Section::deserialize(body)
            .map_err(|_| BadClient::Field { section, field: "client_id" })?;
        let text = |value: Option<serde_json::Value>, field| match value {
            Some(serde_json::Value::String(text)) if !text.trim().is_empty() => Ok(text),
            _ => Err(BadClient::Field { section, field }),
        };
        let endpoint = |value, field| {
            let uri = text(value, field)?;
            if may_have_secrets(&uri) {
                Ok(uri)
            } else {
                Err(BadClient::Insecure { section, field })
            }
        };
        let client_secret = match fields.client_secret {
            // Public clients of other providers have none.
            None => None,
            some => Some(Secret::new(text(some, "client_secret")?)),
        };
        Ok(Self {
            kind,
            client_id: text(fields.client_id, "client_id")?,
            client_secret,
            auth_uri: endpoint(fields.auth_uri, "auth_uri")?,
            token_uri: endpoint(fields.token_uri, "token_uri")?,
            redirect_uris: Vec::deserialize(fields.redirect_uris).unwrap_or_default(),
        })
    }

    /// Desktop or web.
    pub fn kind(&self) -> ClientKind {
        self.kind
    }

    /// The client's public name.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Its secret, unless it is a public client.
    pub fn client_secret(&self) -> Option<&Secret> {
        self.client_secret.as_ref()
    }

    /// Where users consent.
    pub fn auth_uri(&self) -> &str {
        &self.auth_uri
    }

    /// Where tokens are granted.
    pub fn token_uri(&self) -> &str {
        &self.token_uri
    }

    /// Whether Google grants its tokens.
    pub fn is_googles(&self) -> bool {
        let url = Url::parse(&self.token_uri).ok();
        let host = url.as_ref().and_then(|url| url.host_str()).unwrap_or_default();
        [".googleapis.com", ".google.com"].iter().any(|domain| host.ends_with(domain))
    }

    /// Redirect URIs registered for a web client.
    pub fn redirect_uris(&self) -> &[String] {
        &self.redirect_uris
    }
}

/// Whether a secret may be sent to this URL: https, or http on loopback.
pub fn may_have_secrets(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else {
        return false;
    };
    match url.scheme() {
        "https" => url.host().is_some(),
        "http" => is_loopback(&url),
        _ => false,
    }
}

/// Whether the URL's host is this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

impl fmt::Debug for OAuthClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthClient")
            .field("kind", &self.kind)
            .field("client_id", &self.client_id)
            .field("token_uri", &self.token_uri)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: &serde_json::Value) -> Result<OAuthClient, BadClient> {
        OAuthClient::from_json(value.to_string().as_bytes())
    }

    fn good() -> serde_json::Value {
        json!({"installed": {
            "client_id": "id", "client_secret": "fake-secret",
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": "https://oauth2.googleapis.com/token",
            "redirect_uris": ["http://localhost"],
        }})
    }

    #[test]
    fn reads_both_kinds() {
        let client = parse(&good()).unwrap();
        assert_eq!(client.kind(), ClientKind::Installed);
        assert_eq!(client.redirect_uris(), ["http://localhost"]);
        let web = json!({"web": good()["installed"]});
        assert_eq!(parse(&web).unwrap().kind(), ClientKind::Web);
        assert!(!format!("{client:?}").contains("fake-secret"));
    }

    #[test]
    fn says_what_is_wrong() {
        for (value, says) in [
            (json!({"type": "service_account"}), "a service account key"),
            (json!({"type": "authorized_user"}), "a user credential"),
            (json!([1]), "neither"),
            (json!({"installed": 7}), "installed.client_id"),
            (json!({"web": {"client_id": 7}}), "web.client_id"),
        ] {
            let text = parse(&value).unwrap_err().to_string();
            assert!(text.contains(says), "{text}");
        }
        for field in ["client_id", "auth_uri", "token_uri"] {
            let mut value = good();
            value["installed"].as_object_mut().unwrap().remove(field);
            let text = parse(&value).unwrap_err().to_string();
            assert!(text.contains(&format!("installed.{field}")), "{text}");
        }
        assert!(matches!(
            OAuthClient::from_json(b"{\n x"),
            Err(BadClient::NotJson { line: 2, .. })
        ));
    }

    #[test]
    fn secrets_go_to_https_or_loopback_only() {
        for (uri, fine) in [
            ("https://provider.example/token", true),
            ("http://127.0.0.1:8080/token", true),
            ("http://[::1]:8080/token", true),
            ("http://localhost/token", true),
            ("http://provider.example/token", false),
            ("http://127.0.0.1.example/token", false),
            ("ftp://127.0.0.1/token", false),
            ("token", false),
        ] {
            let mut value = good();
            value["installed"]["token_uri"] = json!(uri);
            assert_eq!(parse(&value).is_ok(), fine, "{uri}");
        }
    }
}

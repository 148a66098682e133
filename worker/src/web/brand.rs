//! Whose pages these are.

use bytes::Bytes;
use url::Url;

/// What a company puts on the pages.
#[derive(Debug, Clone)]
pub struct Brand {
    /// The application's name.
    pub app_name: String,
    /// The logo, served from our origin.
    pub logo: Option<Logo>,
    /// Where the privacy policy is.
    pub privacy_url: Option<Url>,
    /// Where the terms of service are.
    pub terms_url: Option<Url>,
    /// Whom people write to.
    pub support_email: Option<String>,
}

impl Default for Brand {
    fn default() -> Self {
        Self {
            app_name: "Fleet".to_owned(),
            logo: None,
            privacy_url: None,
            terms_url: None,
            support_email: None,
        }
    }
}

/// A picture, as a file holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logo {
    kind: &'static str,
    content: Bytes,
}

impl Logo {
    /// Reads PNG, JPEG, WebP or SVG.
    ///
    /// # Errors
    /// A text that says what is accepted.
    pub fn read(content: Vec<u8>) -> Result<Self, &'static str> {
        let kind = match &*content {
            [0x89, b'P', b'N', b'G', ..] => "image/png",
            [0xff, 0xd8, 0xff, ..] => "image/jpeg",
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
            text if is_svg(text) => "image/svg+xml",
            _ => return Err("a logo is a PNG, JPEG, WebP or SVG file"),
        };
        Ok(Self { kind, content: content.into() })
    }

    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    pub(super) fn content(&self) -> Bytes {
        self.content.clone()
    }
}

fn is_svg(content: &[u8]) -> bool {
    std::str::from_utf8(content).is_ok_and(|text| {
        let text = text.trim_start_matches('\u{feff}').trim_start();
        text.starts_with('<') && text.contains("<svg")
    })
}

/// How people know the provider whose authorization endpoint this is.
pub(super) fn provider_name(auth_url: &Url) -> Option<&'static str> {
    match auth_url.host_str()? {
        "accounts.google.com" => Some("Google"),
        "login.microsoftonline.com" => Some("Microsoft"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_are_named_as_people_know_them() {
        let name = |url: &str| provider_name(&url.parse().unwrap());
        assert_eq!(name("https://accounts.google.com/o/oauth2/auth"), Some("Google"));
        assert_eq!(name("https://accounts.google.com.evil.test/"), None);
        assert_eq!(name("http://127.0.0.1:1/o/oauth2/auth"), None);
    }

    #[test]
    fn a_logo_is_a_picture() {
        let svg = "\u{feff}<?xml version=\"1.0\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\"/>";
        assert_eq!(Logo::read(svg.into()).unwrap().kind(), "image/svg+xml");
        assert_eq!(Logo::read(b"\x89PNG\r\n".to_vec()).unwrap().kind(), "image/png");
        for other in [&b"<html>"[..], b"", b"GIF89a", b"\xff\xfe<svg"] {
            assert!(Logo::read(other.to_vec()).is_err());
        }
    }
}

//! Cookies: read from a request, and written so that scripts and other sites
//! cannot use them.

use http::HeaderMap;
use http::header::COOKIE;

/// How cookies are named and marked, by the site's scheme.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cookies {
    pub(super) secure: bool,
}

impl Cookies {
    /// With https the prefix makes browsers refuse a cookie of this name from a
    /// sibling domain or over http.
    fn name(self, name: &str) -> String {
        let prefix = if self.secure { "__Host-" } else { "" };
        format!("{prefix}fleet_{name}")
    }

    /// The value of a cookie that the request brings.
    pub(super) fn get(self, headers: &HeaderMap, name: &str) -> Option<String> {
        let name = self.name(name);
        headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).find_map(|line| {
            line.split(';').find_map(|pair| {
                let (found, value) = pair.trim().split_once('=')?;
                (found == name).then(|| value.to_owned())
            })
        })
    }

    /// The names after `prefix`, and values, of the cookies that begin so.
    pub(super) fn all(self, headers: &HeaderMap, prefix: &str) -> Vec<(String, String)> {
        let prefix = self.name(prefix);
        let lines = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let pairs = lines.flat_map(|line| line.split(';'));
        pairs
            .filter_map(|pair| {
                let (name, value) = pair.trim().split_once('=')?;
                Some((name.strip_prefix(&prefix)?.to_owned(), value.to_owned()))
            })
            .collect()
    }

    /// Whether a browser keeps a cookie of this name and value.
    pub(super) fn fits(self, name: &str, value: &str) -> bool {
        const MOST: usize = 4096;
        self.name(name).len() + value.len() < MOST
    }

    /// A `Set-Cookie` value. `Lax`, since the provider's redirect comes from
    /// another site.
    pub(super) fn set(self, name: &str, value: &str, max_age: u64) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        format!(
            "{}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}",
            self.name(name)
        )
    }

    /// A `Set-Cookie` value that removes a cookie.
    pub(super) fn clear(self, name: &str) -> String {
        self.set(name, "", 0)
    }
}

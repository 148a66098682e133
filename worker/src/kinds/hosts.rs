//! Which hosts may have a user's token.

use url::{Host, Url};

/// Google's hosts that trade in tokens rather than data: a job has no business
/// there.
const TOKEN_SERVICES: [&str; 3] = ["oauth2", "iamcredentials", "sts"];

/// Google's APIs, and what the operator allowed besides.
#[derive(Debug, Clone, Default)]
pub struct HostRules {
    allowed: Vec<String>,
}

/// Why a URL may not have the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// Not a URL with a host.
    #[error("the URL cannot be read")]
    NotAUrl,
    /// Not encrypted.
    #[error("the URL must be https")]
    NotHttps,
    /// Not the standard port.
    #[error("the URL must be on port 443")]
    Port,
    /// A user name or password in the URL.
    #[error("the URL must not contain a user name or password")]
    UserInfo,
    /// Not on the list.
    #[error("the host is not a Google API and was not allowed by the operator (--allow-host)")]
    Host,
}

impl HostRules {
    /// Google's APIs and exactly these hosts.
    ///
    /// # Errors
    /// The first entry that is not a plain host name.
    pub fn new<S: AsRef<str>>(allowed: impl IntoIterator<Item = S>) -> Result<Self, String> {
        let mut hosts = Vec::new();
        for entry in allowed {
            let entry = entry.as_ref().trim();
            // Parsed as a browser would, so that the comparison below is exact.
            let parsed = Url::parse(&format!("https://{entry}/"))
                .ok()
                .filter(|url| url.path() == "/" && url.port().is_none())
                .and_then(|url| match url.host() {
                    Some(Host::Domain(name)) if url.username().is_empty() => Some(name.to_owned()),
                    _ => None,
                });
            match parsed {
                Some(name) => hosts.push(name),
                None => {
                    return Err(format!("{entry:?} is not a host name (no scheme, port or IP)"));
                }
            }
        }
        Ok(Self { allowed: hosts })
    }

    /// Checks a URL, before the first request and again on every redirect.
    /// Parsing follows the WHATWG rules, which fold case, percent-encoding and
    /// IDN before anything is compared.
    ///
    /// # Errors
    /// [`Forbidden`] says why.
    pub fn check(&self, url: &str) -> Result<Url, Forbidden> {
        let url = Url::parse(url).map_err(|_| Forbidden::NotAUrl)?;
        if url.scheme() != "https" {
            return Err(Forbidden::NotHttps);
        }
        if url.port().is_some() {
            return Err(Forbidden::Port);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Forbidden::UserInfo);
        }
        match url.host() {
            Some(Host::Domain(name)) if self.allows(name) => Ok(url),
            Some(_) => Err(Forbidden::Host),
            None => Err(Forbidden::NotAUrl),
        }
    }

    fn allows(&self, name: &str) -> bool {
        if self.allowed.iter().any(|allowed| allowed == name) {
            return true;
        }
        match name.strip_suffix(".googleapis.com") {
            Some(service) => {
                !service.is_empty()
                    && service.split('.').all(|label| !label.is_empty())
                    && !service.split('.').any(|label| TOKEN_SERVICES.contains(&label))
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let rules = HostRules::new(["api.partner.example", " Bücher.example "]).unwrap();
        for url in [
            "https://www.googleapis.com/drive/v3/files",
            "https://sheets.googleapis.com:443/v4",
            "HTTPS://SHEETS.GOOGLEAPIS.COM/v4",
            "https://europe-west1.run.googleapis.com/",
            "https://api.partner.example/x",
            "https://xn--bcher-kva.example/",
            "https://bücher.example/",
        ] {
            assert!(rules.check(url).is_ok(), "{url}");
        }
        for (url, why) in [
            ("http://www.googleapis.com/", Forbidden::NotHttps),
            ("ftp://www.googleapis.com/", Forbidden::NotHttps),
            ("//www.googleapis.com/", Forbidden::NotAUrl),
            ("", Forbidden::NotAUrl),
            ("https://", Forbidden::NotAUrl),
            ("https://www.googleapis.com:8443/", Forbidden::Port),
            ("https://www.googleapis.com:80/", Forbidden::Port),
            ("https://user@www.googleapis.com/", Forbidden::UserInfo),
            ("https://:pw@www.googleapis.com/", Forbidden::UserInfo),
            ("https://www.googleapis.com@evil.example/", Forbidden::UserInfo),
            ("https://evil.example/", Forbidden::Host),
            ("https://googleapis.com/", Forbidden::Host),
            ("https://www.googleapis.com.evil.example/", Forbidden::Host),
            ("https://www.googleapis.com./", Forbidden::Host),
            ("https://evilgoogleapis.com/", Forbidden::Host),
            ("https://evil.example/.googleapis.com", Forbidden::Host),
            ("https://evil.example\\.googleapis.com/", Forbidden::Host),
            ("https://evil.example#.googleapis.com/", Forbidden::Host),
            ("https://evil.example?.googleapis.com/", Forbidden::Host),
            ("https://oauth2.googleapis.com/token", Forbidden::Host),
            ("https://OAUTH2.googleapis.com/token", Forbidden::Host),
            ("https://%6Fauth2.googleapis.com/token", Forbidden::Host),
            ("https://oauth2.eu.googleapis.com/token", Forbidden::Host),
            ("https://oauth2.mtls.googleapis.com/token", Forbidden::Host),
            ("https://iamcredentials.googleapis.com/", Forbidden::Host),
            ("https://sts.googleapis.com/", Forbidden::Host),
            ("https://..googleapis.com/", Forbidden::Host),
            ("https://142.250.74.42/", Forbidden::Host),
            ("https://[::1]/", Forbidden::Host),
            ("https://2130706433/", Forbidden::Host),
            ("https://localhost/", Forbidden::Host),
            ("https://ｗww.googleapis.com.evil.example/", Forbidden::Host),
            ("https://api.partner.example.evil.example/", Forbidden::Host),
            ("https://x.api.partner.example/", Forbidden::Host),
        ] {
            assert_eq!(rules.check(url).map(|u| u.to_string()), Err(why), "{url}");
        }
    }

    #[test]
    fn only_plain_host_names_can_be_allowed() {
        for bad in ["https://x.example", "x.example:8080", "127.0.0.1", "[::1]", "x/y", "u@x", ""] {
            assert!(HostRules::new([bad]).is_err(), "{bad}");
        }
    }
}

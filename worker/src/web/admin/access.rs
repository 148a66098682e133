//! Who gets through to the operators' pages.

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, StatusCode};
use shared::is_loopback;
use shared::ports::Clock;
use url::Url;

use super::iap::{Iap, Unproven};

/// The two ways in.
#[derive(Debug)]
pub(crate) enum Access {
    /// Whoever reaches this machine's loopback address; the name is that of who started it.
    Loopback(String),
    /// Whoever Identity-Aware Proxy has let through, at this origin.
    Iap {
        /// Checks what the proxy says.
        iap: Box<Iap>,
        /// Where browsers reach the pages.
        public_url: Url,
    },
}

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Operator(pub(super) String);

/// Why somebody does not get through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    /// One word for the metric.
    pub(super) word: &'static str,
    /// For the person.
    pub(super) told: String,
}

impl Refused {
    fn host(told: impl Into<String>) -> Self {
        Self { status: StatusCode::MISDIRECTED_REQUEST, word: "host", told: told.into() }
    }
}

impl Access {
    /// Whether browsers come by https.
    pub(super) fn is_secure(&self) -> bool {
        match self {
            Self::Loopback(_) => false,
            Self::Iap { public_url, .. } => public_url.scheme() == "https",
        }
    }

    /// Who makes the request with these headers.
    pub(super) async fn operator(
        &self,
        headers: &HeaderMap,
        clock: &dyn Clock,
    ) -> Result<Operator, Refused> {
        self.origin(headers)?;
        match self {
            Self::Loopback(person) => Ok(Operator(person.clone())),
            Self::Iap { iap, .. } => match iap.operator(headers, clock).await {
                Ok(name) => Ok(Operator(name)),
                Err(why) => {
                    let status = match why {
                        Unproven::NoKeys(_) => StatusCode::SERVICE_UNAVAILABLE,
                        _ => StatusCode::UNAUTHORIZED,
                    };
                    Err(Refused { status, word: "signature", told: why.to_string() })
                }
            },
        }
    }

    /// Probes and metrics, which kubelet asks for by the pod's address: on loopback the name is
    /// checked all the same.
    pub(super) fn may_probe(&self, headers: &HeaderMap) -> Result<(), Refused> {
        match self {
            Self::Loopback(_) => self.origin(headers).map(drop),
            Self::Iap { .. } => Ok(()),
        }
    }

    /// A form of one of our pages: the browser says so, where it says anything.
    pub(super) fn is_own_form(&self, headers: &HeaderMap) -> bool {
        let Ok(own) = self.origin(headers) else { return false };
        let is = |name: &str, wanted: &str| {
            let value = headers.get(name);
            value.is_none_or(|value| value.as_bytes().eq_ignore_ascii_case(wanted.as_bytes()))
        };
        is(ORIGIN.as_str(), &own) && is("sec-fetch-site", "same-origin")
    }

    /// Our own origin, if that is the one that the request is for.
    fn origin(&self, headers: &HeaderMap) -> Result<String, Refused> {
        let mut named = headers.get_all(HOST).iter();
        let host = match (named.next(), named.next()) {
            (Some(host), None) => host.to_str().ok(),
            _ => None,
        };
        let Some(host) = host else {
            return Err(Refused::host("The request names no host, or several."));
        };
        match self {
            Self::Loopback(_) => {
                let url = Url::parse(&format!("http://{host}/")).ok();
                let url = url.filter(|url| is_loopback(url) && is_bare(url));
                let url = url.ok_or_else(|| {
                    Refused::host(
                        "These pages are for this machine alone: open them by http://localhost and their port.",
                    )
                })?;
                Ok(url.origin().ascii_serialization())
            }
            Self::Iap { public_url, .. } => {
                let url = Url::parse(&format!("{}://{host}/", public_url.scheme())).ok();
                let url = url.filter(|url| url.origin() == public_url.origin() && is_bare(url));
                let url = url.ok_or_else(|| {
                    Refused::host("There are no pages at this host name (--public-url).")
                })?;
                Ok(url.origin().ascii_serialization())
            }
        }
    }
}

fn is_bare(url: &Url) -> bool {
    url.path() == "/" && url.query().is_none() && url.username().is_empty()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(of: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in of {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn loopback_has_loopbacks_names_only() {
        let access = Access::Loopback("ann@here".to_owned());
        for host in ["localhost", "localhost:8081", "127.0.0.1:9", "[::1]:8081", "LOCALHOST:1"] {
            assert!(access.may_probe(&headers(&[("host", host)])).is_ok(), "{host}");
        }
        for host in [
            "evil.test",
            "evil.test:8081",
            "127.0.0.1.evil.test",
            "localhost.evil.test:8081",
            "localhost@evil.test",
            "evil.test@localhost",
            "localhost/x",
            "10.0.0.1:8081",
            "0.0.0.0:8081",
            "",
        ] {
            let refused = access.may_probe(&headers(&[("host", host)])).unwrap_err();
            assert_eq!(refused.status, StatusCode::MISDIRECTED_REQUEST, "{host}");
        }
        assert!(access.may_probe(&HeaderMap::new()).is_err());
        let twice = headers(&[("host", "localhost"), ("host", "evil.test")]);
        assert!(access.may_probe(&twice).is_err());
    }

    #[test]
    fn forms_come_from_our_own_pages() {
        let access = Access::Loopback("ann@here".to_owned());
        let own = |more: &[(&'static str, &'static str)]| {
            access.is_own_form(&headers(&[&[("host", "localhost:81")], more].concat()))
        };
        assert!(own(&[("origin", "http://localhost:81"), ("sec-fetch-site", "same-origin")]));
        assert!(own(&[]), "no browser sends it");
        assert!(!own(&[("origin", "http://localhost:82")]));
        assert!(!own(&[("origin", "null")]));
        assert!(!own(&[("origin", "https://localhost:81")]));
        assert!(!own(&[("sec-fetch-site", "same-site")]));
        assert!(!own(&[("sec-fetch-site", "cross-site")]));
    }
}

//! Which hosts may have a user's token.
//!
//! A URL is parsed once, by the rules of browsers (WHATWG): case, percent-encoding
//! and IDN are folded before anything is compared, and the request is made to what
//! was compared. Spellings that other parsers read differently (backslashes, white
//! space, control characters) are refused all the same, and so is what would be sent
//! with another path or query than it was given.
//!
//! | | |
//! |---|---|
//! | scheme and port | `https` on 443, also for the operator's hosts |
//! | Google's APIs | every name under `googleapis.com`, not `googleapis.com` itself |
//! | token services | `oauth2`, `iamcredentials`, `sts`, `securetoken` and `identitytoolkit`, as a label of the name or as a part of one between hyphens: that takes in `sts.mtls.googleapis.com`, `iamcredentials.us-east1.rep.googleapis.com` and the endpoints of Private Service Connect, `sts-NAME.p.googleapis.com` |
//! | their paths | the same services by path (`www.googleapis.com/oauth2/v4/token`, not `userinfo`), IAM's methods that make tokens or signatures, also over gRPC, and IAM's batches; the token bucket in every form of Cloud Storage's APIs; batches and gRPC calls of Cloud Storage, whose body names the bucket |
//! | the query | no parameter that stands for another method or for headers: `$httpMethod`, `$httpHeaders`, `X-HTTP-Method-Override` and the like |
//! | the operator's hosts | exactly the names given with `--allow-host`: no subdomains, wildcards, addresses or token services |
//! | addresses | never, however they are written |
//! | a trailing dot | refused: certificates and virtual hosts take it differently |

mod exact;
mod targets;

use url::{Host, Url};

pub(crate) use exact::OVERRIDING_HEADERS;

/// Google's hosts that trade in tokens rather than data: a job has no business
/// there.
const TOKEN_SERVICES: [&str; 5] =
    ["oauth2", "iamcredentials", "sts", "securetoken", "identitytoolkit"];
const GOOGLE: &str = ".googleapis.com";
/// The longest URL that is sent, in bytes, query included.
const MAX_URL_BYTES: usize = 16 * 1024;
/// DNS has no longer names and labels (RFC 1035, section 2.3.4).
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// Google's APIs, and what the operator allowed besides.
#[derive(Debug, Clone, Default)]
pub struct HostRules {
    allowed: Vec<String>,
    token_bucket: Option<String>,
}

/// Why a URL may not have the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// Not a URL with a host.
    #[error("the URL cannot be read")]
    NotAUrl,
    /// What readers of URLs do not agree about.
    #[error("the URL contains a backslash, white space or a control character; percent-encode it")]
    Ambiguous,
    /// Everything from `#` on would be left out.
    #[error("the URL contains `#`, and nothing after that is ever sent; write %23 for it")]
    Fragment,
    /// Parsing folds it to another URL.
    #[error(
        "the URL would be sent with another path than it has: a segment `.` or `..`, also written %2e, is folded away; write the path that is meant"
    )]
    Altered,
    /// Servers would take it for another call.
    #[error(
        "the query has a parameter that stands for a method or a header, such as `$httpMethod`; say both with the request itself"
    )]
    Overridden,
    /// Longer than servers accept.
    #[error("the URL is longer than {MAX_URL_BYTES} bytes")]
    TooLong,
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
    /// On a host that may have the token, a service that trades in tokens.
    #[error("the URL leads to a token service, which no job may reach")]
    TokenService,
    /// Where credentials are kept, or what may lead there unseen.
    #[error(
        "the URL leads to the token bucket, or is a batch or gRPC call of Cloud Storage, which could; no job may reach it"
    )]
    TokenBucket,
}

impl HostRules {
    /// Google's APIs and exactly these hosts.
    ///
    /// # Errors
    /// The first entry that is not a plain host name, and why.
    pub fn new<S: AsRef<str>>(allowed: impl IntoIterator<Item = S>) -> Result<Self, String> {
        let hosts = allowed.into_iter().map(|entry| plain_name(entry.as_ref().trim()));
        Ok(Self { allowed: hosts.collect::<Result<_, _>>()?, token_bucket: None })
    }

    /// Keeps jobs out of this bucket of Cloud Storage, where the credentials are.
    #[must_use]
    pub fn without_bucket(self, token_bucket: &str) -> Self {
        Self { token_bucket: Some(token_bucket.to_owned()), ..self }
    }

    /// Checks a URL: before the first request, and again on every redirect and
    /// page. What is sent has the path and the query of what is given, but that characters
    /// which a URL cannot hold are percent-encoded.
    ///
    /// # Errors
    /// [`Forbidden`] says why.
    pub fn check(&self, url: &str) -> Result<Url, Forbidden> {
        if url.len() > MAX_URL_BYTES {
            return Err(Forbidden::TooLong);
        }
        if url.contains(|c: char| c == '\\' || c.is_whitespace() || c.is_control()) {
            return Err(Forbidden::Ambiguous);
        }
        let given = url;
        let url = Url::parse(given).map_err(|_| Forbidden::NotAUrl)?;
        // Encoding what is not ASCII makes it longer.
        if url.as_str().len() > MAX_URL_BYTES {
            return Err(Forbidden::TooLong);
        }
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
            Some(Host::Domain(name)) if self.allows(name) => {}
            Some(_) => return Err(Forbidden::Host),
            None => return Err(Forbidden::NotAUrl),
        }
        exact::check(given, &url)?;
        targets::check(&url, self.token_bucket.as_deref())?;
        Ok(url)
    }

    fn allows(&self, name: &str) -> bool {
        let known = name.ends_with(GOOGLE) || self.allowed.iter().any(|allowed| allowed == name);
        known && is_plain(name) && !is_token_service(name)
    }
}

/// A name that DNS can have, and without a trailing dot.
fn is_plain(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES
        && name.split('.').all(|label| (1..=MAX_LABEL_BYTES).contains(&label.len()))
}

fn is_token_service(name: &str) -> bool {
    name.strip_suffix(GOOGLE)
        .is_some_and(|service| service.split(['.', '-']).any(|part| TOKEN_SERVICES.contains(&part)))
}

/// An operator's entry as URLs have it: lower case, IDN encoded.
fn plain_name(entry: &str) -> Result<String, String> {
    let wrong = |why: &str| Err(format!("{entry:?} {why}"));
    if entry.is_empty() {
        return wrong("is not a host name");
    }
    if entry.contains("://") {
        return wrong("has a scheme; give the host name alone, https is implied");
    }
    if entry.contains('*') {
        return wrong("is a wildcard; name every host");
    }
    if entry.contains(|c: char| "/\\?#@%".contains(c) || c.is_whitespace() || c.is_control()) {
        return wrong("is more than a host name; give the name alone");
    }
    match Url::parse(&format!("https://{entry}/")) {
        Ok(url) if matches!(url.host(), Some(Host::Ipv4(_) | Host::Ipv6(_))) => {
            wrong("is an address; tokens go to host names only")
        }
        Ok(_) if entry.contains(':') => wrong("has a port; the port is always 443"),
        Ok(url) => match url.host() {
            Some(Host::Domain(name)) if name.ends_with('.') => {
                wrong("ends with a dot; leave it out")
            }
            Some(Host::Domain(name)) if is_token_service(name) => {
                wrong("is a token service, which no job may reach")
            }
            Some(Host::Domain(name)) if is_plain(name) => Ok(name.to_owned()),
            _ => wrong("is not a host name"),
        },
        Err(_) => wrong("is not a host name"),
    }
}

/// Where requests for an allowed URL really go: with emulators the stand-in for
/// Google's API origins, else the URL itself. The rules apply to the URL before.
pub(crate) fn stand_in(api_root: Option<&Url>, url: &Url) -> Url {
    let google = url.host_str().is_some_and(|host| host.ends_with(".googleapis.com"));
    match api_root {
        Some(root) if google => {
            let mut target = root.clone();
            target.set_path(url.path());
            target.set_query(url.query());
            target
        }
        _ => url.clone(),
    }
}

#[cfg(test)]
mod tests;

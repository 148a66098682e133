//! The emulator variables: both services or neither, and loopback only.

use shared::is_loopback;
use url::Url;

use super::output::Usage;

/// Where the emulators are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Emulators {
    /// `host:port`, gRPC.
    pub(crate) pubsub: String,
    /// Origin of the JSON API.
    pub(crate) storage: String,
    /// `host:port` of the gRPC API.
    pub(crate) storage_grpc: Option<String>,
    /// Stands in for every `*.googleapis.com` that jobs call.
    pub(crate) api_root: Option<Url>,
    /// Stands in for Cloud KMS.
    pub(crate) kms_root: Option<Url>,
}

impl Emulators {
    /// Reads the environment.
    ///
    /// # Errors
    /// [`Usage`] names the variable and what to do.
    pub(crate) fn from_env() -> Result<Option<Self>, Usage> {
        Self::from(|name| std::env::var(name).ok().filter(|v| !v.is_empty()))
    }

    fn from(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Usage> {
        let anywhere = get("FLEET_ALLOW_EMULATORS").as_deref() == Some("1");
        let (pubsub, storage) = (get("PUBSUB_EMULATOR_HOST"), get("STORAGE_EMULATOR_HOST"));
        let (pubsub, storage) = match (pubsub, storage) {
            (Some(pubsub), Some(storage)) => (pubsub, storage),
            (Some(_), None) => return Err(half("PUBSUB_EMULATOR_HOST", "STORAGE_EMULATOR_HOST")),
            (None, Some(_)) => return Err(half("STORAGE_EMULATOR_HOST", "PUBSUB_EMULATOR_HOST")),
            (None, None) => {
                let dependent = ["STORAGE_EMULATOR_HOST_GRPC", "FLEET_API_ROOT", "FLEET_KMS_ROOT"];
                return match dependent.into_iter().find(|name| get(name).is_some()) {
                    None => Ok(None),
                    Some(name) => Err(Usage(format!(
                        "{name} is set without PUBSUB_EMULATOR_HOST and STORAGE_EMULATOR_HOST; set these two as well, or unset it"
                    ))),
                };
            }
        };
        let storage = if storage.contains("://") { storage } else { format!("http://{storage}") };
        check("PUBSUB_EMULATOR_HOST", &format!("http://{pubsub}"), anywhere)?;
        check("STORAGE_EMULATOR_HOST", &storage, anywhere)?;
        let storage_grpc = get("STORAGE_EMULATOR_HOST_GRPC");
        if let Some(grpc) = &storage_grpc {
            check("STORAGE_EMULATOR_HOST_GRPC", &format!("http://{grpc}"), anywhere)?;
        }
        let root = |name| get(name).map(|root| check(name, &root, anywhere)).transpose();
        let (api_root, kms_root) = (root("FLEET_API_ROOT")?, root("FLEET_KMS_ROOT")?);
        Ok(Some(Self { pubsub, storage, storage_grpc, api_root, kms_root }))
    }
}

fn half(set: &str, missing: &str) -> Usage {
    Usage(format!(
        "{set} is set and {missing} is not: half a fleet would talk to Google; set both, or neither"
    ))
}

fn check(name: &str, value: &str, anywhere: bool) -> Result<Url, Usage> {
    let url = Url::parse(value)
        .ok()
        .filter(|u| ["http", "https"].contains(&u.scheme()) && u.host().is_some())
        .filter(|u| u.path() == "/" && u.query().is_none() && u.username().is_empty());
    let Some(url) = url else {
        let origin = ["STORAGE_EMULATOR_HOST", "FLEET_API_ROOT", "FLEET_KMS_ROOT"].contains(&name);
        let form = if origin { "http://HOST:PORT or https://HOST:PORT" } else { "HOST:PORT" };
        return Err(Usage(format!("{name} must have the form {form}")));
    };
    if !is_loopback(&url) && !anywhere {
        return Err(Usage(format!(
            "{name} is not a loopback address, and emulators check no credentials; set FLEET_ALLOW_EMULATORS=1 if this is meant"
        )));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Option<Emulators>, String> {
        Emulators::from(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
            .map_err(|e| e.0)
    }

    const PUBSUB: (&str, &str) = ("PUBSUB_EMULATOR_HOST", "127.0.0.1:8085");
    const STORAGE: (&str, &str) = ("STORAGE_EMULATOR_HOST", "http://127.0.0.1:4443");

    #[test]
    fn both_or_neither() {
        assert_eq!(read(&[]), Ok(None));
        assert!(read(&[PUBSUB, STORAGE]).unwrap().is_some());
        assert!(read(&[PUBSUB]).unwrap_err().contains("STORAGE_EMULATOR_HOST"));
        assert!(read(&[STORAGE]).unwrap_err().contains("PUBSUB_EMULATOR_HOST"));
        let root = ("FLEET_API_ROOT", "http://127.0.0.1:1");
        let kms = ("FLEET_KMS_ROOT", "http://127.0.0.1:2");
        assert!(read(&[root]).unwrap_err().contains("FLEET_API_ROOT"));
        assert!(read(&[kms]).unwrap_err().contains("FLEET_KMS_ROOT"));
        let all = read(&[PUBSUB, STORAGE, root, kms]).unwrap().unwrap();
        assert_eq!(all.api_root.unwrap().as_str(), "http://127.0.0.1:1/");
        assert_eq!(all.kms_root.unwrap().as_str(), "http://127.0.0.1:2/");
    }

    /// A private authority is told of by `SSL_CERT_FILE`.
    #[test]
    fn origins_may_have_tls() {
        let storage = ("STORAGE_EMULATOR_HOST", "https://127.0.0.1:4443");
        let root = ("FLEET_API_ROOT", "https://localhost:1");
        let kms = ("FLEET_KMS_ROOT", "https://127.0.0.1:2");
        let all = read(&[PUBSUB, storage, root, kms]).unwrap().unwrap();
        assert_eq!(all.storage, storage.1);
        assert_eq!(all.api_root.unwrap().as_str(), "https://localhost:1/");
        assert_eq!(all.kms_root.unwrap().as_str(), "https://127.0.0.1:2/");
        let far = ("FLEET_API_ROOT", "https://10.0.0.1:1");
        assert!(read(&[PUBSUB, STORAGE, far]).unwrap_err().contains("loopback"));
        let other = ("FLEET_API_ROOT", "ftp://127.0.0.1:1");
        assert!(read(&[PUBSUB, STORAGE, other]).unwrap_err().contains("https://HOST:PORT"));
    }

    #[test]
    fn loopback_only() {
        for host in ["10.0.0.1:8085", "pubsub.test:8085", "127.0.0.1.evil.test:1"] {
            let far = ("PUBSUB_EMULATOR_HOST", host);
            let error = read(&[far, STORAGE]).unwrap_err();
            assert!(error.contains("FLEET_ALLOW_EMULATORS"), "{error}");
            let allowed = read(&[far, STORAGE, ("FLEET_ALLOW_EMULATORS", "1")]);
            assert!(allowed.unwrap().is_some());
        }
        let far = ("FLEET_KMS_ROOT", "http://10.0.0.1:2");
        assert!(read(&[PUBSUB, STORAGE, far]).unwrap_err().contains("FLEET_KMS_ROOT"));
        for host in ["localhost:1", "[::1]:8085"] {
            assert!(read(&[("PUBSUB_EMULATOR_HOST", host), STORAGE]).is_ok(), "{host}");
        }
        for host in ["x y", "127.0.0.1:1/path", "u@127.0.0.1:1", "http://127.0.0.1:1"] {
            let error = read(&[("PUBSUB_EMULATOR_HOST", host), STORAGE]).unwrap_err();
            assert!(error.contains("HOST:PORT"), "{host}: {error}");
        }
    }
}

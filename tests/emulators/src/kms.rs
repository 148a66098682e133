//! Cloud KMS, as far as a keyring needs it: `cryptoKeys.encrypt` and `cryptoKeys.decrypt` over
//! REST, as Google's reference describes them.
//!
//! A key has versions; the newest is the primary one, which encrypts, and each opens what it
//! encrypted while it is enabled. Ciphertexts are handles: what they stand for stays here.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Request, State as Served};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::connection::{Cut, Cuttable};
use crate::lenient_base64;
use crate::storage::crc32c;

/// No request is larger.
const LARGEST: usize = 256 * 1024;

/// The state of one version of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It encrypts (the primary one) and decrypts.
    Enabled,
    /// It does neither until it is enabled again.
    Disabled,
    /// It will be destroyed, and can be restored until then.
    DestroyScheduled,
    /// What it encrypted is lost.
    Destroyed,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Enabled => "ENABLED",
            Self::Disabled => "DISABLED",
            Self::DestroyScheduled => "DESTROY_SCHEDULED",
            Self::Destroyed => "DESTROYED",
        }
    }
}

/// How the service is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// Connections end without an answer.
    NoAnswer,
    /// Every request is answered with 503.
    Unavailable,
}

/// A running emulator. Dropping it stops the server and cuts what is under way.
#[derive(Debug)]
pub struct Kms {
    shared: Arc<Mutex<Inner>>,
    address: SocketAddr,
    _stop: DropGuard,
}

#[derive(Debug, Default)]
struct Inner {
    /// The states of each key's versions, from version 1 on.
    keys: HashMap<String, Vec<State>>,
    encrypted: Vec<Encrypted>,
    denied: bool,
    outage: Option<Outage>,
    damaged: u32,
    requests: u64,
}

/// What a ciphertext stands for.
#[derive(Debug)]
struct Encrypted {
    key: String,
    version: usize,
    bound_to: Vec<u8>,
    plaintext: Vec<u8>,
}

impl Kms {
    /// Starts the server. When this returns, it accepts connections. Cancelling it leaves
    /// nothing behind.
    ///
    /// # Errors
    /// When no port can be listened on.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Mutex::new(Inner::default()));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let stop = CancellationToken::new();
        let listener = Cuttable::new(listener, stop.clone());
        let server = axum::serve(listener, router.into_make_service_with_connect_info::<Cut>())
            .with_graceful_shutdown(stop.clone().cancelled_owned());
        tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the emulator of Cloud KMS ended");
            }
        });
        Ok(Self { shared, address, _stop: stop.drop_guard() })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a key with one enabled version, by its full name.
    pub fn create_key(&self, name: &str) {
        lock(&self.shared).keys.insert(name.to_owned(), vec![State::Enabled]);
    }

    /// Adds a version and makes it the primary one; its number.
    ///
    /// # Panics
    /// When there is no such key.
    pub fn rotate(&self, key: &str) -> usize {
        let mut inner = lock(&self.shared);
        let versions = inner.keys.get_mut(key).expect("the key was created");
        versions.push(State::Enabled);
        versions.len()
    }

    /// Sets the state of a version.
    ///
    /// # Panics
    /// When there is no such version.
    pub fn set_state(&self, key: &str, version: usize, state: State) {
        lock(&self.shared).keys.get_mut(key).expect("the key was created")[version - 1] = state;
    }

    /// Whether every use is denied.
    pub fn deny(&self, denied: bool) {
        lock(&self.shared).denied = denied;
    }

    /// How the service is down, if it is.
    pub fn set_outage(&self, outage: Option<Outage>) {
        lock(&self.shared).outage = outage;
    }

    /// So many answers are damaged on their way: their checksums do not fit.
    pub fn damage_answers(&self, answers: u32) {
        lock(&self.shared).damaged = answers;
    }

    /// How many requests have come, whatever became of them.
    pub fn requests(&self) -> u64 {
        lock(&self.shared).requests
    }

    /// Everything that was ever encrypted.
    pub fn plaintexts(&self) -> Vec<Vec<u8>> {
        lock(&self.shared).encrypted.iter().map(|encrypted| encrypted.plaintext.clone()).collect()
    }

    /// The version that encrypted this ciphertext, if one did.
    pub fn version_of(&self, ciphertext: &[u8]) -> Option<usize> {
        let inner = lock(&self.shared);
        inner.encrypted.get(handle(ciphertext)?).map(|found| found.version)
    }
}

/// A panic leaves plain values behind, each valid.
fn lock(shared: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

const MARK: &str = "emulated-kms-ciphertext-";

fn handle(ciphertext: &[u8]) -> Option<usize> {
    std::str::from_utf8(ciphertext).ok()?.strip_prefix(MARK)?.parse().ok()
}

/// A refusal in the shape of Google's APIs.
struct Refusal(StatusCode, &'static str, String);

impl Refusal {
    fn invalid(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", message.into())
    }

    fn response(self) -> Response {
        let Self(code, status, message) = self;
        let error = json!({"code": code.as_u16(), "message": message, "status": status});
        (code, Json(json!({"error": error}))).into_response()
    }
}

/// Either request; unknown fields are refused as Google does.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Question {
    plaintext: Option<String>,
    plaintext_crc32c: Option<String>,
    ciphertext: Option<String>,
    ciphertext_crc32c: Option<String>,
    additional_authenticated_data: Option<String>,
    additional_authenticated_data_crc32c: Option<String>,
}

async fn answer(Served(shared): Served<Arc<Mutex<Inner>>>, request: Request) -> Response {
    let cut = Cut::of(request.extensions());
    let path = request.uri().path().to_owned();
    let body = axum::body::to_bytes(request.into_body(), LARGEST).await.unwrap_or_default();
    let outage = {
        let mut inner = lock(&shared);
        inner.requests += 1;
        inner.outage
    };
    match outage {
        Some(Outage::NoAnswer) => {
            cut.now();
            return std::future::pending().await;
        }
        Some(Outage::Unavailable) => {
            let message = "The service is currently unavailable.".to_owned();
            return Refusal(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message).response();
        }
        None => {}
    }
    match lock(&shared).answer(&path, &body) {
        Ok(answer) => Json(answer).into_response(),
        Err(refusal) => refusal.response(),
    }
}

impl Inner {
    fn answer(&mut self, path: &str, body: &[u8]) -> Result<Value, Refusal> {
        let unknown = || Refusal(StatusCode::NOT_FOUND, "NOT_FOUND", "Method not found.".into());
        let (key, verb) =
            path.strip_prefix("/v1/").and_then(|path| path.rsplit_once(':')).ok_or_else(unknown)?;
        let permission = match verb {
            "encrypt" => "cloudkms.cryptoKeyVersions.useToEncrypt",
            "decrypt" => "cloudkms.cryptoKeyVersions.useToDecrypt",
            _ => return Err(unknown()),
        };
        if self.denied {
            let message = format!(
                "Permission '{permission}' denied on resource '{key}' (or it may not exist)."
            );
            return Err(Refusal(StatusCode::FORBIDDEN, "PERMISSION_DENIED", message));
        }
        let Some(versions) = self.keys.get(key) else {
            let message = format!("CryptoKey {key} not found.");
            return Err(Refusal(StatusCode::NOT_FOUND, "NOT_FOUND", message));
        };
        let primary = versions.len();
        let question: Question = serde_json::from_slice(body)
            .map_err(|_| Refusal::invalid("Invalid JSON payload received."))?;
        let bound_to = question.additional_authenticated_data.as_deref().unwrap_or_default();
        let bound_crc = question.additional_authenticated_data_crc32c.as_deref();
        let (bound_to, bound_checked) =
            checked("additional_authenticated_data", bound_to, bound_crc)?;
        if verb == "encrypt" {
            let plaintext = question.plaintext.as_deref().unwrap_or_default();
            let crc = question.plaintext_crc32c.as_deref();
            let (plaintext, plain_checked) = checked("plaintext", plaintext, crc)?;
            self.enabled(key, primary)?;
            let ciphertext = format!("{MARK}{}", self.encrypted.len());
            let key = key.to_owned();
            let name = format!("{key}/cryptoKeyVersions/{primary}");
            self.encrypted.push(Encrypted { key, version: primary, bound_to, plaintext });
            return Ok(json!({
                "name": name,
                "ciphertext": BASE64.encode(&ciphertext),
                "ciphertextCrc32c": self.checksum(ciphertext.as_bytes()),
                "verifiedPlaintextCrc32c": plain_checked,
                "verifiedAdditionalAuthenticatedDataCrc32c": bound_checked,
                "protectionLevel": "SOFTWARE",
            }));
        }
        let ciphertext = question.ciphertext.as_deref().unwrap_or_default();
        let (ciphertext, _) =
            checked("ciphertext", ciphertext, question.ciphertext_crc32c.as_deref())?;
        let found = handle(&ciphertext).and_then(|handle| self.encrypted.get(handle));
        let Some(found) = found.filter(|found| found.key == key) else {
            return Err(Refusal::invalid(
                "Decryption failed: verify that 'name' refers to the correct CryptoKey.",
            ));
        };
        self.enabled(key, found.version)?;
        if found.bound_to != bound_to {
            return Err(Refusal::invalid("Decryption failed: the ciphertext is invalid."));
        }
        let (plaintext, version) = (found.plaintext.clone(), found.version);
        Ok(json!({
            "plaintext": BASE64.encode(&plaintext),
            "plaintextCrc32c": self.checksum(&plaintext),
            "usedPrimary": version == primary,
            "protectionLevel": "SOFTWARE",
        }))
    }

    fn enabled(&self, key: &str, version: usize) -> Result<(), Refusal> {
        let state = self.keys[key][version - 1];
        if state == State::Enabled {
            return Ok(());
        }
        let message = format!(
            "{key}/cryptoKeyVersions/{version} is not enabled, current state is: {}.",
            state.name()
        );
        Err(Refusal(StatusCode::BAD_REQUEST, "FAILED_PRECONDITION", message))
    }

    /// The checksum of an answer, which may be damaged.
    fn checksum(&mut self, bytes: &[u8]) -> String {
        let damage = u32::from(self.damaged > 0);
        self.damaged = self.damaged.saturating_sub(1);
        (crc32c::checksum(bytes) ^ damage).to_string()
    }
}

/// Decodes a field and compares it with its checksum, if it came with one.
fn checked(field: &str, text: &str, crc: Option<&str>) -> Result<(Vec<u8>, bool), Refusal> {
    let bytes = lenient_base64::decode(text.as_bytes())
        .ok_or_else(|| Refusal::invalid(format!("Invalid value for field {field}.")))?;
    match crc {
        Some(crc) if *crc != crc32c::checksum(&bytes).to_string() => {
            Err(Refusal::invalid(format!(
                "The checksum in field {field}_crc32c did not match the data in field {field}."
            )))
        }
        given => Ok((bytes.into(), given.is_some())),
    }
}

//! Cloud KMS over its REST API: `cryptoKeys.encrypt` and `cryptoKeys.decrypt`.
//!
//! Every byte string travels with its CRC-32C, as Google's guide to data integrity asks: KMS
//! refuses a request that was damaged and says that it looked, and an answer that was damaged
//! is asked for again.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use google_cloud_auth::credentials::{Builder, CacheableResource, Credentials, anonymous};
use google_cloud_auth::errors::CredentialsError;
use http::{Extensions, HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::innermost;
use crate::ports::{Kms, KmsError, KmsKey, KmsUse};
use crate::scrub::scrub;
use crate::secret::Secret;

const GOOGLE: &str = "https://cloudkms.googleapis.com";
/// Bound on one request, its credentials included.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// How often a request is sent whose answers are damaged.
const TRIES: u32 = 3;
/// No answer about a data key is larger, a refusal's message included.
const LARGEST: usize = 64 * 1024;
/// Only so much of a refusal's message is quoted, in characters.
const QUOTED: usize = 400;

/// Cloud KMS, as Application Default Credentials may use it.
pub struct CloudKms {
    http: reqwest::Client,
    credentials: Credentials,
    root: String,
}

impl CloudKms {
    /// Google's service, or an emulator's at this origin, which is sent no credentials. Sends
    /// nothing yet.
    ///
    /// # Errors
    /// A text that says what is wrong with the credentials.
    pub fn new(http: reqwest::Client, emulator: Option<&str>) -> Result<Self, String> {
        let credentials = match emulator {
            Some(_) => anonymous::Builder::new().build(),
            None => Builder::default().build().map_err(|error| {
                format!("there are no Application Default Credentials for Cloud KMS: {error}")
            })?,
        };
        let root = emulator.unwrap_or(GOOGLE).trim_end_matches('/').to_owned();
        Ok(Self { http, credentials, root })
    }

    /// Asks until an answer comes undamaged, a few times at most.
    async fn ask<Q: Serialize, A: DeserializeOwned, T>(
        &self,
        call: Call<'_>,
        question: &Q,
        check: impl Fn(A) -> Option<T>,
    ) -> Result<T, KmsError> {
        for _ in 0..TRIES {
            let answer = tokio::time::timeout(TIME_LIMIT, self.send(&call, question)).await;
            let answer = answer.map_err(|_| call.unreachable("no answer came in time"))??;
            if let Some(checked) = serde_json::from_slice(&answer).ok().and_then(&check) {
                return Ok(checked);
            }
        }
        Err(call.unreachable("its answers are damaged on their way (a checksum is wrong)"))
    }

    /// The body of a successful answer.
    async fn send<Q: Serialize>(
        &self,
        call: &Call<'_>,
        question: &Q,
    ) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        let headers = self.headers().await.map_err(|error| {
            let why = format!("no access token can be had: {error}");
            if error.is_transient() { call.unreachable(&why) } else { call.refused(&why) }
        })?;
        let failed =
            |error: reqwest::Error| call.unreachable(&innermost(&error.without_url()).to_string());
        let verb = match call.wanted {
            KmsUse::Encrypt => "encrypt",
            KmsUse::Decrypt => "decrypt",
        };
        let url = format!("{}/v1/{}:{verb}", self.root, call.key);
        let sent = self.http.post(url).headers(headers).json(question).send();
        let mut answer = sent.await.map_err(failed)?;
        let status = answer.status();
        // Sized beforehand, so that growing it leaves no copy of a key behind.
        let mut body = Zeroizing::new(Vec::with_capacity(LARGEST));
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > LARGEST {
                return Err(call.refused("its answer is larger than any of Cloud KMS"));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() { Ok(body) } else { Err(call.refusal(status, &body)) }
    }

    async fn headers(&self) -> Result<HeaderMap, CredentialsError> {
        match self.credentials.headers(Extensions::new()).await? {
            CacheableResource::New { data, .. } => Ok(data),
            CacheableResource::NotModified => Ok(HeaderMap::new()),
        }
    }
}

/// One call, for its errors.
struct Call<'a> {
    key: &'a KmsKey,
    wanted: KmsUse,
    /// ID of the data key.
    id: &'a str,
    /// What no text may hold.
    secret: Option<Secret>,
}

impl Call<'_> {
    fn unreachable(&self, why: &str) -> KmsError {
        KmsError::Unreachable { key: self.key.clone(), why: why.into() }
    }

    fn refused(&self, why: &str) -> KmsError {
        KmsError::Refused { key: self.key.clone(), why: why.into() }
    }

    /// What an error answer means: by its status in Google's envelope, or else by HTTP's.
    fn refusal(&self, status: StatusCode, body: &[u8]) -> KmsError {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Status {
            message: String,
            status: String,
        }
        #[derive(Deserialize)]
        struct Envelope {
            error: Status,
        }
        let said = serde_json::from_slice::<Envelope>(body).map(|said| said.error);
        let said = said.unwrap_or_default();
        let secrets: Vec<&Secret> = self.secret.iter().collect();
        let message = scrub(&said.message, &secrets);
        let message: String = message.chars().take(QUOTED).collect();
        let why =
            if message.is_empty() { format!("HTTP status {}", status.as_u16()) } else { message };
        let key = self.key.clone();
        match (said.status.as_str(), status.as_u16()) {
            ("PERMISSION_DENIED" | "NOT_FOUND", _) | ("", 403 | 404) => {
                KmsError::Denied { key, wanted: self.wanted, why: why.into() }
            }
            ("FAILED_PRECONDITION", _) if why.contains("enabled") => {
                KmsError::NotEnabled { key, why: why.into() }
            }
            ("INVALID_ARGUMENT", _) if self.wanted == KmsUse::Decrypt => {
                KmsError::NotWrapped { key, id: self.id.to_owned(), why: why.into() }
            }
            (_, 408 | 429 | 500..) => self.unreachable(&why),
            _ => self.refused(&why),
        }
    }
}

/// Binds a wrapped key to its ID, and to this use of the KMS key.
fn bound_to(id: &str) -> String {
    format!("fleet keyring {id}")
}

/// A 64-bit integer is a string in Google's JSON.
fn checksum(bytes: &[u8]) -> String {
    crc32c::crc32c(bytes).to_string()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Encrypt<'a> {
    plaintext: &'a str,
    plaintext_crc32c: String,
    additional_authenticated_data: String,
    additional_authenticated_data_crc32c: String,
}

/// Google leaves out what is false.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Encrypted {
    ciphertext: String,
    ciphertext_crc32c: String,
    #[serde(default)]
    verified_plaintext_crc32c: bool,
    #[serde(default)]
    verified_additional_authenticated_data_crc32c: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Decrypt {
    ciphertext: String,
    ciphertext_crc32c: String,
    additional_authenticated_data: String,
    additional_authenticated_data_crc32c: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Decrypted {
    #[serde(default)]
    plaintext: String,
    plaintext_crc32c: String,
}

impl Kms for CloudKms {
    fn wrap<'a>(
        &'a self,
        key: &'a KmsKey,
        id: &'a str,
        plain: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, KmsError>> {
        async move {
            let plaintext = Zeroizing::new(BASE64.encode(plain));
            let bound = bound_to(id);
            let question = Encrypt {
                plaintext: &plaintext,
                plaintext_crc32c: checksum(plain),
                additional_authenticated_data: BASE64.encode(&bound),
                additional_authenticated_data_crc32c: checksum(bound.as_bytes()),
            };
            let secret = Some(Secret::new(plaintext.as_str()));
            let call = Call { key, wanted: KmsUse::Encrypt, id, secret };
            self.ask(call, &question, |answer: Encrypted| {
                let looked = answer.verified_plaintext_crc32c
                    && answer.verified_additional_authenticated_data_crc32c;
                let ciphertext = BASE64.decode(&answer.ciphertext).ok()?;
                let whole = answer.ciphertext_crc32c == checksum(&ciphertext);
                (looked && whole && !ciphertext.is_empty()).then_some(ciphertext)
            })
            .await
        }
        .boxed()
    }

    fn unwrap<'a>(
        &'a self,
        key: &'a KmsKey,
        id: &'a str,
        wrapped: &'a [u8],
    ) -> BoxFuture<'a, Result<Zeroizing<Vec<u8>>, KmsError>> {
        async move {
            let bound = bound_to(id);
            let question = Decrypt {
                ciphertext: BASE64.encode(wrapped),
                ciphertext_crc32c: checksum(wrapped),
                additional_authenticated_data: BASE64.encode(&bound),
                additional_authenticated_data_crc32c: checksum(bound.as_bytes()),
            };
            let call = Call { key, wanted: KmsUse::Decrypt, id, secret: None };
            self.ask(call, &question, |answer: Decrypted| {
                let encoded = Zeroizing::new(answer.plaintext);
                let plain = Zeroizing::new(BASE64.decode(&*encoded).ok()?);
                (answer.plaintext_crc32c == checksum(&plain)).then_some(plain)
            })
            .await
        }
        .boxed()
    }
}

impl fmt::Debug for CloudKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudKms").field("root", &self.root).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use emulators::kms;

    use super::*;
    use crate::adapters::http_client;

    const KEY: &str = "projects/p/locations/eu/keyRings/fleet/cryptoKeys/keyring";
    const PLAIN: &[u8; 32] = b"fake-data-key-of-exactly-32-byte";

    async fn served() -> (kms::Kms, CloudKms, KmsKey) {
        let served = kms::Kms::start().await.unwrap();
        served.create_key(KEY);
        let client = CloudKms::new(http_client("test").unwrap(), Some(&served.origin())).unwrap();
        (served, client, KEY.parse().unwrap())
    }

    #[tokio::test]
    async fn unwraps_what_any_enabled_version_wrapped_for_the_same_id() {
        let (served, client, key) = served().await;
        let first = client.wrap(&key, "a", PLAIN).await.unwrap();
        assert!(!first.windows(8).any(|part| PLAIN.windows(8).any(|plain| plain == part)));
        served.rotate(KEY);
        let second = client.wrap(&key, "a", PLAIN).await.unwrap();
        for wrapped in [&first, &second] {
            assert_eq!(&**client.unwrap(&key, "a", wrapped).await.unwrap(), PLAIN);
        }
        let other = client.unwrap(&key, "b", &first).await.unwrap_err();
        assert!(matches!(other, KmsError::NotWrapped { .. }), "{other}");

        served.set_state(KEY, 1, kms::State::Disabled);
        assert_eq!(&**client.unwrap(&key, "a", &second).await.unwrap(), PLAIN);
        let disabled = client.unwrap(&key, "a", &first).await.unwrap_err().to_string();
        let enable = format!("gcloud kms keys versions enable {KEY}/cryptoKeyVersions/1");
        assert!(disabled.ends_with(&enable), "{disabled}");
        served.set_state(KEY, 1, kms::State::Destroyed);
        let destroyed = client.unwrap(&key, "a", &first).await.unwrap_err().to_string();
        assert!(destroyed.contains("DESTROYED") && destroyed.contains("copy"), "{destroyed}");
    }

    #[tokio::test]
    async fn tells_a_denial_from_an_outage() {
        let (served, client, key) = served().await;
        let wrapped = client.wrap(&key, "a", PLAIN).await.unwrap();
        served.deny(true);
        for (error, role) in [
            (client.wrap(&key, "a", PLAIN).await.unwrap_err(), "roles/cloudkms.cryptoKeyEncrypter"),
            (
                client.unwrap(&key, "a", &wrapped).await.unwrap_err(),
                "roles/cloudkms.cryptoKeyDecrypter",
            ),
        ] {
            assert!(matches!(error, KmsError::Denied { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(role) && text.contains(KEY), "{text}");
        }
        served.deny(false);
        for outage in [kms::Outage::NoAnswer, kms::Outage::Unavailable] {
            served.set_outage(Some(outage));
            let error = client.unwrap(&key, "a", &wrapped).await.unwrap_err();
            assert!(matches!(error, KmsError::Unreachable { .. }), "{error}");
            assert!(error.to_string().contains(KEY), "{error}");
        }
        served.set_outage(None);
        let nowhere = KEY.replace("keyring", "other").parse().unwrap();
        let missing = client.unwrap(&nowhere, "a", &wrapped).await.unwrap_err();
        assert!(matches!(missing, KmsError::Denied { .. }), "{missing}");
    }

    #[tokio::test]
    async fn damaged_answers_are_asked_for_again_and_never_used() {
        let (served, client, key) = served().await;
        served.damage_answers(2);
        let wrapped = client.wrap(&key, "a", PLAIN).await.unwrap();
        served.damage_answers(2);
        assert_eq!(&**client.unwrap(&key, "a", &wrapped).await.unwrap(), PLAIN);
        served.damage_answers(TRIES);
        let error = client.unwrap(&key, "a", &wrapped).await.unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }

    /// Whatever answers in Google's place, no text repeats the key that was to be wrapped.
    #[test]
    fn no_error_quotes_a_data_key() {
        let key = KEY.parse().unwrap();
        let plaintext = BASE64.encode(PLAIN);
        let secret = Some(Secret::new(plaintext.as_str()));
        let call = Call { key: &key, wanted: KmsUse::Encrypt, id: "a", secret };
        let said = serde_json::json!({"error": {"message": format!("bad plaintext {plaintext}")}});
        let error = call.refusal(StatusCode::BAD_REQUEST, said.to_string().as_bytes());
        let text = format!("{error} {error:?}");
        assert!(text.contains("bad plaintext") && !text.contains(&plaintext), "{text}");
    }
}

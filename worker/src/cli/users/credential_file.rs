//! Credential files of other tools: whatever holds a refresh token of a user is read as data,
//! and what holds none is named for what it is. No class name in a file is followed, and a
//! client secret in it is dropped.
//!
//! | written by | form |
//! |---|---|
//! | `fleet users export` | the token record |
//! | gcloud | `authorized_user` |
//! | google-auth for Python | `token`, `expiry`, `scopes` |
//! | oauth2client, `StarThinker` | `access_token`, `token_expiry`; also in base64, or in base64 of a JSON string |
//! | Go's oauth2 | `access_token`, `expiry`; no client |
//! | rclone | the same in `token = …` of its configuration |
//! | Node's google-auth-library | `access_token`, `expiry_date` in milliseconds, `scope`; no client |
//! | clasp | Node's in `token`, the client beside it; or gcloud's by name in `tokens` |
//! | firebase-tools | in `tokens`: `access_token`, `expires_at` in milliseconds, `scopes`; no client |
//! | yup-oauth2 | a list of `scopes` and `token`; no client |

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::Value;
use shared::record::{RecordCodec, TokenRecord};
use shared::{Grant, Reason, Secret, UserId, file_text};

/// What a file holds.
#[derive(Debug)]
pub(super) struct CredentialFile {
    /// The client that it was granted to, where the file says so.
    pub(super) client_id: Option<String>,
    /// The user that it was exported as.
    pub(super) user: Option<UserId>,
    pub(super) grant: Grant,
}

/// A string in a string in a string is nothing that a tool wrote.
const DEEPEST: usize = 2;

/// Reads a file to import. The text of an error quotes nothing of it.
pub(super) fn read(content: &[u8]) -> Result<CredentialFile, String> {
    let text = file_text(content).filter(|text| !text.contains('\0'));
    let text = text.ok_or_else(|| not_text(content).to_owned())?;
    let text = text.trim();
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if let Some(token) = rclone_token(text)? {
        return read_json(&token);
    }
    let parsed = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => match from_base64(text) {
            Some(value) => value,
            None if text.starts_with(['{', '[']) => {
                let (line, column) = (error.line(), error.column());
                return Err(format!("it is not JSON (line {line}, column {column})"));
            }
            None => return Err(no_json(text).to_owned()),
        },
    };
    read_json(&parsed)
}

fn not_text(content: &[u8]) -> &'static str {
    if content.starts_with(b"SQLite format 3\0") {
        "it is a database, such as gcloud's credentials.db: import ~/.config/gcloud/application_default_credentials.json, or an adc.json under legacy_credentials"
    } else if content.starts_with(&[0x80]) {
        "it is a Python pickle, which only Python can read: write `credentials.to_json()` to a file and import that"
    } else if content.starts_with(&[0x30]) {
        "it is a PKCS #12 key of a service account, which acts as no user"
    } else {
        "it is not text"
    }
}

fn no_json(text: &str) -> &'static str {
    if text.starts_with("-----BEGIN ") {
        "it is a private key, not a user's credential"
    } else if text.starts_with("1//") {
        "it is a bare refresh token: import {\"refresh_token\": \"…\"}, so that no token stands alone"
    } else {
        "it is neither JSON nor base64 of JSON"
    }
}

/// The JSON in base64, with either alphabet, padded or not, wrapped or not.
fn from_base64(text: &str) -> Option<Value> {
    const ANY: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let text: String = text.split_whitespace().collect();
    let text = text.replace('-', "+").replace('_', "/");
    let mut value: Value = serde_json::from_slice(&ANY.decode(text).ok()?).ok()?;
    for _ in 0..DEEPEST {
        let Value::String(inner) = &value else { break };
        value = serde_json::from_str(inner).ok()?;
    }
    value.is_object().then_some(value)
}

/// The one token of rclone's configuration, with the client that stands beside it.
fn rclone_token(text: &str) -> Result<Option<Value>, String> {
    let mut tokens = Vec::new();
    let mut client = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') && line.ends_with(']') {
            client = None;
        }
        let Some((name, value)) = line.split_once('=') else { continue };
        match name.trim() {
            "client_id" => client = Some(value.trim().to_owned()),
            "token" => {
                let Ok(mut token) = serde_json::from_str::<Value>(value.trim()) else { continue };
                if let (Some(client), true) = (&client, token.is_object()) {
                    token["client_id"] = client.as_str().into();
                }
                tokens.push(token);
            }
            _ => {}
        }
    }
    if tokens.len() > 1 {
        return Err("it holds tokens of several remotes: import one section alone".to_owned());
    }
    Ok(tokens.pop())
}

fn read_json(value: &Value) -> Result<CredentialFile, String> {
    if let Some(what) = other_kind(value) {
        return Err(what.to_owned());
    }
    if value.get("version").is_some() && value.get("user").is_some() {
        return read_record(value);
    }
    if let Some(inner) = inner(value)? {
        return read_json(&inner);
    }
    let text = |name: &str| {
        let text = value.get(name).and_then(Value::as_str).map(str::trim);
        text.filter(|text| !text.is_empty())
    };
    let access_token = text("access_token").or_else(|| text("token"));
    let Some(refresh_token) = text("refresh_token") else {
        return Err(match access_token {
            Some(_) => {
                "it has an access token and no refresh token: whoever obtained it has to ask for offline access (access_type=offline, and prompt=consent for somebody who has consented before)"
            }
            None => "it is no credential that is known here: it has no refresh_token",
        }
        .to_owned());
    };
    let expires_at = ["expiry", "token_expiry", "expiry_date", "expires_at"]
        .into_iter()
        .find_map(|name| moment(value.get(name)?));
    let grant = Grant {
        refresh_token: Some(Secret::new(refresh_token)),
        access_token: access_token.filter(|_| expires_at.is_some()).map(Secret::new),
        expires_at,
        scopes: ["scopes", "scope"]
            .into_iter()
            .map(|name| scopes(value.get(name)))
            .find(|scopes| !scopes.is_empty())
            .unwrap_or_default(),
        sub: value.get("id_token").and_then(account),
        ..Grant::default()
    };
    Ok(CredentialFile { client_id: text("client_id").map(str::to_owned), user: None, grant })
}

/// What holds the refresh token one level down, with the scopes and the client that only stand
/// beside it.
fn inner(value: &Value) -> Result<Option<Value>, String> {
    let mut held: Vec<&Value> = match (value, value.get("tokens")) {
        (Value::Array(held), _) => held.iter().collect(),
        _ if value.get("refresh_token").is_some() => return Ok(None),
        // Each under the name that its user gave it.
        (_, Some(Value::Object(named))) if !named.contains_key("refresh_token") => {
            named.values().collect()
        }
        (_, tokens) => value.get("token").into_iter().chain(tokens).collect(),
    };
    held.retain(|held| held.is_object());
    match held[..] {
        [] => Ok(None),
        [held] => {
            let mut inner = held.clone();
            let client =
                value.get("oauth2ClientSettings").and_then(|client| client.get("clientId"));
            for (name, beside) in [("scopes", value.get("scopes")), ("client_id", client)] {
                if let (None, Some(beside)) = (inner.get(name), beside) {
                    inner[name] = beside.clone();
                }
            }
            Ok(Some(inner))
        }
        _ => Err("it holds the tokens of several sign-ins: import one of them alone".to_owned()),
    }
}

/// What a file is that is no user's credential.
fn other_kind(value: &Value) -> Option<&'static str> {
    if value.get("installed").is_some() || value.get("web").is_some() {
        return Some("it is an OAuth client, not a user's credential: pass it as --client");
    }
    Some(match value.get("type").and_then(Value::as_str)? {
        "service_account" => {
            "it is a service account key, which acts as itself and as no user; a user has to sign in (fleet login)"
        }
        "external_account" => "it is a workload identity configuration, which acts as no user",
        "external_account_authorized_user" => {
            "it is a workforce identity credential, which Google's token endpoint does not refresh"
        }
        "impersonated_service_account" => {
            "it is the configuration of an impersonated service account, which acts as no user"
        }
        "gdch_service_account" => "it is a service account key of Google Distributed Cloud",
        _ => return None,
    })
}

fn read_record(value: &Value) -> Result<CredentialFile, String> {
    let user = value["user"].as_str().and_then(|user| UserId::new(user).ok());
    let user = user.ok_or("it is a token record without a user ID")?;
    let record = RecordCodec::default()
        .decode(&user, value.to_string().as_bytes())
        .map_err(|e| e.to_string())?;
    let client_id = Some(record.client_id.clone());
    Ok(CredentialFile { client_id, user: Some(user), grant: granted(record) })
}

fn granted(record: TokenRecord) -> Grant {
    let ended = (!record.is_active()).then(|| Reason::of_revoked_record(record.reason.as_deref()));
    Grant {
        refresh_token: Some(record.refresh_token),
        access_token: record.access_token,
        expires_at: record.expires_at,
        expires_in: record.expires_in,
        scopes: record.scopes,
        sub: record.sub,
        ended,
    }
}

fn scopes(value: Option<&Value>) -> Vec<String> {
    let listed: Vec<&str> = match value {
        Some(Value::String(scopes)) => scopes.split([' ', ',']).collect(),
        Some(Value::Array(scopes)) => scopes.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    listed.into_iter().filter(|scope| !scope.is_empty()).map(str::to_owned).collect()
}

/// The account of an ID token, which tools store as they got it or as its claims.
fn account(id_token: &Value) -> Option<String> {
    if let Some(sub) = id_token["sub"].as_str() {
        return Some(sub.to_owned());
    }
    let claims = id_token.as_str()?.split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    claims["sub"].as_str().map(str::to_owned)
}

/// A time with a zone, or UTC without one, as Python writes it; or a number of seconds or
/// milliseconds. Go writes the year 1 where there is no expiry.
fn moment(value: &Value) -> Option<Timestamp> {
    /// As seconds this is in the year 5138, as milliseconds in 1973.
    const MILLISECONDS_FROM: i64 = 100_000_000_000;
    let at = match value {
        Value::String(text) => text.parse().ok().or_else(|| {
            let local: DateTime = text.parse().ok()?;
            Some(local.to_zoned(TimeZone::UTC).ok()?.timestamp())
        })?,
        Value::Number(number) => match number.as_i64()? {
            n if n >= MILLISECONDS_FROM => Timestamp::from_millisecond(n).ok()?,
            n => Timestamp::from_second(n).ok()?,
        },
        _ => return None,
    };
    (at > Timestamp::UNIX_EPOCH).then_some(at)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use serde_json::json;
    use shared::OAuthClient;

    use super::*;

    /// What was read, without its secrets, which are `fake-refresh` and `fake-access`.
    fn reading(content: &[u8]) -> Value {
        match read(content) {
            Err(why) => json!({"refused": why}),
            Ok(CredentialFile { client_id, user, grant }) => {
                assert_eq!(grant.refresh_token.unwrap().expose(), "fake-refresh");
                json!({
                    "client": client_id,
                    "user": user.map(|user| user.as_str().to_owned()),
                    "account": grant.sub,
                    "scopes": grant.scopes,
                    "expires": grant.expires_at.map(|at| at.to_string()),
                    "access": grant.access_token.is_some_and(|t| t.expose() == "fake-access"),
                    "ended": grant.ended.map(|reason| reason.to_string()),
                })
            }
        }
    }

    /// As an OAuth client.
    fn client_reading(content: &[u8]) -> Value {
        match OAuthClient::from_json(content) {
            Ok(client) => json!({"client": client.client_id()}),
            Err(why) => json!({"refused": why.to_string()}),
        }
    }

    /// Each file of the corpus is read as its line in `expected.json` says, which holds the
    /// beginning of a refusal's text.
    #[test]
    fn every_file_of_the_corpus_is_read_or_named_for_what_it_is() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials");
        let expected = std::fs::read_to_string(corpus.join("expected.json")).unwrap();
        let expected: Value = serde_json::from_str(&expected).unwrap();
        let mut files = BTreeSet::new();
        for folder in ["users", "clients"] {
            for file in std::fs::read_dir(corpus.join(folder)).unwrap() {
                let name = file.unwrap().file_name().into_string().unwrap();
                files.insert(format!("{folder}/{name}"));
            }
        }
        let listed = expected.as_object().unwrap().keys().cloned().collect();
        assert_eq!(files, listed, "every file has its line");
        for file in &files {
            let content = std::fs::read(corpus.join(file)).unwrap();
            let as_client = file.starts_with("clients/");
            let read = if as_client { client_reading(&content) } else { reading(&content) };
            let wanted = &expected[file];
            match (read["refused"].as_str(), wanted["refused"].as_str()) {
                (Some(says), Some(wanted)) => {
                    assert!(says.starts_with(wanted), "{file}: {says}");
                    assert!(!says.contains("fake-"), "{file} is quoted: {says}");
                }
                _ => assert_eq!(&read, wanted, "{file}"),
            }
        }
    }

    #[test]
    fn every_time_that_tools_write() {
        let at = moment(&json!("2026-01-01T10:00:00Z"));
        for same in [
            json!("2026-01-01 10:00:00"),
            json!("2026-01-01T10:00:00.000000"),
            json!("2026-01-01T12:00:00+02:00"),
            json!(1_767_261_600),
            json!(1_767_261_600_000_i64),
        ] {
            assert_eq!(moment(&same), at, "{same}");
        }
        for none in [json!("0001-01-01T00:00:00Z"), json!("soon"), json!(null), json!(0)] {
            assert_eq!(moment(&none), None, "{none}");
        }
    }
}

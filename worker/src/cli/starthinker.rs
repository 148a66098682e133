//! Credentials as StarThinker keeps them: JSON, base64 of it, or base64 of a
//! jsonpickle string of oauth2client's JSON. All are read as data; no class name
//! in them is followed, and the client secret is dropped.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::Value;
use shared::{Grant, Secret};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A string in a string in a string is nothing that StarThinker wrote.
const DEEPEST: usize = 2;

/// The JSON object in a file of any of the formats, if it is one.
pub(super) fn unwrap(content: &[u8]) -> Option<Value> {
    let text: String = std::str::from_utf8(content).ok()?.split_whitespace().collect();
    let mut value: Value = serde_json::from_slice(&BASE64.decode(text.as_bytes()).ok()?).ok()?;
    for _ in 0..DEEPEST {
        let Value::String(inner) = &value else { break };
        value = serde_json::from_str(inner).ok()?;
    }
    value.is_object().then_some(value)
}

/// The client and the grant, when the object is a credential of this kind.
pub(super) fn read(value: &Value) -> Option<(String, Grant)> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).filter(|t| !t.is_empty());
    let refresh_token = text("refresh_token")?;
    let client_id = text("client_id")?;
    // What tells it from other files with these two.
    value.get("token_uri")?;
    let expires_at = text("token_expiry").and_then(moment);
    let scopes = match value.get("scopes") {
        Some(Value::String(scopes)) => {
            scopes.split([' ', ',']).filter(|s| !s.is_empty()).map(str::to_owned).collect()
        }
        Some(Value::Array(scopes)) => {
            scopes.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    };
    let grant = Grant {
        refresh_token: Some(Secret::new(refresh_token)),
        access_token: text("access_token").filter(|_| expires_at.is_some()).map(Secret::new),
        expires_at,
        expires_in: None,
        scopes,
        sub: value["id_token"]["sub"].as_str().map(str::to_owned),
    };
    Some((client_id.to_owned(), grant))
}

/// With a zone, or UTC without one, as Python's `str(datetime)` writes it.
fn moment(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| {
        let local: DateTime = text.parse().ok()?;
        Some(local.to_zoned(TimeZone::UTC).ok()?.timestamp())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn credential() -> Value {
        json!({
            "access_token": "fake-a", "token_expiry": "2026-01-01 10:00:00", "refresh_token": "fake-r",
            "id_token": {"sub": "s1"}, "token_uri": "https://oauth2.googleapis.com/token",
            "client_id": "mine", "client_secret": "fake-s",
            "scopes": ["openid", "https://www.googleapis.com/auth/tasks"],
        })
    }

    #[test]
    fn reads_every_wrapping() {
        let plain = credential().to_string();
        let pickled = Value::String(plain.clone()).to_string();
        let mut object = credential();
        object["py/object"] = json!("oauth2client.client.OAuth2Credentials");
        for content in
            [BASE64.encode(&plain), BASE64.encode(&pickled), BASE64.encode(object.to_string())]
        {
            let value = unwrap(format!("{content}\n").as_bytes()).unwrap();
            let (client, grant) = read(&value).unwrap();
            assert_eq!((client.as_str(), grant.sub.as_deref()), ("mine", Some("s1")));
            assert_eq!(grant.refresh_token.unwrap().expose(), "fake-r");
            assert_eq!(grant.expires_at, Some("2026-01-01T10:00:00Z".parse().unwrap()));
            assert_eq!(grant.scopes.len(), 2);
        }
        assert_eq!(moment("2026-01-01T10:00:00Z"), moment("2026-01-01 10:00:00"));
    }

    #[test]
    fn what_is_not_one_is_nothing() {
        for content in ["", "{}", "fake", "!!", &BASE64.encode("\"x\""), &BASE64.encode("[1]")] {
            assert_eq!(unwrap(content.as_bytes()), None, "{content}");
        }
        assert!(read(&json!({"refresh_token": "fake-r"})).is_none());
    }
}

//! JSON as it was written.
//!
//! Parameters, bodies and results pass through the fleet as their publishers and APIs wrote
//! them. A parser that makes numbers of digits and maps of members would change some:
//! `117.63331139400017`, `9007199254740991.0` and integers of thirty digits do not survive
//! it, and neither does what is nested too deep for it.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

/// One JSON value, byte for byte as it was written, but for white space around it.
#[derive(Clone)]
pub struct Json(Box<RawValue>);

impl Json {
    /// `null`.
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned())
    }

    /// `{}`.
    pub fn empty_object() -> Self {
        Self::from(Value::Object(serde_json::Map::new()))
    }

    /// Checks that this is JSON in UTF-8, however deep it is nested.
    ///
    /// # Errors
    /// When it is not. The error's text quotes nothing of it.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json).map(Self)
    }

    /// The JSON.
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        self.text() == "null"
    }

    /// Whether it is an object.
    pub fn is_object(&self) -> bool {
        self.text().starts_with('{')
    }

    /// Reads it into a type. Where numbers must keep their digits, the type has a field of
    /// type [`Json`] or `serde_json::value::RawValue`.
    ///
    /// # Errors
    /// When it has another form. The error's text may quote a value: do not log it.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.text())
    }
}

impl Default for Json {
    fn default() -> Self {
        Self::null()
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Self(to_raw_value(&value).expect("a JSON value is JSON"))
    }
}

impl From<Box<RawValue>> for Json {
    fn from(raw: Box<RawValue>) -> Self {
        Self(raw)
    }
}

/// The members of an object as they were written, in their order.
#[derive(Debug, Default)]
pub(crate) struct Members<'a>(pub(crate) Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// Alike are two that are written alike.
impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Json {}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// From `serde_json` only.
impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Self)
    }
}

/// Parameters and results may hold anything, so only the length is shown.
impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json({} bytes)", self.text().len())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_byte_is_kept() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        for text in [
            "117.63331139400017",
            "9007199254740991.0",
            "123456789012345678901234567890",
            "1e400",
            "-0",
            r#"{"b": 1, "a" : "\u00fc\/ü", "b": 2}"#,
            r#""\ud800""#,
            &deep,
        ] {
            let json = Json::parse(format!(" {text}\n").as_bytes()).unwrap();
            assert_eq!(json.text(), text);
            assert_eq!(serde_json::to_string(&json).unwrap(), text);
            let again: Json = serde_json::from_str(text).unwrap();
            assert_eq!(again, json);
        }
        for bad in ["", "{", "1 2", "nul", "\"\u{1}\"", "[1,]"] {
            assert!(Json::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Json::parse(b"\"\xff\"").is_err());
    }

    #[test]
    fn what_it_is() {
        assert!(Json::default().is_null() && !Json::from(json!(0)).is_null());
        assert!(Json::empty_object().is_object());
        assert!(Json::parse(b"  {} ").unwrap().is_object());
        assert_eq!(Json::from(json!({"a": [1]})).read::<Value>().unwrap(), json!({"a": [1]}));
        assert_eq!(format!("{:?}", Json::from(json!("fake-secret"))), "Json(13 bytes)");
    }
}

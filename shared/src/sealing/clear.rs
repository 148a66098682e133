//! The digest of an object's clear members, which its seal binds.
//!
//! It is SHA-256 over one spelling of the object without its member `sealed`: names sorted
//! by their UTF-8 bytes, no white space, the shortest escapes of JSON, and integers within
//! an `i64` as the only numbers. What has no such spelling, or a name twice in one object
//! at any depth, is refused before anything is hashed, so that no two readers can take one
//! text for two contents.

use std::fmt;
use std::fmt::Write as _;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserializer, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// The member that is not part of the digest.
pub(super) const SEALED: &str = "sealed";

/// Reads JSON that has one spelling.
///
/// # Errors
/// Also for a doubled name, a fraction, and an integer beyond an `i64`.
pub(super) fn parse(content: &[u8]) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(content);
    let value = Strict.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// The digest of `object` without its seal, in hexadecimal digits.
pub(super) fn digest(object: &Map<String, Value>) -> String {
    let mut spelled = Vec::new();
    write_object(object, |name| name != SEALED, &mut spelled);
    Sha256::digest(&spelled).iter().fold(String::with_capacity(64), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes everything");
        hex
    })
}

fn write_object(object: &Map<String, Value>, keep: impl Fn(&str) -> bool, out: &mut Vec<u8>) {
    let mut members: Vec<_> = object.iter().filter(|(name, _)| keep(name)).collect();
    members.sort_by_key(|(name, _)| name.as_bytes());
    out.push(b'{');
    for (index, (name, value)) in members.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_plain(name, out);
        out.push(b':');
        write(value, out);
    }
    out.push(b'}');
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(object) => write_object(object, |_| true, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        _ => write_plain(value, out),
    }
}

/// `serde_json` writes strings with the shortest escapes.
fn write_plain(value: &(impl Serialize + ?Sized), out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("memory takes everything");
}

/// Builds a value, and refuses what has more than one spelling.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without doubled names whose numbers are integers")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        let value = i64::try_from(value).map_err(|_| E::custom("an integer beyond 63 bits"))?;
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Value, E> {
        Err(E::custom("a number that is no integer"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Strict)? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(Strict)?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name that is there twice"));
            }
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest_of(content: &str) -> String {
        digest(parse(content.as_bytes()).unwrap().as_object().unwrap())
    }

    /// Other programs, and later releases, have to come to the same.
    #[test]
    fn the_digest_of_a_known_object_is_known() {
        let content = "{ \"b\": [1, -2, null, true],\t\"a\": {\"\\u00e4\\/\": \"\\u0007\\n\\\"\"},
            \"sealed\": {\"key\": \"k\"}, \"\\ud83d\\ude00\": \"\u{7f}\" }";
        let spelled =
            "{\"a\":{\"ä/\":\"\\u0007\\n\\\"\"},\"b\":[1,-2,null,true],\"😀\":\"\u{7f}\"}";
        let expected = "694ef1790b0967c3a8e1977a33b30ff50b6dcff9c0315de0680fdb9ff754746c";
        assert_eq!(digest_of(content), digest_of(spelled));
        assert_eq!(digest_of(spelled), expected);
    }

    #[test]
    fn only_spellings_of_the_same_content_have_the_same_digest() {
        let one = digest_of(r#"{"a":1,"b":"x"}"#);
        assert_eq!(digest_of(r#" {"b" : "\u0078", "a":1, "sealed":7}"#), one);
        for other in [
            r#"{"a":1,"b":"y"}"#,
            r#"{"a":"1","b":"x"}"#,
            r#"{"a":1}"#,
            r#"{"a":1,"b":"x","c":null}"#,
            r#"{"a":1,"b":{"sealed":"x"}}"#,
            r#"{"a":1,"b":["x"]}"#,
        ] {
            assert_ne!(digest_of(other), one, "{other}");
        }
    }

    #[test]
    fn what_has_several_spellings_is_refused() {
        for content in [
            r#"{"a":1,"a":1}"#,
            r#"{"x":[{"a":1,"\u0061":2}]}"#,
            r#"{"a":1.0}"#,
            r#"{"a":1e3}"#,
            r#"{"a":-0.0}"#,
            r#"{"a":9223372036854775808}"#,
            r#"{"a":1e400}"#,
            r#"{"a":1} {}"#,
            r#"{"a":"\ud800"}"#,
        ] {
            assert!(parse(content.as_bytes()).is_err(), "{content}");
        }
        let most = r#"{"a":9223372036854775807,"b":-9223372036854775808}"#;
        assert!(parse(most.as_bytes()).is_ok());
    }
}

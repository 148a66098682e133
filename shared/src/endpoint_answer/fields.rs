//! Reads an object that another program wrote as far as it can be read.
//!
//! Only the fields that somebody asks for are looked into. Everything else is skipped
//! unread, so that a number out of range, half a surrogate pair or a deeply nested value
//! in it costs nothing; so does whatever follows the object, and what is missing of it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use url::form_urlencoded;

/// The value of a field, as far as anybody here needs values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    /// The digits as they are written, so that no arithmetic has changed them.
    Number(String),
    /// The texts in an array; its other elements are skipped.
    Texts(Vec<String>),
    Object(Fields),
}

/// The fields that were asked for and that have a value which is understood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fields(HashMap<&'static str, Value>);

impl Fields {
    /// Reads the fields `known` of a JSON object or a form. Of two equal names the last
    /// counts. Anything else has no fields.
    pub(crate) fn read(content: &[u8], known: &'static [&'static str]) -> Self {
        let text = String::from_utf8_lossy(content);
        let text = text.trim_start_matches('\u{feff}').trim();
        // JSON allows no control character inside a text and takes a space for one
        // elsewhere; some programs write them all the same.
        let text: Cow<'_, str> = if text.contains(char::is_control) {
            text.replace(char::is_control, " ").into()
        } else {
            text.into()
        };
        let mut fields = Self::default();
        if text.starts_with('{') {
            fields.read_json(&text, known, Depth::Outer);
        } else if is_form(&text) {
            for (name, value) in form_urlencoded::parse(text.as_bytes()) {
                if let Some(name) = known.iter().find(|known| **known == name) {
                    fields.0.insert(name, Value::Text(value.into_owned()));
                }
            }
        }
        fields
    }

    /// What was read before a fault stays.
    fn read_json(&mut self, text: &str, known: &'static [&'static str], depth: Depth) {
        let mut json = serde_json::Deserializer::from_str(text);
        drop(Collect { known, into: self, depth }.deserialize(&mut json));
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// A text that is not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Value::Text(text) if !text.trim().is_empty() => Some(text),
            _ => None,
        }
    }

    pub(crate) fn object(&self, name: &str) -> Option<&Self> {
        match self.get(name)? {
            Value::Object(fields) => Some(fields),
            _ => None,
        }
    }

    fn set(
        &mut self,
        name: &'static str,
        raw: &RawValue,
        known: &'static [&'static str],
        depth: Depth,
    ) {
        let raw = raw.get();
        let value = match raw.as_bytes().first() {
            Some(b'"') => serde_json::from_str(raw).ok().map(Value::Text),
            Some(b'[') => texts(raw).map(Value::Texts),
            Some(b'{') if depth == Depth::Outer => {
                let mut inner = Self::default();
                inner.read_json(raw, known, Depth::Inner);
                Some(Value::Object(inner))
            }
            Some(b'-' | b'0'..=b'9') => Some(Value::Number(raw.to_owned())),
            _ => None,
        };
        match value {
            Some(value) => self.0.insert(name, value),
            None => self.0.remove(name),
        };
    }
}

/// Which object is read: objects within an inner one are skipped, since nobody needs them
/// and a hostile answer nests a hundred thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    Outer,
    Inner,
}

/// A form has no characters that a form would have encoded. A page that quotes one has.
fn is_form(text: &str) -> bool {
    text.contains('=') && text.bytes().all(|b| b.is_ascii_graphic() && !b"<>\"{}".contains(&b))
}

fn texts(raw: &str) -> Option<Vec<String>> {
    let all: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
    Some(all.into_iter().filter_map(|raw| serde_json::from_str(raw.get()).ok()).collect())
}

/// Puts the fields that are known into `into`, one by one.
struct Collect<'a> {
    known: &'static [&'static str],
    into: &'a mut Fields,
    depth: Depth,
}

impl<'de> DeserializeSeed<'de> for Collect<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Collect<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(Name(self.known))? {
            if let Some(name) = name {
                let raw: &RawValue = map.next_value()?;
                self.into.set(name, raw, self.known, self.depth);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// A field's name, if it is known. Read as bytes, since it need not be a text.
struct Name(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_bytes<E>(self, name: &[u8]) -> Result<Self::Value, E> {
        Ok(self.0.iter().find(|known| known.as_bytes() == name).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["a", "b", "error", "code"];

    fn read(content: &str) -> Fields {
        Fields::read(content.as_bytes(), KNOWN)
    }

    fn text(content: &str) -> Option<String> {
        read(content).text("a").map(str::to_owned)
    }

    #[test]
    fn what_nobody_needs_costs_nothing() {
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        let deep_object = format!("{}1{}", "{\"x\":".repeat(200), "}".repeat(200));
        for odd in [
            "1e400",
            "-1E+999999",
            r#""\ud800""#,
            r#""\ud800\u0041""#,
            &deep,
            &deep_object,
            "null",
            "123456789012345678901234567890",
        ] {
            for content in [
                format!(r#"{{"other":{odd},"a":"x"}}"#),
                format!(r#"{{"a":"x","other":{odd}}}"#),
                format!(r#"{{"a":"x","b":{odd}}}"#),
                format!(r#"{{"\udc00":{odd},"a":"x"}}"#),
            ] {
                assert_eq!(text(&content).as_deref(), Some("x"), "{content}");
            }
        }
    }

    #[test]
    fn what_stands_around_the_object_costs_nothing() {
        for content in [
            "\u{feff}{\"a\":\"x\"}",
            " \r\n {\"a\":\"x\"}\n",
            "{\"a\":\"x\"} trailing",
            "{\"a\":\"x\"}{\"a\":\"y\"}",
            "{\"a\":\"x\",\"b\":",
            "{\"a\":\"x\",\"b\":\"cut",
            "{\"a\":\"x\", not json",
            "{\"a\":\"x\",\"b\":\"two\nlines\"}",
        ] {
            assert_eq!(text(content).as_deref(), Some("x"), "{content}");
        }
        assert_eq!(text(r#"{"a":"cut"#), None);
        for nothing in ["", "[]", "\"a\"", "<html>a=x</html>", "a", "null", r#"[{"a":"x"}]"#] {
            assert_eq!(read(nothing), Fields::default(), "{nothing}");
        }
    }

    #[test]
    fn of_two_equal_names_the_last_counts() {
        assert_eq!(text(r#"{"a":"x","a":"y"}"#).as_deref(), Some("y"));
        assert_eq!(text(r#"{"a":"x","\u0061":"y"}"#).as_deref(), Some("y"));
        assert_eq!(text(r#"{"a":"x","a":null}"#), None);
        assert_eq!(text("a=x&a=y").as_deref(), Some("y"));
    }

    #[test]
    fn forms_are_read_and_pages_that_quote_them_are_not() {
        assert_eq!(text("a=x%2Fy+z&b=1").as_deref(), Some("x/y z"));
        assert_eq!(text("a=x\n").as_deref(), Some("x"));
        assert_eq!(text("a=").as_deref(), None);
        assert_eq!(text("see ?q=1&a=x for more"), None);
        assert_eq!(text("<p>q=1&a=x</p>"), None);
    }

    #[test]
    fn values_keep_their_kind() {
        let fields = read(
            r#"{"a":[1,"x",null,"y"],"b":18446744073709551616,"error":{"code":"z","error":{"a":"no"}}}"#,
        );
        assert_eq!(fields.get("a"), Some(&Value::Texts(vec!["x".into(), "y".into()])));
        assert_eq!(fields.get("b"), Some(&Value::Number("18446744073709551616".into())));
        let inner = fields.object("error").unwrap();
        assert_eq!((inner.text("code"), inner.object("error")), (Some("z"), None));
        let nested = format!("{}1{}", "{\"error\":".repeat(100_000), "}".repeat(100_000));
        assert!(read(&nested).object("error").is_some());
        assert_eq!(Fields::read(b"{\"a\":\"x\xff\"}", KNOWN).text("a"), Some("x\u{fffd}"));
    }
}

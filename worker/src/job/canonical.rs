//! One spelling for all JSON texts that mean the same: what a digest is made of.

use std::borrow::Cow;

/// The canonical form of valid JSON: members sorted by name, no white space, strings without
/// their escapes, numbers by their exact value (`1`, `1.0` and `10e-1` are alike). It is made
/// to be compared, not to be parsed. Goes as deep as the text is nested.
pub(super) fn canonical(json: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    Scanner { rest: json }.value(&mut out);
    out
}

/// What is left of a valid text.
struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn value(&mut self, out: &mut Vec<u8>) {
        match self.peek() {
            b'{' => self.object(out),
            b'[' => self.array(out),
            b'"' => text(&self.string(), out),
            _ => {
                let literal = self.literal();
                if literal.starts_with(['t', 'f', 'n']) {
                    out.extend_from_slice(literal.as_bytes());
                } else {
                    out.extend_from_slice(number(literal).as_bytes());
                }
            }
        }
    }

    fn object(&mut self, out: &mut Vec<u8>) {
        let mut members = Vec::new();
        self.list(b'}', |scanner| {
            let name = scanner.string();
            scanner.skip_one();
            let mut value = Vec::new();
            scanner.value(&mut value);
            members.push((name, value));
        });
        // Of two members with one name the order counts.
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        out.push(b'{');
        for (name, value) in members {
            text(&name, out);
            out.extend(value);
        }
        out.push(b'}');
    }

    fn array(&mut self, out: &mut Vec<u8>) {
        out.push(b'[');
        self.list(b']', |scanner| {
            scanner.value(out);
            out.push(b',');
        });
        out.push(b']');
    }

    /// Calls `item` for each item of a list, and takes its brackets and commas.
    fn list(&mut self, end: u8, mut item: impl FnMut(&mut Self)) {
        self.skip_one();
        while self.peek() != end {
            item(self);
            if self.peek() == b',' {
                self.skip_one();
            }
        }
        self.skip_one();
    }

    /// A string without its escapes; with them, where they are no characters.
    fn string(&mut self) -> Cow<'a, str> {
        self.peek();
        let mut escaped = false;
        let end = self.rest.bytes().skip(1).position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        let token = self.take(end.map_or(self.rest.len(), |end| end + 2));
        serde_json::from_str(token).map_or(Cow::Borrowed(token), Cow::Owned)
    }

    fn literal(&mut self) -> &'a str {
        let end = self.rest.find([',', ']', '}', ' ', '\t', '\r', '\n']);
        self.take(end.unwrap_or(self.rest.len()))
    }

    /// The next byte that is no white space; of no use at the end.
    fn peek(&mut self) -> u8 {
        self.rest = self.rest.trim_ascii_start();
        self.rest.bytes().next().unwrap_or(b']')
    }

    fn skip_one(&mut self) {
        self.peek();
        self.take(1);
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}

/// With its length before it, so that no two lists of texts are alike.
fn text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("\"{}:", text.len()).as_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// A number as its significant digits and the power of ten of the last.
fn number(written: &str) -> Cow<'_, str> {
    let (sign, unsigned) = match written.strip_prefix('-') {
        Some(unsigned) => ("-", unsigned),
        None => ("", written),
    };
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return "0".into();
    }
    let Ok(exponent) = exponent.parse::<i64>() else { return written.into() };
    let trailing = i64::try_from(digits.len() - significant.len()).unwrap_or(i64::MAX);
    let fraction = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
    let power = exponent.saturating_sub(fraction).saturating_add(trailing);
    format!("{sign}{significant}e{power}").into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn alike(a: &str, b: &str) -> bool {
        canonical(a) == canonical(b)
    }

    #[test]
    fn numbers_count_by_their_exact_value() {
        for (a, b) in [
            ("1", "1.0"),
            ("1", "10e-1"),
            ("100", "1E+2"),
            ("-0", "0.00e7"),
            ("0.5", "5e-1"),
            ("-12.50", "-1.25e1"),
        ] {
            assert!(alike(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("1", "-1"),
            ("1", "10"),
            ("123456789012345678901234567890", "123456789012345678901234567891"),
            ("117.63331139400017", "117.63331139400016"),
            ("1e400", "1e401"),
            ("1e99999999999999999999", "1e99999999999999999998"),
            ("1", "\"1\""),
        ] {
            assert!(!alike(a, b), "{a} {b}");
        }
    }

    #[test]
    fn spelling_makes_no_difference() {
        assert!(alike(
            r#"{"a":1,"b":[true,"\u00fc"]}"#,
            " {\"b\" : [ true ,\n\"ü\" ] , \"a\":1 } "
        ));
        assert!(alike(r#""a\"\\]""#, r#""\u0061\"\u005c\u005d""#));
        assert!(!alike("[1,2]", "[12]"));
        assert!(!alike(r#"["a","b"]"#, r#"["a\",\"b"]"#));
        assert!(!alike(r#"{"a":{"b":1}}"#, r#"{"a":{},"b":1}"#));
        assert!(!alike(r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#));
        assert!(!alike(r#""\ud800""#, r#""\ud801""#));
        let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
        assert!(!alike(&deep, &deep.replace('1', "2")));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a\"\\\\ü{}\\[\\],: ]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[ab\"]", inner, 0..3)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_are_alike_when_their_canonical_forms_are(a in json(), b in json()) {
            let pretty = serde_json::to_string_pretty(&a).unwrap();
            prop_assert!(alike(&a.to_string(), &pretty));
            prop_assert_eq!(alike(&pretty, &b.to_string()), a == b);
        }
    }
}

//! One page of a paginated answer, read as it comes.
//!
//! A page may be large, so it is not held: the elements of its arrays go out as their bytes
//! come, without the white space between tokens, and everything else that is kept is bounded
//! by who keeps it. What is read is checked to be JSON all the same, however deep it is nested:
//! this is an automaton over bytes with a stack of brackets.

use crate::kinds::body::Broken;

use super::paging::BadPage;

/// The longest name of a field and the longest page token, in bytes as written.
const MAX_NAME: usize = 4 * 1024;
const MAX_TOKEN: usize = 64 * 1024;
/// The deepest nesting that is followed. Each level takes a byte of memory.
const MAX_DEPTH: usize = 64 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What becomes of a field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    Nothing,
    /// Each element of the array.
    Elements,
    /// All of it.
    Whole,
}

/// Takes the fields of pages.
pub(super) trait Collect {
    /// A field begins. `first` is the first byte of its value.
    fn field(&mut self, name: &str, first: u8) -> Result<Take, BadPage>;
    /// More of the element, or of the whole value.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), BadPage>;
    /// The element, or the whole value, has ended.
    fn end(&mut self) -> Result<(), BadPage>;
    /// Another page begins.
    fn begin_page(&mut self) {}
    /// What can be handed on of what has come.
    fn take(&mut self) -> Vec<u8> {
        Vec::new()
    }
}

/// Where a page's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// So many bytes of a byte-order mark have come.
    Start(usize),
    /// A value must follow.
    Value,
    /// A value or `]`.
    FirstElement,
    /// A name or `}`.
    FirstName,
    Name,
    Colon,
    /// `,`, a closing bracket, or the end.
    AfterValue,
    String,
    Escape,
    /// So many hexadecimal digits must follow.
    Hex(u8),
    /// These must follow.
    Literal(&'static [u8]),
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    Sign,
    Power,
    /// The object is closed.
    End,
}

/// Reads one page.
#[derive(Debug)]
pub(super) struct PageReader<'a> {
    token_field: &'a str,
    at: At,
    /// The open brackets.
    open: Vec<u8>,
    /// The string that is read is a name.
    is_name: bool,
    /// The name of the field at hand as written, quotes included.
    name: Vec<u8>,
    take: Take,
    /// The value at hand is the page token.
    is_token: bool,
    /// An element was begun in the array at hand.
    has_element: bool,
    token: Vec<u8>,
    utf8: Utf8,
}

impl<'a> PageReader<'a> {
    pub(super) fn new(token_field: &'a str) -> Self {
        Self {
            token_field,
            at: At::Start(0),
            open: Vec::new(),
            is_name: false,
            name: Vec::new(),
            take: Take::Nothing,
            is_token: false,
            has_element: false,
            token: Vec::new(),
            utf8: Utf8::default(),
        }
    }

    /// Takes the next piece.
    pub(super) fn read(
        &mut self,
        mut piece: &[u8],
        collect: &mut impl Collect,
    ) -> Result<(), BadPage> {
        while let Some((byte, rest)) = piece.split_first() {
            if self.at == At::String && self.utf8.left == 0 {
                let (plain, special) = piece.split_at(plain_bytes(piece));
                if !plain.is_empty() {
                    self.keep(plain, collect)?;
                    piece = special;
                    continue;
                }
            }
            self.utf8.check(*byte)?;
            self.step(*byte, collect)?;
            piece = rest;
        }
        Ok(())
    }

    /// The page has ended: the token of the next one as JSON, if the page has one. A page
    /// without content has none.
    ///
    /// # Errors
    /// [`Broken::Cut`] when the page ends before its object does.
    pub(super) fn end(self) -> Result<Option<Vec<u8>>, Broken> {
        match self.at {
            At::Start(0) => Ok(None),
            At::End => Ok((!self.token.is_empty()).then_some(self.token)),
            _ => Err(Broken::Cut),
        }
    }

    fn step(&mut self, byte: u8, collect: &mut impl Collect) -> Result<(), BadPage> {
        let is_space = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        match self.at {
            At::Start(n) if BYTE_ORDER_MARK.get(n) == Some(&byte) => self.at = At::Start(n + 1),
            At::Start(0 | 3) if is_space => {}
            At::Start(0 | 3) if byte == b'{' => self.open(byte)?,
            At::Start(_) => return Err(BadPage::NotAnObject),
            At::String => self.string(byte, collect)?,
            At::Escape => {
                self.at = match byte {
                    b'u' => At::Hex(4),
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => At::String,
                    _ => return Err(BadPage::NotJson),
                };
                self.keep(&[byte], collect)?;
            }
            At::Hex(left) if byte.is_ascii_hexdigit() => {
                self.at = if left == 1 { At::String } else { At::Hex(left - 1) };
                self.keep(&[byte], collect)?;
            }
            At::Literal([next, rest @ ..]) if byte == *next => {
                self.keep(&[byte], collect)?;
                if rest.is_empty() {
                    self.value_ended(collect)?;
                } else {
                    self.at = At::Literal(rest);
                }
            }
            At::Minus
            | At::Zero
            | At::Digits
            | At::Point
            | At::Fraction
            | At::Exponent
            | At::Sign
            | At::Power => self.number(byte, collect)?,
            _ if is_space => {}
            At::FirstElement if byte == b']' => self.close(byte, collect)?,
            At::Value | At::FirstElement => self.value(byte, collect)?,
            At::FirstName if byte == b'}' => self.close(byte, collect)?,
            At::FirstName | At::Name if byte == b'"' => {
                self.is_name = true;
                self.at = At::String;
                if self.open.len() == 1 {
                    self.name.clear();
                }
                self.keep(&[byte], collect)?;
            }
            At::Colon if byte == b':' => {
                self.at = At::Value;
                if self.open.len() > 1 {
                    self.keep(&[byte], collect)?;
                }
            }
            At::AfterValue => self.after_value(byte, collect)?,
            _ => return Err(BadPage::NotJson),
        }
        Ok(())
    }

    /// The first byte of a value.
    fn value(&mut self, byte: u8, collect: &mut impl Collect) -> Result<(), BadPage> {
        match self.open.len() {
            1 => self.field(byte, collect)?,
            2 => self.has_element = true,
            _ => {}
        }
        match byte {
            b'{' | b'[' => {
                // The brackets around elements are nobody's.
                if !(self.open.len() == 1 && self.take == Take::Elements) {
                    self.keep(&[byte], collect)?;
                }
                return self.open(byte);
            }
            b'"' => {
                self.is_name = false;
                self.at = At::String;
            }
            b't' => self.at = At::Literal(b"rue"),
            b'f' => self.at = At::Literal(b"alse"),
            b'n' => self.at = At::Literal(b"ull"),
            b'-' => self.at = At::Minus,
            b'0' => self.at = At::Zero,
            b'1'..=b'9' => self.at = At::Digits,
            _ => return Err(BadPage::NotJson),
        }
        self.keep(&[byte], collect)
    }

    /// A field of the page begins with its value's first byte.
    fn field(&mut self, first: u8, collect: &mut impl Collect) -> Result<(), BadPage> {
        // Names with half a surrogate are no name that anybody asks for.
        let name: String = serde_json::from_slice(&self.name).unwrap_or_default();
        self.is_token = name == self.token_field;
        self.has_element = false;
        self.take = if self.is_token {
            self.token.clear();
            Take::Whole
        } else {
            collect.field(&name, first)?
        };
        Ok(())
    }

    fn string(&mut self, byte: u8, collect: &mut impl Collect) -> Result<(), BadPage> {
        match byte {
            0..0x20 => return Err(BadPage::NotJson),
            b'\\' => self.at = At::Escape,
            b'"' if self.is_name => {
                self.keep(&[byte], collect)?;
                self.is_name = false;
                self.at = At::Colon;
                return Ok(());
            }
            b'"' => {
                self.keep(&[byte], collect)?;
                return self.value_ended(collect);
            }
            _ => {}
        }
        self.keep(&[byte], collect)
    }

    fn number(&mut self, byte: u8, collect: &mut impl Collect) -> Result<(), BadPage> {
        self.at = match (self.at, byte) {
            (At::Minus, b'0') => At::Zero,
            (At::Minus, b'1'..=b'9') | (At::Digits, b'0'..=b'9') => At::Digits,
            (At::Zero | At::Digits, b'.') => At::Point,
            (At::Point | At::Fraction, b'0'..=b'9') => At::Fraction,
            (At::Zero | At::Digits | At::Fraction, b'e' | b'E') => At::Exponent,
            (At::Exponent, b'+' | b'-') => At::Sign,
            (At::Exponent | At::Sign | At::Power, b'0'..=b'9') => At::Power,
            (At::Zero | At::Digits | At::Fraction | At::Power, _) => {
                self.value_ended(collect)?;
                return self.step(byte, collect);
            }
            _ => return Err(BadPage::NotJson),
        };
        self.keep(&[byte], collect)
    }

    fn after_value(&mut self, byte: u8, collect: &mut impl Collect) -> Result<(), BadPage> {
        match (self.open.last(), byte) {
            (Some(b'{'), b',') => self.at = At::Name,
            (Some(b'['), b',') => self.at = At::Value,
            (_, b'}' | b']') => return self.close(byte, collect),
            _ => return Err(BadPage::NotJson),
        }
        match self.open.len() {
            1 => Ok(()),
            2 if self.take == Take::Elements => Ok(()),
            _ => self.keep(&[byte], collect),
        }
    }

    fn open(&mut self, byte: u8) -> Result<(), BadPage> {
        if self.open.len() == MAX_DEPTH {
            return Err(BadPage::TooDeep);
        }
        self.open.push(byte);
        self.at = if byte == b'{' { At::FirstName } else { At::FirstElement };
        Ok(())
    }

    fn close(&mut self, byte: u8, collect: &mut impl Collect) -> Result<(), BadPage> {
        if self.open.pop() != Some(if byte == b'}' { b'{' } else { b'[' }) {
            return Err(BadPage::NotJson);
        }
        match self.open.len() {
            0 => self.at = At::End,
            1 if self.take == Take::Elements => self.at = At::AfterValue,
            _ => {
                self.keep(&[byte], collect)?;
                self.value_ended(collect)?;
            }
        }
        Ok(())
    }

    fn value_ended(&mut self, collect: &mut impl Collect) -> Result<(), BadPage> {
        self.at = At::AfterValue;
        let is_kept = match self.take {
            Take::Nothing => false,
            Take::Elements => self.open.len() == 2,
            Take::Whole => self.open.len() == 1 && !self.is_token,
        };
        if is_kept { collect.end() } else { Ok(()) }
    }

    /// More of what is at hand.
    fn keep(&mut self, bytes: &[u8], collect: &mut impl Collect) -> Result<(), BadPage> {
        if self.is_name && self.open.len() == 1 {
            self.name.extend_from_slice(bytes);
            return if self.name.len() > MAX_NAME { Err(BadPage::Name) } else { Ok(()) };
        }
        if self.is_token {
            self.token.extend_from_slice(bytes);
            return if self.token.len() > MAX_TOKEN { Err(BadPage::Token) } else { Ok(()) };
        }
        match self.take {
            Take::Nothing => Ok(()),
            Take::Elements | Take::Whole => collect.bytes(bytes),
        }
    }
}

/// How many bytes at the beginning of this part of a string are nothing but themselves.
fn plain_bytes(part: &[u8]) -> usize {
    let is_special = |byte: &u8| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\');
    part.iter().position(is_special).unwrap_or(part.len())
}

/// Whether bytes are UTF-8 (Unicode, table 3-7).
#[derive(Debug, Default)]
struct Utf8 {
    /// How many bytes of the character are to come.
    left: u8,
    /// What the next of them may be.
    least: u8,
    most: u8,
}

impl Utf8 {
    fn check(&mut self, byte: u8) -> Result<(), BadPage> {
        if self.left == 0 {
            (self.left, self.least, self.most) = match byte {
                0..=0x7f => (0, 0, 0),
                0xc2..=0xdf => (1, 0x80, 0xbf),
                0xe0 => (2, 0xa0, 0xbf),
                0xed => (2, 0x80, 0x9f),
                0xe1..=0xef => (2, 0x80, 0xbf),
                0xf0 => (3, 0x90, 0xbf),
                0xf1..=0xf3 => (3, 0x80, 0xbf),
                0xf4 => (3, 0x80, 0x8f),
                _ => return Err(BadPage::NotJson),
            };
            return Ok(());
        }
        if !(self.least..=self.most).contains(&byte) {
            return Err(BadPage::NotJson);
        }
        self.left -= 1;
        (self.least, self.most) = (0x80, 0xbf);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;
    use serde_json::value::RawValue;

    use crate::json::Members;

    use super::*;

    /// Writes down what it is given.
    #[derive(Debug, Default)]
    struct Notes {
        at_hand: Vec<u8>,
        ended: Vec<String>,
    }

    impl Collect for Notes {
        fn field(&mut self, name: &str, first: u8) -> Result<Take, BadPage> {
            Ok(match name {
                "skipped" => Take::Nothing,
                _ if first == b'[' => Take::Elements,
                _ => Take::Whole,
            })
        }

        fn bytes(&mut self, bytes: &[u8]) -> Result<(), BadPage> {
            self.at_hand.extend_from_slice(bytes);
            Ok(())
        }

        fn end(&mut self) -> Result<(), BadPage> {
            self.ended.push(String::from_utf8(std::mem::take(&mut self.at_hand)).unwrap());
            Ok(())
        }
    }

    /// What was noted of a page, and its token.
    type Read = (Vec<String>, Option<Vec<u8>>);

    /// What a page in pieces of this size comes to; `None` if it was cut.
    fn read(page: &[u8], size: usize) -> Result<Option<Read>, BadPage> {
        let (mut reader, mut notes) = (PageReader::new("next"), Notes::default());
        for piece in page.chunks(size) {
            reader.read(piece, &mut notes)?;
        }
        Ok(reader.end().ok().map(|token| {
            assert!(notes.at_hand.is_empty());
            (notes.ended, token)
        }))
    }

    #[test]
    fn elements_and_fields_as_they_were_written() {
        let page = "\u{feff} {\"kind\" : \"a b\", \"files\": [ 1e400 , {\"a\": [1, {}]}, \"x, \\\"]\" ,[ ]],\n\
            \"skipped\": [1, {\"b\": 2}], \"none\": [ ], \"next\": \"t\\u00fc\", \"o\": {\"c\": -0.50} }\n";
        let all = ["\"a b\"", "1e400", "{\"a\":[1,{}]}", "\"x, \\\"]\"", "[]", "{\"c\":-0.50}"];
        for size in 1..page.len() {
            let (ended, token) = read(page.as_bytes(), size).unwrap().unwrap();
            assert_eq!(ended, all);
            assert_eq!(token.as_deref(), Some(&b"\"t\\u00fc\""[..]));
        }
        let (ended, token) = read(b"", 1).unwrap().unwrap();
        assert_eq!((ended.len(), token), (0, None), "a page without content is an empty one");
        assert_eq!(read(b" {} ", 9).unwrap().unwrap().0, Vec::<String>::new());
    }

    #[test]
    fn what_is_no_page() {
        for page in ["[1]", "7", "\"x\"", "\u{feff}\u{feff}{}", "null"] {
            assert_eq!(read(page.as_bytes(), 3), Err(BadPage::NotAnObject), "{page}");
        }
        for page in
            ["{} x", "{}{}", "{\"a\" 1}", "{a:1}", "{\"a\":1,}", "{\"a\":[1,]}", "{\"a\":01}"]
        {
            assert_eq!(read(page.as_bytes(), 3), Err(BadPage::NotJson), "{page}");
        }
        for page in ["{", "{\"a\":[{}", "{\"a\":1", "{\"a\":\"x\\"] {
            assert_eq!(read(page.as_bytes(), 3), Ok(None), "{page} is cut");
        }
        let deep = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(deep(MAX_DEPTH - 1).as_bytes(), 999).unwrap().is_some());
        assert_eq!(read(deep(MAX_DEPTH).as_bytes(), 999), Err(BadPage::TooDeep));
        let long = |field: &str| format!("{{\"{field}\": \"{}\"}}", "x".repeat(70_000));
        assert_eq!(read(long("next").as_bytes(), 999), Err(BadPage::Token));
        assert_eq!(read(long(&"x".repeat(MAX_NAME)).as_bytes(), 999), Err(BadPage::Name));
    }

    /// A page as a parser of whole texts reads it.
    fn expected(page: &str) -> Option<Vec<String>> {
        let Members(members) = serde_json::from_str(page).ok()?;
        let compact = |raw: &RawValue| {
            let (mut out, mut in_string, mut escaped) = (String::new(), false, false);
            for c in raw.get().chars() {
                if in_string {
                    in_string = escaped || c != '"';
                    escaped = !escaped && c == '\\';
                } else if c.is_ascii_whitespace() {
                    continue;
                } else {
                    in_string = c == '"';
                }
                out.push(c);
            }
            out
        };
        let mut all = Vec::new();
        for (name, raw) in members {
            match serde_json::from_str::<Vec<&RawValue>>(raw.get()) {
                _ if name == "next" || name == "skipped" => {}
                Ok(elements) => all.extend(elements.into_iter().map(compact)),
                Err(_) => all.push(compact(raw)),
            }
        }
        Some(all)
    }

    fn page() -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(vec![
            "1",
            "-0.5e+7",
            "null",
            "true",
            "\"a\\\"\"",
            "\"ü\\u00fc\"",
            "{}",
            "[]",
            "12345678901234567890",
        ])
        .prop_map(str::to_owned);
        let space = || prop::sample::select(vec!["", " ", "\n\t"]);
        let value = leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                (prop::collection::vec(inner.clone(), 0..4), space())
                    .prop_map(|(items, s)| format!("[{s}{}{s}]", items.join(&format!("{s},")))),
                (prop::collection::vec(inner, 0..4), space()).prop_map(|(items, s)| {
                    let members: Vec<_> =
                        items.iter().map(|item| format!("\"k\"{s}:{s}{item}")).collect();
                    format!("{{{}{s}}}", members.join(","))
                }),
            ]
        });
        let name = prop::sample::select(vec!["files", "kind", "next", "skipped", "a\\u0062", ""]);
        prop::collection::vec((name, value), 0..5).prop_map(|members| {
            let members: Vec<_> =
                members.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
            format!("{{{}}}", members.join(" , "))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100_000, ..ProptestConfig::default() })]

        /// Whole pages, and pages with a byte changed, are read as a parser of whole texts
        /// reads them.
        #[test]
        fn pages_are_read_as_a_parser_reads_them(
            page in page(),
            size in 1_usize..40,
            change in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut bytes = page.into_bytes();
            if let Some((at, byte)) = change {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let whole = str::from_utf8(&bytes).ok().and_then(expected);
            let streamed = read(&bytes, size).ok().flatten().map(|(ended, _)| ended);
            let is_json = serde_json::from_slice::<&RawValue>(&bytes).is_ok();
            match (whole, streamed) {
                (Some(whole), streamed) => prop_assert_eq!(Some(whole), streamed),
                // A name with half a surrogate is read as no name.
                (None, Some(_)) => prop_assert!(is_json),
                (None, None) => {}
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(Some(_)) = read(&bytes, 7) {
                let is_json = serde_json::from_slice::<Value>(&bytes).is_ok();
                prop_assert!(is_json || bytes.trim_ascii().is_empty() || bytes.starts_with(BYTE_ORDER_MARK));
            }
        }
    }
}

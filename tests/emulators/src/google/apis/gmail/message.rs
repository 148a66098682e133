//! Messages of the Internet (RFC 5322), and their parts (MIME).

use std::borrow::Cow;

use bytes::Bytes;
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::encoded;
use crate::lenient_base64;

/// How deep parts are looked into.
const DEPTH: usize = 16;

/// A message or one of its parts.
#[derive(Debug)]
pub(super) struct Entity<'a> {
    /// As they are written, unfolded.
    headers: Vec<(&'a str, String)>,
    /// As it is written.
    body: &'a [u8],
    parts: Vec<Self>,
}

impl<'a> Entity<'a> {
    /// Reads it; what is malformed is text.
    pub(super) fn read(raw: &'a [u8]) -> Self {
        Self::read_to(raw, DEPTH)
    }

    fn read_to(raw: &'a [u8], depth: usize) -> Self {
        let (head, body) = split(raw);
        let mut headers: Vec<(&str, String)> = Vec::new();
        for line in std::str::from_utf8(head).unwrap_or_default().lines() {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = headers.last_mut() {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':') {
                headers.push((name.trim(), value.trim().to_owned()));
            }
        }
        let mut entity = Self { headers, body, parts: Vec::new() };
        if depth > 0
            && entity.kind().starts_with("multipart/")
            && let Some(boundary) = entity.parameter("content-type", "boundary")
        {
            let parts = between(body, &boundary);
            entity.parts = parts.into_iter().map(|part| Self::read_to(part, depth - 1)).collect();
        }
        entity
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    fn kind(&self) -> String {
        let kind = self.header("content-type").and_then(|kind| kind.split(';').next());
        kind.unwrap_or("text/plain").trim().to_lowercase()
    }

    /// A parameter of a header, as `boundary` of the content type.
    fn parameter(&self, header: &str, name: &str) -> Option<String> {
        let value = self.header(header)?;
        value.split(';').skip(1).find_map(|parameter| {
            let (known, value) = parameter.split_once('=')?;
            let value = value.trim().trim_matches('"');
            if known.trim().eq_ignore_ascii_case(name) {
                return Some(value.to_owned());
            }
            // RFC 2231: a charset, a language, and what is left is encoded.
            let extended = known.trim().strip_suffix('*')?.eq_ignore_ascii_case(name);
            let text = value.splitn(3, '\'').nth(2).filter(|_| extended)?;
            Some(percent_decode_str(text).decode_utf8_lossy().into_owned())
        })
    }

    fn filename(&self) -> String {
        let named = self.parameter("content-disposition", "filename");
        named.or_else(|| self.parameter("content-type", "name")).unwrap_or_default()
    }

    /// The body without its transfer encoding.
    fn decoded(&self) -> Cow<'a, [u8]> {
        match self.header("content-transfer-encoding").map(str::to_lowercase).as_deref() {
            Some("base64") => lenient_base64::decode(self.body)
                .map_or(self.body.into(), |body| body.to_vec().into()),
            Some("quoted-printable") => quoted_printable(self.body).into(),
            _ => self.body.into(),
        }
    }

    /// The first text, or none.
    fn text(&self) -> Option<String> {
        if self.parts.is_empty() {
            let text = || String::from_utf8_lossy(&self.decoded()).into_owned();
            return (self.kind().starts_with("text/") && self.filename().is_empty()).then(text);
        }
        self.parts.iter().find_map(Self::text)
    }

    /// What it begins with, in one line.
    pub(super) fn snippet(&self) -> String {
        let text = self.text().unwrap_or_default();
        let words: Vec<&str> = text.split_whitespace().collect();
        words.join(" ").chars().take(200).collect()
    }

    /// Whether a word, in small letters, is in what people read of it.
    pub(super) fn mentions(&self, word: &str) -> bool {
        let headers = ["subject", "from", "to", "cc"].iter().filter_map(|name| self.header(name));
        let text = self.text().unwrap_or_default();
        headers.chain([text.as_str()]).any(|said| said.to_lowercase().contains(word))
    }

    /// Every address that it goes to.
    pub(super) fn recipients(&self) -> Vec<String> {
        let fields = ["to", "cc", "bcc"].iter().filter_map(|name| self.header(name));
        let addresses = fields.flat_map(|field| field.split(','));
        let bare = |address: &str| match address.rsplit_once('<') {
            Some((_, address)) => address.trim().trim_end_matches('>').trim().to_owned(),
            None => address.trim().to_owned(),
        };
        addresses.map(bare).filter(|address| address.contains('@')).collect()
    }

    /// As the API shows it.
    pub(super) fn to_json(&self, id: &str) -> Value {
        let mut json = self.metadata(&[]);
        json["partId"] = id.into();
        json["filename"] = self.filename().into();
        if self.parts.is_empty() {
            let body = self.decoded();
            json["body"] = json!({"size": body.len(), "data": encoded(&body)});
        } else {
            let below = |(n, part): (usize, &Self)| {
                part.to_json(&if id.is_empty() { n.to_string() } else { format!("{id}.{n}") })
            };
            json["body"] = json!({"size": 0});
            json["parts"] = self.parts.iter().enumerate().map(below).collect();
        }
        json
    }

    /// Kind and headers: these, or all if none are named.
    pub(super) fn metadata(&self, wanted: &[&str]) -> Value {
        let is_wanted = |name: &str| {
            wanted.is_empty() || wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(name))
        };
        let headers = self.headers.iter().filter(|(name, _)| is_wanted(name));
        let headers: Vec<Value> =
            headers.map(|(name, value)| json!({"name": name, "value": value})).collect();
        json!({"mimeType": self.kind(), "headers": headers})
    }

    /// The message with what a sender may leave out.
    pub(super) fn completed(&self, from: &str, id: &str, now: Timestamp, raw: &[u8]) -> Bytes {
        let mut head = String::new();
        if self.header("from").is_none() {
            head += "From: ";
            head += from;
            head += "\r\n";
        }
        if self.header("date").is_none() {
            head += &now.strftime("Date: %a, %d %b %Y %H:%M:%S +0000\r\n").to_string();
        }
        if self.header("message-id").is_none() {
            head += "Message-Id: <";
            head += id;
            head += "@mail.gmail.com>\r\n";
        }
        [head.as_bytes(), raw].concat().into()
    }
}

/// The head, and what follows the blank line after it.
fn split(raw: &[u8]) -> (&[u8], &[u8]) {
    if let Some(body) = raw.strip_prefix(b"\r\n").or_else(|| raw.strip_prefix(b"\n")) {
        return (&[], body);
    }
    let mut at = 0;
    while let Some(end) = raw[at..].iter().position(|byte| *byte == b'\n') {
        at += end + 1;
        let rest = &raw[at..];
        if let Some(body) = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")) {
            return (&raw[..at], body);
        }
    }
    (raw, &[])
}

/// What stands between lines that are the boundary.
fn between<'a>(body: &'a [u8], boundary: &str) -> Vec<&'a [u8]> {
    let delimiter = format!("--{boundary}");
    let (mut parts, mut begun, mut at) = (Vec::new(), None, 0);
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        let end = at;
        at += line.len();
        let Some(rest) = line.strip_prefix(delimiter.as_bytes()) else { continue };
        let rest = rest.trim_ascii();
        if !(rest.is_empty() || rest == b"--") {
            continue;
        }
        if let Some(begun) = begun {
            // The line break before the delimiter is part of it.
            let part = &body[begun..end];
            let part = part.strip_suffix(b"\n").unwrap_or(part);
            parts.push(part.strip_suffix(b"\r").unwrap_or(part));
        }
        if rest == b"--" {
            return parts;
        }
        begun = Some(at);
    }
    parts
}

fn quoted_printable(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        if *first != b'=' {
            decoded.push(*first);
            continue;
        }
        let soft = more.strip_prefix(b"\r\n").or_else(|| more.strip_prefix(b"\n"));
        let byte = more.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        if let Some(more) = soft {
            rest = more;
        } else if let Some(byte) = byte.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            decoded.push(byte);
            rest = &more[2..];
        } else {
            decoded.push(b'=');
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LETTER: &str = "From: Ann <ann@example.com>\r\nTo: Bob <bob@example.com>, eve@example.com\r\n\
        Subject: two\r\n lines\r\nContent-Type: multipart/mixed; boundary=\"b b\"\r\n\r\nno part\r\n\
        --b b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
        caf=C3=A9 =\r\nau lait\r\n--b b\r\nContent-Type: text/csv\r\nContent-Disposition: attachment; filename=a.csv\r\n\
        Content-Transfer-Encoding: base64\r\n\r\nMSwy\r\n--b b--\r\nnor is this";

    #[test]
    fn parts_are_taken_apart_and_decoded() {
        let entity = Entity::read(LETTER.as_bytes());
        assert_eq!(entity.header("SUBJECT"), Some("two lines"));
        assert_eq!(entity.recipients(), ["bob@example.com", "eve@example.com"]);
        assert_eq!(entity.snippet(), "café au lait");
        assert!(entity.mentions("lait") && !entity.mentions("tea"));
        let json = entity.to_json("");
        assert_eq!(json["mimeType"], "multipart/mixed");
        assert_eq!(json["parts"][1]["filename"], "a.csv");
        assert_eq!(json["parts"][1]["partId"], "1");
        assert_eq!(json["parts"][1]["body"], json!({"size": 3, "data": "MSwy"}));
        assert_eq!(json["parts"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn what_a_sender_leaves_out_is_added() {
        let raw = b"To: bob@example.com\n\nhello";
        let completed =
            Entity::read(raw).completed("ann@example.com", "7", Timestamp::UNIX_EPOCH, raw);
        let entity = Entity::read(&completed);
        assert_eq!(entity.header("from"), Some("ann@example.com"));
        assert_eq!(entity.header("date"), Some("Thu, 01 Jan 1970 00:00:00 +0000"));
        assert_eq!(entity.snippet(), "hello");
    }

    proptest! {
        /// Whatever is sent as a message is read, and its parts are parts of it.
        #[test]
        fn any_message_is_read(
            pieces in proptest::collection::vec(
                proptest::sample::select(vec![
                    "Content-Type: multipart/mixed; boundary=b", "--b", "--b--", "\r\n", "\n",
                    ": ", "=", "=C3", "To: a@b", "text", "Content-Transfer-Encoding: base64", "é",
                ]),
                0..30,
            ),
        ) {
            let raw = pieces.concat();
            let entity = Entity::read(raw.as_bytes());
            let parts: usize = entity.parts.iter().map(|part| part.body.len()).sum();
            prop_assert!(parts <= raw.len());
            entity.to_json("");
            entity.snippet();
        }
    }
}

//! Splitting a `multipart/related` upload into its parts.
//!
//! The official client sends the metadata and the media, and, when it computes the
//! checksum while it sends, a third part that carries it. The media may be large, so
//! the delimiter is searched in long strides and no byte is copied. Lines end in CRLF, or
//! in LF as gcloud writes them, whichever the first one does; boundaries may be quoted
//! either way.

use bytes::Bytes;

use super::object::Attributes;
use super::refusal::Refusal;

/// Metadata and media of a multipart upload.
#[derive(Debug)]
pub(super) struct Multipart {
    pub(super) attributes: Attributes,
    pub(super) media: Bytes,
}

/// One part of a multipart body.
#[derive(Debug)]
pub(crate) struct Part {
    headers: String,
    pub(crate) body: Bytes,
}

/// Parses `body` as the `Content-Type` header says it is delimited.
pub(super) fn parse(content_type: &str, body: &Bytes) -> Result<Multipart, Refusal> {
    let mut parts = parts(content_type, body)?.into_iter();
    let (Some(metadata), Some(media), trailer, None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::invalid(
            "A multipart upload has a metadata part, a media part, and at most a checksum part.",
        ));
    };
    let mut attributes = Attributes::parse(&metadata.body)?;
    if attributes.content_type.is_none() {
        attributes.content_type = media.header("content-type").map(ToOwned::to_owned);
    }
    if let Some(trailer) = trailer {
        let trailer = Attributes::parse(&trailer.body)?;
        attributes.crc32c = attributes.crc32c.or(trailer.crc32c);
        attributes.md5_hash = attributes.md5_hash.or(trailer.md5_hash);
    }
    Ok(Multipart { attributes, media: media.body })
}

fn boundary(content_type: &str) -> Option<&str> {
    let (media_type, parameters) = content_type.split_once(';')?;
    let media_type = media_type.trim();
    let multipart = media_type.get(..10)?.eq_ignore_ascii_case("multipart/");
    let boundary = parameters.split(';').find_map(|parameter| {
        let (key, value) = parameter.trim().split_once('=')?;
        key.eq_ignore_ascii_case("boundary").then(|| value.trim_matches(['"', '\'']))
    })?;
    (multipart && !boundary.is_empty()).then_some(boundary)
}

/// `None` when the body does not open with the boundary or is not closed by it.
fn split(boundary: &str, body: &Bytes) -> Option<Vec<Part>> {
    let opening = format!("--{boundary}");
    let mut rest = body.slice_ref(body.strip_prefix(opening.as_bytes())?);
    let line = if rest.starts_with(b"\n") { "\n" } else { "\r\n" };
    let delimiter = Finder::new(format!("{line}--{boundary}").into_bytes());
    let mut parts = Vec::new();
    loop {
        if rest.starts_with(b"--") {
            return Some(parts);
        }
        let part = rest.slice_ref(rest.strip_prefix(line.as_bytes())?);
        let end = delimiter.find(&part)?;
        rest = part.slice(end + delimiter.needle.len()..);
        parts.push(Part::parse(&part.slice(..end), line)?);
    }
}

impl Part {
    fn parse(part: &Bytes, line: &str) -> Option<Self> {
        // Without headers, the blank line that ends them comes first.
        if let Some(body) = part.strip_prefix(line.as_bytes()) {
            return Some(Self { headers: String::new(), body: part.slice_ref(body) });
        }
        let blank = line.repeat(2);
        let end = Finder::new(blank.clone().into_bytes()).find(part)?;
        let headers = std::str::from_utf8(&part[..end]).ok()?.to_owned();
        Some(Self { headers, body: part.slice(end + blank.len()..) })
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// The parts of a body that is delimited as its `Content-Type` says.
pub(super) fn parts(content_type: &str, body: &Bytes) -> Result<Vec<Part>, Refusal> {
    if boundary(content_type).is_none() {
        let message = "A multipart request needs Content-Type: multipart/…; boundary=…";
        return Err(Refusal::invalid(message));
    }
    split_as(content_type, body).ok_or_else(|| Refusal::invalid("Malformed multipart body."))
}

/// As [`parts`], for those who refuse otherwise.
pub(crate) fn split_as(content_type: &str, body: &Bytes) -> Option<Vec<Part>> {
    split(boundary(content_type)?, body)
}

/// Horspool's search: looks at one byte in as many as the needle is long.
struct Finder {
    needle: Vec<u8>,
    /// How far the window may move when its last byte is this one.
    stride: [usize; 256],
}

impl Finder {
    /// `needle` is not empty.
    fn new(needle: Vec<u8>) -> Self {
        let mut stride = [needle.len(); 256];
        for (at, byte) in needle[..needle.len() - 1].iter().enumerate() {
            stride[usize::from(*byte)] = needle.len() - 1 - at;
        }
        Self { needle, stride }
    }

    fn find(&self, haystack: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(window) = haystack.get(at..at + self.needle.len()) {
            if window == self.needle {
                return Some(at);
            }
            at += self.stride[usize::from(window[window.len() - 1])];
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TYPE: &str = "multipart/related; boundary=frontier";

    fn parsed(body: &'static str) -> Result<Multipart, Refusal> {
        parse(TYPE, &Bytes::from_static(body.as_bytes()))
    }

    #[test]
    fn two_parts() {
        let parsed = parsed(
            "--frontier\r\nContent-Disposition: form-data; name=\"metadata\"\r\n\
             Content-Type: application/json; charset=UTF-8\r\n\r\n\
             {\"metadata\":{\"k\":\"v\"},\"storageClass\":\"STANDARD\"}\r\n\
             --frontier\r\ncontent-type: text/plain\r\n\r\nhello\r\nworld\r\n--frontier--\r\n",
        )
        .unwrap();
        assert_eq!(&parsed.media[..], b"hello\r\nworld");
        assert_eq!(parsed.attributes.metadata["k"], "v");
        assert_eq!(parsed.attributes.content_type.as_deref(), Some("text/plain"));
    }

    #[test]
    fn the_third_part_carries_the_checksum() {
        let parsed = parsed(
            "--frontier\r\n\r\n{\"contentType\":\"a/b\"}\r\n--frontier\r\n\r\n\r\n--frontier\r\n\
             Content-Type: application/json\r\n\r\n{\"crc32c\":\"AAAAAA==\"}\r\n--frontier--",
        )
        .unwrap();
        assert_eq!(&parsed.media[..], b"");
        assert_eq!(parsed.attributes.crc32c.as_deref(), Some("AAAAAA=="));
        assert_eq!(parsed.attributes.content_type.as_deref(), Some("a/b"));
    }

    #[test]
    fn boundaries_may_be_quoted_and_contents_may_look_alike() {
        let body = "--a\r\n\r\n{}\r\n--a\r\n\r\n\r\n--\r\n-a\r\r\n--a--";
        let parsed = parse(
            "Multipart/Related; type=x; Boundary=\"a\"",
            &Bytes::from_static(body.as_bytes()),
        )
        .unwrap();
        assert_eq!(&parsed.media[..], b"\r\n--\r\n-a\r");
    }

    #[test]
    fn gcloud_ends_lines_in_lf_and_quotes_once() {
        let body = "--=a==\nContent-Type: application/json\n\n{\"name\":\"n\"}\n--=a==\n\
                    Content-Type: text/plain\n\nhello\r\nworld\n\n--=a==--";
        let parsed =
            parse("multipart/related; boundary='=a=='", &Bytes::from_static(body.as_bytes()))
                .unwrap();
        assert_eq!(&parsed.media[..], b"hello\r\nworld\n");
        assert_eq!(parsed.attributes.name.as_deref(), Some("n"));
        assert_eq!(parsed.attributes.content_type.as_deref(), Some("text/plain"));
    }

    #[test]
    fn anything_else_is_refused() {
        for body in [
            "",
            "--frontier--",
            "--frontier\r\n\r\n{}\r\n--frontier--",
            "--frontier\r\n\r\n{}\r\n--frontier\r\n\r\ncut off",
            "--frontier\r\n\r\nnot json\r\n--frontier\r\n\r\nx\r\n--frontier--",
        ] {
            assert!(matches!(parsed(body), Err(Refusal::Invalid(_))), "{body:?}");
        }
        assert!(parse("multipart/related", &Bytes::new()).is_err());
        assert!(parse("text/plain; boundary=a", &Bytes::new()).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        /// Whatever comes as an upload is taken apart or refused; media are a part of the body.
        #[test]
        fn any_body_is_taken_apart_or_refused(
            pieces in proptest::collection::vec(
                prop_oneof![
                    4 => proptest::sample::select(vec![
                        "--frontier", "--", "\r\n", "\n", "\r\n\r\n", "{}", "{\"name\":\"n\"}",
                        "Content-Type: text/plain", ":", "frontier",
                    ]).prop_map(|piece| piece.as_bytes().to_vec()),
                    1 => proptest::collection::vec(any::<u8>(), 0..8),
                ],
                0..24,
            ),
            content_type in prop_oneof![Just(TYPE.to_owned()), "\\PC{0,40}"],
        ) {
            let body = Bytes::from(pieces.concat());
            if let Ok(parsed) = parse(&content_type, &body) {
                prop_assert!(parsed.media.len() <= body.len());
            }
        }
    }
}

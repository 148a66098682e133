//! `paginate`: one answer out of many pages (AIP-158).
//!
//! Each page names the next one by a token, which goes into the query of the same
//! call. Everything here is pure; the caller makes the requests and checks every
//! URL again.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use url::Url;

use super::limits::{MAX_PAGES, PAGES};
use crate::kinds::response::MAX_INLINE_BYTES;

/// How a job wants its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paging {
    /// The field whose elements are concatenated; every field that is an array
    /// if `None`.
    items: Option<String>,
    /// The query parameter that takes the token.
    page_param: String,
    /// The field that has the token.
    token_field: String,
    pub(super) max_pages: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    items: Option<String>,
    page_param: Option<String>,
    token_field: Option<String>,
    max_pages: Option<u32>,
}

/// What is wrong with a page. No text quotes one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadPage {
    #[error("a page is not a JSON object")]
    NotAnObject,
    #[error("a page's token is not a string")]
    Token,
    #[error("a page's token came for the second time, so that the pages would never end")]
    Loop,
    #[error("there are more pages than `max_pages` ({0}); raise it, or narrow the query")]
    TooMany(u32),
    #[error("the field that `items` names is not an array")]
    Items,
    #[error("a page has several arrays; name one with `items`")]
    Several(Vec<String>),
    #[error(
        "the pages are larger than {MAX_INLINE_BYTES} bytes, the most that fits into an outcome; use `output`"
    )]
    TooLarge,
}

impl Paging {
    /// Reads the parameter: `true`, or an object of what differs from the default.
    /// `false` is `None`.
    pub(super) fn read(value: Value) -> Result<Option<Self>, String> {
        let wire: Wire = match value {
            Value::Bool(false) | Value::Null => return Ok(None),
            Value::Bool(true) => Wire { items: None, page_param: None, token_field: None, max_pages: None },
            object => serde_json::from_value(object).map_err(|_| {
                "`paginate` must be true, or an object of `items`, `page_param`, `token_field` and `max_pages`"
                    .to_owned()
            })?,
        };
        let named = [&wire.items, &wire.page_param, &wire.token_field];
        if named.into_iter().flatten().any(String::is_empty) {
            return Err("`paginate`: a name is empty".to_owned());
        }
        let max_pages = wire.max_pages.unwrap_or(PAGES);
        if !(1..=MAX_PAGES).contains(&max_pages) {
            return Err(format!("`paginate`: `max_pages` must be 1 to {MAX_PAGES}"));
        }
        Ok(Some(Self {
            items: wire.items,
            page_param: wire.page_param.unwrap_or_else(|| "pageToken".to_owned()),
            token_field: wire.token_field.unwrap_or_else(|| "nextPageToken".to_owned()),
            max_pages,
        }))
    }

    /// The URL of the page with this token: any other token in the query goes.
    pub(super) fn url(&self, first: &Url, token: &str) -> Url {
        let kept: Vec<(String, String)> = first
            .query_pairs()
            .filter(|(name, _)| *name != self.page_param)
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        let mut url = first.clone();
        url.query_pairs_mut().clear().extend_pairs(kept).append_pair(&self.page_param, token);
        url
    }
}

/// Where the reading of pages is.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    paging: &'a Paging,
    /// Of the tokens, so that they need little room.
    seen: HashSet<u64>,
    /// How many pages were read.
    pub(super) count: u32,
}

impl<'a> Pages<'a> {
    pub(super) fn new(paging: &'a Paging) -> Self {
        Self { paging, seen: HashSet::new(), count: 0 }
    }

    /// Takes one more page, and the token of the next if there is one.
    pub(super) fn take<'b>(
        &mut self,
        body: &'b [u8],
    ) -> Result<(Page<'b>, Option<String>), BadPage> {
        self.count += 1;
        let mut fields: BTreeMap<String, &RawValue> =
            serde_json::from_slice(body).map_err(|_| BadPage::NotAnObject)?;
        let token = match fields.remove(&self.paging.token_field) {
            None => None,
            Some(raw) => {
                let token: Option<String> =
                    serde_json::from_str(raw.get()).map_err(|_| BadPage::Token)?;
                token.filter(|token| !token.is_empty())
            }
        };
        if let Some(token) = &token {
            let mut hasher = DefaultHasher::new();
            token.hash(&mut hasher);
            if !self.seen.insert(hasher.finish()) {
                return Err(BadPage::Loop);
            }
            if self.count >= self.paging.max_pages {
                return Err(BadPage::TooMany(self.paging.max_pages));
            }
        }
        Ok((Page { fields }, token))
    }
}

/// One page's fields, without its token.
#[derive(Debug)]
pub(super) struct Page<'a> {
    fields: BTreeMap<String, &'a RawValue>,
}

impl<'a> Page<'a> {
    /// The elements that are concatenated, by field.
    fn arrays(&self, paging: &Paging) -> Result<Vec<(&str, Vec<&'a RawValue>)>, BadPage> {
        let elements = |raw: &'a RawValue| {
            serde_json::from_str::<Vec<&'a RawValue>>(raw.get()).map_err(|_| BadPage::Items)
        };
        if let Some(name) = &paging.items {
            // An API leaves an empty list out.
            return match self.fields.get_key_value(name) {
                None => Ok(Vec::new()),
                Some((_, raw)) if raw.get() == "null" => Ok(Vec::new()),
                Some((name, raw)) => Ok(vec![(name, elements(raw)?)]),
            };
        }
        let arrays = self.fields.iter().filter(|(_, raw)| raw.get().starts_with('['));
        arrays.map(|(name, raw)| Ok((name.as_str(), elements(raw)?))).collect()
    }

    /// The elements as JSON Lines: one in each line, as the API wrote it.
    pub(super) fn lines(&self, paging: &Paging) -> Result<Vec<u8>, BadPage> {
        let arrays = self.arrays(paging)?;
        if arrays.len() > 1 {
            return Err(BadPage::Several(arrays.iter().map(|(n, _)| (*n).to_owned()).collect()));
        }
        let mut lines = Vec::new();
        for element in arrays.iter().flat_map(|(_, elements)| elements) {
            write_compact(element.get(), &mut lines);
            lines.push(b'\n');
        }
        Ok(lines)
    }
}

/// Pages in one object: arrays concatenated, other fields from the first page
/// that has them.
#[derive(Debug, Default)]
pub(super) struct Merged {
    fields: Map<String, Value>,
    /// How long it is as JSON, but for a few brackets.
    bytes: usize,
}

impl Merged {
    pub(super) fn add(&mut self, page: &Page<'_>, paging: &Paging) -> Result<(), BadPage> {
        let arrays = page.arrays(paging)?;
        for (name, raw) in &page.fields {
            let more = arrays.iter().find(|(array, _)| array == name).map(|(_, elements)| elements);
            match (self.fields.get_mut(name), more) {
                (Some(Value::Array(all)), Some(more)) => {
                    for raw in more {
                        all.push(parse(raw, &mut self.bytes)?);
                    }
                }
                (Some(_), _) => {}
                (None, _) => {
                    self.bytes += name.len();
                    let value = parse(raw, &mut self.bytes)?;
                    self.fields.insert(name.clone(), value);
                }
            }
        }
        Ok(())
    }

    /// The whole, if it fits into an outcome.
    pub(super) fn finish(self) -> Result<Value, BadPage> {
        let whole = Value::Object(self.fields);
        if whole.to_string().len() > MAX_INLINE_BYTES {
            return Err(BadPage::TooLarge);
        }
        Ok(whole)
    }
}

/// Parses a part, unless it makes the whole too large.
fn parse(raw: &RawValue, bytes: &mut usize) -> Result<Value, BadPage> {
    let mut compact = Vec::new();
    write_compact(raw.get(), &mut compact);
    *bytes += compact.len();
    if *bytes > MAX_INLINE_BYTES {
        return Err(BadPage::TooLarge);
    }
    serde_json::from_slice(&compact).map_err(|_| BadPage::NotAnObject)
}

/// Appends JSON without the white space between its tokens, and so without line
/// ends: those inside strings are escaped. Numbers keep their digits, which a
/// parser would not promise.
fn write_compact(json: &str, out: &mut Vec<u8>) {
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_string = byte == b'"';
        }
        out.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn paging(value: Value) -> Paging {
        Paging::read(value).unwrap().unwrap()
    }

    /// Reads pages as the handler does.
    fn merge(paging: &Paging, pages: &[Value]) -> Result<Value, BadPage> {
        let (mut reader, mut merged) = (Pages::new(paging), Merged::default());
        for page in pages {
            let body = serde_json::to_vec_pretty(page).unwrap();
            let (page, token) = reader.take(&body)?;
            merged.add(&page, paging)?;
            if token.is_none() {
                break;
            }
        }
        merged.finish()
    }

    fn lines(paging: &Paging, page: &str) -> Result<String, BadPage> {
        let mut reader = Pages::new(paging);
        let (page, _) = reader.take(page.as_bytes())?;
        page.lines(paging).map(|lines| String::from_utf8(lines).unwrap())
    }

    #[test]
    fn the_parameter() {
        assert_eq!(Paging::read(json!(false)), Ok(None));
        let default = paging(json!(true));
        assert_eq!(default, paging(json!({})));
        assert_eq!((default.page_param.as_str(), default.max_pages), ("pageToken", 100));
        assert_eq!(default.token_field, "nextPageToken");
        let other = paging(json!({
            "items": "rows", "page_param": "t", "token_field": "next", "max_pages": 3,
        }));
        assert_eq!((other.items.as_deref(), other.max_pages), (Some("rows"), 3));
        for (bad, says) in [
            (json!("yes"), "must be true"),
            (json!(1), "must be true"),
            (json!({"colour": 1}), "must be true"),
            (json!({"items": 7}), "must be true"),
            (json!({"max_pages": -1}), "must be true"),
            (json!({"max_pages": 0}), "1 to 10000"),
            (json!({"max_pages": 10_001}), "1 to 10000"),
            (json!({"items": ""}), "empty"),
        ] {
            let error = Paging::read(bad.clone()).unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }

    #[test]
    fn the_next_url() {
        let first = Url::parse("https://x.googleapis.com/a?q=1%262&pageToken=old&z=%2F").unwrap();
        let url = paging(json!(true)).url(&first, "a&b=c#d");
        assert_eq!(
            url.as_str(),
            "https://x.googleapis.com/a?q=1%262&z=%2F&pageToken=a%26b%3Dc%23d"
        );
        let bare = Url::parse("https://x.googleapis.com/a").unwrap();
        assert_eq!(paging(json!({"page_param": "t"})).url(&bare, "n").query(), Some("t=n"));
    }

    #[test]
    fn pages_are_merged() {
        let pages = [
            json!({"kind": "k", "nextPageToken": "1"}),
            json!({"kind": "other", "files": [1, {"a": "b  c"}], "nextPageToken": "2", "n": 7}),
            json!({"files": [], "more": [8], "nextPageToken": "3"}),
            json!({"files": ["last"], "nextPageToken": ""}),
            json!({"files": ["never read"]}),
        ];
        let all = merge(&paging(json!(true)), &pages).unwrap();
        let files = json!([1, {"a": "b  c"}, "last"]);
        assert_eq!(all, json!({"kind": "k", "files": files, "more": [8], "n": 7}));
        let only = merge(&paging(json!({"items": "more"})), &pages).unwrap();
        let first = json!([1, {"a": "b  c"}]);
        assert_eq!(only, json!({"kind": "k", "files": first, "more": [8], "n": 7}));
    }

    #[test]
    fn bad_pages() {
        let plain = paging(json!(true));
        for (pages, paging, says) in [
            (vec![json!([1])], &plain, BadPage::NotAnObject),
            (vec![json!("x")], &plain, BadPage::NotAnObject),
            (vec![json!({"nextPageToken": 7})], &plain, BadPage::Token),
            (
                vec![json!({"nextPageToken": "1"}), json!({"nextPageToken": "1"})],
                &plain,
                BadPage::Loop,
            ),
            (
                vec![
                    json!({"nextPageToken": "1"}),
                    json!({"nextPageToken": "2"}),
                    json!({"nextPageToken": "1"}),
                ],
                &plain,
                BadPage::Loop,
            ),
            (
                vec![json!({"nextPageToken": "1"}), json!({"nextPageToken": "2"})],
                &paging(json!({"max_pages": 2})),
                BadPage::TooMany(2),
            ),
            (vec![json!({"rows": {}})], &paging(json!({"items": "rows"})), BadPage::Items),
            (vec![json!({"a": "x".repeat(65_536)})], &plain, BadPage::TooLarge),
        ] {
            assert_eq!(merge(paging, &pages), Err(says), "{paging:?}");
        }
        assert_eq!(
            merge(&paging(json!({"max_pages": 1})), &[json!({"a": [1]})]),
            Ok(json!({"a": [1]}))
        );
        let page = |next: &str| json!({"a": ["x".repeat(30_000)], "nextPageToken": next});
        let pages = [page("1"), page("2"), page("3")];
        assert_eq!(merge(&plain, &pages), Err(BadPage::TooLarge));
        assert!(Pages::new(&plain).take(b"{").is_err());
    }

    #[test]
    fn lines_are_what_the_api_wrote() {
        let plain = paging(json!(true));
        let page = "{\n \"files\": [\n  {\"a\" : 1e400, \"b\": \"x\\\" \\\\ y\\n\"},\n  123456789012345678901,\n [ 1 , 2 ]\n ]\n}";
        assert_eq!(
            lines(&plain, page).unwrap(),
            "{\"a\":1e400,\"b\":\"x\\\" \\\\ y\\n\"}\n123456789012345678901\n[1,2]\n"
        );
        assert_eq!(lines(&plain, r#"{"kind": "k"}"#).unwrap(), "");
        let two = r#"{"a": [1], "b": [2]}"#;
        let several = BadPage::Several(vec!["a".into(), "b".into()]);
        assert_eq!(lines(&plain, two), Err(several));
        assert_eq!(lines(&paging(json!({"items": "b"})), two).unwrap(), "2\n");
        assert_eq!(lines(&paging(json!({"items": "c"})), two).unwrap(), "");
    }
}

//! `paginate`: one answer out of many pages (AIP-158).
//!
//! Each page names the next one by a token, which goes into the query of the same
//! call. Everything here is pure; the caller makes the requests and checks every
//! URL again.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use reqwest::header::HeaderMap;
use serde::Deserialize;
use serde_json::Value;
use url::{Url, form_urlencoded};

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
    #[error("a page is not JSON")]
    NotJson,
    #[error("a page is nested too deep")]
    TooDeep,
    #[error("a page has a field whose name is too long")]
    Name,
    #[error("a page's token is not a string, or too long")]
    Token,
    #[error("a page's token came for the second time, so that the pages would never end")]
    Loop,
    #[error("there are more pages than `max_pages` ({0}); raise it, or narrow the query")]
    TooMany(u32),
    #[error("the field that `items` names is not an array")]
    Items,
    #[error("a page has several arrays; name one with `items`")]
    Several(Vec<String>),
    #[error("a field is an array on one page and something else on another")]
    Changed,
    #[error(
        "no page has an array whose elements could be put together; ask for each page by itself, without `paginate`"
    )]
    NoArray,
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

    pub(super) fn token_field(&self) -> &str {
        &self.token_field
    }

    /// Whether `items` says which field is meant.
    pub(super) fn has_items(&self) -> bool {
        self.items.is_some()
    }

    /// Whether `items` is this field.
    pub(super) fn names(&self, field: &str) -> bool {
        self.items.as_deref() == Some(field)
    }

    /// Whether the elements of this field are taken; `first` is the first byte of its value.
    pub(super) fn takes(&self, name: &str, first: u8) -> Result<bool, BadPage> {
        match &self.items {
            None => Ok(first == b'['),
            Some(items) if items != name => Ok(false),
            // An API leaves an empty list out, or says `null`.
            Some(_) if first == b'n' => Ok(false),
            Some(_) if first == b'[' => Ok(true),
            Some(_) => Err(BadPage::Items),
        }
    }

    /// The URL of the page with this token: any other token in the query goes, and the rest of
    /// it stays as it is written.
    pub(super) fn url(&self, first: &Url, token: &str) -> Url {
        let is_kept = |pair: &&str| {
            let mut names = form_urlencoded::parse(pair.as_bytes());
            names.next().is_none_or(|(name, _)| name != self.page_param)
        };
        let kept = first.query().unwrap_or_default().split('&').filter(is_kept);
        let kept: Vec<&str> = kept.filter(|pair| !pair.is_empty()).collect();
        let mut url = first.clone();
        url.set_query(Some(&kept.join("&")));
        url.query_pairs_mut().append_pair(&self.page_param, token);
        url
    }

    /// Refuses a mask of fields that leaves the token out: the first page would pass for all.
    pub(super) fn check_masks(&self, url: &Url, headers: &HeaderMap) -> Result<(), String> {
        let left_out = |what: &str| {
            let token = &self.token_field;
            Err(format!(
                "{what} leaves out `{token}`, so that only the first page would ever come; add `{token}` to it"
            ))
        };
        let is_mask = |name: &str| name == "fields" || name == "$fields";
        let masks: Vec<_> = url.query_pairs().filter(|(name, _)| is_mask(name)).collect();
        if !masks.is_empty() && !masks.iter().any(|(_, mask)| self.is_in(mask)) {
            return left_out("`fields`");
        }
        match headers.get("x-goog-fieldmask").and_then(|mask| mask.to_str().ok()) {
            Some(mask) if !self.is_in(mask) => left_out("the header X-Goog-FieldMask"),
            _ => Ok(()),
        }
    }

    /// Whether a mask, such as `nextPageToken,files(id,name)`, has the token.
    fn is_in(&self, mask: &str) -> bool {
        // Masks may spell a name in snake case.
        let plain = |name: &str| name.trim().replace('_', "").to_ascii_lowercase();
        let token = plain(&self.token_field);
        let mut depth = 0_u32;
        let at_top = |c: char| {
            match c {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0
        };
        mask.split(at_top).any(|field| field.trim() == "*" || plain(field) == token)
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

    /// Counts one more page, whose token this is as JSON, and takes the token of the next if
    /// there is one.
    pub(super) fn take(&mut self, token: Option<Vec<u8>>) -> Result<Option<String>, BadPage> {
        self.count += 1;
        let Some(token) = token else { return Ok(None) };
        let token: Option<String> = serde_json::from_slice(&token).map_err(|_| BadPage::Token)?;
        let Some(token) = token.filter(|token| !token.is_empty()) else { return Ok(None) };
        let mut hasher = DefaultHasher::new();
        token.hash(&mut hasher);
        if !self.seen.insert(hasher.finish()) {
            return Err(BadPage::Loop);
        }
        if self.count >= self.paging.max_pages {
            return Err(BadPage::TooMany(self.paging.max_pages));
        }
        Ok(Some(token))
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;
    use serde_json::json;

    use super::*;

    fn paging(value: Value) -> Paging {
        Paging::read(value).unwrap().unwrap()
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
        let first =
            Url::parse("https://x.googleapis.com/a?q=1%262&pageToken=old&z=%2F+(a)&e").unwrap();
        let url = paging(json!(true)).url(&first, "a&b=c#d");
        assert_eq!(
            url.as_str(),
            "https://x.googleapis.com/a?q=1%262&z=%2F+(a)&e&pageToken=a%26b%3Dc%23d"
        );
        let bare = Url::parse("https://x.googleapis.com/a").unwrap();
        assert_eq!(paging(json!({"page_param": "t"})).url(&bare, "n").query(), Some("t=n"));
    }

    #[test]
    fn masks_that_leave_the_token_out() {
        let plain = paging(json!(true));
        let mask = |query: &str, header: Option<&str>| {
            let url = Url::parse(&format!("https://x.googleapis.com/a?{query}")).unwrap();
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert("x-goog-fieldmask", HeaderValue::from_str(header).unwrap());
            }
            plain.check_masks(&url, &headers)
        };
        for query in [
            "fields=files(id)",
            "fields=files(id,nextPageToken)",
            "fields=files/nextPageToken",
            "fields=kind%2Cfiles",
            "%66ields=files",
            "$fields=files",
            "fields=",
            "fields=nextPageTokens",
        ] {
            let error = mask(query, None).unwrap_err();
            assert!(error.contains("`nextPageToken`"), "{query}: {error}");
        }
        assert!(mask("", Some("files.id")).unwrap_err().contains("X-Goog-FieldMask"));
        for query in [
            "",
            "fields=*",
            "fields=nextPageToken,files(id)",
            "fields=files(id,name),%20nextPageToken",
            "fields=files%28id%29%2CnextPageToken",
            "$fields=next_page_token,files",
            "fields=files(id)&fields=nextPageToken",
            "q=fields",
        ] {
            assert_eq!(mask(query, None), Ok(()), "{query}");
        }
        assert_eq!(mask("", Some("files.id,next_page_token")), Ok(()));
    }
}

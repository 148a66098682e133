//! What is made of pages: lines for an object, or one object for the outcome.
//!
//! Nothing of a page may be left out unsaid. Fields that are no array may differ from page to
//! page and come from the first; but where later pages bring objects and no page an array, it is
//! the objects that are the list (`aggregatedList` of Compute Engine), and nothing joins those.

use crate::json::Json;
use crate::kinds::response::MAX_INLINE_BYTES;

use super::page::{Collect, Take};
use super::paging::{BadPage, Paging};

/// What values the fields of the pages have.
#[derive(Debug, Default)]
struct Seen {
    pages: u32,
    array: bool,
    /// On a page after the first.
    object: bool,
}

impl Seen {
    /// A field of the page whose value begins with this byte.
    fn field(&mut self, first: u8) {
        self.array |= first == b'[';
        self.object |= first == b'{' && self.pages > 1;
    }

    /// After the last page.
    fn check(&self, paging: &Paging) -> Result<(), BadPage> {
        if self.object && !self.array && !paging.has_items() {
            return Err(BadPage::NoArray);
        }
        Ok(())
    }
}

/// The elements as JSON Lines: one in each line, as the API wrote it.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    paging: &'a Paging,
    seen: Seen,
    /// The field whose elements these are, once one is known.
    array: Option<String>,
    /// What has come and was not taken.
    out: Vec<u8>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(paging: &'a Paging) -> Self {
        Self { paging, seen: Seen::default(), array: None, out: Vec::new() }
    }

    /// Whether that was all of every page.
    pub(super) fn finish(self) -> Result<(), BadPage> {
        self.seen.check(self.paging)
    }
}

impl Collect for Lines<'_> {
    fn field(&mut self, name: &str, first: u8) -> Result<Take, BadPage> {
        self.seen.field(first);
        if !self.paging.takes(name, first)? {
            return Ok(Take::Nothing);
        }
        match &self.array {
            Some(other) if other != name => {
                Err(BadPage::Several(vec![other.clone(), name.to_owned()]))
            }
            _ => {
                self.array = Some(name.to_owned());
                Ok(Take::Elements)
            }
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), BadPage> {
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), BadPage> {
        self.out.push(b'\n');
        Ok(())
    }

    fn begin_page(&mut self) {
        self.seen.pages += 1;
        self.array = None;
    }

    fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

/// Pages in one object: arrays concatenated, other fields from the first page
/// that has them. No more of it is held than fits into an outcome.
#[derive(Debug)]
pub(super) struct Merged<'a> {
    paging: &'a Paging,
    seen: Seen,
    fields: Vec<Field>,
    /// Which field is at hand.
    at_hand: usize,
    /// How long all is.
    bytes: usize,
}

#[derive(Debug)]
struct Field {
    name: String,
    is_array: bool,
    /// The value, or the elements with commas between them.
    json: Vec<u8>,
    /// An element follows another.
    needs_comma: bool,
}

impl<'a> Merged<'a> {
    pub(super) fn new(paging: &'a Paging) -> Self {
        Self { paging, seen: Seen::default(), fields: Vec::new(), at_hand: 0, bytes: 2 }
    }

    /// Counts bytes of the whole.
    fn grow(&mut self, bytes: usize) -> Result<(), BadPage> {
        self.bytes += bytes;
        if self.bytes > MAX_INLINE_BYTES { Err(BadPage::TooLarge) } else { Ok(()) }
    }

    /// The whole.
    pub(super) fn finish(self) -> Result<Json, BadPage> {
        self.seen.check(self.paging)?;
        let mut whole = vec![b'{'];
        for field in &self.fields {
            if whole.len() > 1 {
                whole.push(b',');
            }
            serde_json::to_writer(&mut whole, &field.name).map_err(|_| BadPage::NotJson)?;
            whole.push(b':');
            if field.is_array {
                whole.push(b'[');
            }
            whole.extend_from_slice(&field.json);
            if field.is_array {
                whole.push(b']');
            }
        }
        whole.push(b'}');
        if whole.len() > MAX_INLINE_BYTES {
            return Err(BadPage::TooLarge);
        }
        Json::parse(&whole).map_err(|_| BadPage::NotJson)
    }
}

impl Collect for Merged<'_> {
    fn field(&mut self, name: &str, first: u8) -> Result<Take, BadPage> {
        self.seen.field(first);
        let is_array = self.paging.takes(name, first)?;
        if !is_array && self.paging.names(name) {
            return Ok(Take::Nothing);
        }
        let Some(known) = self.fields.iter().position(|field| field.name == name) else {
            self.at_hand = self.fields.len();
            self.grow(name.len() + 3)?;
            let (name, json) = (name.to_owned(), Vec::new());
            self.fields.push(Field { name, is_array, json, needs_comma: false });
            return Ok(if is_array { Take::Elements } else { Take::Whole });
        };
        let field = &mut self.fields[known];
        // An API may say `null` of a list that is empty.
        if is_array && !field.is_array && field.json == b"null" {
            field.is_array = true;
            field.json.clear();
        }
        match (field.is_array, is_array) {
            (true, true) => {
                self.at_hand = known;
                Ok(Take::Elements)
            }
            (false, false) => Ok(Take::Nothing),
            (true, false) if first == b'n' => Ok(Take::Nothing),
            _ => Err(BadPage::Changed),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), BadPage> {
        self.grow(bytes.len())?;
        let field = &mut self.fields[self.at_hand];
        if std::mem::take(&mut field.needs_comma) {
            field.json.push(b',');
        }
        field.json.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), BadPage> {
        let field = &mut self.fields[self.at_hand];
        field.needs_comma = field.is_array;
        self.grow(1)
    }

    fn begin_page(&mut self) {
        self.seen.pages += 1;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::page::PageReader;
    use super::super::paging::Pages;
    use super::*;

    fn paging(value: Value) -> Paging {
        Paging::read(value).unwrap().unwrap()
    }

    /// Reads pages as the handler does, in pieces of seven bytes.
    fn merge(paging: &Paging, pages: &[&str]) -> Result<String, BadPage> {
        let (mut seen, mut merged) = (Pages::new(paging), Merged::new(paging));
        for page in pages {
            merged.begin_page();
            let mut reader = PageReader::new(paging.token_field());
            for piece in page.as_bytes().chunks(7) {
                reader.read(piece, &mut merged)?;
            }
            if seen.take(reader.end().unwrap())?.is_none() {
                break;
            }
        }
        merged.finish().map(|json| json.text().to_owned())
    }

    fn lines(paging: &Paging, pages: &[&str]) -> Result<String, BadPage> {
        let (mut lines, mut all) = (Lines::new(paging), Vec::new());
        for page in pages {
            lines.begin_page();
            let mut reader = PageReader::new(paging.token_field());
            for piece in page.as_bytes().chunks(7) {
                reader.read(piece, &mut lines)?;
                all.extend(lines.take());
            }
            assert!(reader.end().is_ok());
        }
        lines.finish()?;
        Ok(String::from_utf8(all).unwrap())
    }

    #[test]
    fn pages_are_merged_as_they_were_written() {
        let pages = [
            r#"{"kind": "k", "nextPageToken": "1"}"#,
            r#"{"kind": "other", "files": [1.0, {"a": "b  c"}], "nextPageToken": "2", "n": 1e400}"#,
            r#"{"files": [], "more": [8], "nextPageToken": "3"}"#,
            r#"{"files": ["last", 123456789012345678901234567890], "nextPageToken": ""}"#,
            r#"{"files": ["never read"]}"#,
        ];
        assert_eq!(
            merge(&paging(json!(true)), &pages).unwrap(),
            r#"{"kind":"k","files":[1.0,{"a":"b  c"},"last",123456789012345678901234567890],"n":1e400,"more":[8]}"#
        );
        assert_eq!(
            merge(&paging(json!({"items": "more"})), &pages).unwrap(),
            r#"{"kind":"k","files":[1.0,{"a":"b  c"}],"n":1e400,"more":[8]}"#
        );
        let empty_last = [r#"{"a": [1], "nextPageToken": "1"}"#, ""];
        assert_eq!(merge(&paging(json!(true)), &empty_last).unwrap(), r#"{"a":[1]}"#);
        assert_eq!(merge(&paging(json!(true)), &[""]).unwrap(), "{}");
        let nulls = [
            r#"{"files": null, "n": null, "nextPageToken": "1"}"#,
            r#"{"files": [1, 2], "nextPageToken": "2"}"#,
            r#"{"files": null, "n": 7, "nextPageToken": "3"}"#,
            r#"{"files": [3]}"#,
        ];
        assert_eq!(merge(&paging(json!(true)), &nulls).unwrap(), r#"{"files":[1,2,3],"n":null}"#);
        let none_found = [r#"{"kind": "k", "nextPageToken": "1"}"#, r#"{"kind": "k"}"#];
        assert_eq!(merge(&paging(json!(true)), &none_found).unwrap(), r#"{"kind":"k"}"#);
        let about = [
            r#"{"about": {"n": 1}, "a": [1], "nextPageToken": "1"}"#,
            r#"{"about": {"n": 2}, "a": [2]}"#,
        ];
        assert_eq!(merge(&paging(json!(true)), &about).unwrap(), r#"{"about":{"n":1},"a":[1,2]}"#);
    }

    /// As `aggregatedList` of Compute Engine has them: nothing would be left of all pages but
    /// the first.
    #[test]
    fn pages_whose_list_is_an_object() {
        let pages = [
            r#"{"items": {"zones/a": {"disks": [1]}}, "nextPageToken": "1"}"#,
            r#"{"items": {"zones/b": {"disks": [2]}}}"#,
        ];
        let plain = paging(json!(true));
        assert_eq!(merge(&plain, &pages), Err(BadPage::NoArray));
        assert_eq!(lines(&plain, &pages), Err(BadPage::NoArray));
        let named = paging(json!({"items": "items"}));
        assert_eq!(merge(&named, &pages), Err(BadPage::Items));
        assert_eq!(lines(&named, &pages), Err(BadPage::Items));
        let other = paging(json!({"items": "warnings"}));
        assert_eq!(merge(&other, &pages).unwrap(), r#"{"items":{"zones/a":{"disks":[1]}}}"#);
        let only = [r#"{"items": {"zones/a": {"disks": [1]}}}"#];
        assert_eq!(merge(&plain, &only).unwrap(), r#"{"items":{"zones/a":{"disks":[1]}}}"#);
    }

    #[test]
    fn bad_pages() {
        let plain = paging(json!(true));
        let token = |token: &str| format!(r#"{{"nextPageToken": "{token}"}}"#);
        let (one, two) = (token("1"), token("2"));
        let most_two = paging(json!({"max_pages": 2}));
        let rows = paging(json!({"items": "rows"}));
        for (pages, paging, says) in [
            (vec!["[1]"], &plain, BadPage::NotAnObject),
            (vec![r#"{"nextPageToken": 7}"#], &plain, BadPage::Token),
            (vec![&one, &one], &plain, BadPage::Loop),
            (vec![&one, &two, &one], &plain, BadPage::Loop),
            (vec![&one, &two], &most_two, BadPage::TooMany(2)),
            (vec![r#"{"rows": {}}"#], &rows, BadPage::Items),
            (vec![r#"{"a": 1, "nextPageToken": "1"}"#, r#"{"a": [1]}"#], &plain, BadPage::Changed),
            (vec![r#"{"a": [1], "nextPageToken": "1"}"#, r#"{"a": {}}"#], &plain, BadPage::Changed),
        ] {
            assert_eq!(merge(paging, &pages), Err(says), "{pages:?}");
        }
        let one_page = paging(json!({"max_pages": 1}));
        assert_eq!(merge(&one_page, &[r#"{"a": [1]}"#]).unwrap(), r#"{"a":[1]}"#);
        assert_eq!(merge(&rows, &[r#"{"rows": null}"#]).unwrap(), "{}");
        let null_first = [r#"{"rows": null, "nextPageToken": "1"}"#, r#"{"rows": [1]}"#];
        assert_eq!(merge(&rows, &null_first).unwrap(), r#"{"rows":[1]}"#);
    }

    #[test]
    fn what_does_not_fit_is_not_held() {
        let plain = paging(json!(true));
        let members: Vec<_> = (0..9000).map(|n| format!("\"{n}\":1")).collect();
        for large in [
            format!(r#"{{"a": "{}"}}"#, "x".repeat(65_536)),
            format!(r#"{{"a": [{}0]}}"#, "0,".repeat(5_000_000)),
            format!("{{{}}}", members.join(",")),
        ] {
            let (mut merged, mut reader) = (Merged::new(&plain), PageReader::new("next"));
            let read = large.as_bytes().chunks(999).find_map(|p| reader.read(p, &mut merged).err());
            assert_eq!(read, Some(BadPage::TooLarge));
            let held: usize = merged.fields.iter().map(|f| f.json.len() + f.name.len()).sum();
            assert!(held <= MAX_INLINE_BYTES, "{held}");
        }
        let fits = format!(r#"{{"a":["{}"]}}"#, "x".repeat(65_536 - 10));
        assert_eq!(fits.len(), 65_536);
        assert_eq!(merge(&plain, &[&fits]).unwrap(), fits);
    }

    #[test]
    fn lines_are_what_the_api_wrote() {
        let plain = paging(json!(true));
        let page = "{\n \"files\": [\n  {\"a\" : 1e400, \"b\": \"x\\\" \\\\ y\\n\"},\n  123456789012345678901,\n [ 1 , 2 ]\n ]\n}";
        assert_eq!(
            lines(&plain, &[page]).unwrap(),
            "{\"a\":1e400,\"b\":\"x\\\" \\\\ y\\n\"}\n123456789012345678901\n[1,2]\n"
        );
        assert_eq!(lines(&plain, &[r#"{"kind": "k"}"#]).unwrap(), "");
        let two = r#"{"a": [1], "b": [2]}"#;
        let several = BadPage::Several(vec!["a".into(), "b".into()]);
        assert_eq!(lines(&plain, &[two]), Err(several));
        assert_eq!(lines(&paging(json!({"items": "b"})), &[two, two]).unwrap(), "2\n2\n");
        assert_eq!(lines(&paging(json!({"items": "c"})), &[two]).unwrap(), "");
    }
}

//! Listings: a prefix of the sorted names, page by page, folded at a delimiter.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::glob::Glob;
use super::object::StoredObject;

/// The live versions of a bucket.
pub(super) type Objects = BTreeMap<String, Arc<StoredObject>>;
/// Versions by name and generation.
pub(super) type Archive = BTreeMap<(String, i64), Arc<StoredObject>>;

/// What a listing asks for.
#[derive(Debug, Clone, Default)]
pub(super) struct ListQuery {
    pub(super) prefix: String,
    /// Names that contain it after the prefix are folded into one prefix each; empty folds nothing.
    pub(super) delimiter: String,
    /// First name listed, inclusive.
    pub(super) start: String,
    /// First name not listed; empty means no end.
    pub(super) end: String,
    /// The last name or prefix of the page before; what follows it is listed.
    pub(super) after: Option<String>,
    /// Names and prefixes together, at most.
    pub(super) limit: usize,
    /// Whether an object whose name is a prefix is listed beside the prefix.
    pub(super) include_trailing: bool,
    /// What the names of objects match.
    pub(super) glob: Option<Glob>,
    /// Whether versions that are not live are listed, too.
    pub(super) versions: bool,
}

/// One page of a listing, in order of names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) objects: Vec<(String, Arc<StoredObject>)>,
    pub(super) prefixes: Vec<String>,
    /// The value of [`ListQuery::after`] for the next page, if there is one.
    pub(super) next: Option<String>,
}

impl ListQuery {
    /// One page. Costs what it returns, not what the bucket holds, unless it asks for
    /// older versions or for names that match a pattern.
    pub(super) fn page(&self, objects: &Objects, archive: &Archive) -> Page {
        if self.versions {
            return self.versions(objects, archive);
        }
        let mut page = Page::default();
        let mut last = None;
        let mut cursor = self.cursor();
        while let Some((name, object)) = cursor.next(objects) {
            if !name.starts_with(&self.prefix) || (!self.end.is_empty() && *name >= self.end) {
                break;
            }
            if !self.matches(name) {
                cursor = Cursor::past(name.clone());
                continue;
            }
            if page.objects.len() + page.prefixes.len() >= self.limit {
                page.next = last;
                break;
            }
            if let Some(folded) = self.fold(name) {
                if self.include_trailing && folded == *name {
                    page.objects.push((name.clone(), Arc::clone(object)));
                }
                page.prefixes.push(folded.clone());
                last = Some(folded.clone());
                cursor = Cursor::past_all_under(folded);
            } else {
                page.objects.push((name.clone(), Arc::clone(object)));
                last = Some(name.clone());
                cursor = Cursor::past(name.clone());
            }
        }
        page
    }

    /// All versions, by name and then by age. Those of a page after the first follow a version,
    /// which its token names with its generation (no name has a line break), or a prefix.
    fn versions(&self, objects: &Objects, archive: &Archive) -> Page {
        let mut all: Archive = archive.clone();
        all.extend(
            objects
                .iter()
                .map(|(name, object)| ((name.clone(), object.generation), Arc::clone(object))),
        );
        let after = self.after.as_deref().map(|token| {
            let version = token.rsplit_once('\n');
            let version = version.and_then(|(name, number)| Some((name, number.parse().ok()?)));
            version.unwrap_or((token, i64::MAX))
        });
        let mut page = Page::default();
        let mut last = None;
        for ((name, generation), object) in all {
            let passed = after.is_some_and(|after| (name.as_str(), generation) <= after);
            if passed || !self.lists(&name) {
                continue;
            }
            let folded = self.fold(&name);
            let listed =
                folded.is_none() || (self.include_trailing && folded.as_ref() == Some(&name));
            // A prefix comes once, with the first that is folded into it.
            let prefix = folded.filter(|folded| {
                let before = page.prefixes.last().map(String::as_str);
                let before = before.or(after.map(|(name, _)| name));
                before.is_none_or(|before| !before.starts_with(folded.as_str()))
            });
            if !listed && prefix.is_none() {
                continue;
            }
            if page.objects.len() + page.prefixes.len() >= self.limit {
                page.next = last;
                break;
            }
            last = if listed { Some(format!("{name}\n{generation}")) } else { prefix.clone() };
            page.prefixes.extend(prefix);
            if listed {
                page.objects.push((name, object));
            }
        }
        page
    }

    /// Whether a name is between the bounds and matches.
    fn lists(&self, name: &str) -> bool {
        name.starts_with(&self.prefix)
            && name >= self.start.as_str()
            && (self.end.is_empty() || name < self.end.as_str())
            && self.matches(name)
    }

    fn matches(&self, name: &str) -> bool {
        self.glob.as_ref().is_none_or(|glob| glob.matches(name))
    }

    fn cursor(&self) -> Cursor {
        let first = self.prefix.as_str().max(self.start.as_str());
        match &self.after {
            Some(after) if self.fold(after).as_ref() == Some(after) => {
                Cursor::past_all_under(after.clone())
            }
            Some(after) if after.as_str() >= first => Cursor::past(after.clone()),
            _ => Cursor { from: Bound::Included(first.to_owned()), skip: None },
        }
    }

    /// The prefix that `name` is folded into: up to the first delimiter after the asked prefix.
    fn fold(&self, name: &str) -> Option<String> {
        if self.delimiter.is_empty() {
            return None;
        }
        let rest = name.strip_prefix(&self.prefix)?;
        let end = rest.find(&self.delimiter)? + self.delimiter.len();
        Some(name[..self.prefix.len() + end].to_owned())
    }
}

/// Where a listing continues.
#[derive(Debug)]
struct Cursor {
    from: Bound<String>,
    /// Names that start with this are passed over.
    skip: Option<String>,
}

impl Cursor {
    fn past(name: String) -> Self {
        Self { from: Bound::Excluded(name), skip: None }
    }

    fn past_all_under(prefix: String) -> Self {
        Self {
            // Seeks over nearly all of them: only names that go on with this very
            // character, the last there is, remain to be skipped.
            from: Bound::Included(format!("{prefix}\u{10FFFF}")),
            skip: Some(prefix),
        }
    }

    fn next<'a>(&self, objects: &'a Objects) -> Option<(&'a String, &'a Arc<StoredObject>)> {
        let skipped = |name: &str| self.skip.as_ref().is_some_and(|under| name.starts_with(under));
        objects
            .range::<String, _>((self.from.as_ref(), Bound::Unbounded))
            .find(|(name, _)| !skipped(name))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;

    use super::*;
    use crate::storage::object::{Attributes, Upload};

    fn objects(names: &[&str]) -> BTreeMap<String, Arc<StoredObject>> {
        let upload = Upload::new(Bytes::new(), Attributes::default()).unwrap();
        let object = Arc::new(StoredObject::new(upload, 1, SystemTime::UNIX_EPOCH));
        names.iter().map(|name| ((*name).to_owned(), Arc::clone(&object))).collect()
    }

    /// All pages: names and prefixes as they come, and how many pages there were.
    fn all(query: &ListQuery, names: &[&str]) -> (Vec<String>, usize) {
        let objects = objects(names);
        let mut query = query.clone();
        let mut seen = Vec::new();
        for pages in 1..100 {
            let page = query.page(&objects, &Archive::new());
            seen.extend(page.objects.into_iter().map(|(name, _)| name));
            seen.extend(page.prefixes);
            query.after = page.next;
            if query.after.is_none() {
                seen.sort();
                return (seen, pages);
            }
        }
        panic!("the listing does not end");
    }

    #[test]
    fn pages_cover_a_prefix_once() {
        let names = ["a/1", "a/2", "a/3", "a0", "b/1"];
        for limit in 1..=4 {
            let query = ListQuery { prefix: "a/".to_owned(), limit, ..ListQuery::default() };
            let (seen, pages) = all(&query, &names);
            assert_eq!(seen, ["a/1", "a/2", "a/3"]);
            assert_eq!(pages, 3_usize.div_ceil(limit));
        }
    }

    #[test]
    fn a_delimiter_folds_whole_subtrees() {
        let names = ["a/1", "a/b/1", "a/b/2", "a/b/\u{10FFFF}x", "a/c", "a/d/1", "e"];
        for limit in 1..=5 {
            let query = ListQuery {
                prefix: "a/".to_owned(),
                delimiter: "/".to_owned(),
                limit,
                ..ListQuery::default()
            };
            let (seen, _) = all(&query, &names);
            assert_eq!(seen, ["a/1", "a/b/", "a/c", "a/d/"], "limit {limit}");
        }
    }

    #[test]
    fn versions_come_page_by_page_with_their_prefixes() {
        let mut archive = Archive::new();
        for (name, object) in objects(&["a", "b/", "b/1", "c/1", "d"]) {
            archive.insert((name.clone(), 0), Arc::clone(&object));
            archive.insert((name, -1), object);
        }
        let live = objects(&["a", "b/", "b/1", "c/2", "d"]);
        for (include_trailing, beside) in [(false, 0), (true, 3)] {
            for limit in 1..=10 {
                let mut query = ListQuery {
                    delimiter: "/".to_owned(),
                    limit,
                    versions: true,
                    include_trailing,
                    ..ListQuery::default()
                };
                let (mut names, mut prefixes) = (Vec::new(), Vec::new());
                for page in 0.. {
                    assert!(page < 100, "the listing does not end");
                    let page = query.page(&live, &archive);
                    names.extend(page.objects.into_iter().map(|(name, _)| name));
                    prefixes.extend(page.prefixes);
                    query.after = page.next;
                    if query.after.is_none() {
                        break;
                    }
                }
                let versions = [("a", 3), ("b/", beside), ("d", 3)];
                let expected = versions.map(|(name, many)| vec![name; many]).concat();
                assert_eq!(names, expected, "limit {limit}");
                assert_eq!(prefixes, ["b/", "c/"], "limit {limit}");
            }
        }
    }

    #[test]
    fn start_and_end_bound_the_names() {
        let query = ListQuery {
            start: "b".to_owned(),
            end: "d".to_owned(),
            limit: 10,
            ..ListQuery::default()
        };
        let (seen, _) = all(&query, &["a", "b", "c", "d"]);
        assert_eq!(seen, ["b", "c"]);
    }
}

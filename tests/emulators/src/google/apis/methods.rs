//! Every method of the APIs, as their discovery documents have it.

use std::sync::LazyLock;

use http::Method as Verb;
use percent_encoding::percent_decode_str;

/// A method of the reference, whether it is implemented or not.
#[derive(Debug)]
pub(super) struct Method {
    /// Such as `calendar.events.list`.
    pub(super) id: &'static str,
    verb: &'static str,
    path: Vec<&'static str>,
    /// Any one of these is enough.
    pub(super) scopes: Vec<String>,
    /// What its query may have, beside what every method's may.
    pub(super) parameters: Vec<&'static str>,
    uploads: bool,
}

/// The variables of a path, decoded.
pub(super) type Ids = Vec<(&'static str, String)>;

/// Written by `tests/conformance/python/methods.py`.
static METHODS: LazyLock<Vec<Method>> =
    LazyLock::new(|| include_str!("methods.txt").lines().filter_map(Method::read).collect());

impl Method {
    fn read(line: &'static str) -> Option<Self> {
        let mut words = line.split(' ');
        let (id, verb, path) = (words.next()?, words.next()?, words.next()?);
        let list = |word: &'static str| word.split(',').filter(|name| *name != "-");
        let (scopes, parameters) = (list(words.next()?), list(words.next()?));
        Some(Self {
            id,
            verb,
            path: path.split('/').skip(1).collect(),
            scopes: scopes.map(full).collect(),
            parameters: parameters.collect(),
            uploads: words.next()? == "upload",
        })
    }

    /// The variables, if the path is this method's.
    fn takes(&self, segments: &[String]) -> Option<Ids> {
        if self.path.len() != segments.len() {
            return None;
        }
        let mut ids = Ids::new();
        for (pattern, segment) in self.path.iter().zip(segments) {
            let Some((name, verb)) = pattern.strip_prefix('{').and_then(|p| p.split_once('}'))
            else {
                if pattern != segment {
                    return None;
                }
                continue;
            };
            let value = segment.strip_suffix(verb).filter(|value| !value.is_empty())?;
            ids.push((name, value.to_owned()));
        }
        Some(ids)
    }
}

/// All scopes, sorted.
pub(super) fn scopes() -> Vec<String> {
    let mut scopes: Vec<String> = METHODS.iter().flat_map(|m| m.scopes.clone()).collect();
    scopes.sort_unstable();
    scopes.dedup();
    scopes
}

/// A scope's URL. Only Gmail's widest is written out.
fn full(scope: &str) -> String {
    if scope.starts_with("https://") {
        return scope.to_owned();
    }
    format!("https://www.googleapis.com/auth/{scope}")
}

/// The method that a request is for, and the variables of its path.
pub(super) fn find(verb: &Verb, path: &str, upload: bool) -> Option<(&'static Method, Ids)> {
    let decoded = |segment: &str| percent_decode_str(segment).decode_utf8_lossy().into_owned();
    let segments: Vec<String> = path.split('/').skip(1).map(decoded).collect();
    METHODS
        .iter()
        .filter(|method| method.verb == verb.as_str() && (method.uploads || !upload))
        .filter_map(|method| Some((method, method.takes(&segments)?)))
        // `files/trash` is no file, and `events/import` no event.
        .min_by_key(|(_, ids)| ids.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(verb: &Verb, path: &str) -> Option<(&'static str, Vec<String>)> {
        let (method, ids) = find(verb, path, false)?;
        Some((method.id, ids.into_iter().map(|(_, value)| value).collect()))
    }

    #[test]
    fn every_line_is_a_method() {
        assert_eq!(METHODS.len(), include_str!("methods.txt").lines().count());
        assert!(METHODS.iter().all(|method| !method.scopes.is_empty()), "each wants a scope");
    }

    #[test]
    fn paths_lead_to_their_methods() {
        for (verb, path, id, ids) in [
            (Verb::DELETE, "/drive/v3/files/trash", "drive.files.emptyTrash", vec![]),
            (Verb::DELETE, "/drive/v3/files/x", "drive.files.delete", vec!["x"]),
            (
                Verb::POST,
                "/v4/spreadsheets/s/values/My%20Sheet!A1%3AB2:append",
                "sheets.spreadsheets.values.append",
                vec!["s", "My Sheet!A1:B2"],
            ),
            (
                Verb::POST,
                "/v4/spreadsheets/s:batchUpdate",
                "sheets.spreadsheets.batchUpdate",
                vec!["s"],
            ),
            (
                Verb::GET,
                "/v4/spreadsheets/s/values:batchGet",
                "sheets.spreadsheets.values.batchGet",
                vec!["s"],
            ),
            (Verb::GET, "/tasks/v1/users/%40me/lists", "tasks.tasklists.list", vec![]),
        ] {
            let ids = ids.into_iter().map(str::to_owned).collect();
            assert_eq!(found(&verb, path), Some((id, ids)), "{path}");
        }
        assert_eq!(found(&Verb::PUT, "/drive/v3/files"), None);
        assert_eq!(found(&Verb::GET, "/calendar/v3/calendars//events"), None);
    }

    #[test]
    fn only_some_take_uploads() {
        assert!(find(&Verb::POST, "/drive/v3/files", true).is_some());
        assert!(find(&Verb::POST, "/drive/v3/files/x/copy", true).is_none());
    }
}

//! The kinds of jobs that a replica does.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::handler::Handler;
use crate::metrics::Ended;
use crate::places::Places;

/// One of them.
pub(crate) struct Kind {
    pub(crate) name: Arc<str>,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) ended: Ended,
}

/// All of them, by name.
#[derive(Debug)]
pub(crate) struct Kinds(BTreeMap<String, Kind>);

impl Kinds {
    pub(crate) fn new(handlers: crate::kinds::Kinds) -> Self {
        let kind = |(name, handler): (String, _)| {
            let ended = Ended::of(&name);
            (name.clone(), Kind { name: name.into(), handler, ended })
        };
        Self(handlers.into_iter().map(kind).collect())
    }

    pub(crate) fn get(&self, kind: &str) -> Option<&Kind> {
        self.0.get(kind)
    }

    /// Why no job of any forwarded kind can be done, if that is so.
    pub(crate) fn all_down(&self) -> Option<String> {
        let forwarded = self.0.values().filter_map(|kind| kind.handler.places());
        let troubles: Option<Vec<String>> = forwarded.map(Places::trouble).collect();
        troubles.filter(|troubles| !troubles.is_empty()).map(|troubles| troubles.join("; "))
    }

    /// Their names, for people.
    pub(super) fn names(&self) -> String {
        let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        names.join(", ")
    }
}

/// Handlers have no `Debug`.
impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kind").field("name", &self.name).finish_non_exhaustive()
    }
}

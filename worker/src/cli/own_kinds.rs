//! Kinds that a program does besides the built-in ones.

use std::fmt;
use std::sync::Arc;

use crate::handler::Handler;
use crate::kinds::{BUILTIN, Kinds};
use crate::replica::by_kind;

use super::output::Usage;

/// The kinds of one's own that [`fleet`](crate::fleet) does besides the built-in ones.
#[derive(Default)]
pub struct OwnKinds(Vec<(String, Arc<dyn Handler>)>);

impl OwnKinds {
    /// Has `handler` do the jobs of `kind`: 1 to 128 bytes, the name of no other kind.
    pub fn handle(&mut self, kind: impl Into<String>, handler: impl Handler) -> &mut Self {
        self.0.push((kind.into(), Arc::new(handler)));
        self
    }

    /// # Errors
    /// When a name cannot be a kind's, or is another one's.
    pub(super) fn checked(self) -> Result<Kinds, Usage> {
        let kinds = by_kind(self.0).map_err(|why| Usage(why.to_string()))?;
        match kinds.keys().find(|kind| BUILTIN.contains(&kind.as_str())) {
            Some(kind) => Err(Usage(format!(
                "kind {kind:?} is built in; choose another name for this program's own"
            ))),
            None => Ok(kinds),
        }
    }
}

/// Handlers have no `Debug`.
impl fmt::Debug for OwnKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(kind, _)| kind)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Job, Session, Verdict};

    fn own(kinds: &[&str]) -> Result<Vec<String>, String> {
        let mut own = OwnKinds::default();
        for kind in kinds {
            own.handle(*kind, async |job: &Job, _: &Session| Verdict::reject(job.id.as_str()));
        }
        own.checked().map(|kinds| kinds.into_keys().collect()).map_err(|why| why.0)
    }

    #[test]
    fn names_are_checked_before_anything_begins() {
        assert_eq!(own(&["greet", "Ünd so"]).unwrap(), ["greet", "Ünd so"]);
        assert_eq!(own(&[]).unwrap(), [""; 0]);
        for (kinds, says) in [
            (&["greet", "greet"][..], "\"greet\" has two handlers"),
            (&["greet", "profile"], "\"profile\" is built in"),
            (&["api"], "\"api\" is built in"),
            (&[""], "1 to 128 bytes"),
        ] {
            let why = own(kinds).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
    }
}

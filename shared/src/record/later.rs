//! What a record of the next version has beyond this program's own.

use std::fmt;

use serde_json::{Map, Value};

use crate::secret::Secret;

/// The members of a record of a later version that this program does not know. They belong to
/// the grant: every write that keeps the grant keeps them and the version, and a new login
/// begins without them, in the version of whoever writes it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Later {
    /// The record's version.
    pub(super) version: u32,
    /// Those outside the seal.
    pub(super) clear: Map<String, Value>,
    /// Those inside it, as JSON.
    pub(super) secret: Option<Secret>,
}

/// Nothing says which of these values are secrets.
impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Later {
    /// The version, and how many members there are: what can be told without showing any.
    pub fn told(&self) -> (u32, usize) {
        (self.version, self.clear.len() + usize::from(self.secret.is_some()))
    }
}

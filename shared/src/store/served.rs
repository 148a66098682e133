//! The cache entry from which callers are served.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use crate::ports::{Generation, Monotonic};
use crate::protocol::Held;
use crate::record::WriteId;
use crate::secret::Secret;

/// A held record without what only a refresh needs: a refresh reads the record
/// anew, so a replica's memory has no refresh tokens, and a hundred thousand users
/// fit into little of it.
#[derive(Debug)]
pub(super) struct Served {
    held: Held,
    scopes: Arc<[String]>,
    /// When this replica first had this grant.
    since: Monotonic,
}

/// Stands in where a record has no access token. None is handed out without one.
static NO_TOKEN: LazyLock<Secret> = LazyLock::new(|| Secret::new(""));

impl Served {
    pub(super) fn new(mut held: Held, known: &ScopeSets, since: Monotonic) -> Self {
        let record = &mut held.record;
        let scopes = known.share(std::mem::take(&mut record.scopes));
        record.refresh_token = NO_TOKEN.clone();
        record.write_id = WriteId(String::new());
        record.sub = None;
        for text in [&mut record.token_uri, &mut record.client_id, &mut record.holder] {
            *text = String::new();
        }
        Self { held, scopes, since }
    }

    /// The same grant, stored at another version.
    pub(super) fn moved_to(&self, generation: Generation) -> Self {
        let held = Held { generation: Some(generation), ..self.held.clone() };
        Self { held, scopes: Arc::clone(&self.scopes), since: self.since }
    }

    /// When this replica first had this grant.
    pub(super) fn since(&self) -> Monotonic {
        self.since
    }

    /// Its grant, expiry and version; the fields that are named above are empty.
    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    pub(super) fn scopes(&self) -> &[String] {
        &self.scopes
    }

    pub(super) fn access_token(&self) -> &Secret {
        self.held.record.access_token.as_ref().unwrap_or(&NO_TOKEN)
    }
}

/// The lists of scopes in memory. Most users of a client granted the same ones.
#[derive(Debug, Default)]
pub(super) struct ScopeSets(Mutex<BTreeSet<Arc<[String]>>>);

impl ScopeSets {
    /// Above this many lists, those that nobody uses any more are dropped.
    const MANY: usize = 1024;

    fn share(&self, scopes: Vec<String>) -> Arc<[String]> {
        // A panic leaves a set of valid lists.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = known.get(scopes.as_slice()) {
            return Arc::clone(shared);
        }
        if known.len() >= Self::MANY {
            known.retain(|list| Arc::strong_count(list) > 1);
        }
        let shared: Arc<[String]> = scopes.into();
        if known.len() < Self::MANY {
            known.insert(Arc::clone(&shared));
        }
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::testing::record;
    use std::time::Duration;

    #[test]
    fn keeps_what_callers_need_and_nothing_more() {
        let record = record("u");
        let held = Held {
            record: record.clone(),
            generation: Some(Generation(1)),
            obtained_at: None,
            ahead: Duration::ZERO,
        };
        let served = Served::new(held, &ScopeSets::default(), Monotonic(Duration::ZERO))
            .moved_to(Generation(2));
        assert_eq!(Some(served.access_token()), record.access_token.as_ref());
        assert_eq!(served.scopes(), record.scopes);
        let held = served.held();
        assert_eq!(held.generation, Some(Generation(2)));
        assert_eq!((&held.record.user, &held.record.grant_id), (&record.user, &record.grant_id));
        assert!(held.record.refresh_token.expose().is_empty());
    }

    #[test]
    fn equal_lists_are_one_and_their_number_is_bounded() {
        let sets = ScopeSets::default();
        let list = |n: usize| vec![n.to_string()];
        let first = sets.share(list(0));
        assert!(Arc::ptr_eq(&first, &sets.share(list(0))));
        for n in 0..5000 {
            sets.share(list(n));
        }
        assert!(sets.0.lock().unwrap().len() <= ScopeSets::MANY);
        assert!(Arc::ptr_eq(&first, &sets.share(list(0))), "still used, still known");
        let used: Vec<_> = (0..5000).map(|n| sets.share(list(n))).collect();
        assert_eq!(used[4999].as_ref(), list(4999));
        assert!(sets.0.lock().unwrap().len() <= ScopeSets::MANY);
    }
}

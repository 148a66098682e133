//! Finds users by how their ID begins and by their state, a page at a time.

use futures_util::StreamExt as _;
use futures_util::stream;
use shared::ports::{Bucket, BucketError};
use shared::record::RecordHints;
use shared::{TokenStore, UserId, encode_segment};

use crate::stored_users::{AT_ONCE, State, StoredUser};

/// So many users are on a page.
const ROWS: usize = 50;
/// So many pages of a listing, of a thousand users each, are gone through for one of ours.
const LISTINGS: usize = 10;

/// What is looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Search {
    /// How the ID begins.
    pub(super) begins: String,
    pub(super) state: Option<State>,
    /// Where it goes on.
    pub(super) from: Mark,
}

/// A place in the listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The bucket's name of the listing's page.
    pub(super) page: Option<String>,
    /// Behind this object.
    pub(super) after: String,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) users: Vec<StoredUser>,
    /// So many were gone through.
    pub(super) seen: usize,
    /// Where there may be more.
    pub(super) next: Option<Mark>,
}

impl Search {
    pub(super) async fn run(&self, store: &TokenStore) -> Result<Found, BucketError> {
        let bucket = store.bucket();
        let (users, seen, next) = self.list(&*bucket).await?;
        let reading = users.into_iter().map(|user| StoredUser::read(store, user));
        let read: Vec<_> = stream::iter(reading).buffered(AT_ONCE).collect().await;
        // A listing only says whom to read.
        let wanted = |found: &StoredUser| self.state.is_none_or(|state| state == found.state);
        let users = read.into_iter().flatten().filter(wanted).collect();
        Ok(Found { users, seen, next })
    }

    async fn list(
        &self,
        bucket: &dyn Bucket,
    ) -> Result<(Vec<UserId>, usize, Option<Mark>), BucketError> {
        let prefix = format!("tokens/{}", encode_segment(&self.begins));
        let (mut users, mut seen) = (Vec::new(), 0);
        let Mark { mut page, after } = self.from.clone();
        for _ in 0..LISTINGS {
            let listing = bucket.list(&prefix, page.clone()).await?;
            for (name, _) in &listing.objects {
                let Some(user) = UserId::of_token_object(name).filter(|_| *name > after) else {
                    continue;
                };
                if users.len() >= ROWS {
                    let after = users.last().map(UserId::token_object).unwrap_or_default();
                    return Ok((users, seen, Some(Mark { page, after })));
                }
                seen += 1;
                let hints = listing.hints.get(name).and_then(RecordHints::read);
                let hinted = hints.map(|hints| State::from(hints.state));
                if self.state.is_none() || hinted.is_none() || hinted == self.state {
                    users.push(user);
                }
            }
            page = listing.next_page;
            if page.is_none() {
                return Ok((users, seen, None));
            }
        }
        Ok((users, seen, Some(Mark { page, after })))
    }
}

#[cfg(test)]
mod tests {
    use shared::adapters::MemoryBucket;
    use shared::ports::Generation;

    use super::*;

    /// Every user is on one page, whatever the listing's own pages are.
    #[tokio::test]
    async fn pages_follow_each_other_without_a_gap() {
        let bucket = MemoryBucket::default();
        for n in 0..1234 {
            let name = format!("tokens/u{n:04}.json");
            bucket.put(&name, "{}".into(), Generation::ABSENT).await.unwrap();
        }
        bucket.put("tokens/other.json", "{}".into(), Generation::ABSENT).await.unwrap();
        let (mut search, mut found) = (Search::default(), Vec::new());
        search.begins = "u".to_owned();
        loop {
            let (users, _, next) = search.list(&bucket).await.unwrap();
            assert!(users.len() <= ROWS);
            found.extend(users.iter().map(|user| user.as_str().to_owned()));
            match next {
                Some(next) => search.from = next,
                None => break,
            }
        }
        let expected: Vec<String> = (0..1234).map(|n| format!("u{n:04}")).collect();
        assert_eq!(found, expected);
    }
}

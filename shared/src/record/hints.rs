//! What a record's writer notes beside it, so that those who look for some users list instead
//! of reading every record.

use jiff::{SignedDuration, Timestamp};

use crate::ports::Hints;

use super::TokenRecord;

const STATE: &str = "state";
const NEXT: &str = "next";
const REFRESHED: &str = "refreshed";

/// What a listing says of a record: a reason to read it, or not to. Never more: the record
/// decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHints {
    /// The grant's state when the record was written.
    pub state: HintedState,
    /// When something is to be done next: the access token expires, or a blocked user is tried
    /// again.
    pub next: Option<Timestamp>,
    /// When the provider issued the access token, or, without one, when the record was written.
    pub refreshed: Timestamp,
}

/// The state of a grant, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HintedState {
    /// Jobs act for the user.
    Active,
    /// The provider refuses the user for now.
    Blocked,
    /// The provider ended the grant.
    Revoked,
}

impl HintedState {
    const ALL: [Self; 3] = [Self::Active, Self::Blocked, Self::Revoked];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Blocked => "blocked",
            Self::Revoked => "revoked",
        }
    }
}

impl RecordHints {
    /// What there is to note beside `record`.
    pub fn of(record: &TokenRecord) -> Self {
        let (state, next) = match (record.is_active(), &record.blocked) {
            (false, _) => (HintedState::Revoked, None),
            (true, Some(blocked)) => (HintedState::Blocked, Some(blocked.next_try)),
            (true, None) => (HintedState::Active, record.expires_at),
        };
        let issued = record.expires_at.zip(record.expires_in).and_then(|(expires, life)| {
            expires.checked_sub(SignedDuration::try_from(life).ok()?).ok()
        });
        Self { state, next, refreshed: issued.unwrap_or(record.updated_at) }
    }

    /// The metadata that is stored beside the record.
    pub fn to_stored(self) -> Hints {
        let mut stored = Hints::new();
        stored.insert(STATE.to_owned(), self.state.as_str().to_owned());
        if let Some(next) = self.next {
            stored.insert(NEXT.to_owned(), format!("{next:.0}"));
        }
        stored.insert(REFRESHED.to_owned(), format!("{:.0}", self.refreshed));
        stored
    }

    /// What a listing says; `None` where it says nothing that this program knows.
    pub fn read(stored: &Hints) -> Option<Self> {
        let state = stored.get(STATE)?;
        let state = HintedState::ALL.into_iter().find(|known| known.as_str() == state)?;
        let next = stored.get(NEXT).and_then(|next| next.parse().ok());
        Some(Self { state, next, refreshed: stored.get(REFRESHED)?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::testing::{now_at, record};
    use crate::record::{Blocked, State};

    #[test]
    fn every_state_is_noted_and_comes_back() {
        let active = record("u");
        let hints = RecordHints::of(&active);
        // It was issued an hour before it expires.
        let expected = RecordHints {
            state: HintedState::Active,
            next: active.expires_at,
            refreshed: now_at(0).wall,
        };
        assert_eq!(hints, expected);
        assert_eq!(RecordHints::read(&hints.to_stored()), Some(hints));
        let next_try = now_at(600).wall;
        let blocked = Blocked { code: "c".into(), since: now_at(0).wall, next_try };
        let blocked = TokenRecord { blocked: Some(Box::new(blocked)), ..record("u") };
        let hints = RecordHints::of(&blocked);
        assert_eq!((hints.state, hints.next), (HintedState::Blocked, Some(next_try)));
        assert_eq!(hints.refreshed, now_at(0).wall, "that it is refused now is no refresh");
        assert_eq!(RecordHints::read(&hints.to_stored()), Some(hints));
        let revoked = TokenRecord { state: State::Revoked, ..blocked };
        let hints = RecordHints::of(&revoked);
        assert_eq!((hints.state, hints.next), (HintedState::Revoked, None));
        assert_eq!(RecordHints::read(&hints.to_stored()), Some(hints));
    }

    #[test]
    fn without_an_access_token_the_writing_counts() {
        let bare = TokenRecord { expires_at: None, expires_in: None, ..record("u") };
        assert_eq!(RecordHints::of(&bare).refreshed, bare.updated_at);
        let odd = TokenRecord { expires_in: Some(Duration::MAX), ..record("u") };
        assert_eq!(RecordHints::of(&odd).refreshed, odd.updated_at);
    }

    #[test]
    fn what_is_not_understood_says_nothing() {
        let stored = RecordHints::of(&record("u")).to_stored();
        for (name, value) in
            [(STATE, "other"), (STATE, ""), (REFRESHED, "yesterday"), (REFRESHED, "")]
        {
            let mut odd = stored.clone();
            odd.insert(name.to_owned(), value.to_owned());
            assert_eq!(RecordHints::read(&odd), None, "{name}={value}");
        }
        assert_eq!(RecordHints::read(&Hints::new()), None);
        let mut odd = stored;
        odd.insert(NEXT.to_owned(), "soon".to_owned());
        assert_eq!(RecordHints::read(&odd).unwrap().next, None);
    }
}

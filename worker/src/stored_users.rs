//! What is shown of a stored user: nothing of it is secret.

use clap::ValueEnum;
use jiff::Timestamp;
use shared::record::{HintedState, RecordHints, TokenRecord};
use shared::{Error, Reason, TokenStore, UserId};

/// So many records are read at a time.
pub(crate) const AT_ONCE: usize = 32;

/// What is known of a user's grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    /// Jobs act for the user
    Active,
    /// The provider ended the grant
    Revoked,
    /// The provider refuses the user for now
    Blocked,
    /// The record cannot be read
    Unreadable,
}

impl State {
    /// What a record says.
    pub(crate) fn of(record: &TokenRecord) -> Self {
        RecordHints::of(record).state.into()
    }

    /// Its word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
            Self::Blocked => "blocked",
            Self::Unreadable => "unreadable",
        }
    }
}

impl From<HintedState> for State {
    fn from(hinted: HintedState) -> Self {
        match hinted {
            HintedState::Active => Self::Active,
            HintedState::Blocked => Self::Blocked,
            HintedState::Revoked => Self::Revoked,
        }
    }
}

/// One stored user.
#[derive(Debug)]
pub(crate) struct StoredUser {
    pub(crate) user: UserId,
    pub(crate) state: State,
    /// Why the user must consent.
    pub(crate) why: Option<Reason>,
    /// When the record's values last changed.
    pub(crate) refreshed: Option<Timestamp>,
    pub(crate) scopes: Vec<String>,
    /// Why the record cannot be read.
    pub(crate) fault: Option<Error>,
}

impl StoredUser {
    /// As the record says.
    pub(crate) fn of(record: TokenRecord) -> Self {
        let why = record.trouble().map(|why| why.reason());
        Self {
            state: State::of(&record),
            why,
            refreshed: Some(record.updated_at),
            scopes: record.scopes,
            user: record.user,
            fault: None,
        }
    }

    /// The reason, or without one the state, in one word.
    pub(crate) fn word(&self) -> &'static str {
        self.why.map_or(self.state.name(), Reason::as_str)
    }

    /// Reads a user's record; `None` for one who was deleted since.
    pub(crate) async fn read(store: &TokenStore, user: UserId) -> Option<Self> {
        match store.read_record(&user).await {
            Ok(record) => Some(Self::of(record)),
            Err(Error::NeedsConsent(_)) => None,
            Err(fault) => {
                let (state, fault) = (State::Unreadable, Some(fault));
                Some(Self { user, state, why: None, refreshed: None, scopes: Vec::new(), fault })
            }
        }
    }
}

//! What applications were told last of a user, and whether there is news.

use std::collections::BTreeSet;

use shared::consent::missing_scopes;
use shared::record::TokenRecord;
use shared::{ConsentReason, Reason};

/// So many missing scopes are named at most.
const MOST_SCOPES: usize = 100;

/// How it stands with a user's consent, as applications are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consent {
    /// Jobs wait for it.
    Needed {
        /// Why.
        reason: Reason,
        /// The scopes that jobs lack, sorted; empty for other reasons, and where an API did
        /// not name them.
        missing: Vec<String>,
    },
    /// It stands, as far as is known.
    Granted,
    /// It has ended, and no job is known to wait.
    Ended(Ending),
}

/// What ended a consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The person, or an operator in their stead: the record is gone.
    Disconnected,
    /// The provider.
    ByProvider(Reason),
}

/// A state, and the login that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// How it stands.
    pub consent: Consent,
    /// The login part of the record's grant ID; `None` without a record. Another login makes
    /// another state of the same need.
    pub login: Option<String>,
}

/// Why somebody looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Occasion {
    /// A job waits: for these scopes, or else for what the record lacks.
    Waits(Option<Vec<String>>),
    /// The record has changed, perhaps.
    Changed,
    /// The record was removed, if there was one.
    Removed {
        /// There was one.
        was_stored: bool,
    },
    /// Something was not told, perhaps.
    Untold,
}

impl Occasion {
    /// A job was parked because of `why`.
    pub fn parked(why: &ConsentReason) -> Self {
        match why {
            ConsentReason::MissingScopes(scopes) => Self::Waits(Some(scopes.clone())),
            _ => Self::Waits(None),
        }
    }

    /// What covers both this occasion and a later one of the same user.
    #[must_use]
    pub fn and(self, later: Self) -> Self {
        match (self, later) {
            (Self::Waits(Some(mut scopes)), Self::Waits(Some(more))) => {
                scopes.extend(more);
                Self::Waits(Some(scopes))
            }
            (waits @ Self::Waits(Some(_)), _) | (waits @ Self::Waits(None), Self::Changed) => waits,
            (_, later) => later,
        }
    }
}

/// The state to tell, when `last` was told last, `record` was read after that, and somebody
/// looks on this `occasion`; `None` when there is no news. Of users without a record it is
/// told that they are needed only if `unknown_too`.
pub fn change(
    last: Option<&State>,
    record: Option<&TokenRecord>,
    occasion: &Occasion,
    unknown_too: bool,
) -> Option<State> {
    let next = match record {
        None => without_record(last, occasion, unknown_too)?,
        Some(record) => with_record(last, record, occasion)?,
    };
    let is_news = match (last, &next.consent) {
        (None, _) => true,
        // A further consent of somebody whose consent stands is none.
        (Some(last), Consent::Granted) => last.consent != Consent::Granted,
        // Who was told that it is needed knows that it has ended.
        (Some(last), Consent::Ended(Ending::ByProvider(reason))) => {
            let needed =
                matches!(&last.consent, Consent::Needed { reason: told, .. } if told == reason);
            *last != next && !(needed && last.login == next.login)
        }
        (Some(last), _) => *last != next,
    };
    is_news.then_some(next)
}

fn without_record(last: Option<&State>, occasion: &Occasion, unknown_too: bool) -> Option<State> {
    let consent = match occasion {
        // Of somebody of whom nothing was told there is no end to tell, unless there was one.
        Occasion::Removed { was_stored } if *was_stored || last.is_some() => {
            Consent::Ended(Ending::Disconnected)
        }
        Occasion::Waits(_) if unknown_too => {
            Consent::Needed { reason: Reason::UnknownUser, missing: Vec::new() }
        }
        Occasion::Waits(_) | Occasion::Changed | Occasion::Removed { .. } | Occasion::Untold => {
            return None;
        }
    };
    Some(State { consent, login: None })
}

fn with_record(last: Option<&State>, record: &TokenRecord, occasion: &Occasion) -> Option<State> {
    let login = Some(record.grant_id.login().to_owned());
    let waits = matches!(occasion, Occasion::Waits(_));
    let consent = match record.trouble() {
        Some(trouble) if waits => Consent::Needed { reason: trouble.reason(), missing: Vec::new() },
        Some(ConsentReason::Revoked { reason, .. }) => Consent::Ended(Ending::ByProvider(reason)),
        // Nobody need do anything before a job waits.
        Some(_) => return None,
        None => match wanted_scopes(last, record, occasion) {
            Some(missing) if waits => Consent::Needed { reason: Reason::ScopesMissing, missing },
            // What was told still holds.
            Some(_) => return None,
            None => Consent::Granted,
        },
    };
    Some(State { consent, login })
}

/// The scopes that an active record lacks for what waits, sorted; `None` when it lacks
/// nothing, and an empty list for scopes that nobody named.
fn wanted_scopes(
    last: Option<&State>,
    record: &TokenRecord,
    occasion: &Occasion,
) -> Option<Vec<String>> {
    let told = last.and_then(|last| match &last.consent {
        Consent::Needed { reason: Reason::ScopesMissing, missing } => {
            Some((missing, last.login.as_deref() == Some(record.grant_id.login())))
        }
        _ => None,
    });
    let wants = |wanted: &[String]| missing_scopes(wanted, &record.scopes);
    let before = told.map(|(missing, _)| wants(missing)).unwrap_or_default();
    // A person who consented anew may have declined what nobody can name; a job will say.
    let unnamed_before = told.is_some_and(|(missing, same)| missing.is_empty() && same);
    let (now, unnamed_now) = match occasion {
        Occasion::Waits(Some(scopes)) => (wants(scopes), scopes.is_empty()),
        _ => (Vec::new(), false),
    };
    // A job that waits tells what is wanted now; what others were told before still is.
    let all: BTreeSet<String> = before.into_iter().chain(now).collect();
    let all: Vec<String> = all.into_iter().take(MOST_SCOPES).collect();
    (!all.is_empty() || unnamed_before || unnamed_now).then_some(all)
}

#[cfg(test)]
mod tests;

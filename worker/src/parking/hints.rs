//! What the writer of a parked object notes beside it, so that sweeps choose by a listing what
//! they read. The object decides.

use shared::Reason;
use shared::ports::Hints;

use super::object::ParkedJob;

/// Why the job waits, by the name of its [`Reason`].
const REASON: &str = "reason";

/// What there is to note beside `parked`.
pub(super) fn of(parked: &ParkedJob) -> Hints {
    Hints::from([(REASON.to_owned(), parked.reason.clone())])
}

/// Why the listed job waits, where that is noted and this program knows it.
pub(crate) fn reason_of(hints: &Hints) -> Option<Reason> {
    Reason::named(hints.get(REASON)?)
}

/// Whether the listed object may be the job of an unknown user. One that says nothing may:
/// the release before noted nothing.
pub(crate) fn may_be_unknown(hints: Option<&Hints>) -> bool {
    hints
        .and_then(|hints| hints.get(REASON))
        .is_none_or(|reason| Reason::named(reason) == Some(Reason::UnknownUser))
}

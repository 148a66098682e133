//! What the writer of a parked object notes beside it, so that sweeps choose by a listing what
//! they read. The object decides.

use shared::ports::Hints;

use super::object::ParkedJob;

/// Why the job waits, by the name of its [`shared::Reason`].
const REASON: &str = "reason";

/// What there is to note beside `parked`.
pub(super) fn of(parked: &ParkedJob) -> Hints {
    Hints::from([(REASON.to_owned(), parked.reason.clone())])
}

//! What a job comes to whose call was carried out, or could not be.

use serde_json::json;

use crate::effect::Effect;
use crate::outcome::Verdict;
use crate::session::Session;

use super::super::answer::NOT_REPEATED;
use super::super::response::Unusable;
use super::call::Call;
use super::output::Target;
use super::paging::BadPage;
use super::upload::Stored;

/// Said of a call that must not be repeated.
const CARRIED_OUT: &str = "the API carried out the call";

pub(super) fn bad_page(bad: &BadPage, http_status: Option<u16>) -> Verdict {
    let detail = match bad {
        BadPage::Several(names) => Some(names.join(", ")),
        _ => None,
    };
    Verdict::Reject { reason: bad.to_string(), detail, http_status }
}

/// The verdict on an answer that Cloud Storage did not take.
pub(super) fn not_stored(call: &Call, what: &str, status: u16) -> Verdict {
    let http_status = Some(status);
    if call.repeatable {
        return Verdict::Retry { why: what.to_owned(), http_status, after: None };
    }
    let reason = format!("{what}; {CARRIED_OUT}, and its answer was not stored");
    reject(reason, http_status)
}

/// The verdict on a job that took too long. What its calls did is known from the session,
/// since their future was dropped. By a limit of its own a job says that it is worth trying
/// again.
pub(super) fn late(call: &Call, session: &Session<'_>) -> Verdict {
    let (calls, limit) = (session.ledger().calls(), call.limit());
    let known = calls.knowledge();
    let late = format!("the call took longer than {limit:?}");
    match known.effect {
        Effect::Done if known.is_spent() && call.output.is_none() => {
            Unusable::Late(limit).verdict(call.repeatable, calls.carried_out)
        }
        Effect::Done if known.is_spent() => {
            reject(format!("{late}; {CARRIED_OUT}, and its answer was not stored"), None)
        }
        Effect::Unknown if known.is_spent() => reject(format!("{late}; {NOT_REPEATED}"), None),
        _ if call.timeout.is_some() => Verdict::retry(late),
        Effect::None | Effect::Done | Effect::Unknown => reject(late, None),
    }
}

pub(super) fn done(
    target: &Target,
    http_status: Option<u16>,
    stored: Stored,
    pages: Option<u32>,
) -> Verdict {
    let mut result = json!({
        "output": target.to_string(),
        "bytes": stored.bytes,
        "generation": stored.generation,
    });
    if let Some(pages) = pages {
        result["pages"] = pages.into();
    }
    Verdict::Done { http_status, result: result.into(), warning: None }
}

pub(super) fn exists(call: &Call, target: &Target, http_status: Option<u16>) -> Verdict {
    let made = match http_status {
        Some(status) if !call.repeatable => {
            format!("; {CARRIED_OUT} (HTTP status {status}), and its answer was not stored")
        }
        _ => String::new(),
    };
    Verdict::Reject {
        reason: format!(
            "the object of `output` exists and was not written by this job; choose another name, or say \"overwrite\": true{made}"
        ),
        detail: Some(target.to_string()),
        http_status,
    }
}

pub(super) fn reject(reason: String, http_status: Option<u16>) -> Verdict {
    Verdict::Reject { reason, detail: None, http_status }
}

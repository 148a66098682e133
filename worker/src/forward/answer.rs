//! What a handler's answer means for the job: one table, first match.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use shared::{ConsentReason, Secret, scrub};

use crate::effect::Effect;
use crate::json::Json;
use crate::kinds::{Hidden, Said, insufficient_scope, json_of, media_type, says_json};
use crate::outcome::{Limit, Verdict};
use crate::retry_after::{asks_to_wait, retry_after};

/// The largest answer that is read, and that becomes a result, in bytes.
pub(super) const MAX_BODY: usize = 64 * 1024;
/// The longest text of a handler that is told, in characters.
const LONGEST_DETAIL: usize = 500;
/// How much of a text is looked at for so many characters: what is scrubbed is shorter.
const MOST_TEXT: usize = 8 * LONGEST_DETAIL;
/// A kind that is asked to wait and does not understand for how long waits so long.
const KIND_WAITS: Duration = Duration::from_secs(30);
/// How long a job is held while whoever answers is not the one that should.
const MISROUTED: Duration = Duration::from_secs(10 * 60);

/// What came of an event.
#[derive(Debug)]
pub(super) enum Came {
    /// An answer.
    Answer(Answer),
    /// The connection was lost before the answer.
    Lost,
    /// The answer did not come within this time.
    Late(Duration),
    /// No byte was sent.
    Unsent,
}

/// What a handler answered.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// At most [`MAX_BODY`] of it.
    pub(super) body: Vec<u8>,
    /// That is all of it.
    pub(super) whole: bool,
}

/// What is known besides.
#[derive(Debug)]
pub(super) struct Facts {
    /// The job must not be done twice.
    pub(super) once: bool,
    /// The token endpoint's last answer to the attempt was that the user must consent.
    pub(super) noted: Option<ConsentReason>,
    /// The attempt asked twice or more and got the same grant.
    pub(super) asked_again: bool,
    /// The kind's handler has answered 2xx since the start.
    pub(super) proven: bool,
    /// The attempt's handle and the tokens that it was given.
    pub(super) secrets: Vec<Secret>,
}

/// What to make of it.
#[derive(Debug, PartialEq)]
pub(super) enum Meaning {
    /// This.
    Verdict(Verdict),
    /// The token was rejected, or may have been: renew it if that may be done now, and run the
    /// job again; else this.
    Renew(Verdict),
    /// No job of the kind begins for so long; then this one again.
    KindWaits(Duration, Verdict),
    /// Whoever answered does not know such jobs: no job of the kind begins for a while.
    Misrouted(Verdict),
    /// Nobody was asked: no job of the kind begins for a while.
    Down(Verdict),
}

impl Came {
    /// What is known of the effect.
    pub(super) fn effect(&self) -> Effect {
        match self {
            // Of an API it says that the call was carried out; a web framework's redirect says
            // nothing of a job.
            Self::Answer(answer) if answer.status == 303 => Effect::Unknown,
            Self::Answer(answer) => Effect::of_status(answer.status, asks_to_wait(&answer.headers)),
            Self::Lost | Self::Late(_) => Effect::Unknown,
            Self::Unsent => Effect::None,
        }
    }

    /// The class that it is counted by.
    pub(super) fn class(&self) -> &'static str {
        match self {
            Self::Answer(answer) => match answer.status {
                200..=299 => "2xx",
                300..=399 => "3xx",
                400..=499 => "4xx",
                _ => "5xx",
            },
            Self::Lost | Self::Late(_) => "none",
            Self::Unsent => "unsent",
        }
    }

    /// What it means.
    pub(super) fn meaning(&self, facts: &Facts) -> Meaning {
        let http_status = self.status();
        let retry = |after| {
            let why = self.to_string();
            Verdict::Retry { why, http_status, after }
        };
        match self {
            Self::Unsent => {
                let why = self.to_string();
                return Meaning::Down(Verdict::Unasked { why, at_most: None });
            }
            Self::Answer(answer) if (200..=299).contains(&answer.status) => {
                return Meaning::Verdict(done(answer, &facts.secrets));
            }
            _ if facts.once && self.effect() != Effect::None => {
                let reason = format!(
                    "{self}; whether it did the job is not known, and this job is done once"
                );
                let rejected = Verdict::Reject { reason, detail: None, http_status };
                return Meaning::Verdict(rejected);
            }
            Self::Lost | Self::Late(_) => {
                return Meaning::Verdict(match &facts.noted {
                    Some(consent) => Verdict::NeedsConsent(consent.clone()),
                    None => retry(None),
                });
            }
            Self::Answer(_) => {}
        }
        let Self::Answer(answer) = self else { unreachable!("the others were told above") };
        let Answer { status, headers, body, .. } = answer;
        let waits = asks_to_wait(headers);
        let failed = *status >= 500 && !waits;
        let said = Said::of(body);
        match status {
            401 | 403 | 500.. if (*status < 500 || failed) && facts.noted.is_some() => {
                let consent = facts.noted.clone().unwrap_or(ConsentReason::Unknown);
                Meaning::Verdict(Verdict::NeedsConsent(consent))
            }
            401 => Meaning::Renew(retry(None)),
            500.. if failed && *status != 501 && facts.asked_again => Meaning::Renew(retry(None)),
            403 if insufficient_scope(headers, &said) => {
                let secrets: Vec<&Secret> = facts.secrets.iter().collect();
                let scopes = said.missing_scopes(headers, &secrets);
                Meaning::Verdict(Verdict::MissingScopes { scopes })
            }
            429 => Meaning::Verdict(limited(answer, &said)),
            403 if said.is_limit() => Meaning::Verdict(limited(answer, &said)),
            503 if waits => {
                let after = retry_after(headers).unwrap_or(KIND_WAITS);
                Meaning::KindWaits(after, retry(Some(after)))
            }
            _ if is_misrouted(answer, facts, &said) => {
                let why = self.to_string();
                Meaning::Misrouted(Verdict::Unasked { why, at_most: Some(MISROUTED) })
            }
            408 | 409 | 425 | 500.. => Meaning::Verdict(retry(retry_after(headers))),
            _ => Meaning::Verdict(Verdict::Reject {
                reason: format!("the handler refused: HTTP status {status}"),
                detail: problem(answer, &facts.secrets),
                http_status,
            }),
        }
    }

    /// The HTTP status, if there is an answer.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Answer(answer) => Some(answer.status),
            _ => None,
        }
    }
}

impl std::fmt::Display for Came {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answer(answer) => write!(f, "the handler answered HTTP status {}", answer.status),
            Self::Lost => f.write_str("the connection to the handler was lost"),
            Self::Late(limit) => write!(f, "the handler did not answer within {limit:?}"),
            Self::Unsent => f.write_str("the handler cannot be reached"),
        }
    }
}

/// The handler did the job, whatever its answer looks like. Only JSON is a result: functions
/// say `OK` where they return nothing.
fn done(answer: &Answer, secrets: &[Secret]) -> Verdict {
    let http_status = Some(answer.status);
    let done = |result, warning: Option<String>| Verdict::Done { http_status, result, warning };
    if !says_json(&answer.headers) {
        return done(Json::null(), None);
    }
    if !answer.whole {
        let why = format!(
            "the handler's answer was cut off, or is larger than {MAX_BODY} bytes, the most that \
             fits into an outcome"
        );
        return done(Json::null(), Some(why));
    }
    let json = json_of(&answer.body);
    if json.is_empty() {
        return done(Json::null(), None);
    }
    let mut body = Bytes::copy_from_slice(json);
    for secret in secrets {
        let mut hidden = Hidden::new(secret.expose());
        body = [hidden.clean(body), hidden.rest()].concat().into();
    }
    match Json::parse(&body) {
        Ok(result) => done(result, None),
        Err(_) => done(Json::null(), Some("the handler's answer is no JSON".to_owned())),
    }
}

fn limited(answer: &Answer, said: &Said) -> Verdict {
    Verdict::RateLimited {
        http_status: Some(answer.status),
        after: retry_after(&answer.headers),
        // What the handler called is not known.
        limit: Limit { quota: said.is_quota(answer.status), host: None },
    }
}

/// A wrong path or signature must not dead-letter a backlog. Until a handler has shown that it
/// does such jobs, its refusals are taken for that; later those only that no program of the
/// job's own would word.
fn is_misrouted(answer: &Answer, facts: &Facts, said: &Said) -> bool {
    match answer.status {
        100..=199 | 300..=399 | 404 | 405 | 501 => {
            !facts.proven || !(is_problem(&answer.headers) || said.is_googles())
        }
        400 | 415 => !facts.proven,
        _ => false,
    }
}

/// Whether it says that it is an RFC 9457.
fn is_problem(headers: &HeaderMap) -> bool {
    media_type(headers) == "application/problem+json"
}

/// Title and detail of RFC 9457. Nothing else of an answer goes anywhere: frameworks quote the
/// request in their pages.
fn problem(answer: &Answer, secrets: &[Secret]) -> Option<String> {
    #[derive(Deserialize)]
    struct Problem {
        title: Option<String>,
        detail: Option<String>,
    }

    if !is_problem(&answer.headers) {
        return None;
    }
    let Problem { title, detail } = serde_json::from_slice(json_of(&answer.body)).ok()?;
    let said: Vec<String> = [title, detail].into_iter().flatten().collect();
    let text: String = said.join(": ").chars().take(MOST_TEXT).collect();
    let secrets: Vec<&Secret> = secrets.iter().collect();
    let text: String = scrub(&text, &secrets).chars().take(LONGEST_DETAIL).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests;

//! Is a refusal about the client or about one user? The endpoint is asked with a made-up
//! refresh token, at most once per ttl and replica, and its answer is weighed here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::client_question::ClientQuestion;
use crate::ports::Monotonic;
use crate::user_id::UserId;

/// Whom a refusal is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// One user alone.
    User,
    /// The client, and so everybody; why.
    Client(Arc<str>),
    /// It cannot be told.
    Nobody,
}

/// This many users with one code are worth another question.
const MANY: usize = 10;

/// What is known about the client.
#[derive(Clone, Debug, Default)]
pub struct Inquiry {
    /// The time of the last question, and what the endpoint said to it.
    last: Option<(Monotonic, Said)>,
    /// What it says to a client that it accepts about a grant that it does not know: this
    /// provider's word for a dead grant.
    dead: Option<Arc<str>>,
    /// The users who were refused since then, by the provider's code.
    refused: BTreeMap<Arc<str>, BTreeSet<UserId>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Accepted,
    Code(Arc<str>),
    Nothing,
}

impl Inquiry {
    /// Whom a refusal of `user` with `code` is about; `None` when the endpoint has to be
    /// asked first. `worked`: a refresh succeeded within the last ttl.
    pub fn judge(
        &mut self,
        user: &UserId,
        code: &Arc<str>,
        why: &Arc<str>,
        worked: bool,
        ttl: Duration,
        now: Monotonic,
    ) -> Option<Blame> {
        if self.dead.as_ref() == Some(code) {
            return Some(Blame::User);
        }
        let (asked, said) = self.last.as_ref()?;
        let users = self.refused.entry(Arc::clone(code)).or_default();
        let many = users.insert(user.clone()) && users.len() == MANY;
        if many || now.since(*asked) >= ttl {
            return None;
        }
        Some(match said {
            Said::Nothing => Blame::Nobody,
            Said::Code(said) if !worked && (said == code || &**said == "invalid_client") => {
                Blame::Client(Arc::clone(why))
            }
            Said::Accepted | Said::Code(_) => Blame::User,
        })
    }

    /// The endpoint was asked. `after_success`: because a refresh had just succeeded, so the
    /// client is accepted and what was said is about the made-up token alone. A question that
    /// a refusal raised never tells that: the client may have been refused from then on.
    pub fn answered(&mut self, answer: &ClientQuestion, after_success: bool, now: Monotonic) {
        let said = match answer {
            ClientQuestion::Accepted => Said::Accepted,
            ClientQuestion::Code { code, .. } => Said::Code(Arc::clone(code)),
            ClientQuestion::Granted | ClientQuestion::Undecided(_) => Said::Nothing,
        };
        if let (true, Said::Code(code)) = (after_success, &said) {
            self.dead = Some(Arc::clone(code));
        }
        self.refused.clear();
        self.last = Some((now, said));
    }

    /// A refresh succeeded: whether asking once more now tells this provider's word for a
    /// dead grant, which the last question could not.
    pub fn is_worth_asking_again(&self) -> bool {
        self.dead.is_none() && matches!(self.last, Some((_, Said::Code(_))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{EndpointError, Resend};

    const TTL: Duration = Duration::from_secs(30);

    fn at(s: u64) -> Monotonic {
        Monotonic(Duration::from_secs(1000 + s))
    }

    fn user(i: usize) -> UserId {
        UserId::new(format!("u{i}")).unwrap()
    }

    fn code(code: &str) -> ClientQuestion {
        ClientQuestion::Code { code: code.into(), why: code.into() }
    }

    fn judge(inquiry: &mut Inquiry, said: &str, worked: bool, now: u64) -> Option<Blame> {
        inquiry.judge(&user(0), &said.into(), &"why".into(), worked, TTL, at(now))
    }

    #[test]
    fn whom_a_refusal_is_about() {
        let client = Blame::Client("why".into());
        for (question, refusal, worked, blame) in [
            (ClientQuestion::Accepted, "admin_policy_enforced", false, Blame::User),
            (ClientQuestion::Accepted, "invalid_client", false, Blame::User),
            (code("invalid_client"), "invalid_client", false, client.clone()),
            (code("invalid_client"), "unauthorized_client", false, client.clone()),
            (code("invalid_client"), "invalid_client", true, Blame::User),
            (code("invalid_request"), "invalid_request", false, client),
            (code("invalid_request"), "invalid_request", true, Blame::User),
            (code("invalid_request"), "access_denied", false, Blame::User),
            (ClientQuestion::Granted, "access_denied", false, Blame::Nobody),
            (
                ClientQuestion::Undecided(EndpointError::Ambiguous {
                    why: "".into(),
                    resend_after: Resend::Soon,
                }),
                "access_denied",
                false,
                Blame::Nobody,
            ),
        ] {
            let mut inquiry = Inquiry::default();
            assert_eq!(judge(&mut inquiry, refusal, worked, 0), None, "it is asked first");
            inquiry.answered(&question, false, at(0));
            let judged = judge(&mut inquiry, refusal, worked, 0);
            assert_eq!(judged, Some(blame), "{question:?}, {refusal}, {worked}");
        }
    }

    #[test]
    fn a_word_for_a_dead_grant_is_learned_from_a_client_that_works() {
        let mut inquiry = Inquiry::default();
        assert!(!inquiry.is_worth_asking_again(), "nothing was refused");
        inquiry.answered(&code("invalid_request"), false, at(0));
        assert!(inquiry.is_worth_asking_again());
        inquiry.answered(&code("invalid_request"), true, at(1));
        assert!(!inquiry.is_worth_asking_again());
        assert_eq!(judge(&mut inquiry, "invalid_request", false, 9999), Some(Blame::User));
        assert_eq!(judge(&mut inquiry, "invalid_client", false, 9999), None, "another is asked");
    }

    #[test]
    fn an_answer_holds_for_a_ttl_and_for_nine_users() {
        let mut inquiry = Inquiry::default();
        inquiry.answered(&ClientQuestion::Accepted, false, at(0));
        for i in 0..9 {
            let judged = inquiry.judge(&user(i), &"a".into(), &"".into(), false, TTL, at(29));
            assert_eq!(judged, Some(Blame::User), "{i}");
        }
        assert_eq!(judge(&mut inquiry, "a", false, 29), Some(Blame::User), "known already");
        let tenth = inquiry.judge(&user(9), &"a".into(), &"".into(), false, TTL, at(29));
        assert_eq!(tenth, None);
        inquiry.answered(&ClientQuestion::Accepted, false, at(29));
        assert_eq!(judge(&mut inquiry, "a", false, 58), Some(Blame::User));
        assert_eq!(judge(&mut inquiry, "a", false, 59), None, "a ttl later");
    }
}

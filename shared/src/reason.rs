//! Why a user must consent: one closed list.
//!
//! The same names stand on the record, the parked object, the outcome, the event, the
//! metric and the page, so the list and its sentences are here, and so is the one rule
//! that derives a reason from what a provider says.

use std::fmt;

use jiff::Timestamp;

/// Why a user must consent, or what an administrator must change, before jobs can act for
/// them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Nothing is stored: the user never consented, or was deleted.
    UnknownUser,
    /// The provider ended the grant and says no more than that.
    Revoked,
    /// The account's sign-in is too old for the policy of its organization.
    SessionExpired,
    /// The provider ended the grant since nobody used it.
    Unused,
    /// The consent screen is in testing, where grants end after 7 days.
    Testing,
    /// A policy of the account's organization forbids the application.
    AdminPolicy,
    /// The account itself is restricted, disabled or deleted.
    AccountRestricted,
    /// The provider refuses this user with a code that is none of the above.
    Blocked,
    /// The grant lacks scopes that a job needs.
    ScopesMissing,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::UnknownUser,
        Self::Revoked,
        Self::SessionExpired,
        Self::Unused,
        Self::Testing,
        Self::AdminPolicy,
        Self::AccountRestricted,
        Self::Blocked,
        Self::ScopesMissing,
    ];

    /// Its name, wherever it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownUser => "unknown_user",
            Self::Revoked => "revoked",
            Self::SessionExpired => "session_expired",
            Self::Unused => "unused",
            Self::Testing => "testing",
            Self::AdminPolicy => "admin_policy",
            Self::AccountRestricted => "account_restricted",
            Self::Blocked => "blocked",
            Self::ScopesMissing => "scopes_missing",
        }
    }

    /// The reason of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// What a provider that ended a grant means by its words: its code, a colon and its
    /// description, as in
    /// [`EndpointError::InvalidGrant`](crate::ports::EndpointError::InvalidGrant).
    pub fn of_ended_grant(said: &str) -> Self {
        Self::told_by(said).unwrap_or(Self::Revoked)
    }

    /// What a provider means that refuses one user: its `code`, and its `why`, as in
    /// [`EndpointError::Refused`](crate::ports::EndpointError::Refused).
    pub fn of_refusal(code: &str, why: &str) -> Self {
        Self::told_by(&format!("{code}: {why}")).unwrap_or(Self::Blocked)
    }

    /// The reason that a record has: by its name, or by the provider's words, which
    /// earlier versions stored. Why a record was revoked need not be known.
    pub fn of_revoked_record(stored: Option<&str>) -> Self {
        let stored = stored.unwrap_or_default();
        Self::named(stored).unwrap_or_else(|| Self::of_ended_grant(stored))
    }

    fn told_by(said: &str) -> Option<Self> {
        // What each provider was seen to say, in lower case: Google's codes, subtypes and
        // descriptions, Microsoft's numbers, Keycloak's descriptions.
        const SIGNS: [(Reason, &[&str]); 5] = [
            (
                Reason::SessionExpired,
                &[
                    "invalid_rapt",
                    "rapt_required",
                    "interaction_required",
                    "login_required",
                    "session not active",
                    "aadsts50173",
                    "aadsts70043",
                    "aadsts50078",
                ],
            ),
            (
                Reason::AdminPolicy,
                &[
                    "admin_policy",
                    "org_internal",
                    "policy_enforced",
                    "by your administrator",
                    "aadsts53003",
                    "aadsts65001",
                ],
            ),
            (
                Reason::AccountRestricted,
                &[
                    "account restricted",
                    "account_restricted",
                    "account disabled",
                    "account_disabled",
                    "account has been disabled",
                    "account has been deleted",
                    "account deleted",
                    "account suspended",
                    "account has been suspended",
                    "user_disabled",
                    "user disabled",
                    "aadsts50057",
                    "aadsts50034",
                ],
            ),
            (Reason::Unused, &["inactivity", "not been used", "aadsts700082"]),
            (Reason::Testing, &["in testing", "testing mode", "publishing status", "test user"]),
        ];
        let said = said.to_ascii_lowercase();
        let tells = |signs: &[&str]| signs.iter().any(|sign| said.contains(sign));
        SIGNS.into_iter().find(|(_, signs)| tells(signs)).map(|(reason, _)| reason)
    }

    /// One sentence for the person whose account it is.
    pub fn for_person(self) -> &'static str {
        match self {
            Self::UnknownUser => "Your account is not connected yet.",
            Self::Revoked => "Your provider ended this access; connect again to go on.",
            Self::SessionExpired => {
                "Your organization asks you to sign in again from time to time; connect again to go on."
            }
            Self::Unused => {
                "Your provider ended this access since it was not used for a long time; connect again to go on."
            }
            Self::Testing => {
                "Access to this app ends after 7 days while it is being tested; connect again to go on."
            }
            Self::AdminPolicy => {
                "Your organization does not allow this app; ask your administrator to allow it."
            }
            Self::AccountRestricted => {
                "Your provider has restricted your account; see your account's page there."
            }
            Self::Blocked => {
                "Your provider does not give access at the moment; it is tried again by itself, and connecting again may help."
            }
            Self::ScopesMissing => {
                "A job needs more access than you have allowed; allow it to go on."
            }
        }
    }

    /// One sentence for whoever operates the fleet: what happened, and what helps.
    pub fn for_operator(self) -> &'static str {
        match self {
            Self::UnknownUser => "no credential is stored; the user must consent",
            Self::Revoked => {
                "the provider ended the grant; the user must consent again, or, if that was a mistake, `fleet users retry` presents the token once more"
            }
            Self::SessionExpired => {
                "the organization's session length has passed (invalid_rapt); the user must consent again, or its administrator exempts the client"
            }
            Self::Unused => "the grant ended since it was not used; the user must consent again",
            Self::Testing => {
                "the consent screen is in testing, where grants end after 7 days; publish it, then the user must consent again"
            }
            Self::AdminPolicy => {
                "a policy of the user's organization refuses the client; its administrator must allow the client ID, then jobs go on by themselves"
            }
            Self::AccountRestricted => {
                "the account is restricted, disabled or deleted at the provider; its administrator can say why"
            }
            Self::Blocked => {
                "the provider refuses this user; look the code up in its documentation, and once that is lifted jobs go on by themselves"
            }
            Self::ScopesMissing => "the grant lacks scopes; the user must allow them",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the user must consent, with what is known of it. [`ConsentReason::reason`] is the
/// reason alone, of the closed list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ConsentReason {
    /// There is no record: never consented, or deleted.
    Unknown,
    /// The provider ended the grant.
    Revoked {
        /// Why.
        reason: Reason,
        /// When it was noticed.
        at: Timestamp,
    },
    /// The provider refuses this user, whose grant may still live. It is asked again now
    /// and then.
    Blocked {
        /// What the provider means.
        reason: Reason,
        /// Its code.
        code: String,
        /// Since when.
        since: Timestamp,
    },
    /// The stored grant lacks scopes that the job needs.
    MissingScopes(Vec<String>),
}

impl fmt::Display for ConsentReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = self.reason();
        write!(f, "{reason}: {}", reason.for_operator())?;
        match self {
            Self::Unknown => Ok(()),
            Self::Revoked { at, .. } => write!(f, " (noticed {at:.0})"),
            Self::Blocked { code, since, .. } => write!(f, " (code {code}, since {since:.0})"),
            Self::MissingScopes(scopes) if scopes.is_empty() => Ok(()),
            Self::MissingScopes(scopes) => write!(f, ": {}", scopes.join(" ")),
        }
    }
}

impl ConsentReason {
    /// Which reason of the closed list it is.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unknown => Reason::UnknownUser,
            Self::Revoked { reason, .. } | Self::Blocked { reason, .. } => *reason,
            Self::MissingScopes(_) => Reason::ScopesMissing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_closed_and_every_reason_has_its_sentences() {
        let names = Reason::ALL.map(Reason::as_str);
        assert_eq!(
            names,
            [
                "unknown_user",
                "revoked",
                "session_expired",
                "unused",
                "testing",
                "admin_policy",
                "account_restricted",
                "blocked",
                "scopes_missing"
            ]
        );
        for reason in Reason::ALL {
            assert_eq!(Reason::named(reason.as_str()), Some(reason));
            assert!(reason.for_person().ends_with('.'), "{reason}");
            assert!(!reason.for_operator().ends_with('.'), "{reason}");
        }
        assert_eq!(Reason::named("other"), None);
    }

    #[test]
    fn what_providers_say_when_a_grant_has_ended() {
        for (said, reason) in [
            ("invalid_grant: Token has been expired or revoked.", Reason::Revoked),
            ("invalid_grant: Bad Request", Reason::Revoked),
            ("token_revoked", Reason::Revoked),
            ("", Reason::Revoked),
            (
                "invalid_grant: invalid_rapt (reauth related error (invalid_rapt))",
                Reason::SessionExpired,
            ),
            ("INVALID_GRANT: Session not active", Reason::SessionExpired),
            ("invalid_grant: Account has been deleted", Reason::AccountRestricted),
            (
                "invalid_grant: AADSTS700082: The refresh token has expired due to inactivity.",
                Reason::Unused,
            ),
            ("invalid_grant: The app is in testing.", Reason::Testing),
        ] {
            assert_eq!(Reason::of_ended_grant(said), reason, "{said}");
            assert_eq!(Reason::of_revoked_record(Some(said)), reason, "{said}");
        }
        assert_eq!(Reason::of_revoked_record(Some("unused")), Reason::Unused);
        assert_eq!(Reason::of_revoked_record(None), Reason::Revoked);
    }

    #[test]
    fn what_providers_say_when_they_refuse_one_user() {
        let why = "https://provider.test/token answered with HTTP status 400 (access_denied: Account restricted)";
        for (code, why, reason) in [
            ("admin_policy_enforced", "", Reason::AdminPolicy),
            ("access_denied", why, Reason::AccountRestricted),
            ("access_denied", "access_denied: ", Reason::Blocked),
            ("interaction_required", "", Reason::SessionExpired),
            ("no_access_token", "", Reason::Blocked),
            ("invalid_request", "nothing else", Reason::Blocked),
        ] {
            assert_eq!(Reason::of_refusal(code, why), reason, "{code}");
        }
    }
}

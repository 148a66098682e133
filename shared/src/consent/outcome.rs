//! What a callback came to.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::Started;
use crate::error::Error;
use crate::profile::ProfileError;
use crate::reason::Reason;
use crate::user_id::UserId;

/// A person came back and is who they say.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// The ID under which the credential is stored.
    pub user: UserId,
    /// The profile, as the provider gave it.
    pub profile: Map<String, Value>,
    /// Whether a new grant was stored: jobs that waited for it can go on.
    pub stored: bool,
    /// What was asked and not granted.
    pub missing: Vec<String>,
    /// The local path to go to.
    pub next: String,
}

/// What a callback came to when nothing went wrong.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The person is signed in.
    SignedIn(Box<SignedIn>),
    /// The provider gave no refresh token and none is stored, or the stored one
    /// has fewer scopes, or the provider did not know a scope of the stored one: send the
    /// browser to the provider once more.
    ConsentAgain(Started),
    /// The person is signed in, and what was stored allows less than what it replaced:
    /// send the browser to the consent page once more. Whatever comes of that, they stay
    /// signed in.
    MoreConsent(Box<SignedIn>, Started),
}

/// Why a callback signed nobody in. In every case but [`CallbackError::Store`],
/// whose write may have been applied, nothing was stored. The texts are for the
/// person and quote nothing that came with the request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallbackError {
    /// `error=access_denied`.
    #[error("You cancelled, so nothing was changed.")]
    Denied,
    /// Another `error` of the provider, if it is one of RFC 6749's or OpenID's.
    #[error("The provider refused the request ({0}). Nothing was changed; try again.")]
    Refused(&'static str),
    /// The request is not one that a provider sends.
    #[error("This address is not a complete answer of the provider ({0}). Start again.")]
    Malformed(&'static str),
    /// The browser holds no pending login, or another one.
    #[error(
        "This sign-in was not started in this browser, or it is over. Nothing was changed; start again."
    )]
    NotYours,
    /// It took too long.
    #[error("This sign-in took too long and has expired. Start again.")]
    Expired,
    /// The same answer came before.
    #[error("This sign-in was completed already. It cannot be used twice; start again.")]
    Replayed,
    /// It came back to another address than it was sent to.
    #[error("The answer came back to another address than it was asked for. Start again.")]
    WrongRedirect,
    /// The token endpoint rejects the code: spent, expired, or not for us.
    #[error("The provider did not accept the sign-in ({0}). Nothing was changed; start again.")]
    CodeRefused(Arc<str>),
    /// The provider refuses the account.
    #[error("{} Nothing was changed.", .0.for_person())]
    NotAllowed(Reason),
    /// The token endpoint or the bucket does not answer.
    #[error("{0} Nothing was changed; start again in a while.")]
    Unavailable(Arc<str>),
    /// An operator must act.
    #[error("This site's OAuth client is not accepted: {0}. Tell the operator.")]
    Misconfigured(Arc<str>),
    /// The provider's ID token is missing or wrong.
    #[error("The provider's ID token {0}. Nothing was changed.")]
    IdToken(&'static str),
    /// The provider gave no profile.
    #[error("The provider gave no profile: {0}. Nothing was changed; start again.")]
    Profile(#[source] ProfileError),
    /// The person chose another account than the one whose access should grow.
    #[error(
        "You chose another account than the one you are signed in with. Nothing was changed; sign out first, or choose the same account."
    )]
    OtherAccount,
    /// Another account's grant is stored under this user's ID.
    #[error(
        "Another account is connected here already. Nothing was changed; choose the account that was connected before, or ask the operator to remove that one first."
    )]
    StoredForAnother {
        /// The account that is stored.
        stored: String,
        /// The account that was chosen, if the provider names it.
        chosen: Option<String>,
    },
    /// Not even the consent page brought a refresh token.
    #[error(
        "The provider gave no lasting access, even after consent. Remove this app in your account's settings at the provider, then start again."
    )]
    NoRefreshToken,
    /// The embedding program has no such user.
    #[error("This account cannot be used here: {0}")]
    NoUser(String),
    /// The credential could not be stored.
    #[error("The credential could not be stored: {0}")]
    Store(#[from] Error),
}

impl CallbackError {
    /// Counted under this name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Refused(_) => "refused",
            Self::Malformed(_) => "malformed",
            Self::NotYours => "not_yours",
            Self::Expired => "expired",
            Self::Replayed => "replayed",
            Self::WrongRedirect => "wrong_redirect",
            Self::CodeRefused(_) => "code_refused",
            Self::NotAllowed(_) => "not_allowed",
            Self::Unavailable(_) => "unavailable",
            Self::Misconfigured(_) => "misconfigured",
            Self::IdToken(_) => "id_token",
            Self::Profile(_) => "profile",
            Self::OtherAccount => "other_account",
            Self::StoredForAnother { .. } => "stored_for_another",
            Self::NoRefreshToken => "no_refresh_token",
            Self::NoUser(_) => "no_user",
            Self::Store(_) => "store",
        }
    }

    /// Whose fault it is: the request's (400), or ours and the provider's (503).
    pub fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_)
                | Self::Misconfigured(_)
                | Self::IdToken(_)
                | Self::Profile(_)
                | Self::NoRefreshToken
                | Self::Store(_)
        )
    }
}

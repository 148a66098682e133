//! The second half: check what came back, and store what it is worth.

use jiff::{SignedDuration, Timestamp};
use url::{Url, form_urlencoded};

use super::id_token::{self, Expected};
use super::outcome::{CallbackError, Outcome, SignedIn};
use super::pending::{NAME_LENGTH, Pending, digest};
use super::{
    Consent, LOGIN_LIFETIME, Started, marker, missing_scopes, not_granted, start, subject,
};
use crate::error::Error;
use crate::ports::{Answer, CodeAnswer, EndpointError};
use crate::protocol::Grant;
use crate::reason::Reason;
use crate::secret::Secret;
use crate::store::Login;
use crate::user_id::UserId;

/// What the browser, or the person, brought back.
#[derive(Clone, Copy)]
pub enum Callback<'a> {
    /// The query of a request to the redirect URI.
    Query(&'a str),
    /// What a person copied: the redirected address with or without its scheme, its query, or
    /// the code alone, in quotes or not. Where there is no `state` to check, that they paste
    /// it into the very program that began the login stands for it.
    Pasted(&'a str),
}

impl std::fmt::Debug for Callback<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Query(_) => "Query([redacted])",
            Self::Pasted(_) => "Pasted([redacted])",
        })
    }
}

/// An answer of the authorization endpoint (RFC 6749, 4.1.2; RFC 9207).
#[derive(Default)]
struct Returned {
    code: Option<String>,
    state: Option<String>,
    error: Option<String>,
    iss: Option<String>,
}

/// A query beyond this is no answer of a provider.
const LONGEST: usize = 8 * 1024;

/// Ends a login: checks the answer against the pending login that
/// the browser kept, exchanges the code, checks the ID token, fetches the
/// profile and stores the grant.
///
/// Run it to its end: cancelling it after the exchange loses the grant, and the
/// person must start again.
///
/// # Errors
/// [`CallbackError`], in words for the person.
pub async fn oauth_callback(
    consent: &Consent,
    pending: Option<&str>,
    callback: Callback<'_>,
) -> Result<Outcome, CallbackError> {
    let (answer, address) = read(callback)?;
    let pending = pending
        .and_then(|sealed| Pending::open(&consent.key, sealed))
        .ok_or(CallbackError::NotYours)?;
    match (&answer.state, callback) {
        (Some(state), _) if *state == pending.state => {}
        (None, Callback::Pasted(_)) => {}
        _ => return Err(CallbackError::NotYours),
    }
    let same_place = |address: &Url| {
        Url::parse(&pending.redirect_uri)
            .is_ok_and(|ours| address.origin() == ours.origin() && address.path() == ours.path())
    };
    if pending.redirect_uri != consent.redirect_uri.as_str()
        || address.is_some_and(|address| !same_place(&address))
    {
        return Err(CallbackError::WrongRedirect);
    }
    let now = consent.clock.wall();
    let age = now.duration_since(pending.started_at);
    let lifetime = SignedDuration::try_from(LOGIN_LIFETIME).unwrap_or(SignedDuration::MAX);
    // Another replica's clock may be ahead.
    if age > lifetime || age < -lifetime {
        return Err(CallbackError::Expired);
    }
    if let Some(error) = &answer.error {
        if error == "invalid_scope" && pending.scopes.len() > pending.wanted {
            // Something that was allowed once is not there any more.
            let wanted = pending.wanted().to_vec();
            return Ok(Outcome::ConsentAgain(again(consent, &pending, wanted, None)?));
        }
        return Err(refused(error));
    }
    let code = answer.code.ok_or(CallbackError::Malformed("it has no code"))?;
    if let Some(iss) = &answer.iss
        && !id_token::is_issuer(iss, &consent.client, consent.issuer.as_deref())
    {
        return Err(CallbackError::Malformed("it names another issuer"));
    }
    match marker::spend(consent, &pending).await {
        Ok(true) => {}
        Ok(false) => return Err(CallbackError::Replayed),
        Err(error) => {
            return Err(CallbackError::Unavailable(format!("{}.", capital(&error)).into()));
        }
    }
    finish(consent, &pending, Secret::new(code)).await
}

async fn finish(
    consent: &Consent,
    pending: &Pending,
    code: Secret,
) -> Result<Outcome, CallbackError> {
    let verifier = Secret::new(pending.verifier.clone());
    let limits = consent.store.policy().exchange_limits();
    let sent_at = consent.clock.wall();
    let exchanged = consent.provider.exchange(&code, &verifier, &pending.redirect_uri, limits);
    let CodeAnswer { answer, id_token } = exchanged.await.map_err(not_exchanged)?;
    let received_at = consent.clock.wall();
    let access_token = answer.access_token.clone().ok_or_else(|| {
        CallbackError::Unavailable("The provider gave no access token that can be used.".into())
    })?;
    let granted = answer.scopes.clone().unwrap_or_else(|| pending.scopes.clone());
    let claimed = match &id_token {
        Some(token) => {
            let expected = Expected {
                client: &consent.client,
                issuer: consent.issuer.as_deref(),
                nonce: &pending.nonce,
                now: received_at.as_duration().as_secs_f64(),
            };
            Some(id_token::check(token.expose(), &expected).map_err(CallbackError::IdToken)?)
        }
        None if granted.iter().any(|scope| scope == "openid") => {
            return Err(CallbackError::IdToken("is missing"));
        }
        // A provider that does not speak OpenID Connect.
        None => None,
    };
    let profile = consent.provider.profile(&access_token).await.map_err(CallbackError::Profile)?;
    let sub = subject(&profile);
    if claimed.is_some() && claimed != sub {
        return Err(CallbackError::IdToken("and the profile name different accounts"));
    }
    let user = consent.users.user(&profile).await.map_err(CallbackError::NoUser)?;
    if pending.user.as_ref().is_some_and(|wanted| wanted != user.as_str()) {
        return Err(CallbackError::OtherAccount);
    }
    let before = match consent.store.read_record(&user).await {
        Ok(record) => Some(record),
        Err(Error::NeedsConsent(_)) => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(stored) = before.as_ref().and_then(|before| before.sub.clone())
        && Some(&stored) != sub.as_ref()
        && !pending.replace
    {
        return Err(CallbackError::StoredForAnother { stored, chosen: sub });
    }
    let missing = not_granted(pending.wanted(), &granted);
    let held = before.map(|before| consent.still_listed(&before.scopes)).unwrap_or_default();
    // Whoever was unknown at the start is known now: a second round asks for the union, since
    // what it brings replaces the record.
    let unasked = if pending.only { Vec::new() } else { missing_scopes(&held, &pending.scopes) };
    let union = [&pending.scopes[..], &unasked].concat();
    let grant = grant(answer, &granted, sub.clone(), sent_at);
    let stored = match store(consent, &user, grant, &granted).await? {
        Some(stored) => stored,
        None if pending.repeated => return Err(CallbackError::NoRefreshToken),
        None => return Ok(Outcome::ConsentAgain(again(consent, pending, union, sub)?)),
    };
    let lost = not_granted(&held, &granted);
    let next = pending.next.clone();
    let done = Box::new(SignedIn { user, profile, stored, missing, next });
    // A person who was asked for a scope may decline it.
    let lost_unasked = !missing_scopes(&lost, &pending.scopes).is_empty();
    let may_narrow = pending.only || pending.repeated;
    if stored && lost_unasked && !may_narrow {
        return Ok(Outcome::MoreConsent(done, again(consent, pending, union, sub)?));
    }
    Ok(Outcome::SignedIn(done))
}

/// The same login once more, with the consent page.
fn again(
    consent: &Consent,
    before: &Pending,
    scopes: Vec<String>,
    hint: Option<String>,
) -> Result<Started, CallbackError> {
    start::again(consent, before, scopes, hint).map_err(|error| match error {
        start::StartError::BadClient(_) => CallbackError::Misconfigured(error.to_string().into()),
        start::StartError::Store(error) => error.into(),
    })
}

/// Why no code was exchanged. That tells nothing about the client's health: the code is
/// the visitor's.
fn not_exchanged(error: EndpointError) -> CallbackError {
    match error {
        EndpointError::InvalidGrant(said) => CallbackError::CodeRefused(said),
        EndpointError::Refused { code, why } => match Reason::of_refusal(&code, &why) {
            Reason::Blocked if matches!(&*code, "invalid_client" | "unauthorized_client") => {
                CallbackError::Misconfigured(why)
            }
            Reason::Blocked => CallbackError::CodeRefused(code),
            reason => CallbackError::NotAllowed(reason),
        },
        EndpointError::NotNow { .. }
        | EndpointError::NotReached(_)
        | EndpointError::Ambiguous { .. } => {
            CallbackError::Unavailable(format!("{}.", capital(&error)).into())
        }
    }
}

/// The grant of an answer to a request that was sent at `sent_at`, from when its lifetime
/// counts.
fn grant(answer: Answer, scopes: &[String], sub: Option<String>, sent_at: Timestamp) -> Grant {
    let life = answer.lifetime();
    Grant {
        expires_at: sent_at.checked_add(life).ok(),
        expires_in: Some(life),
        refresh_token: answer.refresh_token,
        access_token: answer.access_token,
        scopes: scopes.to_vec(),
        sub,
        ended: None,
    }
}

/// Whether a grant was stored; `None` when the provider must be asked for a
/// refresh token.
async fn store(
    consent: &Consent,
    user: &UserId,
    grant: Grant,
    granted: &[String],
) -> Result<Option<bool>, CallbackError> {
    match consent.store.set_credentials(user, grant).await? {
        Login::Stored => Ok(Some(true)),
        Login::SignedIn => {
            // Known, but the stored grant may allow less than was just allowed.
            let record = consent.store.read_record(user).await?;
            let grown = missing_scopes(granted, &record.scopes);
            Ok(grown.is_empty().then_some(false))
        }
        Login::ConsentAgain => Ok(None),
    }
}

fn read(callback: Callback<'_>) -> Result<(Returned, Option<Url>), CallbackError> {
    match callback {
        Callback::Query(query) => {
            let answer = read_query(query)?;
            if answer.state.is_none() {
                return Err(CallbackError::Malformed("it has no state"));
            }
            Ok((answer, None))
        }
        Callback::Pasted(text) => read_pasted(text),
    }
}

/// Reads what a person copied, which a terminal may have wrapped or a shell quoted.
fn read_pasted(text: &str) -> Result<(Returned, Option<Url>), CallbackError> {
    let text: String = text.split_whitespace().collect();
    let text = text.trim_matches(['"', '\'', '`', '<', '>']);
    if text.is_empty() || text.len() > LONGEST || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(CallbackError::Malformed("it is neither an address nor a code"));
    }
    let (before, query) = text.split_once('?').unwrap_or(("", text));
    let query = query.split('#').next().unwrap_or_default();
    let answer = read_query(query)?;
    if answer.code.is_none() && answer.error.is_none() {
        if text.contains(['?', '&', '=']) || text.contains("://") {
            return Err(CallbackError::Malformed("it has no code"));
        }
        // A code as it stands in an address, or as a page shows it.
        let code = percent_decode(text);
        return Ok((Returned { code: Some(code), ..Returned::default() }, None));
    }
    let address = match before {
        "" => None,
        _ if before.contains("://") => Some(before.to_owned()),
        _ => Some(format!("http://{before}")),
    };
    let address = address.map(|address| Url::parse(&address)).transpose();
    Ok((answer, address.map_err(|_| CallbackError::Malformed("it is not an address"))?))
}

fn percent_decode(text: &str) -> String {
    // Of a query, `+` is the one character that would be read as another.
    let query = text.replace('+', "%2B");
    let decoded = form_urlencoded::parse(query.as_bytes()).next();
    decoded.map_or_else(String::new, |(name, _)| name.into_owned())
}

fn read_query(query: &str) -> Result<Returned, CallbackError> {
    let malformed = |what| Err(CallbackError::Malformed(what));
    if query.len() > LONGEST {
        return malformed("it is too long");
    }
    let mut answer = Returned::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let field = match &*name {
            "code" => &mut answer.code,
            "state" => &mut answer.state,
            "error" => &mut answer.error,
            "iss" => &mut answer.iss,
            _ => continue,
        };
        // Two of a kind: readers could disagree on which one counts.
        if field.replace(value.into_owned()).is_some() {
            return malformed("a parameter comes twice");
        }
    }
    if answer.code.is_some() && answer.error.is_some() {
        return malformed("it has both a code and an error");
    }
    Ok(answer)
}

impl Callback<'_> {
    /// The name under which the pending login of this callback was kept
    /// ([`Started::name`](super::Started::name)), if it has a `state`.
    pub fn name(&self) -> Option<String> {
        let (answer, _) = read(*self).ok()?;
        let state = answer.state?;
        Some(digest(&state)[..NAME_LENGTH].to_owned())
    }
}

/// Only codes that the standards define are repeated to the person.
fn refused(error: &str) -> CallbackError {
    const KNOWN: [&str; 11] = [
        "invalid_request",
        "unauthorized_client",
        "unsupported_response_type",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
        "interaction_required",
        "login_required",
        "account_selection_required",
        "consent_required",
        "admin_policy_enforced",
    ];
    if error == "access_denied" {
        return CallbackError::Denied;
    }
    let known = KNOWN.into_iter().find(|known| *known == error);
    CallbackError::Refused(known.unwrap_or("an error it did not explain"))
}

fn capital(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes back from a provider, or out of a clipboard.
    fn any_text() -> impl Strategy<Value = String> {
        let pieces = vec![
            "code=",
            "state=",
            "error=",
            "iss=",
            "scope=",
            "&",
            "?",
            "#",
            "=",
            "%2F",
            "%",
            "%zz",
            "%E2%82",
            "+",
            " ",
            "\n",
            "\"",
            "'",
            "https://",
            "http://127.0.0.1:8085/",
            "4/0Afake",
        ];
        let piece = prop_oneof![
            3 => proptest::sample::select(pieces).prop_map(str::to_owned),
            1 => "\\PC{0,8}",
        ];
        proptest::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        /// Whatever comes back is read or refused, in words that quote nothing of it.
        #[test]
        fn any_callback_is_read_or_refused(text in any_text()) {
            for callback in [Callback::Query(&text), Callback::Pasted(&text)] {
                if let Err(error) = read(callback) {
                    let told = error.to_string();
                    prop_assert!(!told.contains("4/0Afake"), "{told}");
                }
            }
        }
    }
}

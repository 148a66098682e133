//! The way to the provider and back.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, RawQuery, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, StatusCode};
use shared::UserId;
use shared::consent::{
    Callback, LONGEST_NEXT, Outcome, SignedIn, Start, missing_scopes, oauth_callback, oauth_start,
};
use tracing::{info, warn};
use url::form_urlencoded;

use super::{ACCOUNT, App, SESSION, Shared, login_cookie, see_other, with_cookies};
use crate::events::state::Occasion;
use crate::metrics::web_event;
use crate::resuming::{Resumed, resume_user};
use crate::sign_outs;
use crate::waiting::waiting;
use crate::web::caller::caller;
use crate::web::limit::{Limit, network};
use crate::web::link::{allowed_return, path_back};
use crate::web::pages::{Onward, in_words};
use crate::web::session::{
    Notice, REMEMBERED_FOR, SESSION_LIFETIME, Session, remember, remembered,
};

pub(super) async fn start(
    State(app): Shared,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let mut request = Start { next: "/account".to_owned(), ..Start::default() };
    let mut more = false;
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "next" => request.next = value.into_owned(),
            "more" => more = value == "1",
            "scopes" => request.scopes.extend(scopes_of(&value)),
            _ => {}
        }
    }
    if more && request.scopes.is_empty() {
        let text = "Tick at least one box to allow more.".to_owned();
        return see_other("/account", vec![app.told(&Notice { text, bad: true })]);
    }
    begin(&app, peer, &headers, request).await
}

/// To allow less than before is asked for by a form of ours alone: by a link, any site could
/// have a person's grant replaced by a smaller one.
pub(super) async fn less(
    State(app): Shared,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Err(refusal) = app.form(&headers, &body).await {
        return *refusal;
    }
    let ticked = form_urlencoded::parse(&body).filter(|(name, _)| name == "scopes");
    let scopes = ticked.flat_map(|(_, value)| scopes_of(&value)).collect();
    let request = Start { scopes, next: "/account".to_owned(), only: true, ..Start::default() };
    begin(&app, peer, &headers, request).await
}

/// The link that an application sends to a person.
pub(super) async fn connect(
    State(app): Shared,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let mut request = Start { next: "/account".to_owned(), ..Start::default() };
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "scopes" => request.scopes.extend(scopes_of(&value)),
            "user_hint" => request.remembered = UserId::new(&*value).ok(),
            "return" => {
                let back = allowed_return(&value, &app.site.allow_return);
                match back.map(|back| path_back(&back)).filter(|path| path.len() <= LONGEST_NEXT) {
                    Some(path) => request.next = path,
                    None => return app.not_allowed_back(&headers).await,
                }
            }
            _ => {}
        }
    }
    begin(&app, peer, &headers, request).await
}

fn scopes_of(value: &str) -> Vec<String> {
    value.split([' ', ',']).filter(|scope| !scope.is_empty()).map(str::to_owned).collect()
}

async fn begin(
    app: &Arc<App>,
    peer: SocketAddr,
    headers: &HeaderMap,
    mut request: Start,
) -> Response {
    if let Some(refusal) = limited(app, &app.starts, "start", peer, headers).await {
        return refusal;
    }
    let sign_in = shared::consent::SIGN_IN_SCOPES.map(str::to_owned);
    let known: Vec<String> = app.site.offered.iter().cloned().chain(sign_in).collect();
    if !missing_scopes(&request.scopes, &known).is_empty() {
        web_event("start", "not_offered");
        let told = "The link asks for access that this site does not offer.";
        let (status, title) = (StatusCode::BAD_REQUEST, "Unknown access");
        return app.message(status, title, told, Onward::FirstPage, headers).await;
    }
    // Only a change of access is tied to who is signed in; a plain sign-in, and a link for
    // somebody else, may bring another person.
    let session = app.known(headers).await.unwrap_or_default().map(|known| known.user);
    let remembered = || {
        let sealed = app.cookies.get(headers, ACCOUNT)?;
        remembered(app.site.consent.key(), &sealed)
    };
    match session {
        Some(user) if request.remembered.as_ref().is_some_and(|hint| *hint != user) => {}
        Some(user) if request.only || !request.scopes.is_empty() => request.user = Some(user),
        Some(user) => request.remembered = Some(user),
        None => request.remembered = request.remembered.or_else(remembered),
    }
    match oauth_start(&app.site.consent, request).await {
        Ok(started) => {
            web_event("start", "started");
            app.off_to_provider(&started, headers).await
        }
        Err(error) => {
            warn!(%error, "a login cannot begin");
            web_event("start", "failed");
            let told = "Signing in is not possible right now. Try again in a minute.";
            let (status, title) = (StatusCode::SERVICE_UNAVAILABLE, "Not available");
            app.message(status, title, told, Onward::SignIn, headers).await
        }
    }
}

/// The refusal of a caller who comes too often.
async fn limited(
    app: &App,
    limit: &Limit<IpAddr>,
    event: &'static str,
    peer: SocketAddr,
    headers: &HeaderMap,
) -> Option<Response> {
    let caller = network(caller(app.site.trusted_proxies, peer.ip(), headers));
    let wait = limit.take(caller, app.site.clock.monotonic()).err()?;
    web_event(event, "limited");
    let told = "There were too many sign-ins from your address. Wait a minute, then try again.";
    let (status, title) = (StatusCode::TOO_MANY_REQUESTS, "Too many sign-ins");
    let mut page = app.message(status, title, told, Onward::SignIn, headers).await;
    page.headers_mut().insert(RETRY_AFTER, (wait.as_secs() + 1).into());
    Some(page)
}

pub(super) async fn callback(
    State(app): Shared,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    if let Some(refusal) = limited(&app, &app.callbacks, "callback", peer, &headers).await {
        return refusal;
    }
    let query = query.unwrap_or_default();
    let answer = Callback::Query(&query);
    let name = answer.name().map(|name| login_cookie(&name));
    let pending = name.as_ref().and_then(|name| app.cookies.get(&headers, name));
    let forget = |name: Option<String>| name.map(|name| app.cookies.clear(&name));
    // The code in this address must not go on to anybody.
    let quiet = |mut response: Response| {
        response.headers_mut().insert("referrer-policy", HeaderValue::from_static("no-referrer"));
        response
    };
    // The browser may go away; the exchange must not stop half way.
    let (site, sealed) = (Arc::clone(&app), pending.clone());
    let work = tokio::spawn(async move {
        oauth_callback(&site.site.consent, sealed.as_deref(), Callback::Query(&query)).await
    });
    let Ok(outcome) = work.await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    match outcome {
        Ok(Outcome::SignedIn(done)) => {
            web_event("callback", "signed_in");
            let (mut cookies, going_on) = signed_in(&app, &done).await;
            cookies.extend(pending.and(forget(name)));
            cookies.extend(what_to_tell(&done, going_on).map(|notice| app.told(&notice)));
            quiet(see_other(&done.next, cookies))
        }
        Ok(Outcome::MoreConsent(done, started)) => {
            web_event("callback", "more_consent");
            let (mut cookies, _) = signed_in(&app, &done).await;
            cookies.extend(pending.and(forget(name)));
            quiet(with_cookies(app.off_to_provider(&started, &headers).await, cookies))
        }
        Ok(Outcome::ConsentAgain(started)) => {
            web_event("callback", "consent_again");
            quiet(app.off_to_provider(&started, &headers).await)
        }
        Err(error) => {
            web_event("callback", error.name());
            let (status, title) = if error.is_ours() {
                warn!(%error, "a login failed");
                (StatusCode::SERVICE_UNAVAILABLE, "Signing in failed")
            } else if error.name() == "denied" {
                (StatusCode::OK, "You did not allow access")
            } else {
                (StatusCode::BAD_REQUEST, "Signing in failed")
            };
            let told = error.to_string();
            quiet(app.message(status, title, &told, Onward::SignIn, &headers).await)
        }
    }
}

/// What the next page tells whoever has signed in.
fn what_to_tell(done: &SignedIn, going_on: usize) -> Option<Notice> {
    let go_on = match going_on {
        0 => String::new(),
        1 => " 1 waiting job goes on.".to_owned(),
        n => format!(" {n} waiting jobs go on."),
    };
    if !done.missing.is_empty() {
        let missing: Vec<String> = done.missing.iter().map(|scope| in_words(scope)).collect();
        let text = format!(
            "You are signed in, but did not allow everything that was asked. Jobs that need it wait.{go_on} Not allowed: {}.",
            missing.join("; ")
        );
        return Some(Notice { text, bad: true });
    }
    done.stored.then(|| Notice { text: format!("You are connected.{go_on}"), bad: false })
}

/// Lets the jobs of a person who signed in go on. Returns the cookies of their session, and
/// how many jobs go on.
async fn signed_in(app: &Arc<App>, done: &SignedIn) -> (Vec<String>, usize) {
    info!(user = %done.user.digest(), stored = done.stored, "signed in");
    let site = &app.site;
    let (record, signed_out_at) = tokio::join!(
        site.store.read_record(&done.user),
        sign_outs::last(&*site.bucket, &done.user)
    );
    let Ok(record) = record else {
        // Deleted a moment ago, or the bucket is away: there is nothing to be signed in to.
        return (Vec::new(), 0);
    };
    let mut going_on = 0;
    if done.stored {
        let waiting =
            waiting(&*site.bucket, &done.user, site.store.sealing()).await.unwrap_or_default();
        going_on = if site.jobs.is_some() { waiting.due(&record) } else { 0 };
        resume(app, done.user.clone());
        tell(app, done.user.clone());
    }
    let (csrf, now) = (app.random.id(), site.clock.wall());
    let signed_out_at = signed_out_at.ok().flatten();
    let session =
        Session::new(&done.user, &done.profile, csrf, &record.grant_id, signed_out_at, now);
    let key = site.consent.key();
    let cookies = vec![
        app.cookies.set(SESSION, &session.seal(key), SESSION_LIFETIME.as_secs()),
        app.cookies.set(ACCOUNT, &remember(key, &done.user), REMEMBERED_FOR.as_secs()),
    ];
    (cookies, going_on)
}

/// Applications are told that this person has consented. The person does not wait for it.
fn tell(app: &Arc<App>, user: UserId) {
    let Some(events) = app.site.events.clone() else { return };
    app.telling.spawn(async move {
        if let Err(error) = events.tell(&user, &Occasion::Changed, None).await {
            warn!(user = %user.digest(), %error, "it is not told yet that a person has consented");
        }
    });
}

/// The jobs that waited for this person go on. The person does not wait for
/// them; what fails here stays parked for the next login or a worker's sweep.
fn resume(app: &Arc<App>, user: UserId) {
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let Some(jobs) = &app.site.jobs else { return };
        let site = &app.site;
        let bucket = site.store.bucket();
        match resume_user(&*bucket, &site.store, jobs, &*site.clock, &user).await {
            Ok(Resumed { published: 0, .. }) => {}
            Ok(Resumed { published: resumed, .. }) => {
                info!(user = %user.digest(), resumed, "parked jobs go on");
            }
            Err(error) => warn!(user = %user.digest(), %error, "parked jobs still wait"),
        }
    });
}

//! The way to the provider and back.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};

use axum::extract::{ConnectInfo, RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, StatusCode};
use shared::UserId;
use shared::consent::{
    Callback, Outcome, SignedIn, Start, missing_scopes, oauth_callback, oauth_start,
};
use tracing::{info, warn};
use url::form_urlencoded;

use super::{App, SESSION, Shared, see_other, with_cookies};
use crate::metrics::web_event;
use crate::resuming::{Resumed, resume_user};
use crate::web::pages;
use crate::web::session::{Notice, SESSION_LIFETIME, Session};

pub(super) async fn start(
    State(app): Shared,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let caller = caller(app.site.behind_proxy, peer.ip(), &headers);
    let now = app.site.clock.monotonic();
    let taken = app.limit.lock().unwrap_or_else(PoisonError::into_inner).take(caller, now);
    if let Err(wait) = taken {
        web_event("start", "limited");
        let told = "There were too many sign-ins from your address. Wait a minute, then try again.";
        let mut page =
            app.message(StatusCode::TOO_MANY_REQUESTS, "Too many sign-ins", told, &headers);
        page.headers_mut().insert(RETRY_AFTER, (wait.as_secs() + 1).into());
        return page;
    }
    let mut request = Start { next: "/account".to_owned(), ..Start::default() };
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "next" => request.next = value.into_owned(),
            "fewer" => request.fewer = value == "1",
            "scopes" => {
                request.scopes.extend(value.split([' ', ',']).map(str::to_owned));
            }
            _ => {}
        }
    }
    request.scopes.retain(|scope| !scope.is_empty());
    let sign_in = shared::consent::SIGN_IN_SCOPES.map(str::to_owned);
    let known: Vec<String> = app.site.offered.iter().cloned().chain(sign_in).collect();
    if !missing_scopes(&request.scopes, &known).is_empty() {
        web_event("start", "not_offered");
        let told = "The link asks for access that this site does not offer.";
        return app.message(StatusCode::BAD_REQUEST, "Unknown access", told, &headers);
    }
    // Only growing access is tied to who is signed in; a plain sign-in may be
    // somebody else's.
    let session = app.session(&headers).map(|(_, user)| user);
    if request.scopes.is_empty() {
        request.remembered = session;
    } else {
        request.user = session;
    }
    match oauth_start(&app.site.consent, request).await {
        Ok(started) => {
            web_event("start", "started");
            app.off_to_provider(&started)
        }
        Err(error) => {
            warn!(%error, "a login cannot begin");
            web_event("start", "failed");
            let told = format!("Signing in is not possible right now: {error}.");
            app.message(StatusCode::SERVICE_UNAVAILABLE, "Not available", &told, &headers)
        }
    }
}

/// The address that the limit is for. A proxy appends the address it saw.
fn caller(behind_proxy: bool, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let forwarded = headers.get_all("x-forwarded-for").iter().next_back();
    let last = forwarded.and_then(|value| value.to_str().ok()?.rsplit(',').next());
    last.filter(|_| behind_proxy).and_then(|ip| ip.trim().parse().ok()).unwrap_or(peer)
}

pub(super) async fn callback(
    State(app): Shared,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.unwrap_or_default();
    let answer = Callback::Query(&query);
    let name = answer.name().map(|name| format!("login_{name}"));
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
            let mut cookies = vec![signed_in(&app, &done)];
            cookies.extend(pending.and(forget(name)));
            let notice = if !done.missing.is_empty() {
                Some(Notice {
                    text: format!(
                        "You are signed in, but did not allow everything that was asked. Not allowed: {}. Jobs that need it wait.",
                        done.missing
                            .iter()
                            .map(|s| pages::in_words(s))
                            .collect::<Vec<_>>()
                            .join("; ")
                    ),
                    bad: true,
                })
            } else if done.stored {
                Some(Notice { text: "You are connected.".to_owned(), bad: false })
            } else {
                None
            };
            cookies.extend(notice.map(|notice| app.told(&notice)));
            quiet(see_other(&done.next, cookies))
        }
        Ok(Outcome::MoreConsent(done, started)) => {
            web_event("callback", "more_consent");
            let mut cookies = vec![signed_in(&app, &done)];
            cookies.extend(pending.and(forget(name)));
            quiet(with_cookies(app.off_to_provider(&started), cookies))
        }
        Ok(Outcome::ConsentAgain(started)) => {
            web_event("callback", "consent_again");
            quiet(app.off_to_provider(&started))
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
            quiet(app.message(status, title, &error.to_string(), &headers))
        }
    }
}

/// Lets the jobs of a person who signed in go on, and returns their session's cookie.
fn signed_in(app: &Arc<App>, done: &SignedIn) -> String {
    info!(user = %done.user.digest(), stored = done.stored, "signed in");
    if done.stored {
        resume(app, done.user.clone());
    }
    let csrf = app.random.id();
    let session = Session::new(&done.user, &done.profile, csrf, app.site.clock.wall());
    app.cookies.set(SESSION, &session.seal(app.site.consent.key()), SESSION_LIFETIME.as_secs())
}

/// The jobs that waited for this person go on. The person does not wait for
/// them; what fails here stays parked for the next login or a worker's sweep.
fn resume(app: &Arc<App>, user: UserId) {
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let Some(jobs) = &app.site.jobs else { return };
        let site = &app.site;
        match resume_user(&*site.bucket, &site.store, jobs, &*site.clock, &user).await {
            Ok(Resumed { published: 0, .. }) => {}
            Ok(Resumed { published: resumed, .. }) => {
                info!(user = %user.digest(), resumed, "parked jobs go on");
            }
            Err(error) => warn!(user = %user.digest(), %error, "parked jobs still wait"),
        }
    });
}

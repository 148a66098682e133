//! The routes, and what every answer carries.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, RawQuery, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, ORIGIN, RETRY_AFTER, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use shared::consent::{
    Callback, Outcome, Start, Started, missing_scopes, oauth_callback, oauth_start,
};
use shared::ports::Randomness;
use shared::{Error, UserId, is_loopback};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::form_urlencoded;

use super::cookies::Cookies;
use super::html::{Html, ICON, STYLE};
use super::limit::Limit;
use super::readiness::Readiness;
use super::session::{Notice, SESSION_LIFETIME, Session};
use super::{Site, account, pages};
use crate::metrics::{self, Render, web_event};
use crate::resuming::resume_user;

const SESSION: &str = "session";
const NOTICE: &str = "notice";
/// No form of ours is larger.
const LARGEST_FORM: usize = 16 * 1024;

struct App {
    site: Site,
    cookies: Cookies,
    limit: Mutex<Limit>,
    readiness: Readiness,
    random: Randomness,
    policy: HeaderValue,
    origin: String,
    stop: CancellationToken,
}

type Shared = State<Arc<App>>;

pub(super) fn router(site: Site, stop: CancellationToken) -> Router {
    let secure = site.public_url.scheme() == "https";
    let app = Arc::new(App {
        cookies: Cookies { secure },
        limit: Mutex::default(),
        readiness: Readiness::default(),
        random: Randomness::from_system(),
        policy: content_policy(&site),
        origin: site.public_url.origin().ascii_serialization(),
        site,
        stop,
    });
    Router::new()
        .route("/", get(home))
        .route("/oauth/start", get(start))
        .route("/oauth/callback", get(callback))
        .route("/account", get(show_account))
        .route("/account/test", post(test))
        .route("/account/job", post(queue))
        .route("/account/disconnect", post(disconnect))
        .route("/sign-out", post(sign_out))
        .route("/style.css", get(async || file("text/css; charset=utf-8", STYLE)))
        .route("/icon.svg", get(async || file("image/svg+xml", ICON)))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(show_metrics))
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(LARGEST_FORM))
        .layer(from_fn_with_state(Arc::clone(&app), guarded))
        .with_state(app)
}

/// Forms may lead to the provider, since browsers apply `form-action` to the
/// redirects of a form as well.
fn content_policy(site: &Site) -> HeaderValue {
    let provider = site.auth_url.origin().ascii_serialization();
    let pictures = if is_loopback(&site.auth_url) { provider.as_str() } else { "" };
    let policy = format!(
        "default-src 'none'; style-src 'self'; img-src 'self' https: {pictures}; \
         form-action 'self' {provider}; base-uri 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

/// Headers of every answer.
async fn guarded(State(app): Shared, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert("content-security-policy", app.policy.clone());
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
        // `same-origin` where nothing stricter is set: with `no-referrer` browsers would send
        // `Origin: null` with our own forms.
        ("referrer-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        let name = HeaderName::from_static(name);
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if app.cookies.secure {
        headers.insert(
            "strict-transport-security",
            HeaderValue::from_static("max-age=63072000; includeSubDomains"),
        );
    }
    response
}

fn file(kind: &'static str, content: &'static str) -> Response {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "public, max-age=3600")], content).into_response()
}

impl App {
    fn session(&self, headers: &HeaderMap) -> Option<(Session, UserId)> {
        let sealed = self.cookies.get(headers, SESSION)?;
        let session = Session::open(self.site.consent.key(), &sealed, self.site.clock.wall())?;
        let user = session.user_id()?;
        Some((session, user))
    }

    /// What the last request left to tell, and the cookie that forgets it.
    fn notice(&self, headers: &HeaderMap) -> Option<Notice> {
        Notice::open(self.site.consent.key(), &self.cookies.get(headers, NOTICE)?)
    }

    fn message(
        &self,
        status: StatusCode,
        title: &str,
        told: &str,
        headers: &HeaderMap,
    ) -> Response {
        let session = self.session(headers).map(|(session, _)| session);
        page(status, pages::message(title, told, session.as_ref()), Vec::new())
    }

    fn told(&self, notice: &Notice) -> String {
        self.cookies.set(NOTICE, &notice.seal(self.site.consent.key()), 60)
    }

    /// To the provider, with the pending login in a cookie of its own: logins in
    /// two tabs do not disturb each other.
    fn off_to_provider(&self, started: &Started) -> Response {
        let cookie = self.cookies.set(
            &format!("login_{}", started.name),
            &started.pending,
            started.max_age(),
        );
        see_other(started.url.as_str(), vec![cookie])
    }

    /// The signed-in person of a form, if the form is theirs.
    fn form(&self, headers: &HeaderMap, body: &[u8]) -> Result<UserId, Box<Response>> {
        let foreign = headers.get(ORIGIN).is_some_and(|origin| origin != self.origin.as_str());
        let refuse = |text| {
            let title = "That form is no longer valid";
            Err(Box::new(self.message(StatusCode::FORBIDDEN, title, text, headers)))
        };
        if foreign {
            return refuse("The request came from another site. Nothing was changed.");
        }
        let Some((session, user)) = self.session(headers) else {
            return refuse("You are signed out. Nothing was changed; sign in and try again.");
        };
        let sent = form_urlencoded::parse(body).find(|(name, _)| name == "csrf");
        if !sent.is_some_and(|(_, sent)| equal(sent.as_bytes(), session.csrf.as_bytes())) {
            return refuse("The page was out of date. Nothing was changed; open it again.");
        }
        Ok(user)
    }
}

/// Compares without telling by its duration where two texts differ.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

fn page(status: StatusCode, html: Html, cookies: Vec<String>) -> Response {
    with_cookies((status, axum::response::Html(html.0)).into_response(), cookies)
}

fn with_cookies(mut response: Response, cookies: Vec<String>) -> Response {
    for cookie in cookies {
        if let Ok(value) = HeaderValue::try_from(cookie) {
            response.headers_mut().append(SET_COOKIE, value);
        }
    }
    response
}

fn see_other(to: &str, cookies: Vec<String>) -> Response {
    let Ok(to) = HeaderValue::try_from(to) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    with_cookies((StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response(), cookies)
}

async fn home(State(app): Shared, headers: HeaderMap) -> Response {
    let session = app.session(&headers).map(|(session, _)| session);
    let notice = app.notice(&headers);
    let forget = notice.iter().map(|_| app.cookies.clear(NOTICE)).collect();
    page(StatusCode::OK, pages::home(session.as_ref(), notice.as_ref()), forget)
}

async fn start(
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
    if !request.scopes.is_empty() {
        request.user = app.session(&headers).map(|(_, user)| user);
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

async fn callback(State(app): Shared, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
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
            info!(user = done.user.digest(), stored = done.stored, "signed in");
            if done.stored {
                resume(&app, done.user.clone());
            }
            let key = app.site.consent.key();
            let csrf = app.random.id();
            let session = Session::new(&done.user, &done.profile, csrf, app.site.clock.wall());
            let life = SESSION_LIFETIME.as_secs();
            let mut cookies = vec![app.cookies.set(SESSION, &session.seal(key), life)];
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

/// The jobs that waited for this person go on. The person does not wait for
/// them; what fails here stays parked for the next login or a worker's sweep.
fn resume(app: &Arc<App>, user: UserId) {
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let Some(jobs) = &app.site.jobs else { return };
        let site = &app.site;
        match resume_user(&*site.bucket, &site.store, jobs, &*site.clock, &user).await {
            Ok(0) => {}
            Ok(resumed) => info!(user = user.digest(), resumed, "parked jobs go on"),
            Err(error) => warn!(user = user.digest(), %error, "parked jobs still wait"),
        }
    });
}

async fn show_account(State(app): Shared, headers: HeaderMap) -> Response {
    let Some((session, user)) = app.session(&headers) else {
        return see_other("/", Vec::new());
    };
    let mut notice = app.notice(&headers);
    let forget = notice.iter().map(|_| app.cookies.clear(NOTICE)).collect();
    let record = match app.site.store.read_record(&user).await {
        Ok(record) => Some(record),
        Err(Error::NeedsConsent(_)) => None,
        Err(error) => {
            notice = Some(Notice {
                text: format!("Your credential cannot be shown: {error}."),
                bad: true,
            });
            None
        }
    };
    let now = app.site.clock.wall();
    let html = pages::account(&app.site, &session, record.as_ref(), notice.as_ref(), now);
    page(StatusCode::OK, html, forget)
}

async fn test(State(app): Shared, headers: HeaderMap, body: Bytes) -> Response {
    match app.form(&headers, &body) {
        Err(refusal) => *refusal,
        Ok(user) => {
            let notice = account::test(&app.site, &user).await;
            web_event("test", if notice.bad { "failed" } else { "ok" });
            see_other("/account", vec![app.told(&notice)])
        }
    }
}

async fn queue(State(app): Shared, headers: HeaderMap, body: Bytes) -> Response {
    match app.form(&headers, &body) {
        Err(refusal) => *refusal,
        Ok(user) => {
            let notice = account::queue(&app.site, &user).await;
            web_event("job", if notice.bad { "failed" } else { "ok" });
            see_other("/account", vec![app.told(&notice)])
        }
    }
}

async fn disconnect(State(app): Shared, headers: HeaderMap, body: Bytes) -> Response {
    let user = match app.form(&headers, &body) {
        Err(refusal) => return *refusal,
        Ok(user) => user,
    };
    match account::disconnect(&app.site, &user).await {
        Ok(notice) => {
            web_event("disconnect", "ok");
            info!(user = user.digest(), "disconnected");
            see_other("/", vec![app.cookies.clear(SESSION), app.told(&notice)])
        }
        Err(notice) => {
            web_event("disconnect", "failed");
            see_other("/account", vec![app.told(&notice)])
        }
    }
}

async fn sign_out(State(app): Shared, headers: HeaderMap, body: Bytes) -> Response {
    if let Err(refusal) = app.form(&headers, &body) {
        return *refusal;
    }
    let notice = Notice { text: "You are signed out.".to_owned(), bad: false };
    see_other("/", vec![app.cookies.clear(SESSION), app.told(&notice)])
}

async fn ready(State(app): Shared) -> Response {
    // A prober that goes away must not make the next one look again.
    let looking = tokio::spawn({
        let app = Arc::clone(&app);
        async move {
            let (site, health) = (&app.site, app.site.store.health().borrow().clone());
            app.readiness.check(&health, &*site.bucket, &*site.clock).await
        }
    });
    let result = match looking.await {
        _ if app.stop.is_cancelled() => Err("stopping".to_owned()),
        Ok(result) => result,
        Err(_) => Err("the look at the bucket failed".to_owned()),
    };
    metrics::readiness(result.is_ok());
    match result {
        Ok(()) => "ready\n".into_response(),
        Err(why) => {
            let told = Body::from(format!("not ready: {why}\n"));
            (StatusCode::SERVICE_UNAVAILABLE, told).into_response()
        }
    }
}

async fn show_metrics(State(app): Shared) -> Response {
    ([(CONTENT_TYPE, Render::TYPE)], app.site.metrics.text()).into_response()
}

async fn not_found(State(app): Shared, headers: HeaderMap) -> Response {
    let told = "There is no page at this address.";
    app.message(StatusCode::NOT_FOUND, "Page not found", told, &headers)
}

//! The routes, and what every answer carries.

mod signing_in;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, ORIGIN, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use shared::consent::Started;
use shared::ports::Randomness;
use shared::{Error, UserId, is_loopback};
use tokio_util::sync::CancellationToken;
use tracing::info;
use url::form_urlencoded;

use crate::metrics::{self, Render, web_event};
use crate::web::cookies::Cookies;
use crate::web::html::{Html, ICON, STYLE};
use crate::web::limit::Limit;
use crate::web::readiness::Readiness;
use crate::web::session::{Notice, Session};
use crate::web::{Site, account, pages};

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
        .route("/oauth/start", get(signing_in::start))
        .route("/oauth/callback", get(signing_in::callback))
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
            info!(user = %user.digest(), "disconnected");
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
        async move { app.readiness.check(&*app.site.bucket, &*app.site.clock).await }
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

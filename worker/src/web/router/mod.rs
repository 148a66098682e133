//! The routes, and what every answer carries.

mod account;
mod checks;
mod signing_in;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{LOCATION, ORIGIN, SET_COOKIE};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use shared::consent::Started;
use shared::ports::Randomness;
use shared::record::TokenRecord;
use shared::{Error, UserId, is_loopback};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;
use url::form_urlencoded;

pub(in crate::web) use checks::file;

use crate::sign_outs;
use crate::web::Site;
use crate::web::cookies::Cookies;
use crate::web::hardening::harden;
use crate::web::html::{Html, ICON, STYLE, TIMES};
use crate::web::limit::Limit;
use crate::web::pages::{self, Onward};
use crate::web::readiness::Readiness;
use crate::web::session::{Notice, Session};

const SESSION: &str = "session";
const NOTICE: &str = "notice";
/// Whom this browser remembers.
const ACCOUNT: &str = "account";
/// Each login under way has a cookie of its own, whose name begins so.
const LOGIN: &str = "login_";
/// So many logins may be under way in one browser.
const LOGINS: usize = 4;
/// Logins that a caller may begin at once, and how long each takes to come back; callbacks,
/// which cost a write each, likewise.
const LOGIN_BURST: u32 = 20;
const LOGIN_REFILL: Duration = Duration::from_secs(3);
/// One test job per person and ten seconds, and tests hardly more often.
const JOB_REFILL: Duration = Duration::from_secs(10);
const TEST_BURST: u32 = 5;
const TEST_REFILL: Duration = Duration::from_secs(2);
/// A person waits so long for what the bucket knows, far less than a store tries for: by then
/// load balancers and people have given the page up.
const LOOK: Duration = Duration::from_secs(5);
/// No form of ours is larger.
const LARGEST_FORM: usize = 16 * 1024;

struct App {
    site: Site,
    cookies: Cookies,
    starts: Limit<IpAddr>,
    callbacks: Limit<IpAddr>,
    jobs: Limit<UserId>,
    tests: Limit<UserId>,
    readiness: Readiness,
    random: Randomness,
    policy: HeaderValue,
    origin: String,
    /// Applications that are being told something.
    telling: TaskTracker,
    stop: CancellationToken,
}

type Shared = State<Arc<App>>;

pub(super) fn router(site: Site, telling: TaskTracker, stop: CancellationToken) -> Router {
    let secure = site.public_url.scheme() == "https";
    let app = Arc::new(App {
        cookies: Cookies { secure },
        starts: Limit::new(LOGIN_BURST, LOGIN_REFILL),
        callbacks: Limit::new(LOGIN_BURST, LOGIN_REFILL),
        jobs: Limit::new(1, JOB_REFILL),
        tests: Limit::new(TEST_BURST, TEST_REFILL),
        readiness: Readiness::default(),
        random: Randomness::from_system(),
        policy: content_policy(&site),
        origin: site.public_url.origin().ascii_serialization(),
        site,
        telling,
        stop,
    });
    Router::new()
        .route("/", get(account::home))
        .route("/oauth/start", get(signing_in::start))
        .route("/connect", get(signing_in::connect))
        .route("/back", get(account::back))
        .route("/oauth/callback", get(signing_in::callback))
        .route("/account", get(account::show_account))
        .route("/account/test", post(account::test))
        .route("/account/job", post(account::queue))
        .route("/account/less", post(signing_in::less))
        .route("/account/disconnect", post(account::disconnect))
        .route("/sign-out", post(account::sign_out))
        .route("/style.css", get(async || file("text/css; charset=utf-8", STYLE)))
        .route("/times.js", get(async || file("text/javascript; charset=utf-8", TIMES)))
        .route("/icon.svg", get(async || file("image/svg+xml", ICON)))
        .route("/logo", get(checks::logo))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(checks::ready))
        .route("/metrics", get(checks::show_metrics))
        .fallback(checks::not_found)
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
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https: {pictures}; \
         form-action 'self' {provider}; base-uri 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

/// Headers of every answer.
async fn guarded(State(app): Shared, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    harden(response.headers_mut(), &app.policy, app.cookies.secure);
    response
}

/// Who is signed in, and what is stored of them.
struct Known {
    session: Session,
    user: UserId,
    record: TokenRecord,
}

impl App {
    /// Whose session the request brings, if that still stands.
    async fn known(&self, headers: &HeaderMap) -> Result<Option<Known>, Error> {
        let Some(sealed) = self.cookies.get(headers, SESSION) else { return Ok(None) };
        let (key, now) = (self.site.consent.key(), self.site.clock.wall());
        let Some(session) = Session::open(key, &sealed, now) else { return Ok(None) };
        let Some(user) = session.user_id() else { return Ok(None) };
        let looking = async {
            tokio::join!(
                self.site.store.read_record(&user),
                sign_outs::last(&*self.site.bucket, &user)
            )
        };
        let (record, signed_out_at) = self.in_time(looking).await.ok_or_else(|| {
            Error::Unavailable(format!("the bucket did not answer within {LOOK:?}").into())
        })?;
        let record = match record {
            Ok(record) => record,
            Err(Error::NeedsConsent(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let signed_out_at =
            signed_out_at.map_err(|error| Error::Unavailable(error.to_string().into()))?;
        let stands = session.stands(&record.grant_id, signed_out_at);
        Ok(stands.then_some(Known { session, user, record }))
    }

    /// What a look at the bucket finds, unless a person has waited for it long enough.
    async fn in_time<T>(&self, look: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            found = look => Some(found),
            () = self.site.clock.sleep(LOOK) => None,
        }
    }

    /// The page for when the bucket does not say who is signed in.
    fn unavailable(&self, told: &str) -> Response {
        let (status, title) = (StatusCode::SERVICE_UNAVAILABLE, "Not available");
        let shown = pages::message(&self.site, title, told, Onward::Again, None);
        page(status, shown, Vec::new())
    }

    /// What the last request left to tell.
    fn notice(&self, headers: &HeaderMap) -> Option<Notice> {
        Notice::open(self.site.consent.key(), &self.cookies.get(headers, NOTICE)?)
    }

    async fn message(
        &self,
        status: StatusCode,
        title: &str,
        told: &str,
        onward: Onward,
        headers: &HeaderMap,
    ) -> Response {
        let known = self.known(headers).await.unwrap_or_default();
        let session = known.as_ref().map(|known| &known.session);
        page(status, pages::message(&self.site, title, told, onward, session), Vec::new())
    }

    async fn not_allowed_back(&self, headers: &HeaderMap) -> Response {
        let told = "The link leads back to a site that is not allowed here.";
        let (status, title) = (StatusCode::BAD_REQUEST, "Unknown link");
        self.message(status, title, told, Onward::FirstPage, headers).await
    }

    fn told(&self, notice: &Notice) -> String {
        notice.cookie(self.cookies, NOTICE, self.site.consent.key())
    }

    /// To the provider, with the pending login in a cookie of its own: logins in two tabs do
    /// not disturb each other. Of the logins that this browser has begun before, the newest
    /// are kept.
    async fn off_to_provider(&self, started: &Started, headers: &HeaderMap) -> Response {
        let name = login_cookie(&started.name);
        if !self.cookies.fits(&name, &started.pending) {
            let told = "That is more access than one sign-in can ask for. Ask for less at a time.";
            let (status, title) = (StatusCode::BAD_REQUEST, "Too much at once");
            return self.message(status, title, told, Onward::FirstPage, headers).await;
        }
        let mut before: Vec<(Option<Timestamp>, String)> = self
            .cookies
            .all(headers, LOGIN)
            .into_iter()
            .map(|(name, sealed)| (self.site.consent.pending_since(&sealed), name))
            .collect();
        before.sort();
        let kept =
            before.iter().rev().take(LOGINS - 1).filter(|(since, _)| since.is_some()).count();
        let gone = before.len() - kept;
        let mut cookies: Vec<String> = before[..gone]
            .iter()
            .map(|(_, name)| self.cookies.clear(&login_cookie(name)))
            .collect();
        cookies.push(self.cookies.set(&name, &started.pending, started.max_age()));
        see_other(started.url.as_str(), cookies)
    }

    /// The signed-in person of a form, if the form is theirs.
    async fn form(&self, headers: &HeaderMap, body: &[u8]) -> Result<Known, Box<Response>> {
        let foreign = headers.get(ORIGIN).is_some_and(|origin| origin != self.origin.as_str());
        let refusal = if foreign {
            "The request came from another site. Nothing was changed."
        } else {
            match self.known(headers).await {
                Ok(Some(known)) => {
                    let sent = form_urlencoded::parse(body).find(|(name, _)| name == "csrf");
                    let csrf = known.session.csrf.as_bytes();
                    if sent.is_some_and(|(_, sent)| equal(sent.as_bytes(), csrf)) {
                        return Ok(known);
                    }
                    "The page was out of date. Nothing was changed; open it again."
                }
                Ok(None) => "You are signed out. Nothing was changed; sign in and try again.",
                Err(error) => {
                    warn!(%error, "a form cannot be checked");
                    let told = "That is not possible at the moment. Nothing was changed; try again in a minute.";
                    return Err(Box::new(self.unavailable(told)));
                }
            }
        };
        let title = "That form is no longer valid";
        let told = self.message(StatusCode::FORBIDDEN, title, refusal, Onward::SignIn, headers);
        Err(Box::new(told.await))
    }
}

/// The cookie of the login that has this name.
fn login_cookie(name: &str) -> String {
    format!("{LOGIN}{name}")
}

/// Compares without telling by its duration where two texts differ.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

pub(in crate::web) fn page(status: StatusCode, html: Html, cookies: Vec<String>) -> Response {
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

pub(in crate::web) fn see_other(to: &str, cookies: Vec<String>) -> Response {
    let Ok(to) = HeaderValue::try_from(to) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    with_cookies((StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response(), cookies)
}

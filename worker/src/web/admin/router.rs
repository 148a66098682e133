//! The routes of the operators' pages, and what every request has to pass.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, RawQuery, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use clap::ValueEnum as _;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::{SignedDuration, Timestamp};
use shared::{Error, UserId};
use tokio_util::task::TaskTracker;
use tracing::warn;
use url::form_urlencoded;

use super::Admin;
use super::access::{Operator, Refused};
use super::acting::Action;
use super::board::Board;
use super::pages;
use super::search::{Mark, Search};
use crate::audit::acting_as;
use crate::metrics::{self, Process, Render, web_event};
use crate::stored_users::State as Grant;
use crate::waiting::waiting;
use crate::web::cookies::Cookies;
use crate::web::hardening::harden;
use crate::web::html::{ICON, STYLE, TIMES};
use crate::web::readiness::Readiness;
use crate::web::router::{file, page, see_other};
use crate::web::session::Notice;

const NOTICE: &str = "operators_notice";
/// An operator waits so long for a page, and for what a button does; that goes on all the same.
const LOOK: Duration = Duration::from_secs(5);
const ACT: Duration = Duration::from_secs(20);
/// A form is good for so long after its page was made.
const FORM_LIFETIME: SignedDuration = SignedDuration::from_hours(12);
const FORM: &str = "operators form";
const LARGEST_FORM: usize = 16 * 1024;
/// No other site appears on a page, and none is led to.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; \
     base-uri 'none'; frame-ancestors 'none'",
);

struct App {
    admin: Admin,
    cookies: Cookies,
    board: Board,
    readiness: Readiness,
    /// What was begun for operators.
    tasks: TaskTracker,
}

type Shared = State<Arc<App>>;
/// Who makes the request: every handler behind [`guarded`] has one.
type Who = Extension<Operator>;

pub(super) fn router(admin: Admin, tasks: TaskTracker) -> Router {
    let cookies = Cookies { secure: admin.access.is_secure() };
    let (board, readiness) = (Board::default(), Readiness::default());
    let app = Arc::new(App { admin, cookies, board, readiness, tasks });
    let probes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(show_metrics))
        .layer(from_fn_with_state(Arc::clone(&app), probed));
    Router::new()
        .route("/", get(overview))
        .route("/users", get(users))
        .route("/user", get(user))
        .route("/user/resume", post(resume))
        .route("/user/drop", post(drop_jobs))
        .route("/user/revoke", post(revoke))
        .route("/style.css", get(async || file("text/css; charset=utf-8", STYLE)))
        .route("/times.js", get(async || file("text/javascript; charset=utf-8", TIMES)))
        .route("/icon.svg", get(async || file("image/svg+xml", ICON)))
        .fallback(not_found)
        .layer(from_fn_with_state(Arc::clone(&app), guarded))
        .merge(probes)
        .layer(DefaultBodyLimit::max(LARGEST_FORM))
        .layer(from_fn_with_state(Arc::clone(&app), hardened))
        .with_state(app)
}

async fn hardened(State(app): Shared, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    harden(response.headers_mut(), &POLICY, app.cookies.secure);
    response
}

async fn probed(State(app): Shared, request: Request, next: Next) -> Response {
    match app.admin.access.may_probe(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refused) => refusal(&refused),
    }
}

/// Nobody but an operator gets further.
async fn guarded(State(app): Shared, mut request: Request, next: Next) -> Response {
    let admin = &app.admin;
    match admin.access.operator(request.headers(), &*admin.clock).await {
        Ok(operator) => {
            request.extensions_mut().insert(operator);
            next.run(request).await
        }
        Err(refused) => refusal(&refused),
    }
}

fn refusal(refused: &Refused) -> Response {
    web_event("admin_refused", refused.word);
    warn!(why = refused.told, "somebody does not get to the operators' pages");
    (refused.status, format!("{}\n", refused.told)).into_response()
}

async fn ready(State(app): Shared) -> Response {
    // A prober that goes away must not make the next one look again.
    let looking = tokio::spawn({
        let app = Arc::clone(&app);
        async move {
            let bucket = app.admin.store.bucket();
            app.readiness.check(&*bucket, &*app.admin.clock).await
        }
    });
    let result = looking.await.unwrap_or_else(|_| Err("the look at the bucket failed".to_owned()));
    metrics::readiness(Process::Web, result.is_ok());
    match result {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, Body::from(format!("not ready: {why}\n")))
            .into_response(),
    }
}

async fn show_metrics(State(app): Shared) -> Response {
    ([(CONTENT_TYPE, Render::TYPE)], app.admin.metrics.text()).into_response()
}

async fn not_found(Extension(who): Who) -> Response {
    let told = "There is no page at this address.";
    page(StatusCode::NOT_FOUND, pages::message(&who, "Page not found", told), Vec::new())
}

async fn overview(State(app): Shared, Extension(who): Who) -> Response {
    let counting = app.tasks.spawn({
        let app = Arc::clone(&app);
        async move { app.board.count(&app.admin.gathering, &*app.admin.clock).await }
    });
    let counted = app.in_time(LOOK, counting).await.and_then(Result::ok);
    let counted = counted.or_else(|| app.board.last());
    let now = app.admin.clock.wall();
    let shown = pages::overview(&who, counted.as_deref(), app.board.listed(), now);
    page(StatusCode::OK, shown, Vec::new())
}

async fn users(State(app): Shared, Extension(who): Who, RawQuery(query): RawQuery) -> Response {
    let mut search = Search::default();
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "begins" => value.trim().clone_into(&mut search.begins),
            "state" => search.state = Grant::from_str(&value, false).ok(),
            "page" => search.from.page = Some(value.into_owned()),
            "after" => search.from = Mark { after: value.into_owned(), ..search.from },
            _ => {}
        }
    }
    let found = app.in_time(LOOK, search.run(&app.admin.store)).await;
    match found {
        Some(Ok(found)) => page(StatusCode::OK, pages::users(&who, &search, &found), Vec::new()),
        Some(Err(error)) => unavailable(&who, &error.to_string()),
        None => unavailable(&who, "it did not answer in time"),
    }
}

async fn user(
    State(app): Shared,
    Extension(who): Who,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.unwrap_or_default();
    let Some(user) = user_of(query.as_bytes()) else {
        let told = "This address names no user.";
        let shown = pages::message(&who, "No user", told);
        return page(StatusCode::BAD_REQUEST, shown, Vec::new());
    };
    let store = &app.admin.store;
    let bucket = store.bucket();
    let looking =
        async { tokio::join!(store.read_record(&user), waiting(&*bucket, &user, store.sealing())) };
    let Some((record, waiting)) = app.in_time(LOOK, looking).await else {
        return unavailable(&who, "it did not answer in time");
    };
    let waiting = match waiting {
        Ok(waiting) => waiting,
        Err(error) => return unavailable(&who, &error.to_string()),
    };
    let record = match record {
        Err(Error::Unavailable(why)) => return unavailable(&who, &why),
        record => record,
    };
    let key = &app.admin.key;
    let told = app.cookies.get(&headers, NOTICE).and_then(|sealed| Notice::open(key, &sealed));
    let forget = told.iter().map(|_| app.cookies.clear(NOTICE)).collect();
    let shown = pages::User {
        id: &user,
        record: &record,
        waiting: &waiting,
        told: told.as_ref(),
        form: &app.form(&who),
        resumes: app.admin.jobs.is_some(),
        now: app.admin.clock.wall(),
    };
    page(StatusCode::OK, pages::user(&who, &shown), forget)
}

async fn resume(state: Shared, who: Who, headers: HeaderMap, body: Bytes) -> Response {
    act(state, who, &headers, &body, Action::Resume).await
}

async fn drop_jobs(state: Shared, who: Who, headers: HeaderMap, body: Bytes) -> Response {
    act(state, who, &headers, &body, Action::Drop).await
}

async fn revoke(state: Shared, who: Who, headers: HeaderMap, body: Bytes) -> Response {
    act(state, who, &headers, &body, Action::Revoke).await
}

/// Does what a form asks for, if the form is one of this operator's pages.
async fn act(
    State(app): Shared,
    Extension(who): Who,
    headers: &HeaderMap,
    body: &[u8],
    action: Action,
) -> Response {
    let sent = form_urlencoded::parse(body).find(|(name, _)| name == "csrf");
    let is_own = app.admin.access.is_own_form(headers)
        && sent.is_some_and(|(_, sealed)| app.is_form_of(&who, &sealed));
    if !is_own {
        web_event("admin_refused", "form");
        let told = "The page was out of date, or the request came from another site. Nothing was changed; open the user again.";
        let shown = pages::message(&who, "That form is not valid", told);
        return page(StatusCode::FORBIDDEN, shown, Vec::new());
    }
    let Some(user) = user_of(body) else {
        let shown = pages::message(&who, "No user", "The form names no user.");
        return page(StatusCode::BAD_REQUEST, shown, Vec::new());
    };
    let query = pages::query_of(&user);
    // The browser may go away; what was begun must not stop half way.
    let acting = app.tasks.spawn({
        let app = Arc::clone(&app);
        acting_as(who.0, async move {
            let notice = action.run(&app.admin, &user).await;
            app.board.forget();
            notice
        })
    });
    let notice = match app.in_time(ACT, acting).await {
        Some(Ok(notice)) => notice,
        Some(Err(_panicked)) => Notice::bad("That failed. Look at the log of these pages."),
        None => Notice::bad("That takes long and goes on. Reload this page in a minute."),
    };
    let cookie = notice.cookie(app.cookies, NOTICE, &app.admin.key);
    see_other(&format!("/user?{query}"), vec![cookie])
}

/// The user of a query or a form: the encoded ID, which has no character that could be lost on
/// the way, or what a person typed.
fn user_of(form: &[u8]) -> Option<UserId> {
    form_urlencoded::parse(form).find_map(|(name, value)| match &*name {
        "user" => UserId::from_encoded(&value).ok(),
        "id" => UserId::new(value.trim()).ok(),
        _ => None,
    })
}

fn unavailable(who: &Operator, why: &str) -> Response {
    let told = format!("The bucket cannot be looked at: {why}. Try again in a minute.");
    let shown = pages::message(who, "Not available", &told);
    page(StatusCode::SERVICE_UNAVAILABLE, shown, Vec::new())
}

impl App {
    /// What comes of it, unless an operator has waited for it long enough.
    async fn in_time<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.admin.clock.sleep(limit) => None,
        }
    }

    /// What a form of this operator carries.
    fn form(&self, who: &Operator) -> String {
        let content = format!("{}\n{}", self.admin.clock.wall(), who.0);
        self.admin.key.seal(FORM, content.as_bytes())
    }

    fn is_form_of(&self, who: &Operator, sealed: &str) -> bool {
        let content = self.admin.key.open(FORM, sealed);
        let content = content.and_then(|content| String::from_utf8(content).ok());
        content.is_some_and(|content| {
            let parts = content.split_once('\n');
            let made = parts
                .and_then(|(made, name)| made.parse::<Timestamp>().ok().filter(|_| name == who.0));
            made.is_some_and(|made| self.admin.clock.wall().duration_since(made) < FORM_LIFETIME)
        })
    }
}

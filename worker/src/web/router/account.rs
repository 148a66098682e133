//! The signed-in person's page and its forms.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use shared::ports::BucketError;
use tracing::{info, warn};
use url::form_urlencoded;

use super::{ACCOUNT, Known, NOTICE, SESSION, Shared, page, see_other};
use crate::metrics::web_event;
use crate::sign_outs;
use crate::waiting::waiting;
use crate::web::account;
use crate::web::link::allowed_return;
use crate::web::pages::{self, Account};
use crate::web::session::Notice;
use crate::web::test_job;

const NOT_SHOWN: &str = "Your account cannot be shown at the moment. Try again in a minute.";

pub(super) async fn home(State(app): Shared, headers: HeaderMap) -> Response {
    let known = match app.known(&headers).await {
        Ok(known) => known,
        // Whoever is signed in would be asked to sign in.
        Err(error) => {
            warn!(%error, "the first page cannot tell who is signed in");
            return app.unavailable(NOT_SHOWN);
        }
    };
    let notice = app.notice(&headers);
    let forget = notice.iter().map(|_| app.cookies.clear(NOTICE)).collect();
    let session = known.as_ref().map(|known| &known.session);
    page(StatusCode::OK, pages::home(&app.site, session, notice.as_ref()), forget)
}

pub(super) async fn show_account(State(app): Shared, headers: HeaderMap) -> Response {
    let known = match app.known(&headers).await {
        Ok(Some(known)) => known,
        Ok(None) => return see_other("/", vec![app.cookies.clear(SESSION)]),
        Err(error) => {
            warn!(%error, "an account cannot be shown");
            return app.unavailable(NOT_SHOWN);
        }
    };
    let Known { session, user, record } = known;
    let notice = app.notice(&headers);
    let forget = notice.iter().map(|_| app.cookies.clear(NOTICE)).collect();
    let waiting = app.in_time(waiting(&*app.site.bucket, &user, app.site.store.sealing())).await;
    let waiting =
        waiting.unwrap_or_else(|| Err(BucketError::Unavailable("it took too long".into())));
    if let Err(error) = &waiting {
        warn!(user = %user.digest(), %error, "what waits for a person cannot be shown");
    }
    let shown = Account {
        session: &session,
        record: &record,
        waiting: waiting.as_ref().ok(),
        told: notice.as_ref(),
        now: app.site.clock.wall(),
    };
    page(StatusCode::OK, pages::account(&app.site, &shown), forget)
}

pub(super) async fn test(State(app): Shared, headers: HeaderMap, body: Bytes) -> Response {
    let user = match app.form(&headers, &body).await {
        Err(refusal) => return *refusal,
        Ok(known) => known.user,
    };
    let notice = if app.tests.take(user.clone(), app.site.clock.monotonic()).is_err() {
        web_event("test", "limited");
        Notice::bad("That was tested a moment ago. Wait a few seconds.")
    } else {
        let notice = account::test(&app.site, &user).await;
        web_event("test", if notice.bad { "failed" } else { "ok" });
        notice
    };
    see_other("/account", vec![app.told(&notice)])
}

pub(super) async fn queue(State(app): Shared, headers: HeaderMap, body: Bytes) -> Response {
    let user = match app.form(&headers, &body).await {
        Err(refusal) => return *refusal,
        Ok(known) => known.user,
    };
    let notice = if app.jobs.take(user.clone(), app.site.clock.monotonic()).is_err() {
        web_event("job", "limited");
        Notice::bad("A test job was queued a moment ago. Wait ten seconds.")
    } else {
        // Of its own, so that it cleans up after a person who does not wait for the answer.
        let (shared, testing) = (Arc::clone(&app), user);
        let run = async move { test_job::run(&shared.site, &testing, &shared.stop).await };
        let notice = app.telling.spawn(run).await;
        let notice = notice.unwrap_or_else(|_panicked| {
            Notice::bad("The test job cannot be shown. Try again in a minute.")
        });
        web_event("job", if notice.bad { "failed" } else { "ok" });
        notice
    };
    see_other("/account", vec![app.told(&notice)])
}

pub(super) async fn disconnect(State(app): Shared, headers: HeaderMap, body: Bytes) -> Response {
    let user = match app.form(&headers, &body).await {
        Err(refusal) => return *refusal,
        Ok(known) => known.user,
    };
    match account::disconnect(&app.site, &app.telling, &user).await {
        Ok(notice) => {
            web_event("disconnect", "ok");
            info!(user = %user.digest(), "disconnected");
            let forget = [SESSION, ACCOUNT].map(|name| app.cookies.clear(name));
            see_other("/", [&forget[..], &[app.told(&notice)]].concat())
        }
        Err(notice) => {
            web_event("disconnect", "failed");
            see_other("/account", vec![app.told(&notice)])
        }
    }
}

pub(super) async fn sign_out(State(app): Shared, headers: HeaderMap, body: Bytes) -> Response {
    let user = match app.form(&headers, &body).await {
        Err(refusal) => return *refusal,
        Ok(known) => known.user,
    };
    let (bucket, clock) = (&*app.site.bucket, &*app.site.clock);
    let notice = match sign_outs::sign_out(bucket, clock, &user).await {
        Ok(()) => Notice::good("You are signed out."),
        Err(error) => {
            warn!(user = %user.digest(), %error, "sessions of a person who signed out still count");
            Notice::bad(
                "You are signed out in this browser. Elsewhere you may still be signed in: sign in and out again in a while.",
            )
        }
    };
    see_other("/", vec![app.cookies.clear(SESSION), app.told(&notice)])
}

/// Back to the application whose link the person followed.
pub(super) async fn back(
    State(app): Shared,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.unwrap_or_default();
    let to = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "to");
    match to.and_then(|(_, to)| allowed_return(&to, &app.site.allow_return)) {
        Some(to) => see_other(to.as_str(), Vec::new()),
        None => app.not_allowed_back(&headers).await,
    }
}

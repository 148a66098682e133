//! The authorization endpoint: a page on which a person chooses an account and allows
//! all, some or nothing of what is asked.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use url::form_urlencoded;

use super::consent::{Ask, BadAsk};
use super::core::Shared;
use super::user::User;

/// More accounts than this are not offered.
const ACCOUNTS_SHOWN: usize = 50;

/// `GET` shows the page, `POST` decides. `/picture/{letter}` draws an account's picture.
pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/o/oauth2/auth", get(show).post(decide))
        .route("/picture/{name}", get(picture))
}

async fn show(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let ask = Ask::parse(&query);
    let (checked, accounts) = shared.step(|core, _| {
        let checked = core.consents.check(&core.identity, &ask);
        (checked, core.identity.accounts(ACCOUNTS_SHOWN))
    });
    match checked {
        Ok(()) => Html(page(&ask, &query, &accounts)).into_response(),
        Err(bad) => refuse(&ask, &bad),
    }
}

/// The form repeats the request and adds the person's decision.
async fn decide(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let (mut request, mut account, mut allow) = (String::new(), String::new(), false);
    let mut allowed = Vec::new();
    for (name, value) in form_urlencoded::parse(&body) {
        match &*name {
            "request" => request = value.into_owned(),
            "account" => account = value.into_owned(),
            "allow" => allowed.push(value.into_owned()),
            "decision" => allow = value == "allow",
            _ => {}
        }
    }
    let ask = Ask::parse(&request);
    let decided = shared.step(|core, now| {
        core.consents.check(&core.identity, &ask)?;
        if !allow {
            return Err(BadAsk::Returned("access_denied"));
        }
        core.consents
            .allow(now, &mut core.identity, ask.clone(), &account, &allowed)
            .ok_or(BadAsk::Shown("Choose an account first."))
    });
    match decided {
        Ok(code) => {
            let iss = shared.origin.as_str();
            go(&ask.back(&[("code", code.expose()), ("iss", iss)]))
        }
        Err(bad) => refuse(&ask, &bad),
    }
}

fn refuse(ask: &Ask, bad: &BadAsk) -> Response {
    match bad {
        BadAsk::Shown(text) => {
            let page =
                document("Access blocked", &format!("<p role=\"alert\">{}</p>", escape(text)));
            (StatusCode::BAD_REQUEST, Html(page)).into_response()
        }
        BadAsk::Returned(code) => go(&ask.back(&[("error", code)])),
    }
}

fn go(to: &str) -> Response {
    (StatusCode::FOUND, [(LOCATION, to), (CACHE_CONTROL, "no-store")]).into_response()
}

fn page(ask: &Ask, query: &str, accounts: &[User]) -> String {
    let mut body = String::from(
        "<form method=\"post\" action=\"/o/oauth2/auth\">\n<fieldset><legend>Choose an account</legend>\n",
    );
    let hinted = |user: &User| {
        ask.login_hint.as_ref().is_some_and(|hint| *hint == user.sub || *hint == user.email)
    };
    let chosen = accounts.iter().position(hinted).unwrap_or(0);
    for (number, user) in accounts.iter().enumerate() {
        let checked = if number == chosen { " checked" } else { "" };
        writeln!(
            body,
            "<label><input type=\"radio\" name=\"account\" value=\"{}\"{checked}> <span>{} <small>{}</small></span></label>",
            escape(&user.sub),
            escape(&user.name),
            escape(&user.email),
        ).expect("writing to a String cannot fail");
    }
    body.push_str("</fieldset>\n");
    if ask.optional().next().is_some() {
        body.push_str("<fieldset><legend>Select what the app may do</legend>\n");
        for scope in ask.optional() {
            let scope = escape(scope);
            writeln!(
                body,
                "<label><input type=\"checkbox\" name=\"allow\" value=\"{scope}\" checked> <span>{scope}</span></label>",
            ).expect("writing to a String cannot fail");
        }
        body.push_str("</fieldset>\n");
    }
    writeln!(
        body,
        "<input type=\"hidden\" name=\"request\" value=\"{}\">\n\
         <p class=\"buttons\"><button name=\"decision\" value=\"deny\">Cancel</button> \
         <button name=\"decision\" value=\"allow\" class=\"main\">Allow</button></p>\n</form>\n\
         <p><small>An emulator: no such accounts exist, and nothing leaves this computer.</small></p>",
        escape(query),
    ).expect("writing to a String cannot fail");
    document("The app wants access to your account", &body)
}

fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title} – emulated sign-in</title><style>{STYLE}</style></head>\n\
         <body><main><h1>{title}</h1>\n{body}</main></body></html>\n"
    )
}

const STYLE: &str = "\
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}\
body{margin:0;display:grid;min-height:100vh;place-items:center;background:Canvas;color:CanvasText}\
main{width:min(28rem,calc(100vw - 2rem));padding:1rem 0}\
h1{font-size:1.35rem;line-height:1.3}\
fieldset{border:1px solid color-mix(in srgb,CanvasText 25%,Canvas);border-radius:.5rem;margin:0 0 1rem;padding:.5rem 1rem}\
label{display:flex;gap:.6rem;align-items:baseline;padding:.4rem 0;overflow-wrap:anywhere}\
label small{display:block}\
.buttons{display:flex;gap:.75rem;justify-content:flex-end}\
button{font:inherit;padding:.55rem 1.2rem;border-radius:.5rem;border:1px solid currentColor;background:Canvas;color:CanvasText}\
button.main{background:CanvasText;color:Canvas}";

/// A disc with a letter.
async fn picture(Path(name): Path<String>) -> Response {
    let letter = name.chars().next().unwrap_or('?').to_uppercase().to_string();
    let svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 96 96\">\
         <rect width=\"96\" height=\"96\" fill=\"#3d5a80\"/>\
         <text x=\"48\" y=\"64\" font-family=\"sans-serif\" font-size=\"46\" \
         text-anchor=\"middle\" fill=\"#fff\">{}</text></svg>",
        escape(&letter)
    );
    ([(CONTENT_TYPE, "image/svg+xml")], svg).into_response()
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

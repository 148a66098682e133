//! What the pages say.

mod account;
mod scopes;

use super::Site;
use super::brand::provider_name;
use super::html::{Html, page, text};
use super::session::{Notice, Session};

pub(super) use account::{Account, account};
pub(super) use scopes::in_words;

/// A number of jobs.
pub(super) fn jobs(n: usize) -> String {
    if n == 1 { "1 job".to_owned() } else { format!("{n} jobs") }
}

/// The text with the provider named, where people know its name.
fn named(site: &Site, said: &str) -> String {
    match provider_name(&site.auth_url) {
        Some(name) => said.replace("Your provider", name).replace("your provider", name),
        None => said.to_owned(),
    }
}

pub(super) fn notice(notice: Option<&Notice>) -> Html {
    notice.map_or_else(Html::default, |notice| {
        let (class, role) = if notice.bad { (" bad", "alert") } else { ("", "status") };
        Html(format!("<p class=\"notice{class}\" role=\"{role}\">{}</p>\n", text(&notice.text)))
    })
}

fn sign_out(session: &Session) -> Html {
    Html(format!(
        "<form method=\"post\" action=\"/sign-out\">{}<button>Sign out</button></form>",
        csrf(session)
    ))
}

fn csrf(session: &Session) -> Html {
    Html(format!("<input type=\"hidden\" name=\"csrf\" value=\"{}\">", text(&session.csrf)))
}

fn display_name(session: &Session) -> &str {
    [&session.name, &session.email, &session.user]
        .into_iter()
        .find(|text| !text.is_empty())
        .map_or("you", String::as_str)
}

/// The first page.
pub(super) fn home(site: &Site, session: Option<&Session>, told: Option<&Notice>) -> Html {
    let app = text(&site.brand.app_name);
    let account = provider_name(&site.auth_url).unwrap_or("your account");
    let action = match session {
        Some(session) => format!(
            "<p>You are signed in as <strong>{}</strong>.</p>\
             <p class=\"actions\"><a class=\"button main\" href=\"/account\">Your account</a></p>",
            text(display_name(session))
        ),
        None => format!(
            "<p class=\"actions\"><a class=\"button main\" href=\"/oauth/start?next=/account\">Sign in with {account}</a></p>\
             <p><small>{}</small></p>",
            named(
                site,
                "You choose at your provider what to share. Signing in shares your name, email address and picture."
            )
        ),
    };
    let main = Html(format!(
        "{}<h1>Connect your account once</h1>\n\
         <p class=\"lead\">{app} does work for you in the background, with the access that you give it here.</p>\n\
         <div class=\"card\">{action}</div>\n\
         <section class=\"card\" aria-labelledby=\"how\"><h2 id=\"how\">What happens with your access</h2>\n\
         <ul class=\"plain\"><li>Only what you allow is used. You can allow more later, when it is needed.</li>\
         <li>{}</li>\
         <li>{}</li></ul></section>",
        notice(told),
        named(site, &format!("Your password never reaches {app}: you sign in at your provider.")),
        named(
            site,
            &format!(
                "You can disconnect at any time. Your provider then ends the access, and {app} deletes what it kept."
            )
        ),
    ));
    page(&site.brand, "Connect your account", session.map(sign_out).as_ref(), &main)
}

/// What a message page leads on to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Onward {
    /// Another sign-in, for somebody who is not signed in.
    SignIn,
    /// The first page.
    FirstPage,
    /// The account again, which could not be looked at.
    Again,
}

/// A page that says one thing. Whoever is signed in goes back to their account.
pub(super) fn message(
    site: &Site,
    title: &str,
    told: &str,
    onward: Onward,
    session: Option<&Session>,
) -> Html {
    let action = match (session, onward) {
        (Some(_), _) => "<a class=\"button main\" href=\"/account\">Back to your account</a>",
        (None, Onward::Again) => "<a class=\"button main\" href=\"/account\">Try again</a>",
        (None, Onward::FirstPage) => "<a class=\"button main\" href=\"/\">To the first page</a>",
        (None, Onward::SignIn) => {
            "<a class=\"button main\" href=\"/oauth/start?next=/account\">Start again</a> \
             <a class=\"button\" href=\"/\">To the first page</a>"
        }
    };
    let main = Html(format!(
        "<h1>{}</h1>\n<div class=\"card\"><p role=\"alert\">{}</p><p class=\"actions\">{action}</p></div>",
        text(title),
        text(named(site, told))
    ));
    page(&site.brand, title, session.map(sign_out).as_ref(), &main)
}

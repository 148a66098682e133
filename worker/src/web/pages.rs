//! What the pages say.

use jiff::Timestamp;
use shared::ConsentReason;
use shared::consent::missing_scopes;
use shared::record::TokenRecord;

use super::Site;
use super::html::{Html, page, text};
use super::session::{Notice, Session};

/// What a scope allows, in words for the person.
pub(super) fn in_words(scope: &str) -> &str {
    match scope.trim_start_matches("https://www.googleapis.com/auth/") {
        "openid" => "Know who you are",
        "email" | "userinfo.email" => "See your email address",
        "profile" | "userinfo.profile" => "See your name and picture",
        "drive.readonly" => "See and download your files in Google Drive",
        "drive" => "See, change and delete your files in Google Drive",
        "drive.file" => "Use the files in Google Drive that you open with this app",
        "tasks" => "See, change and delete your tasks",
        "tasks.readonly" => "See your tasks",
        "calendar" => "See, change and delete your calendars",
        "calendar.readonly" => "See your calendars",
        "spreadsheets" => "See, change and delete your spreadsheets",
        "spreadsheets.readonly" => "See your spreadsheets",
        "gmail.readonly" => "Read your email",
        "gmail.send" => "Send email as you",
        "bigquery" => "See and manage your data in BigQuery",
        "cloud-platform" => "See and change your data in Google Cloud",
        "offline_access" => "Keep access while you are away",
        _ => "Use another service for you",
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

pub(super) fn home(session: Option<&Session>, told: Option<&Notice>) -> Html {
    let action = match session {
        Some(session) => format!(
            "<p>You are signed in as <strong>{}</strong>.</p>\
             <p class=\"actions\"><a class=\"button main\" href=\"/account\">Your account</a></p>",
            text(display_name(session))
        ),
        None => "<p class=\"actions\"><a class=\"button main\" href=\"/oauth/start?next=/account\">Sign in with your account</a></p>\
                 <p><small>You choose at your provider what to share. Signing in shares your name, email address and picture.</small></p>"
            .to_owned(),
    };
    let main = Html(format!(
        "{}<h1>Connect your account once</h1>\n\
         <p class=\"lead\">Fleet runs jobs for you in the background. It keeps one credential for your account, fresh and safe, and every job uses it.</p>\n\
         <div class=\"card\">{action}</div>\n\
         <section class=\"card\" aria-labelledby=\"how\"><h2 id=\"how\">What happens with your access</h2>\n\
         <ul class=\"plain\"><li>Only what you allow is used. You can allow more later, when a job needs it.</li>\
         <li>Your password never reaches Fleet: you sign in at your provider.</li>\
         <li>You can disconnect at any time. Your provider then ends the access, and Fleet deletes what it kept.</li></ul></section>",
        notice(told)
    ));
    page("Connect your account", session.map(sign_out).as_ref(), &main)
}

pub(super) fn message(title: &str, told: &str, session: Option<&Session>) -> Html {
    let main = Html(format!(
        "<h1>{}</h1>\n<div class=\"card\"><p role=\"alert\">{}</p>\
         <p class=\"actions\"><a class=\"button main\" href=\"/oauth/start?next=/account\">Start again</a> \
         <a class=\"button\" href=\"/\">Back to the first page</a></p></div>",
        text(title),
        text(told)
    ));
    page(title, session.map(sign_out).as_ref(), &main)
}

fn display_name(session: &Session) -> &str {
    [&session.name, &session.email, &session.user]
        .into_iter()
        .find(|text| !text.is_empty())
        .map_or("you", String::as_str)
}

/// A picture from an https address, or from the provider itself on loopback.
fn picture(site: &Site, session: &Session) -> Html {
    let allowed = url::Url::parse(&session.picture).is_ok_and(|url| {
        url.scheme() == "https"
            || (shared::is_loopback(&url) && url.origin() == site.auth_url.origin())
    });
    if allowed {
        return Html(format!(
            "<img class=\"picture\" src=\"{}\" alt=\"\" width=\"64\" height=\"64\" referrerpolicy=\"no-referrer\">",
            text(&session.picture)
        ));
    }
    let initial: String =
        display_name(session).chars().next().unwrap_or('?').to_uppercase().collect();
    Html(format!("<span class=\"picture\" aria-hidden=\"true\">{}</span>", text(initial)))
}

/// The signed-in person's page; `record` is absent when nothing is stored.
pub(super) fn account(
    site: &Site,
    session: &Session,
    record: Option<&TokenRecord>,
    told: Option<&Notice>,
    now: Timestamp,
) -> Html {
    let mut main = format!(
        "{}<section class=\"card person\">{}<div><h1>{}</h1><p>{}</p></div></section>\n",
        notice(told),
        picture(site, session),
        text(display_name(session)),
        text(&session.email)
    );
    let scopes = record.map_or(&[][..], |record| &record.scopes);
    main.push_str(&credential(record, now).0);
    if record.is_some_and(TokenRecord::is_active) {
        main.push_str(&actions(site, session).0);
    }
    if record.is_some() {
        let mut scopes: Vec<&String> = scopes.iter().collect();
        // Who they are comes first, then what was added.
        scopes.sort_by_key(|scope| scope.starts_with("http") && !scope.contains("/userinfo."));
        let granted: String = scopes.into_iter().map(|scope| scope_line(scope)).collect();
        main.push_str("<section class=\"card\" aria-labelledby=\"granted\"><h2 id=\"granted\">What you allowed</h2>\n");
        main.extend(["<ul class=\"plain\">", &granted, "</ul></section>\n"]);
    }
    main.push_str(&more(site, scopes, record).0);
    if record.is_some() {
        main.push_str(&disconnect(session).0);
    }
    page("Your account", Some(&sign_out(session)), &Html(main))
}

fn scope_line(scope: &str) -> String {
    format!("<li>{}<small>{}</small></li>", text(in_words(scope)), text(scope))
}

fn when(at: Timestamp, now: Timestamp) -> Html {
    let seconds = at.duration_since(now).as_secs();
    let exact = at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    if (-4..=0).contains(&seconds) {
        return Html(format!("<time datetime=\"{at:.0}\">{exact}</time> (just now)"));
    }
    let (n, unit) = match seconds.unsigned_abs() {
        n @ 0..=119 => (n, "second"),
        n @ 120..=7199 => (n / 60, "minute"),
        n @ 7200..=172_799 => (n / 3600, "hour"),
        n => (n / 86400, "day"),
    };
    let plural = if n == 1 { "" } else { "s" };
    let relative = if seconds >= 0 {
        format!("in {n} {unit}{plural}")
    } else {
        format!("{n} {unit}{plural} ago")
    };
    Html(format!("<time datetime=\"{at:.0}\">{exact}</time> ({relative})"))
}

fn credential(record: Option<&TokenRecord>, now: Timestamp) -> Html {
    let Some(record) = record else {
        return Html(
            "<section class=\"card\" aria-labelledby=\"state\"><h2 id=\"state\">Credential</h2>\
             <p><span class=\"state bad\">Not connected</span></p>\
             <p>Nothing is stored for your account. Jobs that act for you wait until you connect.</p>\
             <p class=\"actions\"><a class=\"button main\" href=\"/oauth/start?next=/account\">Connect</a></p></section>\n"
                .to_owned(),
        );
    };
    let trouble = record.trouble();
    let state = match &trouble {
        None => "<span class=\"state\">Connected</span>",
        Some(ConsentReason::Blocked { .. }) => "<span class=\"state bad\">Held back</span>",
        Some(_) => "<span class=\"state bad\">Access ended</span>",
    };
    let fresh = match record.expires_at {
        Some(at) if at > now => when(at, now).0,
        Some(_) => "Expired; it is renewed when it is used next".to_owned(),
        None => "Not renewed yet".to_owned(),
    };
    let reconnect = trouble.map_or_else(String::new, |why| {
        format!(
            "<p>{}</p><p>Jobs that act for you wait until then.</p>\
             <p class=\"actions\"><a class=\"button main\" href=\"/oauth/start?next=/account\">Connect again</a></p>",
            text(why.reason().for_person())
        )
    });
    Html(format!(
        "<section class=\"card\" aria-labelledby=\"state\"><h2 id=\"state\">Credential</h2>\n\
         <dl><dt>State</dt><dd>{state}</dd><dt>Fresh until</dt><dd>{fresh}</dd>\
         <dt>Last refreshed</dt><dd>{}</dd><dt>By replica</dt><dd>{}</dd></dl>{reconnect}</section>\n",
        when(record.updated_at, now),
        text(&record.holder)
    ))
}

fn actions(site: &Site, session: &Session) -> Html {
    let form = |action: &str, label: &str| {
        format!(
            "<form method=\"post\" action=\"{action}\">{}<button>{label}</button></form>",
            csrf(session)
        )
    };
    let job =
        if site.jobs.is_some() { form("/account/job", "Queue a test job") } else { String::new() };
    Html(format!(
        "<section class=\"card\" aria-labelledby=\"try\"><h2 id=\"try\">Try it</h2>\
         <div class=\"actions\">{}{job}</div></section>\n",
        form("/account/test", "Test it")
    ))
}

fn scope_box(scope: &str) -> String {
    format!(
        "<label><input type=\"checkbox\" name=\"scopes\" value=\"{}\" checked><span>{}<small>{}</small></span></label>",
        text(scope),
        text(in_words(scope)),
        text(scope)
    )
}

/// A plain GET form: it leads to the provider, which asks the person.
fn more(site: &Site, scopes: &[String], record: Option<&TokenRecord>) -> Html {
    let offered = missing_scopes(&site.offered, scopes);
    if offered.is_empty() || record.is_none() {
        return Html::default();
    }
    let boxes: String = offered.iter().map(|scope| scope_box(scope)).collect();
    Html(format!(
        "<section class=\"card\" aria-labelledby=\"more\"><h2 id=\"more\">Grant more access</h2>\
         <form method=\"get\" action=\"/oauth/start\"><input type=\"hidden\" name=\"next\" value=\"/account\">\
         <fieldset><legend>Some jobs need more. Your provider asks you again.</legend>{boxes}</fieldset>\
         <button class=\"main\">Grant more access</button></form></section>\n"
    ))
}

fn disconnect(session: &Session) -> Html {
    Html(format!(
        "<section class=\"card\" aria-labelledby=\"end\"><h2 id=\"end\">Disconnect</h2>\
         <p>Your provider ends the access and Fleet deletes the credential. Jobs that act for you wait until you connect again.</p>\
         <form method=\"post\" action=\"/account/disconnect\">{}<button class=\"danger\">Disconnect</button></form></section>\n",
        csrf(session)
    ))
}

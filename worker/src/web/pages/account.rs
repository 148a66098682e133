//! The signed-in person's page.

use jiff::Timestamp;
use shared::ConsentReason;
use shared::consent::{missing_scopes, not_granted};
use shared::record::TokenRecord;

use super::super::Site;
use super::super::html::{Html, page, text, time};
use super::super::session::{Notice, Session};
use super::scopes::{boxes, is_sign_in, list};
use super::{csrf, display_name, jobs, named, notice, sign_out};
use crate::waiting::Waiting;

/// What the page shows.
pub(in crate::web) struct Account<'a> {
    pub(in crate::web) session: &'a Session,
    pub(in crate::web) record: &'a TokenRecord,
    /// Absent when the bucket did not say.
    pub(in crate::web) waiting: Option<&'a Waiting>,
    pub(in crate::web) told: Option<&'a Notice>,
    pub(in crate::web) now: Timestamp,
}

/// The page.
pub(in crate::web) fn account(site: &Site, shown: &Account<'_>) -> Html {
    let Account { session, record, told, .. } = *shown;
    let trouble = record.trouble();
    let mut main = format!("{}{}", notice(told), person(site, session, trouble.as_ref()));
    match &trouble {
        Some(why) => main.push_str(&ended(site, shown, why).0),
        None => main.push_str(&waits(site, shown).0),
    }
    main.push_str(&allowed(site, shown).0);
    if trouble.is_none() {
        main.push_str(&more(site, shown).0);
        main.push_str(&try_it(site, session).0);
    }
    main.push_str(&disconnect(site, session).0);
    page(&site.brand, "Your account", Some(&sign_out(session)), &Html(main))
}

fn person(site: &Site, session: &Session, trouble: Option<&ConsentReason>) -> Html {
    let state = match trouble {
        None => "<span class=\"state\">Connected</span>",
        Some(ConsentReason::Blocked { .. }) => "<span class=\"state bad\">On hold</span>",
        Some(_) => "<span class=\"state bad\">Access ended</span>",
    };
    Html(format!(
        "<section class=\"card person\">{}<div><h1>{}</h1><p>{}</p></div>{state}</section>\n",
        picture(site, session),
        text(display_name(session)),
        text(&session.email)
    ))
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

/// Why nothing is done for the person, and the one thing to do.
fn ended(site: &Site, shown: &Account<'_>, why: &ConsentReason) -> Html {
    let (title, since) = match why {
        ConsentReason::Blocked { since, .. } => ("Your access is on hold", *since),
        ConsentReason::Revoked { at, .. } => ("Your access has ended", *at),
        ConsentReason::Unknown | ConsentReason::MissingScopes(_) => {
            ("Your access has ended", shown.record.updated_at)
        }
    };
    let verb =
        if matches!(why, ConsentReason::Blocked { .. }) { "Put on hold" } else { "Access ended" };
    let waiting = shown.waiting.map_or(0, |waiting| waiting.jobs);
    let waits = match waiting {
        0 => String::new(),
        n => format!("<p><strong>{}</strong> until then.</p>", they_wait(n)),
    };
    Html(format!(
        "<section class=\"card\" aria-labelledby=\"state\"><h2 id=\"state\">{title}</h2>\
         <p>{}</p><p>{verb} {}.</p>{waits}\
         <p class=\"actions\"><a class=\"button main\" href=\"/oauth/start?next=/account\">Connect again</a></p></section>\n",
        text(named(site, why.reason().for_person())),
        relative(since, shown.now)
    ))
}

fn they_wait(n: usize) -> String {
    if n == 1 { "1 job waits".to_owned() } else { format!("{} wait", jobs(n)) }
}

/// The jobs that wait for more access, and the one button that gives it.
fn waits(site: &Site, shown: &Account<'_>) -> Html {
    let Some(waiting) = shown.waiting.filter(|waiting| waiting.jobs > 0) else {
        return Html::default();
    };
    let needed = waiting.scopes(&shown.record.scopes);
    let unlisted = missing_scopes(&needed, &site.offered);
    let listed = missing_scopes(&needed, &unlisted);
    let heading = |n: usize| format!("<h2 id=\"waits\">{}</h2>", they_wait(n));
    if listed.is_empty() {
        let told = if needed.is_empty() {
            "They go on by themselves in a while."
        } else {
            "They need access that this site does not ask for. Whoever runs it has been told by these jobs."
        };
        return Html(format!(
            "<section class=\"card\" aria-labelledby=\"waits\">{}<p>{told}</p></section>\n",
            heading(waiting.jobs)
        ));
    }
    let hidden = listed
        .iter()
        .map(|scope| format!("<input type=\"hidden\" name=\"scopes\" value=\"{}\">", text(scope)));
    let count = waiting.for_scopes().max(1);
    let verb = if count == 1 { "It needs" } else { "They need" };
    Html(format!(
        "<section class=\"card attention\" aria-labelledby=\"waits\">{}<p>{verb}:</p>{}\
         <form method=\"get\" action=\"/oauth/start\"><input type=\"hidden\" name=\"next\" value=\"/account\">{}\
         <button class=\"main\">Allow and go on</button></form></section>\n",
        heading(count),
        list(&listed),
        hidden.collect::<String>()
    ))
}

/// What the person allowed, how to allow less, and the details for those who want them.
fn allowed(site: &Site, shown: &Account<'_>) -> Html {
    let Account { session, record, .. } = *shown;
    let optional: Vec<String> =
        record.scopes.iter().filter(|scope| !is_sign_in(scope)).cloned().collect();
    let listed = missing_scopes(&optional, &missing_scopes(&optional, &site.offered));
    let less = if record.trouble().is_some() || listed.is_empty() {
        String::new()
    } else {
        format!(
            "<details><summary>Allow less</summary>\
             <form method=\"post\" action=\"/account/less\">{}\
             <fieldset><legend>{}</legend>{}</fieldset>\
             <button>Allow less</button></form></details>",
            csrf(session),
            named(site, "Leave ticked what you still allow. Your provider asks you again."),
            boxes(&listed, true)
        )
    };
    Html(format!(
        "<section class=\"card\" aria-labelledby=\"granted\"><h2 id=\"granted\">What you allowed</h2>{}{less}{}</section>\n",
        list(&record.scopes),
        details(record)
    ))
}

fn details(record: &TokenRecord) -> Html {
    let expires = record.expires_at.map_or_else(|| "–".to_owned(), |at| time(at).0);
    Html(format!(
        "<details><summary>Technical details</summary><dl>\
         <dt>Connected</dt><dd>{}</dd><dt>Last renewed</dt><dd>{}</dd><dt>Token expires</dt><dd>{expires}</dd>\
         <dt>By replica</dt><dd>{}</dd><dt>Scopes</dt><dd>{}</dd></dl></details>",
        time(record.created_at),
        time(record.updated_at),
        text(&record.holder),
        record
            .scopes
            .iter()
            .map(|scope| format!("<code>{}</code>", text(scope)))
            .collect::<Vec<_>>()
            .join("<br>")
    ))
}

/// A plain GET form: it leads to the provider, which asks the person.
fn more(site: &Site, shown: &Account<'_>) -> Html {
    let mut offered = not_granted(&site.offered, &shown.record.scopes);
    if let Some(waiting) = shown.waiting {
        // These have a button of their own.
        offered = missing_scopes(&offered, &waiting.scopes(&shown.record.scopes));
    }
    if offered.is_empty() {
        return Html::default();
    }
    Html(format!(
        "<section class=\"card\" aria-labelledby=\"more\"><h2 id=\"more\">Allow more</h2>\
         <form method=\"get\" action=\"/oauth/start\"><input type=\"hidden\" name=\"next\" value=\"/account\">\
         <input type=\"hidden\" name=\"more\" value=\"1\">\
         <fieldset><legend>{}</legend>{}</fieldset>\
         <button>Grant more access</button></form></section>\n",
        named(site, "Tick what may be used for you, too. Your provider asks you again."),
        boxes(&offered, false)
    ))
}

fn try_it(site: &Site, session: &Session) -> Html {
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

/// The disclosure asks once: the button is behind it.
fn disconnect(site: &Site, session: &Session) -> Html {
    Html(format!(
        "<section class=\"card\" aria-labelledby=\"end\"><h2 id=\"end\">Disconnect</h2>\
         <p>{}</p><details class=\"danger\"><summary>Disconnect this account …</summary>\
         <p>Jobs that wait for you are deleted as well. This cannot be undone; you can connect again.</p>\
         <form method=\"post\" action=\"/account/disconnect\">{}<button class=\"danger\">Disconnect</button></form></details></section>\n",
        text(named(
            site,
            &format!(
                "Your provider ends the access, and {} deletes what it kept of you.",
                site.brand.app_name
            )
        )),
        csrf(session)
    ))
}

/// How long ago, which needs no zone.
fn relative(at: Timestamp, now: Timestamp) -> String {
    let (n, unit) = match now.duration_since(at).as_secs() {
        ..60 => return "just now".to_owned(),
        n @ 60..3600 => (n / 60, "minute"),
        n @ 3600..86_400 => (n / 3600, "hour"),
        n => (n / 86_400, "day"),
    };
    format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    #[test]
    fn how_long_ago_something_was() {
        let now: Timestamp = "2026-01-10T00:00:00Z".parse().unwrap();
        for (seconds, says) in [
            (-5, "just now"),
            (59, "just now"),
            (60, "1 minute ago"),
            (185, "3 minutes ago"),
            (3600, "1 hour ago"),
            (86_400, "1 day ago"),
            (3 * 86_400, "3 days ago"),
        ] {
            assert_eq!(relative(now - SignedDuration::from_secs(seconds), now), says);
        }
    }
}

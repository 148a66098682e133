//! One user, and what can be done about them.

use jiff::Timestamp;
use shared::record::TokenRecord;
use shared::{Error, UserId};

use super::{name, search_form, state_word};
use crate::parking::ParkedJob;
use crate::status::{age, seconds_since};
use crate::stored_users::State;
use crate::waiting::Waiting;
use crate::web::admin::access::Operator;
use crate::web::html::{Html, operators_page, text, time};
use crate::web::pages::notice;
use crate::web::session::Notice;

/// So many waiting jobs are shown.
const JOBS: usize = 50;

/// What the page shows.
pub(in crate::web::admin) struct User<'a> {
    pub(in crate::web::admin) id: &'a UserId,
    pub(in crate::web::admin) record: &'a Result<TokenRecord, Error>,
    pub(in crate::web::admin) waiting: &'a Waiting,
    pub(in crate::web::admin) told: Option<&'a Notice>,
    /// What forms carry.
    pub(in crate::web::admin) form: &'a str,
    /// There is a job topic.
    pub(in crate::web::admin) resumes: bool,
    pub(in crate::web::admin) now: Timestamp,
}

/// The page.
pub(in crate::web::admin) fn user(who: &Operator, shown: &User<'_>) -> Html {
    let main = Html(format!(
        "{}{}{}{}{}{}",
        notice(shown.told),
        search_form("", None),
        head(shown),
        record(shown),
        waiting(shown),
        revoke(shown)
    ));
    operators_page("User", &who.0, &main)
}

fn head(shown: &User<'_>) -> Html {
    let state = match shown.record {
        Ok(record) => {
            let state = State::of(record);
            state_word(state, state.name())
        }
        Err(Error::NeedsConsent(_)) => state_word(State::Revoked, "not stored"),
        Err(_) => state_word(State::Unreadable, "unreadable"),
    };
    Html(format!(
        "<section class=\"card person\"><div><h1>{}</h1></div>{state}</section>\n",
        name(shown.id.as_str())
    ))
}

fn record(shown: &User<'_>) -> Html {
    let told = match shown.record {
        Ok(record) => details(record),
        Err(Error::NeedsConsent(_)) => {
            Html("<p>No credential is stored: the user must consent.</p>".to_owned())
        }
        Err(why) => Html(format!("<p>{}.</p>", name(&sentence(&why.to_string())))),
    };
    Html(format!(
        "<section class=\"card\" aria-labelledby=\"credential\"><h2 id=\"credential\">Credential</h2>{told}</section>\n"
    ))
}

fn sentence(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map(|first| first.to_uppercase().chain(rest).collect()).unwrap_or_default()
}

/// Times, reasons and scopes: no secret is among them.
fn details(record: &TokenRecord) -> Html {
    // It begins with a code, which is written as it is.
    let reason = record.trouble().map(|why| format!("<p>{}.</p>", name(&why.to_string())));
    let expires = record.expires_at.map_or_else(|| "–".to_owned(), |at| time(at).0);
    let scopes: Vec<String> =
        record.scopes.iter().map(|scope| format!("<code>{}</code>", name(scope))).collect();
    Html(format!(
        "{}<dl><dt>Last refresh</dt><dd>{}</dd><dt>Token expires</dt><dd>{expires}</dd>\
         <dt>First consent</dt><dd>{}</dd><dt>Written by</dt><dd><code>{}</code></dd>\
         <dt>Account</dt><dd>{}</dd><dt>Scopes</dt><dd>{}</dd></dl>",
        reason.unwrap_or_default(),
        time(record.updated_at),
        time(record.created_at),
        name(&record.holder),
        record.sub.as_deref().map_or_else(|| text("–"), name),
        scopes.join("<br>")
    ))
}

fn waiting(shown: &User<'_>) -> Html {
    let User { waiting, .. } = shown;
    let heading = format!(
        "<h2 id=\"waiting\">Waiting jobs <span class=\"count\">{}</span></h2>",
        waiting.jobs
    );
    if waiting.jobs == 0 {
        return Html(format!(
            "<section class=\"card\" aria-labelledby=\"waiting\">{heading}<p>No job waits for this user.</p></section>\n"
        ));
    }
    let rows: String = waiting.read().iter().take(JOBS).map(|job| row(job, shown.now)).collect();
    let table = if rows.is_empty() {
        "<p>They are sealed, and these pages have not their key (--keyring).</p>".to_owned()
    } else {
        format!(
            "<div class=\"table\" role=\"region\" aria-labelledby=\"waiting\" tabindex=\"0\"><table><thead><tr><th scope=\"col\">Job</th>\
             <th scope=\"col\">Kind</th><th scope=\"col\">For</th><th scope=\"col\">Waits for</th></tr></thead><tbody>{rows}</tbody></table></div>"
        )
    };
    let rest = waiting.jobs.saturating_sub(waiting.read().len().min(JOBS));
    let rest = if rest == 0 { String::new() } else { format!("<p>And {rest} more.</p>") };
    let resume = if shown.resumes {
        form(shown, "/user/resume", "<button class=\"main\">Resume what is due</button>")
    } else {
        String::new()
    };
    Html(format!(
        "<section class=\"card\" aria-labelledby=\"waiting\">{heading}{table}{rest}\
         <div class=\"actions\">{resume}</div>\
         <details class=\"danger\"><summary>Drop them …</summary>\
         <p>All jobs that wait for this user are removed for good.</p>{}</details></section>\n",
        form(shown, "/user/drop", "<button class=\"danger\">Drop all waiting jobs</button>")
    ))
}

fn row(job: &ParkedJob, now: Timestamp) -> String {
    format!(
        "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td></tr>",
        name(&job.job),
        name(&job.kind),
        age(seconds_since(job.parked_at, now)),
        name(&job.waits_for())
    )
}

/// The disclosure asks once: the button is behind it.
fn revoke(shown: &User<'_>) -> Html {
    if matches!(shown.record, Err(Error::NeedsConsent(_))) {
        return Html::default();
    }
    Html(format!(
        "<section class=\"card\" aria-labelledby=\"end\"><h2 id=\"end\">Revoke</h2>\
         <p>The provider ends the grant; the record, and what waits for this user, is deleted. \
         The user must consent again.</p>\
         <details class=\"danger\"><summary>Revoke this user …</summary>\
         <p>This cannot be undone.</p>{}</details></section>\n",
        form(shown, "/user/revoke", "<button class=\"danger\">Revoke and delete</button>")
    ))
}

fn form(shown: &User<'_>, action: &str, button: &str) -> String {
    format!(
        "<form method=\"post\" action=\"{action}\"><input type=\"hidden\" name=\"csrf\" value=\"{}\">\
         <input type=\"hidden\" name=\"user\" value=\"{}\">{button}</form>",
        text(shown.form),
        text(shown.id.encoded())
    )
}

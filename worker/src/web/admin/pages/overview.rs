//! How the fleet stands.

use jiff::Timestamp;

use super::{name, number, search_form};
use crate::backlog::Backlog;
use crate::status::{ByAge, Known, Replicas, Status, Users, WaitingJobs, age, seconds_since};
use crate::web::admin::access::Operator;
use crate::web::html::{Html, operators_page, text, time};

/// More replicas than this are a number.
const REPLICAS: usize = 20;

/// The page. Without a count yet, `listed` says how far it is.
pub(in crate::web::admin) fn overview(
    who: &Operator,
    counted: Option<&Result<Status, String>>,
    listed: u64,
    now: Timestamp,
) -> Html {
    let shown = match counted {
        Some(Ok(status)) => figures(status, now),
        Some(Err(why)) => Html(format!(
            "<p class=\"notice bad\" role=\"alert\">The bucket cannot be counted: {}. Try again in a minute.</p>",
            text(why)
        )),
        None => Html(format!(
            "<p class=\"notice\" role=\"status\">Counting: {} objects so far. Reload this page in a moment.</p>",
            number(listed, false)
        )),
    };
    let main = Html(format!("<h1>Fleet</h1>\n{}{shown}", search_form("", None)));
    operators_page("Overview", &who.0, &main)
}

fn figures(status: &Status, now: Timestamp) -> Html {
    Html(format!(
        "<div class=\"cards\">{}{}</div>{}{}\
         <p class=\"soft\">Bucket <code>{}</code>, counted {} ago ({}). <a href=\"/\">Count again</a></p>",
        users(&status.users),
        queues(status),
        waiting(&status.waiting, status.at),
        replicas(&status.replicas, status.at),
        name(&status.bucket),
        age(seconds_since(status.at, now)),
        time(status.at)
    ))
}

fn users(users: &Users) -> Html {
    let row = |state: &str, count: u64, link: bool| {
        let label = if link {
            format!("<a href=\"/users?state={state}\">{state}</a>")
        } else {
            state.to_owned()
        };
        format!("<dt>{label}</dt><dd>{}</dd>", number(count, false))
    };
    let mut rows = [
        row("active", users.active, true),
        row("blocked", users.blocked, true),
        row("revoked", users.revoked, true),
        row("unreadable", users.unreadable, true),
    ]
    .concat();
    if users.not_read > 0 {
        rows.push_str(&row("not read", users.not_read, false));
    }
    Html(format!(
        "<section class=\"card\" aria-labelledby=\"users\"><h2 id=\"users\">Users <span class=\"count\">{}</span></h2>\
         <dl class=\"figures\">{rows}</dl></section>",
        number(users.total, users.more)
    ))
}

fn queues(status: &Status) -> Html {
    let row = |label: &str, known: &Known<Backlog>| {
        let (count, more) = match known {
            Known::Yes(Backlog { messages: 0, .. }) => ("0".to_owned(), String::new()),
            Known::Yes(Backlog { messages, oldest_seconds }) => (
                number(*messages, false),
                format!("<small>the oldest for {}</small>", age(*oldest_seconds)),
            ),
            Known::No { not_known } => {
                ("not known".to_owned(), format!("<small>{}</small>", name(not_known)))
            }
        };
        format!("<dt>{label}</dt><dd>{count}{more}</dd>")
    };
    let endings = &status.endings;
    let since = endings.since.map(|since| {
        format!("<small>the first for {}</small>", age(seconds_since(since, status.at)))
    });
    Html(format!(
        "<section class=\"card\" aria-labelledby=\"queues\"><h2 id=\"queues\">Queues</h2><dl class=\"figures\">{}{}\
         <dt>Ends to be written</dt><dd>{}{}</dd></dl></section>",
        row("Backlog", &status.backlog),
        row("Dead letters", &status.dead_letters),
        number(endings.total, endings.more),
        since.unwrap_or_default()
    ))
}

fn waiting(waiting: &WaitingJobs, now: Timestamp) -> Html {
    let heading = format!(
        "<h2 id=\"waiting\">Waiting jobs <span class=\"count\">{}</span></h2>",
        number(waiting.total, waiting.more)
    );
    if waiting.total == 0 {
        return Html(format!(
            "<section class=\"card\" aria-labelledby=\"waiting\">{heading}<p>No job waits for a user.</p></section>\n"
        ));
    }
    let since =
        waiting.since.map(|since| format!(", the first for {}", age(seconds_since(since, now))));
    let rows = waiting.reasons.iter().map(|(reason, ages)| {
        let ByAge { total, up_to_an_hour, up_to_a_day, up_to_a_week, longer } = *ages;
        let cells = [up_to_an_hour, up_to_a_day, up_to_a_week, longer, total];
        let cells = cells.map(|count| format!("<td>{}</td>", number(count, false)));
        format!("<tr><th scope=\"row\">{}</th>{}</tr>", name(reason), cells.concat())
    });
    Html(format!(
        "<section class=\"card\" aria-labelledby=\"waiting\">{heading}<p>They wait for {} {}{}.</p>\
         <div class=\"table\" role=\"region\" aria-labelledby=\"waiting\" tabindex=\"0\"><table class=\"numbers\"><thead><tr>\
         <th scope=\"col\">Reason</th><th scope=\"col\">up to 1 h</th><th scope=\"col\">up to 1 d</th>\
         <th scope=\"col\">up to 7 d</th><th scope=\"col\">longer</th><th scope=\"col\">all</th></tr></thead><tbody>{}</tbody></table></div></section>\n",
        number(waiting.users, false),
        if waiting.users == 1 { "user" } else { "users" },
        since.unwrap_or_default(),
        rows.collect::<String>()
    ))
}

fn replicas(replicas: &Replicas, now: Timestamp) -> Html {
    let Replicas { seen, leases, read, .. } = replicas;
    let heading = format!(
        "<h2 id=\"replicas\">Replicas seen <span class=\"count\">{}</span></h2>",
        number(seen.len() as u64, false)
    );
    if seen.is_empty() {
        return Html(format!(
            "<section class=\"card\" aria-labelledby=\"replicas\">{heading}<p>No lease was taken within the last hour.</p></section>\n"
        ));
    }
    let by = if leases == read {
        format!("By {} lease(s) of the last hour.", number(*leases, false))
    } else {
        let (read, leases) = (number(*read, false), number(*leases, false));
        format!("By the {read} newest of {leases} leases of the last hour.")
    };
    let rows = seen.iter().take(REPLICAS).map(|replica| {
        format!(
            "<tr><th scope=\"row\"><code>{}</code></th><td>{} ago</td><td>{}</td></tr>",
            name(&replica.name),
            age(seconds_since(replica.last_seen, now)),
            number(replica.leases, false)
        )
    });
    let more = seen.len().saturating_sub(REPLICAS);
    let more = if more == 0 { String::new() } else { format!("<p>And {more} more.</p>") };
    Html(format!(
        "<section class=\"card\" aria-labelledby=\"replicas\">{heading}<p>{by}</p>\
         <div class=\"table\" role=\"region\" aria-labelledby=\"replicas\" tabindex=\"0\"><table class=\"numbers\"><thead><tr><th scope=\"col\">Name</th>\
         <th scope=\"col\">Last lease</th><th scope=\"col\">Leases</th></tr></thead><tbody>{}</tbody></table></div>{more}</section>\n",
        rows.collect::<String>()
    ))
}

//! Users that were looked for.

use url::form_urlencoded;

use super::{name, query_of, search_form, state_word};
use crate::stored_users::StoredUser;
use crate::web::admin::access::Operator;
use crate::web::admin::search::{Found, Search};
use crate::web::html::{Html, operators_page, text, time};

/// The page.
pub(in crate::web::admin) fn users(who: &Operator, search: &Search, found: &Found) -> Html {
    let rows: String = found.users.iter().map(row).collect();
    let table = if rows.is_empty() {
        let more = if found.next.is_some() { " so far" } else { "" };
        format!("<p>No stored user is like that{more}.</p>")
    } else {
        format!(
            "<div class=\"table\" role=\"region\" aria-labelledby=\"found\" tabindex=\"0\"><table><thead><tr><th scope=\"col\">User</th>\
             <th scope=\"col\">State</th><th scope=\"col\">Reason</th><th scope=\"col\">Last refresh</th></tr></thead><tbody>{rows}</tbody></table></div>"
        )
    };
    // Somebody of whom nothing is stored may have waiting jobs all the same.
    let exact = if search.begins.is_empty() {
        String::new()
    } else {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("id", &search.begins)
            .finish();
        format!(
            "<a class=\"button\" href=\"/user?{}\">Open the user {}</a>",
            text(query),
            name(&search.begins)
        )
    };
    let onward = found.next.as_ref().map(|next| {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("begins", &search.begins);
        if let Some(state) = search.state {
            query.append_pair("state", state.name());
        }
        if let Some(page) = &next.page {
            query.append_pair("page", page);
        }
        query.append_pair("after", &next.after);
        format!("<a class=\"button\" href=\"/users?{}\">More users</a>", text(query.finish()))
    });
    let main = Html(format!(
        "<h1>Users</h1>\n{}<section class=\"card\" aria-labelledby=\"found\"><h2 id=\"found\">Found</h2>{table}\
         <p class=\"soft\">{} gone through.</p>\
         <p class=\"actions\">{exact}{}</p></section>\n",
        search_form(&search.begins, search.state),
        match found.seen {
            1 => "1 user was".to_owned(),
            seen => format!("{seen} users were"),
        },
        onward.unwrap_or_default()
    ));
    operators_page("Users", &who.0, &main)
}

fn row(found: &StoredUser) -> String {
    let refreshed = found.refreshed.map_or_else(|| "–".to_owned(), |at| time(at).0);
    format!(
        "<tr><th scope=\"row\"><a href=\"/user?{}\">{}</a></th><td>{}</td><td>{}</td><td>{refreshed}</td></tr>",
        text(query_of(&found.user)),
        name(found.user.as_str()),
        state_word(found.state, found.state.name()),
        found.why.map_or("–", shared::Reason::as_str)
    )
}

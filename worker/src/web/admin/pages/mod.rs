//! What the operators' pages say. Names that strangers chose are shown as [`plain`] has them and
//! travel encoded.

mod overview;
mod user;
mod users;

use shared::UserId;
use url::form_urlencoded;

use super::access::Operator;
use crate::plain::plain;
use crate::status::grouped;
use crate::stored_users::State;
use crate::web::html::{Html, operators_page, text};

pub(super) use overview::overview;
pub(super) use user::{User, user};
pub(super) use users::users;

/// Every state that a user can be looked for by.
const STATES: [State; 4] = [State::Active, State::Blocked, State::Revoked, State::Unreadable];

/// A page that says one thing.
pub(super) fn message(who: &Operator, title: &str, told: &str) -> Html {
    let main = Html(format!(
        "<h1>{}</h1>\n<div class=\"card\"><p role=\"alert\">{}</p>\
         <p class=\"actions\"><a class=\"button main\" href=\"/\">To the overview</a></p></div>",
        text(title),
        text(told)
    ));
    operators_page(title, &who.0, &main)
}

/// How addresses name a user.
pub(super) fn query_of(user: &UserId) -> String {
    form_urlencoded::Serializer::new(String::new()).append_pair("user", &user.encoded()).finish()
}

/// A name that a stranger chose.
fn name(raw: &str) -> Html {
    text(plain(raw))
}

fn state_word(state: State, word: &str) -> Html {
    let class = if state == State::Active { "" } else { " bad" };
    Html(format!("<span class=\"state{class}\">{}</span>", text(word)))
}

/// The form that looks for users.
fn search_form(begins: &str, state: Option<State>) -> Html {
    let options = STATES.map(|known| {
        let selected = if state == Some(known) { " selected" } else { "" };
        format!("<option value=\"{0}\"{selected}>{0}</option>", known.name())
    });
    Html(format!(
        "<form class=\"search\" method=\"get\" action=\"/users\" role=\"search\">\
         <label>User ID <input name=\"begins\" value=\"{}\" autocomplete=\"off\" spellcheck=\"false\"></label>\
         <label>State <select name=\"state\"><option value=\"\">any</option>{}</select></label>\
         <button class=\"main\">Find</button></form>\n",
        text(begins),
        options.concat()
    ))
}

/// A number; `more`: there are more than were counted.
fn number(of: u64, more: bool) -> String {
    format!("{}{}", grouped(of), if more { "+" } else { "" })
}

//! What scopes allow, in words for the person.

use super::super::html::{Html, text};

/// Comes with signing in.
pub(super) fn is_sign_in(scope: &str) -> bool {
    let short = scope.trim_start_matches(GOOGLE);
    matches!(
        short,
        "openid" | "email" | "profile" | "userinfo.email" | "userinfo.profile" | "offline_access"
    )
}

const GOOGLE: &str = "https://www.googleapis.com/auth/";

/// What a scope allows; a scope that is not known is named.
pub(in crate::web) fn in_words(scope: &str) -> String {
    let known = match scope.trim_start_matches(GOOGLE) {
        "openid" => "Know who you are",
        "email" | "userinfo.email" => "See your email address",
        "profile" | "userinfo.profile" => "See your name and picture",
        "drive.readonly" => "See and download your files in Google Drive",
        "drive" => "See, change and delete your files in Google Drive",
        "drive.file" => "Use the files in Google Drive that you open with this app",
        "drive.metadata.readonly" => "See the names and dates of your files in Google Drive",
        "documents" => "See, change and delete your Google Docs",
        "documents.readonly" => "See your Google Docs",
        "presentations" => "See, change and delete your Google Slides",
        "presentations.readonly" => "See your Google Slides",
        "tasks" => "See, change and delete your tasks",
        "tasks.readonly" => "See your tasks",
        "calendar" => "See, change and delete your calendars",
        "calendar.readonly" => "See your calendars",
        "calendar.events" => "See, change and delete events of your calendars",
        "calendar.events.readonly" => "See events of your calendars",
        "contacts" => "See, change and delete your contacts",
        "contacts.readonly" => "See your contacts",
        "spreadsheets" => "See, change and delete your spreadsheets",
        "spreadsheets.readonly" => "See your spreadsheets",
        "gmail.readonly" => "Read your email",
        "gmail.modify" => "Read, write and send your email",
        "gmail.compose" => "Write drafts and send email as you",
        "gmail.send" => "Send email as you",
        "https://mail.google.com/" => "Read, write, send and delete your email",
        "youtube.readonly" => "See your YouTube account",
        "analytics.readonly" => "See your Google Analytics data",
        "adwords" => "See and manage your Google Ads accounts",
        "bigquery" => "See and manage your data in BigQuery",
        "bigquery.readonly" => "See your data in BigQuery",
        "devstorage.read_only" => "See your data in Google Cloud Storage",
        "devstorage.read_write" => "See and manage your data in Google Cloud Storage",
        "cloud-platform" => "See and change your data in Google Cloud",
        "cloud-platform.read-only" => "See your data in Google Cloud",
        "offline_access" => "Keep access while you are away",
        other => return format!("Use for you: {other}"),
    };
    known.to_owned()
}

/// A list of what scopes allow, who the person is first.
pub(super) fn list(scopes: &[String]) -> Html {
    let mut scopes: Vec<&String> = scopes.iter().collect();
    scopes.sort_by_key(|scope| (!is_sign_in(scope), in_words(scope)));
    scopes.dedup_by_key(|scope| in_words(scope));
    let lines = scopes.iter().map(|scope| format!("<li>{}</li>", text(in_words(scope))));
    Html(format!("<ul class=\"plain\">{}</ul>", lines.collect::<String>()))
}

/// A box to tick for each scope.
pub(super) fn boxes(scopes: &[String], ticked: bool) -> Html {
    let checked = if ticked { " checked" } else { "" };
    let boxes = scopes.iter().map(|scope| {
        format!(
            "<label><input type=\"checkbox\" name=\"scopes\" value=\"{}\"{checked}><span>{}</span></label>",
            text(scope),
            text(in_words(scope))
        )
    });
    Html(boxes.collect())
}

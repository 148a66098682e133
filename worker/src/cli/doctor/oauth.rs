//! The OAuth client: its type, its redirect URIs, and whether its provider takes
//! it. No user's secret is sent: the refresh token that is tried is made up.

use std::path::Path;
use std::time::Duration;

use shared::adapters::HttpTokenEndpoint;

use shared::ports::Limits;
use shared::{ClientKind, ClientQuestion, OAuthClient, ask_about_client, is_loopback};
use url::Url;

use super::super::connect::read_secret;
use super::finding::Checks;

const LIMITS: Limits = Limits { connect: Duration::from_secs(5), answer: Duration::from_secs(10) };
const CONSOLE: &str = "https://console.cloud.google.com/apis/credentials";

/// Also the client, where its file can be read.
pub(super) async fn check(
    path: Option<&Path>,
    public_url: Option<&Url>,
    http: &reqwest::Client,
) -> (Checks, Option<OAuthClient>) {
    let mut checks = Checks::of("OAuth client");
    let Some(path) = path else {
        checks.skip_for("file", "none is named", "set --client (FLEET_OAUTH_CLIENT)");
        return (checks, None);
    };
    let read = read_secret(path).map_err(|e| e.to_string()).and_then(|content| {
        OAuthClient::from_json(&content).map_err(|e| format!("{}: {e}", path.display()))
    });
    let client = match read {
        Ok(client) => client,
        Err(why) => {
            let fix = format!("download the JSON of an OAuth client ID from {CONSOLE}");
            checks.fail("file", why, fix);
            return (checks, None);
        }
    };
    checks.ok("file", client.client_id());
    redirects(&client, public_url, &mut checks);
    accepted(&client, http, &mut checks).await;
    (checks, Some(client))
}

fn redirects(client: &OAuthClient, public_url: Option<&Url>, checks: &mut Checks) {
    let kind = match client.kind() {
        ClientKind::Installed => "Desktop app, for `fleet login`",
        ClientKind::Web => "Web application, for `fleet web`",
    };
    let Some(public_url) = public_url else {
        checks.ok("type", kind);
        checks.skip_for(
            "redirect URI",
            "no public address is named",
            "set --public-url (FLEET_PUBLIC_URL) to where browsers reach `fleet web`",
        );
        return;
    };
    if client.kind() == ClientKind::Installed && is_loopback(public_url) {
        checks.ok("type", kind);
        checks.ok("redirect URI", format!("{public_url} is a loopback address, which needs none"));
        return;
    }
    if client.kind() == ClientKind::Installed {
        checks.fail(
            "type",
            format!("{kind}; it cannot redirect to {public_url}"),
            format!("create an OAuth client ID of type \"Web application\" at {CONSOLE}"),
        );
        return;
    }
    checks.ok("type", kind);
    let Ok(callback) = public_url.join("/oauth/callback") else {
        checks.fail("redirect URI", format!("{public_url} has no path"), "correct --public-url");
        return;
    };
    if client.redirect_uris().iter().any(|uri| uri == callback.as_str()) {
        checks.ok("redirect URI", callback.as_str());
    } else {
        checks.fail(
            "redirect URI",
            format!("the file does not list {callback}"),
            format!(
                "add it under \"Authorized redirect URIs\" of {} at {CONSOLE}, and download the JSON again",
                client.client_id()
            ),
        );
    }
}

async fn accepted(client: &OAuthClient, http: &reqwest::Client, checks: &mut Checks) {
    const CHECK: &str = "accepted";
    let uri = client.token_uri();
    let endpoint = match HttpTokenEndpoint::new(client, http.clone()) {
        Ok(endpoint) => endpoint,
        Err(why) => {
            checks.fail(CHECK, format!("token_uri {uri}: {why}"), "download the JSON again");
            return;
        }
    };
    match ask_about_client(&endpoint, LIMITS).await {
        ClientQuestion::Accepted => {
            checks.ok(CHECK, format!("{uri} knows the client, and refused a made-up grant"));
        }
        ClientQuestion::Code { why, .. } => checks.fail(
            CHECK,
            why.to_string(),
            format!("download the JSON again, or reset the client's secret, at {CONSOLE}"),
        ),
        ClientQuestion::Undecided(error) => checks.fail(
            "reached",
            format!("{uri} gives no answer that counts: {error}"),
            format!("see that {uri} can be reached from here: egress rules, proxy, DNS"),
        ),
        ClientQuestion::Granted => checks.warn(
            CHECK,
            format!("{uri} granted a token for a made-up refresh token"),
            "this is no identity provider; check token_uri in the client's file",
        ),
    }
}

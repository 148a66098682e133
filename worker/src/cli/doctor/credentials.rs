//! Application Default Credentials: whether there are any, and whose.

use std::time::Duration;

use google_cloud_auth::credentials::Builder;
use http::Extensions;
use serde_json::Value;

use super::super::environment::Place;
use super::super::google_access::{self, HOW, METADATA_LIMIT};
use super::finding::Checks;

/// Bound on obtaining a token.
const TIME_LIMIT: Duration = Duration::from_secs(15);
const METADATA: &str = "/computeMetadata/v1/instance/service-accounts/default/email";

/// Also whether Google's services can be asked at all.
pub(super) async fn check(place: &Place, http: &reqwest::Client) -> (Checks, bool) {
    let mut checks = Checks::of("credentials");
    if place.emulators.is_some() {
        checks.skip("present", "emulators take none");
        return (checks, true);
    }
    let obtained = tokio::time::timeout(TIME_LIMIT, async {
        google_access::find().await.map_err(|e| e.to_string())?;
        let credentials = Builder::default().build().map_err(|e| e.to_string())?;
        credentials.headers(Extensions::new()).await.map(drop).map_err(|e| e.to_string())
    });
    // Asked at the same time, since each may have to wait for a metadata server.
    let (obtained, identity) = tokio::join!(obtained, identity(http));
    let result = obtained.unwrap_or_else(|_late| Err(format!("no token within {TIME_LIMIT:?}")));
    let whose = identity.unwrap_or_else(|| "of an identity that they do not tell".to_owned());
    match result {
        Ok(()) => checks.ok("present", whose),
        Err(why) => checks.fail("present", format!("no token can be had: {why}"), HOW),
    }
    let usable = checks.findings.iter().all(|f| f.status == super::Status::Ok);
    (checks, usable)
}

/// Whose the credentials are, as far as they tell.
async fn identity(http: &reqwest::Client) -> Option<String> {
    match identity_of_file() {
        Some(identity) => Some(identity),
        None => identity_of_machine(http).await,
    }
}

/// Whose the credentials file is. Reads nothing secret out of it.
fn identity_of_file() -> Option<String> {
    let path = google_access::file()?;
    let file: Value = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
    let kind = file["type"].as_str()?;
    Some(describe(kind, &file))
}

fn describe(kind: &str, file: &Value) -> String {
    let text = |field: &str| file[field].as_str().unwrap_or("?").to_owned();
    match kind {
        "service_account" => format!("service account {} by a key file", text("client_email")),
        "authorized_user" => "a person's, by gcloud".to_owned(),
        "impersonated_service_account" => {
            let url = text("service_account_impersonation_url");
            let email = url.rsplit('/').next().unwrap_or_default();
            format!("service account {} by impersonation", email.split(':').next().unwrap_or("?"))
        }
        "external_account" => format!("a federated identity of {}", text("audience")),
        other => format!("of type {other}"),
    }
}

async fn identity_of_machine(http: &reqwest::Client) -> Option<String> {
    let url = format!("http://{}{METADATA}", google_access::metadata_host());
    let request = http.get(url).header("Metadata-Flavor", "Google").timeout(METADATA_LIMIT);
    let answer = request.send().await.ok()?.error_for_status().ok()?;
    let email = answer.text().await.ok()?;
    Some(format!("service account {} of this machine", email.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tells_whose_without_secrets() {
        for (file, says) in [
            (
                json!({"type": "service_account", "client_email": "w@p.test", "private_key": "fake-k"}),
                "service account w@p.test by a key file",
            ),
            (
                json!({"type": "authorized_user", "refresh_token": "fake-r"}),
                "a person's, by gcloud",
            ),
            (
                json!({
                    "type": "impersonated_service_account",
                    "service_account_impersonation_url":
                        "https://x.test/v1/projects/-/serviceAccounts/w@p.test:generateAccessToken",
                    "source_credentials": {"refresh_token": "fake-r"},
                }),
                "service account w@p.test by impersonation",
            ),
            (json!({"type": "new"}), "of type new"),
        ] {
            assert_eq!(describe(file["type"].as_str().unwrap(), &file), says);
        }
    }
}

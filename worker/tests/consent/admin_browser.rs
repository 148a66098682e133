//! The operators' pages in Chromium: clicked through, looked at, and checked by axe-core.

use super::admin::Pages;
use super::browser::{Eyes, eyes};
use super::dev::Dev;

#[tokio::test]
async fn an_operator_clicks_through_everything() {
    let Some((_driver, eyes)) = eyes().await else { return };
    let Eyes { browser, .. } = &eyes;
    let dev = Dev::start().await;
    let pages = Pages::start(&dev).await;
    dev.park("user-1", &["https://www.googleapis.com/auth/drive.readonly"], 3).await;
    dev.block("user-2").await;
    browser.go(&pages.url).await;
    eyes.says("Waiting jobs 3").await;
    eyes.says("Dead letters").await;
    eyes.see("operators-overview").await;

    browser.write("//input[@name='begins']", "user-").await;
    browser.press("Find").await;
    eyes.says("admin_policy").await;
    eyes.see("operators-users").await;

    browser.press("user-1").await;
    eyes.says("waits-0").await;
    eyes.says("scopes_missing: ").await;
    eyes.see("operators-user").await;
    browser.press("Resume what is due").await;
    eyes.says("No waiting job is due").await;
    browser.click("//summary[contains(.,'Drop them')]").await;
    browser.click("//summary[contains(.,'Revoke this user')]").await;
    eyes.see("operators-user-actions").await;
    browser.press("Drop all waiting jobs").await;
    eyes.says("3 jobs were dropped.").await;
    browser.click("//summary[contains(.,'Revoke this user')]").await;
    browser.press("Revoke and delete").await;
    eyes.says("The grant has ended at the provider, and the record is deleted.").await;
    eyes.see("operators-user-gone").await;

    browser.go(&format!("{}/users?state=blocked", pages.url)).await;
    browser.press("user-2").await;
    eyes.says("blocked").await;
    eyes.see("operators-user-blocked").await;
    browser.go(&format!("{}/nothing", pages.url)).await;
    eyes.see("operators-not-found").await;
    eyes.browser.quit().await;
}

//! The pages in Chromium: clicked through, looked at, and checked by axe-core.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::dev::{Dev, Gate};
use super::webdriver::{Browser, Driver};

/// What keeps this test from running, said plainly.
fn left_out(what: &str) {
    assert_ne!(
        std::env::var("FLEET_REQUIRE_BROWSER").as_deref(),
        Ok("1"),
        "{what}, and FLEET_REQUIRE_BROWSER=1"
    );
    // Past the capture of test output: a passing run must not hide it.
    drop(writeln!(std::io::stderr(), "LEFT OUT consent::browser: {what}; see tests/web/README.md"));
}

/// `target/screenshots`, wherever cargo builds.
fn screenshots() -> PathBuf {
    let target = Path::new(super::dev::FLEET).ancestors().nth(2).unwrap().join("screenshots");
    std::fs::create_dir_all(&target).unwrap();
    target
}

/// A browser that looks closely.
pub(crate) struct Eyes {
    pub(crate) browser: Browser,
    axe: Option<String>,
}

/// `None`, and said so, where there is no browser.
pub(crate) async fn eyes() -> Option<(Driver, Eyes)> {
    let Some(driver) = Driver::start().await else {
        left_out("chromedriver is not installed, so no page was opened in a browser");
        return None;
    };
    let axe =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/web/node_modules/axe-core/axe.min.js");
    let axe = std::fs::read_to_string(axe).ok();
    if axe.is_none() {
        left_out("axe-core is not installed, so accessibility was not checked");
    }
    let browser = driver.browser().await;
    Some((driver, Eyes { browser, axe }))
}

impl Eyes {
    /// Screenshots in every form, and no serious accessibility problem in any.
    pub(crate) async fn see(&self, name: &str) {
        for (width, form) in [(1280, "desktop"), (390, "phone")] {
            for (dark, scheme) in [(false, "light"), (true, "dark")] {
                self.browser.look(width, dark).await;
                let file = screenshots().join(format!("{name}-{form}-{scheme}.png"));
                std::fs::write(file, self.browser.picture().await).unwrap();
                self.check(&format!("{name} {form} {scheme}")).await;
                let wide = "return document.documentElement.scrollWidth > innerWidth";
                let wide = self.browser.run(wide, json!([])).await;
                assert_eq!(wide, json!(false), "{name} {form} scrolls sideways");
            }
        }
    }

    async fn check(&self, what: &str) {
        let Some(axe) = &self.axe else { return };
        let script = format!(
            "{axe};\nreturn axe.run().then(r => r.violations.filter(v => ['serious','critical'].includes(v.impact)).map(v => v.id + ': ' + v.nodes.map(n => n.html).join(' ')));"
        );
        let found = self.browser.run(&script, json!([])).await;
        assert_eq!(found, json!([]), "{what}");
    }

    pub(crate) async fn says(&self, text: &str) {
        let shown = self.browser.text().await;
        assert!(shown.contains(text), "{text:?} is not on {}:\n{shown}", self.browser.url().await);
    }

    async fn choose(&self, account: &str) {
        self.browser.click(&format!("//input[@value='{account}']")).await;
    }
}

#[tokio::test]
async fn a_person_clicks_through_everything() {
    let Some((driver, eyes)) = eyes().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let logo = folder.path().join("logo.svg");
    let drawn = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'><circle cx='16' cy='16' r='14' fill='#b3541e'/></svg>";
    std::fs::write(&logo, drawn).unwrap();
    let dev = Dev::start_with(&[
        "--app-name=Acme Reports",
        &format!("--logo={}", logo.display()),
        "--privacy-url=https://acme.example/privacy",
        "--terms-url=https://acme.example/terms",
        "--support-email=help@acme.example",
    ])
    .await;
    let browser = &eyes.browser;
    browser.go(&dev.url("/")).await;
    eyes.says("Acme Reports").await;
    eyes.says("Help: help@acme.example").await;
    let drawn = "return document.querySelector('.brand img').naturalWidth > 0";
    assert_eq!(browser.run(drawn, json!([])).await, json!(true), "the logo is shown");
    eyes.see("home").await;

    // Deny.
    browser.press("Sign in with your account").await;
    eyes.see("provider").await;
    browser.press("Cancel").await;
    eyes.says("You did not allow access").await;
    eyes.see("denied").await;

    // Sign in.
    browser.press("Start again").await;
    eyes.choose("guest-1").await;
    browser.press("Allow").await;
    assert_eq!(browser.url().await, dev.url("/account"));
    eyes.says("Guest 1").await;
    eyes.says("You are connected.").await;
    eyes.see("account").await;

    browser.press("Test it").await;
    eyes.says("It works: the provider says that this is Guest 1.").await;
    browser.press("Queue a test job").await;
    eyes.says("The test job is done: a worker acted for you").await;
    eyes.see("account-test-job").await;

    // Nothing is ticked beforehand. Allow some of two, then the rest.
    browser.press("Grant more access").await;
    eyes.says("Tick at least one box").await;
    for scope in ["tasks", "drive.readonly"] {
        browser.click(&format!("//input[contains(@value,'{scope}')]")).await;
    }
    browser.press("Grant more access").await;
    browser.click("//input[contains(@value,'drive.readonly')]").await;
    browser.press("Allow").await;
    eyes.says("did not allow everything").await;
    eyes.says("See, change and delete your tasks").await;
    eyes.see("account-some").await;
    browser.click("//section[@aria-labelledby='more']//input[contains(@value,'drive')]").await;
    browser.press("Grant more access").await;
    browser.press("Allow").await;
    eyes.says("You are connected.").await;
    assert!(!browser.text().await.contains("Grant more access"));

    // Allow less.
    browser.click("//summary[text()='Allow less']").await;
    browser.click("//summary[text()='Technical details']").await;
    eyes.says("https://www.googleapis.com/auth/tasks").await;
    eyes.see("account-details").await;
    browser.click("//section[@aria-labelledby='granted']//input[contains(@value,'drive')]").await;
    browser.press("Allow less").await;
    eyes.see("provider-less").await;
    browser.press("Allow").await;
    eyes.says("You are connected.").await;
    let (_, shown) = dev.fleet(&["users", "show", "guest-1"]).await;
    assert!(shown.contains("auth/tasks") && !shown.contains("drive.readonly"), "{shown}");

    // Cancel while signed in, and an address that is none, lead back.
    browser.go(&dev.url("/oauth/start")).await;
    browser.press("Cancel").await;
    eyes.says("You did not allow access").await;
    eyes.see("denied-signed-in").await;
    browser.press("Back to your account").await;
    browser.go(&dev.url("/nothing")).await;
    eyes.see("not-found-signed-in").await;
    browser.press("Back to your account").await;
    assert_eq!(browser.url().await, dev.url("/account"));

    // A job waits for access that was not given, and goes on with it.
    dev.park("guest-1", &["https://www.googleapis.com/auth/drive.readonly"], 2).await;
    browser.go(&dev.url("/account")).await;
    eyes.says("2 jobs wait").await;
    eyes.says("They need:").await;
    eyes.says("See and download your files in Google Drive").await;
    eyes.see("account-waiting").await;
    browser.press("Allow and go on").await;
    browser.press("Allow").await;
    eyes.says("You are connected. 2 waiting jobs go on.").await;
    eyes.see("account-going-on").await;

    // The same callback again, and in another browser.
    browser.go(&dev.url("/oauth/start")).await;
    let asked = url::Url::parse(&browser.url().await).unwrap();
    let state = asked.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
    let callback = dev.url(&format!("/oauth/callback?code=fake-code&state={state}"));
    let other = driver.browser().await;
    other.go(&callback).await;
    assert!(other.text().await.contains("not started in this browser"));
    other.quit().await;
    eyes.choose("guest-1").await;
    browser.press("Allow").await;
    browser.go(&callback).await;
    eyes.says("Signing in failed").await;
    eyes.see("replayed").await;

    // The provider refuses for a reason that passes: nothing is lost.
    dev.block("guest-1").await;
    browser.go(&dev.url("/account")).await;
    eyes.says("On hold").await;
    eyes.says("Your access is on hold").await;
    eyes.says("administrator").await;
    eyes.says("Put on hold").await;
    let main = browser.run("return document.querySelectorAll('.main').length", json!([])).await;
    assert_eq!(main, json!(1), "one primary action");
    eyes.see("account-on-hold").await;
    browser.press("Connect again").await;
    browser.press("Allow").await;
    eyes.says("You are connected.").await;

    // The bucket answers nobody: the page says so while a person still looks at it.
    let storage = Gate::before(dev.get("STORAGE_EMULATOR_HOST")).await;
    let grpc = Gate::before(dev.get("STORAGE_EMULATOR_HOST_GRPC")).await;
    let (_pages, behind) = dev.pages_behind(&storage, &grpc).await;
    browser.go(&format!("{behind}/account")).await;
    eyes.says("Guest 1").await;
    grpc.shut();
    browser.go(&format!("{behind}/account")).await;
    eyes.says("Guest 1").await;
    storage.shut();
    browser.press("Test it").await;
    eyes.says("Nothing was changed; try again in a minute.").await;
    browser.go(&format!("{behind}/account")).await;
    eyes.says("Your account cannot be shown at the moment. Try again in a minute.").await;
    eyes.see("bucket-down").await;
    browser.go(&format!("{behind}/")).await;
    eyes.says("Your account cannot be shown at the moment. Try again in a minute.").await;
    browser.press("Try again").await;
    assert_eq!(browser.url().await, format!("{behind}/account"));
    browser.go(&dev.url("/account")).await;
    eyes.says("Guest 1").await;

    // The provider ends the access: one thing to do.
    assert!(dev.revoke_at_provider("guest-1").await);
    dev.expire("guest-1").await;
    assert!(!dev.fleet(&["token", "guest-1"]).await.0, "it is noticed");
    browser.go(&dev.url("/account")).await;
    eyes.says("Your access has ended").await;
    eyes.says("Access ended just now.").await;
    let main = browser.run("return document.querySelectorAll('.main').length", json!([])).await;
    assert_eq!(main, json!(1), "one primary action");
    eyes.see("account-ended").await;
    browser.press("Connect again").await;
    browser.press("Allow").await;
    eyes.says("You are connected.").await;
    let (_, shown) = dev.fleet(&["users", "show", "guest-1"]).await;
    assert!(shown.contains("auth/tasks") && shown.contains("drive.readonly"), "{shown}");

    browser.click("//summary[contains(.,'Disconnect')]").await;
    eyes.see("account-disconnect").await;
    browser.press("Disconnect").await;
    eyes.says("You are disconnected.").await;
    assert!(!dev.fleet(&["users", "show", "guest-1"]).await.0, "the record is gone");
    eyes.see("disconnected").await;
    browser.go(&dev.url("/nothing")).await;
    eyes.see("not-found").await;
    eyes.browser.quit().await;
}

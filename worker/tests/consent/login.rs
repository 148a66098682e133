//! `fleet login` in a pseudo-terminal.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tokio::sync::mpsc;

use super::dev::{Dev, FLEET};
use super::person::Person;

/// A program on a terminal of its own.
struct Terminal {
    child: std::process::Child,
    keyboard: std::fs::File,
    screen: mpsc::UnboundedReceiver<String>,
    seen: String,
}

impl Terminal {
    fn start(dev: &Dev, args: &[&str], folder: &std::path::Path) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs =
            rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let child = Command::new(FLEET)
            .args(args)
            .envs(dev.variables())
            .env("BROWSER", "true")
            .current_dir(folder)
            .stdin(Stdio::from(theirs.try_clone().unwrap()))
            .stdout(Stdio::from(theirs.try_clone().unwrap()))
            .stderr(Stdio::from(theirs))
            .spawn()
            .unwrap();
        let keyboard = std::fs::File::from(ours);
        let mut reader = keyboard.try_clone().unwrap();
        let (sender, screen) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            // The terminal's end is an error on Linux.
            while let Ok(n @ 1..) = reader.read(&mut chunk) {
                if sender.send(String::from_utf8_lossy(&chunk[..n]).into_owned()).is_err() {
                    break;
                }
            }
        });
        Self { child, keyboard, screen, seen: String::new() }
    }

    /// The address that it shows, once `after` is on the screen as well.
    async fn address(&mut self, after: &str) -> String {
        while !(self.seen.contains(after) && self.seen.contains("http")) {
            let more = self.screen.recv().await;
            self.seen.push_str(&more.unwrap_or_else(|| panic!("it ended:\n{}", self.seen)));
        }
        let start = self.seen.find("    http").unwrap() + 4;
        self.seen[start..].split_whitespace().next().unwrap().to_owned()
    }

    /// All that it showed, and whether it ended well.
    async fn end(mut self) -> (bool, String) {
        while let Some(more) = self.screen.recv().await {
            self.seen.push_str(&more);
        }
        (self.child.wait().unwrap().success(), self.seen)
    }
}

#[tokio::test]
async fn by_a_loopback_redirect_into_a_private_file() {
    let dev = Dev::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::start(&dev, &["login", "-u", "me.json"], folder.path());
    let page = terminal.address("Waiting").await;
    let mut person = Person::new();
    let back = person.decide(&page, "guest-1", Some(&[])).await;
    // Something else knocks first and is not taken for the answer.
    let stray = back.split('?').next().unwrap().to_owned() + "?code=x&state=y";
    assert_eq!(person.get(&stray).await.status, 400);
    let told = person.get(&back).await;
    assert!(told.body.contains("You are signed in"), "{}", told.body);
    let (fine, shown) = terminal.end().await;
    assert!(fine, "{shown}");
    let (_, profile) = shown.split_once("Profile:").unwrap();
    let profile: serde_json::Value = serde_json::from_str(profile).unwrap();
    assert_eq!(profile["sub"], "guest-1");
    assert!(!shown.contains("fake-"), "no secret on the screen: {shown}");
    let file = folder.path().join("me.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    // It is there now: used, and not asked for again.
    let again = Terminal::start(&dev, &["login", "-u", "me.json"], folder.path());
    let (fine, shown) = again.end().await;
    assert!(fine && shown.starts_with("Profile:"), "{shown}");
}

#[tokio::test]
async fn by_pasting_the_address_into_an_object_and_a_code_into_the_store() {
    let dev = Dev::start().await;
    let folder = tempfile::tempdir().unwrap();
    let object = format!("{}:people/me.json", dev.get("FLEET_BUCKET"));
    for (user, whole) in [(object.as_str(), true), ("somebody", false)] {
        let args = ["login", "--no-browser", "-u", user];
        let mut terminal = Terminal::start(&dev, &args, folder.path());
        let page = terminal.address("paste it here").await;
        let mut person = Person::new();
        let back = person.decide(&page, "guest-2", Some(&[])).await;
        let address = url::Url::parse(&back).unwrap();
        let code = address.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned();
        let pasted = if whole { back.clone() } else { code };
        writeln!(terminal.keyboard, "{pasted}").unwrap();
        let (fine, shown) = terminal.end().await;
        assert!(fine && shown.contains("guest-2@example.com"), "{shown}");
    }
    assert!(dev.fleet(&["profile", "somebody"]).await.0);
    let (fine, told) = dev.fleet(&["users", "revoke", "somebody"]).await;
    assert!(fine && told.contains("revoked and deleted"), "{told}");
}

#[tokio::test]
async fn a_denial_leaves_nothing() {
    let dev = Dev::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::start(&dev, &["login", "-u", "me.json"], folder.path());
    let page = terminal.address("Waiting").await;
    let mut person = Person::new();
    let back = person.decide(&page, "guest-1", None).await;
    assert!(person.get(&back).await.body.contains("You cancelled"));
    let (fine, shown) = terminal.end().await;
    assert!(!fine && shown.contains("You cancelled"), "{shown}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

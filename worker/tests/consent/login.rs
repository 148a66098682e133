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
        Self::start_beside("true", dev, args, folder)
    }

    /// With a program that is taken for the browser.
    fn start_beside(browser: &str, dev: &Dev, args: &[&str], folder: &std::path::Path) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs =
            rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let child = Command::new(FLEET)
            .args(args)
            .envs(dev.variables())
            .env("BROWSER", browser)
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

    /// Waits until it shows this.
    async fn shows(&mut self, text: &str) {
        while !self.seen.contains(text) {
            let more = self.screen.recv().await;
            self.seen.push_str(&more.unwrap_or_else(|| panic!("it ended:\n{}", self.seen)));
        }
    }

    /// The code that it ended with, and all that it showed.
    async fn code(mut self) -> (Option<i32>, String) {
        while let Some(more) = self.screen.recv().await {
            self.seen.push_str(&more);
        }
        (self.child.wait().unwrap().code(), self.seen)
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
    let (fine, told) = dev.fleet(&["users", "revoke", "somebody", "--yes"]).await;
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

/// Another account is named, and replaces nothing unless it is meant to.
#[tokio::test]
async fn another_account_is_shown_and_refused() {
    let dev = Dev::start().await;
    let folder = tempfile::tempdir().unwrap();
    let tasks = "https://www.googleapis.com/auth/calendar";
    let args = ["login", "-u", "user-1", "--scope", tasks];
    let mut terminal = Terminal::start(&dev, &args, folder.path());
    let page = terminal.address("Waiting").await;
    let mut person = Person::new();
    let back = person.decide(&page, "guest-1", Some(&[tasks])).await;
    assert_eq!(person.get(&back).await.status, 400);
    let (code, shown) = terminal.code().await;
    assert_eq!(code, Some(1), "{shown}");
    for part in ["Guest 1 <guest-1@example.com> (guest-1)", "user-1", "--replace"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let (_, profile) = dev.fleet(&["profile", "user-1"]).await;
    assert!(profile.contains("user-1@example.com"), "{profile}");

    let mut terminal =
        Terminal::start(&dev, &["login", "-u", "user-1", "--replace"], folder.path());
    let page = terminal.address("Waiting").await;
    let back = person.decide(&page, "guest-1", Some(&[])).await;
    assert_eq!(person.get(&back).await.status, 200);
    let (fine, shown) = terminal.end().await;
    assert!(fine && shown.contains("guest-1@example.com"), "{shown}");
}

/// What is asked for and not granted is told by the exit code; what was allowed stays.
#[tokio::test]
async fn a_scope_that_is_not_granted_is_exit_code_3_and_none_is_lost() {
    let dev = Dev::start().await;
    let folder = tempfile::tempdir().unwrap();
    let [drive, calendar] =
        ["drive", "calendar"].map(|name| format!("https://www.googleapis.com/auth/{name}"));
    for (scope, allow, code) in [(&drive, true, 0), (&calendar, false, 3), (&calendar, true, 0)] {
        let args = ["login", "-u", "me.json", "--scope", scope];
        let mut terminal = Terminal::start(&dev, &args, folder.path());
        let page = terminal.address("Waiting").await;
        let mut person = Person::new();
        let asked = url::Url::parse(&page).unwrap();
        let asked = asked.query_pairs().find(|(name, _)| name == "scope").unwrap().1.into_owned();
        assert!(asked.contains(&drive) && asked.contains(scope), "the union: {asked}");
        let allowed: &[&str] = if allow { &[&drive, scope] } else { &[&drive] };
        let back = person.decide(&page, "guest-1", Some(allowed)).await;
        assert_eq!(person.get(&back).await.status, 200);
        let (ended, shown) = terminal.code().await;
        assert_eq!(ended, Some(code), "{shown}");
        assert!(shown.contains("Profile:") && (code == 0 || shown.contains(scope)), "{shown}");
    }
    let args = ["login", "-u", "me.json", "--only", "--scope", &calendar];
    let mut terminal = Terminal::start(&dev, &args, folder.path());
    let page = terminal.address("Waiting").await;
    let back = Person::new().decide(&page, "guest-1", Some(&[&calendar])).await;
    assert_eq!(Person::new().get(&back).await.status, 200);
    assert!(terminal.end().await.0);
    let file = std::fs::read_to_string(folder.path().join("me.json")).unwrap();
    assert!(file.contains(&calendar) && !file.contains(&format!("{drive}\"")), "{file}");
}

/// A new OAuth client is a reason to ask the person, whose grant is another client's.
#[tokio::test]
async fn a_login_moves_a_person_to_another_client() {
    let dev = Dev::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("me.json");
    let stored = || -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap()
    };
    for moves in [false, true] {
        if moves {
            let mut record = stored();
            record["client_id"] = "other".into();
            std::fs::write(&file, record.to_string()).unwrap();
        }
        let mut terminal = Terminal::start(&dev, &["login", "-u", "me.json"], folder.path());
        let page = terminal.address("Waiting").await;
        let back = Person::new().decide(&page, "guest-1", Some(&[])).await;
        assert_eq!(Person::new().get(&back).await.status, 200);
        let (code, shown) = terminal.code().await;
        assert_eq!(code, Some(0), "{shown}");
        assert_eq!(shown.contains("another OAuth client"), moves, "{shown}");
        assert_ne!(stored()["client_id"], "other");
    }
}

/// Empty lines and answers to something else are asked for again, and wrapped lines are one.
#[tokio::test]
async fn a_slip_of_the_paste_is_asked_for_again() {
    let dev = Dev::start().await;
    let folder = tempfile::tempdir().unwrap();
    let args = ["login", "--no-browser", "-u", "me.json"];
    let mut terminal = Terminal::start(&dev, &args, folder.path());
    let page = terminal.address("paste it here").await;
    let back = Person::new().decide(&page, "guest-2", Some(&[])).await;
    writeln!(terminal.keyboard).unwrap();
    writeln!(terminal.keyboard, "https://example.com/").unwrap();
    terminal.shows("Paste it again").await;
    writeln!(terminal.keyboard, "?state=other&code=fake").unwrap();
    terminal.shows("another sign-in").await;
    let bare = back.strip_prefix("http://").unwrap();
    let (begins, ends) = bare.split_at(bare.find("code=").unwrap() + "code=".len() + 4);
    terminal.keyboard.write_all(format!("'{begins}\n{ends}'\n").as_bytes()).unwrap();
    let (fine, shown) = terminal.end().await;
    assert!(fine && shown.contains("guest-2@example.com"), "{shown}");
}

/// A browser opens connections ahead of need; they hold nothing up.
#[tokio::test]
async fn idle_connections_hold_nothing_up() {
    let dev = Dev::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::start(&dev, &["login", "-u", "me.json"], folder.path());
    let page = terminal.address("Waiting").await;
    let back = Person::new().decide(&page, "guest-1", Some(&[])).await;
    let address = url::Url::parse(&back).unwrap();
    let address = format!("127.0.0.1:{}", address.port().unwrap());
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(std::net::TcpStream::connect(&address).unwrap());
    }
    assert_eq!(Person::new().get(&back).await.status, 200);
    let (fine, shown) = terminal.end().await;
    assert!(fine, "{shown}");
    drop(idle);
}

/// Every local user can read the arguments of a browser: they lead to the provider once.
#[tokio::test]
async fn a_browser_is_told_no_address_that_others_could_use() {
    let dev = Dev::start().await;
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("arguments");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let browser = folder.path().join("browser");
    std::fs::write(&browser, format!("#!/bin/sh\necho \"$@\" > '{}'\n", pipe.display())).unwrap();
    std::fs::set_permissions(&browser, std::fs::Permissions::from_mode(0o700)).unwrap();
    let start = || {
        let browser = browser.to_str().unwrap();
        Terminal::start_beside(browser, &dev, &["login", "-u", "me.json"], folder.path())
    };
    let told = || {
        let pipe = pipe.clone();
        tokio::task::spawn_blocking(move || std::fs::read_to_string(pipe).unwrap())
    };

    let mut terminal = start();
    let page = terminal.address("Waiting").await;
    let door = told().await.unwrap().trim().to_owned();
    assert!(door.starts_with("http://127.0.0.1:") && !door.contains('?'), "{door}");
    let mut person = Person::new();
    let led = person.get(&door).await;
    assert_eq!((led.status, led.location()), (303, page));
    let back = person.decide(&led.location(), "guest-1", Some(&[])).await;
    assert_eq!(person.get(&back).await.status, 200);
    let (fine, shown) = terminal.end().await;
    assert!(fine && shown.contains("guest-1@example.com"), "{shown}");

    // Somebody else was faster than the browser: nobody signs in.
    std::fs::remove_file(folder.path().join("me.json")).unwrap();
    let terminal = start();
    let door = told().await.unwrap().trim().to_owned();
    assert_eq!(Person::new().get(&door).await.status, 303);
    let late = Person::new().get(&door).await;
    assert_eq!((late.status, late.location()), (410, String::new()));
    let (fine, shown) = terminal.end().await;
    assert!(!fine && shown.contains("asked for twice"), "{shown}");
    assert!(!folder.path().join("me.json").exists());
}

#[tokio::test]
async fn what_cannot_be_undone_asks() {
    let dev = Dev::start().await;
    let folder = tempfile::tempdir().unwrap();
    for command in ["delete", "revoke"] {
        let (fine, told) = dev.fleet(&["users", command, "user-1"]).await;
        assert!(!fine && told.contains("--yes"), "{told}");
        let mut terminal = Terminal::start(&dev, &["users", command, "user-1"], folder.path());
        terminal.shows("[y/N]").await;
        writeln!(terminal.keyboard, "n").unwrap();
        let (fine, shown) = terminal.end().await;
        assert!(fine && shown.contains("nothing was changed"), "{shown}");
    }
    let mut terminal = Terminal::start(&dev, &["users", "revoke", "user-1"], folder.path());
    terminal.shows("[y/N]").await;
    writeln!(terminal.keyboard, "y").unwrap();
    let (fine, shown) = terminal.end().await;
    assert!(fine && shown.contains("revoked and deleted"), "{shown}");
}

/// One grant is stored under one ID, and what the provider ended stays ended.
#[tokio::test]
async fn imports_mix_nobody_up() {
    let dev = Dev::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("record.json");
    let path = file.to_str().unwrap();
    let (_, record) = dev.fleet(&["users", "export", "user-1"]).await;
    std::fs::write(&file, &record).unwrap();
    let import = |more: &[&'static str]| {
        let args = [&["users", "import", path, "--user"], more].concat();
        let dev = &dev;
        async move { dev.fleet(&args).await }
    };
    let (fine, told) = import(&["alice"]).await;
    assert!(!fine && told.contains("\"user-1\"") && told.contains("\"alice\""), "{told}");
    let (fine, told) = import(&["alice", "--as-other-user"]).await;
    assert!(!fine && told.contains("is stored here"), "{told}");
    assert!(!dev.fleet(&["users", "show", "alice"]).await.0);
    // A file that names nobody: its access token does.
    let nameless = |record: &str| {
        let whole: serde_json::Value = serde_json::from_str(record).unwrap();
        let nameless = serde_json::json!({
            "refresh_token": whole["refresh_token"], "access_token": whole["access_token"],
            "expiry": whole["expires_at"], "token_type": "Bearer",
        });
        nameless.to_string()
    };
    std::fs::write(&file, nameless(&record)).unwrap();
    let (fine, told) = import(&["alice"]).await;
    assert!(!fine && told.contains("\"user-1\"") && told.contains("\"alice\""), "{told}");
    assert!(!dev.fleet(&["users", "show", "alice"]).await.0);
    let (fine, told) = import(&["user-1"]).await;
    assert!(fine && told.contains("unchanged"), "{told}");
    std::fs::write(&file, &record).unwrap();
    let (fine, told) = import(&["user-1"]).await;
    assert!(fine && told.contains("unchanged"), "{told}");

    assert!(dev.revoke_at_provider("user-1").await);
    // The access token is used until the provider is asked again.
    let member = |shown: &str, name: &str| {
        serde_json::from_str::<serde_json::Value>(shown).unwrap()[name].clone()
    };
    let state = |shown: &str| member(shown, "state");
    dev.expire("user-1").await;
    assert!(!dev.fleet(&["token", "user-1"]).await.0);
    assert_eq!(state(&dev.fleet(&["users", "show", "user-1"]).await.1), "revoked");
    let (fine, told) = import(&["user-1", "--replace"]).await;
    assert!(fine && told.contains("unchanged") && told.contains("users retry"), "{told}");
    assert_eq!(state(&dev.fleet(&["users", "show", "user-1"]).await.1), "revoked");

    // Elsewhere it is taken as it was exported.
    let (_, record) = dev.fleet(&["users", "export", "user-1"]).await;
    std::fs::write(&file, &record).unwrap();
    assert!(dev.fleet(&["users", "delete", "user-1", "--yes"]).await.0);
    let (fine, told) = import(&["alice", "--as-other-user"]).await;
    assert!(fine && told.contains("created"), "{told}");
    assert_eq!(state(&dev.fleet(&["users", "show", "alice"]).await.1), "revoked");

    // Nor does it take the account of the record that it replaces.
    Person::new().sign_in(&dev, "guest-1").await;
    let (_, record) = dev.fleet(&["users", "export", "guest-1"]).await;
    std::fs::write(&file, nameless(&record)).unwrap();
    assert!(dev.fleet(&["users", "delete", "guest-1", "--yes"]).await.0);
    let (fine, told) = import(&["alice"]).await;
    assert!(!fine && told.contains("\"guest-1\"") && told.contains("\"alice\""), "{told}");
    let (fine, told) = import(&["alice", "--as-other-user"]).await;
    assert!(fine && told.contains("replaced"), "{told}");
    assert_eq!(member(&dev.fleet(&["users", "show", "alice"]).await.1, "sub"), "guest-1");
}

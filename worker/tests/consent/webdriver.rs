//! Chromium by the WebDriver protocol (W3C), over a chromedriver of its own.

use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// The key of an element's reference, as the protocol fixes it.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

pub(crate) struct Driver {
    base: String,
    _child: Child,
}

pub(crate) struct Browser {
    http: reqwest::Client,
    session: String,
    _profile: tempfile::TempDir,
}

impl Driver {
    /// `None` when it is not installed.
    pub(crate) async fn start() -> Option<Self> {
        let mut child = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        let mut lines = BufReader::new(child.stdout.take()?).lines();
        while let Some(line) = lines.next_line().await.ok()? {
            if let Some((_, port)) = line.split_once("successfully on port ") {
                let base = format!("http://127.0.0.1:{}", port.trim_end_matches('.'));
                return Some(Self { base, _child: child });
            }
        }
        None
    }

    /// A browser with a profile of its own.
    pub(crate) async fn browser(&self) -> Browser {
        let profile = tempfile::tempdir().unwrap();
        let folder = format!("--user-data-dir={}", profile.path().display());
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            &folder,
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": {"args": args},
        }}});
        let http = reqwest::Client::new();
        let url = format!("{}/session", self.base);
        let answer: Value =
            http.post(url).json(&wanted).send().await.unwrap().json().await.unwrap();
        let id = answer["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("{answer}"));
        let session = format!("{}/session/{id}", self.base);
        Browser { http, session, _profile: profile }
    }
}

impl Browser {
    async fn command(&self, path: &str, body: &Value) -> Value {
        let value = self.attempt(path, body).await;
        assert!(value["error"].is_null(), "{path} {body}: {value}");
        value
    }

    async fn attempt(&self, path: &str, body: &Value) -> Value {
        let request = self.http.post(format!("{}/{path}", self.session)).json(body);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["value"].clone()
    }

    async fn ask(&self, path: &str) -> String {
        let request = self.http.get(format!("{}/{path}", self.session));
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["value"].as_str().unwrap_or_else(|| panic!("{path}: {answer}")).to_owned()
    }

    pub(crate) async fn go(&self, url: &str) {
        self.command("url", &json!({"url": url})).await;
    }

    pub(crate) async fn url(&self) -> String {
        self.ask("url").await
    }

    /// Clicks what this XPath finds, which stays on the page.
    pub(crate) async fn click(&self, xpath: &str) {
        let found = self.command("element", &json!({"using": "xpath", "value": xpath})).await;
        let element = found[ELEMENT].as_str().unwrap();
        self.command(&format!("element/{element}/click"), &json!({})).await;
    }

    /// Types into what this XPath finds.
    pub(crate) async fn write(&self, xpath: &str, text: &str) {
        let found = self.command("element", &json!({"using": "xpath", "value": xpath})).await;
        let element = found[ELEMENT].as_str().unwrap();
        self.command(&format!("element/{element}/value"), &json!({"text": text})).await;
    }

    /// Presses a button that leads to another page, and waits until that is loaded.
    pub(crate) async fn press(&self, button: &str) {
        self.run("document.documentElement.dataset.left = 'yes'", json!([])).await;
        self.click(&format!("//*[self::button or self::a][normalize-space()='{button}']")).await;
        let there = json!({
            "script": "return document.readyState === 'complete' && !document.documentElement.dataset.left",
            "args": [],
        });
        // Each look is a round trip; between two pages it fails.
        for _ in 0..2000 {
            if self.attempt("execute/sync", &there).await == json!(true) {
                return;
            }
        }
        panic!("{button:?} leads nowhere from {}", self.url().await);
    }

    pub(crate) async fn run(&self, script: &str, args: Value) -> Value {
        self.command("execute/sync", &json!({"script": script, "args": args})).await
    }

    pub(crate) async fn text(&self) -> String {
        let text = self.run("return document.body.innerText", json!([])).await;
        text.as_str().unwrap().to_owned()
    }

    /// Screen width and colour scheme from now on.
    pub(crate) async fn look(&self, width: u32, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        let cdp = |cmd: &str, params: Value| json!({"cmd": cmd, "params": params});
        let metrics = json!({
            "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.command("goog/cdp/execute", &cdp("Emulation.setDeviceMetricsOverride", metrics)).await;
        self.command("goog/cdp/execute", &cdp("Emulation.setEmulatedMedia", media)).await;
    }

    /// The whole page as PNG.
    pub(crate) async fn picture(&self) -> Vec<u8> {
        let shot =
            json!({"cmd": "Page.captureScreenshot", "params": {"captureBeyondViewport": true}});
        let shot = self.command("goog/cdp/execute", &shot).await;
        STANDARD.decode(shot["data"].as_str().unwrap()).unwrap()
    }

    pub(crate) async fn quit(self) {
        drop(self.http.delete(&self.session).send().await);
    }
}

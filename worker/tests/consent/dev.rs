//! A running `fleet dev`.

use std::path::Path;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use url::form_urlencoded;

use super::person::Person;

pub(crate) const FLEET: &str = env!("CARGO_BIN_EXE_fleet");

/// What stands before a server, and can be shut.
pub(crate) struct Gate {
    pub(crate) address: String,
    shut: watch::Sender<bool>,
}

impl Gate {
    /// Before the server at `behind`.
    pub(crate) async fn before(behind: &str) -> Self {
        let behind = behind.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (shut, is_shut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (behind, mut is_shut) = (behind.clone(), is_shut.clone());
                tokio::spawn(async move {
                    let carrying = async {
                        let mut server = TcpStream::connect(behind).await?;
                        copy_bidirectional(&mut client, &mut server).await
                    };
                    tokio::select! {
                        biased;
                        _ = is_shut.wait_for(|shut| *shut) => {}
                        _ended = carrying => {}
                    }
                });
            }
        });
        Self { address, shut }
    }

    /// Closes every connection, and every new one at once.
    pub(crate) fn shut(&self) {
        self.shut.send_replace(true);
    }
}

/// Ends with this.
pub(crate) struct Dev {
    environment: Value,
    _child: Child,
}

impl Dev {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With these flags of the pages.
    pub(crate) async fn start_with(pages: &[&str]) -> Self {
        let mut child = Command::new(FLEET)
            .args(["dev", "--json", "--web", "2", "--users", "3"])
            .args(pages.iter().map(|flag| format!("--web-flag={flag}")))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut text = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            text.push_str(&line);
            if line == "}" {
                break;
            }
        }
        let environment = serde_json::from_str(&text).expect("the stack started");
        Self { environment, _child: child }
    }

    pub(crate) fn get(&self, name: &str) -> &str {
        self.environment[name].as_str().unwrap()
    }

    /// The address of the pages.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.get("FLEET_PUBLIC_URL"))
    }

    /// The same path at the other replica of the pages.
    pub(crate) fn elsewhere(&self, url: &str) -> String {
        url.replace(self.get("FLEET_PUBLIC_URL"), self.get("FLEET_PUBLIC_URL_2"))
    }

    /// The variables of this stack.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let map = self.environment.as_object().unwrap();
        map.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned())).collect()
    }

    /// The names of the objects that begin so.
    pub(crate) async fn objects(&self, person: &mut Person, prefix: &str) -> Vec<String> {
        let (origin, bucket) = (self.get("STORAGE_EMULATOR_HOST"), self.get("FLEET_BUCKET"));
        let listing = format!("{origin}/storage/v1/b/{bucket}/o?prefix={prefix}");
        let listing: Value = serde_json::from_str(&person.get(&listing).await.body).unwrap();
        let items = listing["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Parks `count` jobs of `user` that need these scopes, as a worker does.
    pub(crate) async fn park(&self, user: &str, scopes: &[&str], count: usize) {
        let (_, shown) = self.fleet(&["users", "show", user]).await;
        let record: Value = serde_json::from_str(&shown).unwrap();
        let (origin, bucket) = (self.get("STORAGE_EMULATOR_HOST"), self.get("FLEET_BUCKET"));
        for n in 0..count {
            let id = format!("waits-{n}");
            let job = json!({"id": id, "user": user, "kind": "profile"});
            let parked = json!({
                "version": 1, "user": user, "job": id, "kind": "profile", "run": 0,
                "reason": "scopes_missing", "missing_scopes": scopes,
                "scopes": record["scopes"], "grant_id": record["grant_id"],
                "parked_at": "2026-01-01T00:00:00Z", "publish_time": null, "message_id": "1",
                "ordering_key": user, "attributes": {},
                "data": STANDARD.encode(job.to_string()),
            });
            let name = format!("parked%2F{user}%2F{n}-{id}.json");
            let to = format!(
                "{origin}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}&ifGenerationMatch=0"
            );
            let stored =
                reqwest::Client::new().post(to).body(parked.to_string()).send().await.unwrap();
            assert_eq!(stored.status(), 200);
        }
    }

    /// The person removes the app in their account's settings.
    pub(crate) async fn revoke_at_provider(&self, user: &str) -> bool {
        let (fine, record) = self.fleet(&["users", "export", user]).await;
        let record: Value = serde_json::from_str(&record).unwrap();
        let token = record["refresh_token"].as_str().unwrap();
        let form =
            form_urlencoded::Serializer::new(String::new()).append_pair("token", token).finish();
        let request = reqwest::Client::new().post(self.get("FLEET_REVOKE_URL")).body(form);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        fine && request.send().await.unwrap().status() == 200
    }

    /// Lets a user's stored access token expire.
    pub(crate) async fn expire(&self, user: &str) {
        self.rewrite(user, "expires_at", json!("2026-01-01T00:00:00Z")).await;
    }

    /// The provider refuses a user by its administrator's policy, as a worker finds out.
    pub(crate) async fn block(&self, user: &str) {
        let blocked = json!({
            "code": "admin_policy_enforced", "since": "2026-01-01T00:00:00Z",
            "next_try": "2100-01-01T00:00:00Z",
        });
        self.rewrite(user, "blocked", blocked).await;
    }

    /// A user has granted these scopes and no others.
    pub(crate) async fn set_scopes(&self, user: &str, scopes: &[&str]) {
        self.rewrite(user, "scopes", json!(scopes)).await;
    }

    /// Writes a member of a user's record.
    async fn rewrite(&self, user: &str, member: &str, value: Value) {
        let (origin, bucket) = (self.get("STORAGE_EMULATOR_HOST"), self.get("FLEET_BUCKET"));
        let object = format!("{origin}/storage/v1/b/{bucket}/o/tokens%2F{user}.json");
        let http = reqwest::Client::new();
        let stored = http.get(format!("{object}?alt=media")).send().await.unwrap();
        let mut record: Value = serde_json::from_slice(&stored.bytes().await.unwrap()).unwrap();
        record[member] = value;
        let to = format!(
            "{origin}/upload/storage/v1/b/{bucket}/o?uploadType=media&name=tokens%2F{user}.json"
        );
        let stored = http.post(to).body(record.to_string()).send().await.unwrap();
        assert_eq!(stored.status(), 200);
    }

    /// Another replica of the pages, whose sessions are the others', and which finds the
    /// bucket at `storage` and `storage_grpc`. It ends with the child.
    pub(crate) async fn pages_behind(&self, storage: &Gate, grpc: &Gate) -> (Child, String) {
        let key = Path::new(self.get("FLEET_OAUTH_CLIENT")).with_file_name("session.key");
        let mut child = Command::new(FLEET)
            .args(["web", "--listen", "127.0.0.1:0"])
            .envs(self.variables())
            .env("STORAGE_EMULATOR_HOST", format!("http://{}", storage.address))
            .env("STORAGE_EMULATOR_HOST_GRPC", &grpc.address)
            .env("FLEET_SESSION_KEY", key)
            .env("FLEET_PUBLIC_URL", "")
            .env("FLEET_LOG_FORMAT", "gcp")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = loop {
            let line = lines.next_line().await.unwrap().expect("the pages are served");
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(address) = line["address"].as_str() {
                break format!("http://{address}");
            }
        };
        // A full pipe would stop the process.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        (child, url)
    }

    /// `fleet …` on this stack; what it printed.
    pub(crate) async fn fleet(&self, args: &[&str]) -> (bool, String) {
        let output = Command::new(FLEET)
            .args(args)
            .envs(self.variables())
            // As on a terminal: what it prints is told apart from nothing else here.
            .env("FLEET_LOG_FORMAT", "text")
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }
}

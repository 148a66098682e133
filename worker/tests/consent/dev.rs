//! A running `fleet dev`.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

pub(crate) const FLEET: &str = env!("CARGO_BIN_EXE_fleet");

/// Ends with this.
pub(crate) struct Dev {
    environment: Value,
    _child: Child,
}

impl Dev {
    pub(crate) async fn start() -> Self {
        let mut child = Command::new(FLEET)
            .args(["dev", "--json", "--web", "2", "--users", "2"])
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

    /// `fleet …` on this stack; what it printed.
    pub(crate) async fn fleet(&self, args: &[&str]) -> (bool, String) {
        let output = Command::new(FLEET).args(args).envs(self.variables()).output().await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }
}

//! Users of a stage, and how their credentials are stored.

use std::time::Duration;

use anyhow::ensure;
use emulators::google::{self, ClientKind, Google};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{BUCKET, Stage};

const SCOPES: [&str; 4] = ["openid", "email", "profile", "https://www.googleapis.com/auth/tasks"];

impl Stage {
    /// Stores a user whose access token lives for an hour and is `age` old.
    ///
    /// # Errors
    /// When the import fails.
    pub async fn user(&self, sub: &str, age: Duration) -> anyhow::Result<()> {
        let record = self.record_of(sub, Duration::from_secs(3600), age)?;
        self.import(sub, &record).await
    }

    /// Stores a user with a refresh token and no access token, from gcloud's
    /// file.
    ///
    /// # Errors
    /// When the import fails.
    pub async fn user_without_access_token(&self, sub: &str) -> anyhow::Result<()> {
        let file = self.authorized_user(sub);
        self.import(sub, &file).await
    }

    /// Writes gcloud's file of a user who has consented just now.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_authorized_user(&self, sub: &str, path: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(path, self.authorized_user(sub).to_string())?)
    }

    fn authorized_user(&self, sub: &str) -> Value {
        let grant = self.consent(sub);
        let client = self.client();
        json!({
            "type": "authorized_user",
            "client_id": client["installed"]["client_id"],
            "client_secret": "fake-and-unused",
            "refresh_token": grant.refresh_token,
        })
    }

    fn consent(&self, sub: &str) -> google::Grant {
        let user = google::User {
            sub: sub.to_owned(),
            email: format!("{sub}@example.com"),
            name: format!("The user {sub}"),
            ..google::User::default()
        };
        let grant = self.google.add_user(user, SCOPES);
        if let Some(gateway) = &self.gateway {
            gateway.learn(sub, &grant.refresh_token);
        }
        grant
    }

    /// The token record of a user who has consented just now; see [`token_record`].
    fn record_of(&self, sub: &str, life: Duration, age: Duration) -> anyhow::Result<Value> {
        let grant = self.consent(sub);
        let mut record = token_record(&grant, sub, &SCOPES, life, age, &self.google)?;
        record["token_uri"] = self.client()["installed"]["token_uri"].clone();
        Ok(record)
    }

    /// Stores a user with a live access token as the very record, for tests with
    /// more users than commands could import in time.
    ///
    /// # Errors
    /// When the storage server refuses.
    pub async fn write_user(&self, sub: &str, life: Duration) -> anyhow::Result<()> {
        let record = self.record_of(sub, life, Duration::ZERO)?;
        self.write(sub, &record).await
    }

    /// As [`Stage::write_user`], with an access token that lives for an hour and is `age` old.
    ///
    /// # Errors
    /// When the storage server refuses.
    pub async fn write_user_of_age(&self, sub: &str, age: Duration) -> anyhow::Result<()> {
        let record = self.record_of(sub, Duration::from_secs(3600), age)?;
        self.write(sub, &record).await
    }

    /// As [`Stage::write_user`], with an access token that expired an hour ago.
    ///
    /// # Errors
    /// When the storage server refuses.
    pub async fn write_expired_user(&self, sub: &str) -> anyhow::Result<()> {
        self.write_user_of_age(sub, Duration::from_secs(7200)).await
    }

    async fn write(&self, sub: &str, record: &Value) -> anyhow::Result<()> {
        self.cloud.create(BUCKET, &format!("tokens/{sub}.json"), &record.to_string()).await
    }

    async fn import(&self, sub: &str, content: &Value) -> anyhow::Result<()> {
        let file = self.path("import.json");
        std::fs::write(&file, content.to_string())?;
        let file = file.display().to_string();
        let output = self.fleet(&["users", "import", &file, "--user", sub]).await?;
        ensure!(output.code == 0, "import failed: {}", output.stderr);
        Ok(())
    }

    /// A stored token record.
    ///
    /// # Errors
    /// When there is none.
    pub async fn record(&self, user: &str) -> anyhow::Result<Value> {
        let output = self.fleet(&["users", "export", user]).await?;
        ensure!(output.code == 0, "export failed: {}", output.stderr);
        Ok(serde_json::from_str(&output.stdout)?)
    }
}

/// A token record as the fleet stores it, whose token of this `life` is `age` old.
///
/// # Errors
/// When a duration is out of range.
pub fn token_record(
    grant: &google::Grant,
    sub: &str,
    scopes: &[&str],
    life: Duration,
    age: Duration,
    google: &Google,
) -> anyhow::Result<Value> {
    let life = SignedDuration::try_from(life)?;
    // The clock of the test process is the one that the commands look at.
    let now = shared::ports::Clock::wall(&shared::adapters::SystemClock::default());
    let issued: Timestamp = now - SignedDuration::try_from(age)?;
    let client = google.client_json(ClientKind::Installed, &[]);
    Ok(json!({
        "version": 1, "user": sub, "sub": sub, "state": "active", "reason": null,
        "refresh_token": grant.refresh_token, "access_token": grant.access_token,
        "expires_at": issued + life, "expires_in": life.as_secs(),
        "scopes": scopes, "token_uri": client["installed"]["token_uri"],
        "client_id": client["installed"]["client_id"], "grant_id": "g", "write_id": "w",
        "holder": "test", "lease_generation": null, "created_at": issued, "updated_at": issued,
    }))
}

//! Faults that are switched by HTTP, as a test in any language switches them.

use anyhow::Result;
use emulators::google::{self, Google, User};
use emulators::pubsub::{self, PubSub};
use emulators::storage::{self, Storage};
use emulators::switches::Switches;
use reqwest::{Client, Response};
use serde_json::{Value, json};

struct Stand {
    http: Client,
    faults: String,
    pubsub: PubSub,
    storage: Storage,
    google: Google,
    token: String,
}

impl Stand {
    async fn start() -> Result<Self> {
        let pubsub = PubSub::start(pubsub::Config::default()).await?;
        let storage = Storage::start(storage::Config::default()).await?;
        let google = Google::start(google::Config::default()).await?;
        storage.create_bucket("bucket-1")?;
        let user = User { sub: "ann".to_owned(), ..User::default() };
        let token = google.add_user(user, ["openid"]).access_token;
        let switches = Switches::of(&pubsub, &storage, &google);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let faults = format!("http://{}/faults", listener.local_addr()?);
        // Ends with the test's runtime.
        tokio::spawn(async move { axum::serve(listener, switches.routes()).await });
        Ok(Self { http: Client::new(), faults, pubsub, storage, google, token })
    }

    async fn set(&self, fault: &Value) -> Result<Value> {
        let answer = self.http.post(&self.faults).json(fault).send().await?;
        let status = answer.status();
        let told: Value = answer.json().await?;
        anyhow::ensure!(status == 201, "{told}");
        Ok(told)
    }

    async fn upload(&self, name: &str) -> Result<Response> {
        let url = format!("{}/upload/storage/v1/b/bucket-1/o", self.storage.http_origin());
        let url = format!("{url}?uploadType=media&name={name}");
        Ok(self.http.post(url).body("x").send().await?)
    }

    async fn echo(&self) -> Result<Response> {
        let url = format!("{}/v1/echo", self.google.origin());
        Ok(self.http.get(url).bearer_auth(&self.token).send().await?)
    }

    async fn topic(&self) -> Result<Response> {
        let url = format!("http://{}/v1/projects/p/topics/topic", self.pubsub.address());
        Ok(self.http.put(url).body("{}").send().await?)
    }

    async fn on(&self) -> Result<Value> {
        Ok(self.http.get(&self.faults).send().await?.json().await?)
    }
}

#[tokio::test]
async fn each_server_has_its_switches() -> Result<()> {
    let stand = Stand::start().await?;
    let busy = json!({"server": "storage", "fault": "refuse", "status": 503, "on": ["write"], "under": "a/"});
    stand.set(&busy).await?;
    stand
        .set(&json!({"server": "pubsub", "fault": "refuse", "code": "UNAVAILABLE", "times": 1}))
        .await?;
    stand
        .set(&json!({"server": "apis", "fault": "refuse", "status": 403, "about": "ann", "retry_after_s": 7}))
        .await?;
    stand
        .set(&json!({"server": "token", "fault": "refuse", "status": 400, "reason": "invalid_grant", "on": ["token"]}))
        .await?;

    assert_eq!(stand.upload("a/1").await?.status(), 503);
    assert_eq!(stand.upload("b/1").await?.status(), 200);
    assert_eq!(stand.topic().await?.status(), 503);
    assert_eq!(stand.topic().await?.status(), 200);
    let refused = stand.echo().await?;
    assert_eq!(refused.status(), 403);
    assert_eq!(refused.headers()["retry-after"], "7");
    let error = refused.json::<Value>().await?["error"].clone();
    assert_eq!(error["errors"][0]["reason"], "userRateLimitExceeded");
    let token = stand.http.post(format!("{}/token", stand.google.origin()));
    let refused = token.form(&[("grant_type", "refresh_token")]).send().await?;
    assert_eq!(refused.status(), 400);
    assert_eq!(refused.json::<Value>().await?["error"], "invalid_grant");

    let on = stand.on().await?;
    let struck: Vec<_> = on["faults"].as_array().unwrap().iter().map(|f| &f["struck"]).collect();
    assert_eq!(struck, [1, 1, 1, 1]);
    assert_eq!(on["faults"][0]["fault"], busy);
    Ok(())
}

#[tokio::test]
async fn they_are_switched_off_one_or_all() -> Result<()> {
    let stand = Stand::start().await?;
    let first = stand.set(&json!({"server": "storage", "fault": "stall", "on": ["write"]})).await?;
    stand.set(&json!({"server": "apis", "fault": "lose"})).await?;
    let stalled = stand.upload("a");
    let lifted = async {
        while stand.on().await?["faults"][0]["struck"] != 1 {}
        Ok::<_, anyhow::Error>(
            stand.http.delete(format!("{}/{}", stand.faults, first["id"])).send().await?,
        )
    };
    let (cut, lifted) = tokio::join!(stalled, lifted);
    assert!(cut.is_err(), "what is stalled is cut when that ends");
    assert_eq!(lifted?.status(), 200);
    assert_eq!(stand.upload("a").await?.status(), 200);
    assert!(stand.echo().await.is_err());
    let all: Value = stand.http.delete(&stand.faults).send().await?.json().await?;
    assert_eq!(all, json!({"lifted": 1}));
    assert_eq!(stand.echo().await?.status(), 200);
    assert_eq!(stand.on().await?, json!({"faults": []}));
    let gone = stand.http.delete(format!("{}/1", stand.faults)).send().await?;
    assert_eq!(gone.status(), 404);
    Ok(())
}

#[tokio::test]
async fn what_it_does_not_know_is_refused_by_its_name() -> Result<()> {
    let stand = Stand::start().await?;
    for (fault, named) in [
        (json!({"server": "storage", "fault": "refuse", "status": 503, "colour": 1}), "`colour`"),
        (json!({"server": "kms", "fault": "lose"}), "`kms`"),
        (json!({"server": "storage", "fault": "explode"}), "`explode`"),
        (json!({"fault": "lose"}), "`server`"),
        (json!({"server": "storage", "fault": "lose", "on": ["publish"]}), "`publish`"),
        (json!({"server": "storage", "fault": "lose", "status": 503}), "`status`"),
        (json!({"server": "storage", "fault": "refuse"}), "`status`"),
        (json!({"server": "storage", "fault": "refuse", "status": 200}), "`status`"),
        (json!({"server": "storage", "fault": "forget"}), "`forget`"),
        (json!({"server": "pubsub", "fault": "forget", "on": ["publish"]}), "`on`"),
        (json!({"server": "pubsub", "fault": "refuse", "code": "BUSY"}), "BUSY"),
        (json!({"server": "apis", "fault": "delay"}), "`delay_ms`"),
        (json!({"server": "apis", "fault": "lose", "under": "a"}), "`under`"),
        (json!(7), "invalid type"),
    ] {
        let answer = stand.http.post(&stand.faults).json(&fault).send().await?;
        assert_eq!(answer.status(), 400, "{fault}");
        let told: Value = answer.json().await?;
        let why = told["error"].as_str().unwrap();
        assert!(why.contains(named), "{fault}: {why}");
    }
    assert_eq!(stand.on().await?, json!({"faults": []}), "nothing was switched on");
    Ok(())
}

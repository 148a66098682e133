//! `fleet dev --data`: what a stack was told is there the next time, however it ended.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod stack;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use rustix::process::Signal;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use url::Url;

use stack::{Stack, base, fleet, text};

const ROUNDS: usize = 4;
/// Clients of each kind.
const CLIENTS: usize = 3;
/// A stack is killed when so many answers have come, in the midst of others.
const ANSWERS: usize = 150;

/// Where everything is.
#[derive(Clone)]
struct Place {
    http: Client,
    environment: Map<String, Value>,
}

impl Place {
    async fn of(stack: &Stack) -> Self {
        let http = Client::builder().redirect(Policy::none()).build().unwrap();
        Self { http, environment: stack.environment().await }
    }

    fn get(&self, name: &str) -> &str {
        self.environment[name].as_str().unwrap()
    }

    async fn pubsub(&self, path: &str, body: &Value) -> reqwest::Result<Value> {
        let host = self.get("PUBSUB_EMULATOR_HOST");
        let url = format!("http://{host}/v1/projects/fleet-local/{path}");
        self.http.post(url).json(body).send().await?.error_for_status()?.json().await
    }

    async fn publish(&self, job: &str) -> reqwest::Result<()> {
        let data = json!({"id": job, "user": "user-1", "kind": "profile"}).to_string();
        let message = json!({"data": BASE64_STANDARD.encode(data), "orderingKey": "user-1"});
        self.pubsub("topics/jobs:publish", &json!({"messages": [message]})).await.map(drop)
    }

    fn objects(&self, verb: &str) -> String {
        let (host, bucket) = (self.get("STORAGE_EMULATOR_HOST"), self.get("FLEET_BUCKET"));
        format!("{host}{verb}/storage/v1/b/{bucket}/o")
    }

    /// Writes an object and returns its generation.
    async fn write(&self, name: &str, content: String) -> reqwest::Result<String> {
        let query = [("uploadType", "media"), ("name", name)];
        let request = self.http.post(self.objects("/upload")).query(&query).body(content);
        let object: Value = request.send().await?.error_for_status()?.json().await?;
        Ok(object["generation"].as_str().unwrap().to_owned())
    }

    /// Generation and content.
    async fn read(&self, name: &str) -> (String, String) {
        let url = format!("{}/{name}?alt=media", self.objects(""));
        let answer = self.http.get(url).send().await.unwrap().error_for_status().unwrap();
        let generation = answer.headers()["x-goog-generation"].to_str().unwrap().to_owned();
        (generation, answer.text().await.unwrap())
    }

    /// The token endpoint's answer.
    async fn token(&self, fields: &[(&str, &str)]) -> Value {
        let client = fs::read(self.get("FLEET_OAUTH_CLIENT")).unwrap();
        let client: Value = serde_json::from_slice(&client).unwrap();
        let of = |field: &str| client["installed"][field].as_str().unwrap().to_owned();
        let (id, secret) = (of("client_id"), of("client_secret"));
        let form = fields.iter().copied();
        let form: Vec<_> = form.chain([("client_id", &*id), ("client_secret", &*secret)]).collect();
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = self.http.post(of("token_uri")).body(body);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
    }

    /// A guest allows everything on the provider's page; the refresh token.
    async fn consent(&self) -> String {
        let client = fs::read_to_string(self.get("FLEET_OAUTH_CLIENT")).unwrap();
        let client: Value = serde_json::from_str(&client).unwrap();
        let asked = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("client_id", client["installed"]["client_id"].as_str().unwrap())
            .append_pair("redirect_uri", "http://localhost")
            .append_pair("response_type", "code")
            .append_pair("scope", "openid email profile")
            .append_pair("access_type", "offline")
            .finish();
        let decision = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("request", &asked)
            .append_pair("account", "guest-1")
            .append_pair("decision", "allow")
            .finish();
        let page = format!("{}/o/oauth2/auth", self.get("FLEET_API_ROOT"));
        let decided = self.http.post(page).body(decision).send().await.unwrap();
        assert_eq!(decided.status(), StatusCode::FOUND);
        let back = Url::parse(decided.headers()["location"].to_str().unwrap()).unwrap();
        let (_, code) = back.query_pairs().find(|(name, _)| name == "code").unwrap();
        let exchange = [
            ("grant_type", "authorization_code"),
            ("code", &*code),
            ("redirect_uri", "http://localhost"),
        ];
        self.token(&exchange).await["refresh_token"].as_str().unwrap().to_owned()
    }

    /// Uses a refresh token, which brings the next one, and the access token that came with it.
    async fn refresh(&self, token: &str) -> String {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", token)];
        let fresh = self.token(&fields).await;
        let access = fresh["access_token"].as_str().unwrap();
        let profile = self.http.get(self.get("FLEET_USERINFO_URL")).bearer_auth(access);
        let profile: Value = profile.send().await.unwrap().json().await.unwrap();
        assert_eq!(profile["sub"], "guest-1");
        fresh["refresh_token"].as_str().unwrap().to_owned()
    }

    /// Outcomes that nobody has taken yet: the status of each job. They are taken by this.
    async fn outcomes(&self) -> Vec<(String, String)> {
        let pull = json!({"maxMessages": 1000});
        let pulled = self.pubsub("subscriptions/outcomes:pull", &pull).await.unwrap();
        let messages = pulled["receivedMessages"].as_array().cloned().unwrap_or_default();
        if messages.is_empty() {
            return Vec::new();
        }
        let ids: Vec<&Value> = messages.iter().map(|message| &message["ackId"]).collect();
        let acknowledge = json!({ "ackIds": ids });
        self.pubsub("subscriptions/outcomes:acknowledge", &acknowledge).await.unwrap();
        let read = |message: &Value| {
            let data = BASE64_STANDARD.decode(message["message"]["data"].as_str().unwrap());
            let outcome: Value = serde_json::from_slice(&data.unwrap()).unwrap();
            let of = |field: &str| outcome[field].as_str().unwrap().to_owned();
            (of("job"), of("status"))
        };
        messages.iter().map(read).collect()
    }
}

/// What clients were told is stored.
#[derive(Default)]
struct Told {
    jobs: BTreeSet<String>,
    /// Generation and content of objects that are written once.
    objects: BTreeMap<String, (String, String)>,
    /// The last generation of objects that are written again and again.
    rewritten: BTreeMap<String, u64>,
}

impl Told {
    fn add(&mut self, other: Self) {
        self.jobs.extend(other.jobs);
        self.objects.extend(other.objects);
        self.rewritten.extend(other.rewritten);
    }
}

/// Counts answers, and says when there are enough.
#[derive(Default)]
struct Answers {
    count: AtomicUsize,
    enough: Notify,
}

impl Answers {
    fn one_more(&self) {
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 == ANSWERS {
            self.enough.notify_one();
        }
    }
}

/// Publishes and writes until nothing is answered any more.
async fn client(place: Place, name: String, answers: Arc<Answers>) -> Told {
    let mut told = Told::default();
    for number in 0.. {
        let job = format!("{name}-{number}");
        if place.publish(&job).await.is_err() {
            break;
        }
        told.jobs.insert(job.clone());
        answers.one_more();
        let content = format!("content of {job}");
        let Ok(generation) = place.write(&job, content.clone()).await else { break };
        told.objects.insert(job, (generation, content));
        answers.one_more();
        let again = format!("{name}-again");
        match place.write(&again, number.to_string()).await {
            Ok(generation) => drop(told.rewritten.insert(again, generation.parse().unwrap())),
            // Written less than a second ago.
            Err(error) if error.status() == Some(StatusCode::TOO_MANY_REQUESTS) => {}
            Err(_) => break,
        }
        answers.one_more();
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_acknowledged_is_lost_when_a_stack_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("stack").display().to_string();
    let wanted = base().await;
    // Tokens that live long: a kill between a refresh and its storing costs a grant everywhere.
    let flags = ["--data", &data, "--token-lifetime", "10m"];
    let first = [&flags[..], &["--port-base", &wanted]].concat();
    let mut stack = Stack::up_with(&first).await;
    let at = stack.base.clone();
    let mut guest = Place::of(&stack).await.consent().await;
    let mut told = Told::default();
    for round in 0..ROUNDS {
        let place = Place::of(&stack).await;
        let answers = Arc::new(Answers::default());
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let name = format!("round-{round}-client-{number}");
            clients.spawn(client(place.clone(), name, Arc::clone(&answers)));
        }
        answers.enough.notified().await;
        assert_eq!(stack.end(Signal::KILL).await, None, "it was killed");
        for one in clients.join_all().await {
            told.add(one);
        }

        stack = Stack::up_at(&at, &flags).await;
        assert_eq!(stack.base, at, "its ports are kept: {:?}", stack.notes);
        let place = Place::of(&stack).await;
        for (name, (generation, content)) in &told.objects {
            assert_eq!(place.read(name).await, (generation.clone(), content.clone()), "{name}");
        }
        for (name, generation) in &told.rewritten {
            // One more may have been stored whose answer did not arrive.
            let (found, _) = place.read(name).await;
            assert!(found.parse::<u64>().unwrap() >= *generation, "{name}");
        }
        guest = place.refresh(&guest).await;
    }
    assert!(told.jobs.len() >= ROUNDS * CLIENTS, "{}", told.jobs.len());

    let place = Place::of(&stack).await;
    let mut ended = BTreeSet::new();
    while !told.jobs.is_subset(&ended) {
        for (job, status) in place.outcomes().await {
            assert_eq!(status, "done", "{job}");
            ended.insert(job);
        }
    }
    // Half a minute less than its life is the most that is given.
    let fresh = ["exec", "--", stack::FLEET, "token", "user-1", "--min-ttl", "9m30s"];
    let fresh = stack.asked(&fresh).await;
    assert!(fresh.status.success(), "{fresh:?}");
    assert_eq!(stack.end(Signal::TERM).await, Some(0));
}

#[tokio::test]
async fn a_folder_belongs_to_one_stack() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("stack").display().to_string();
    let stack = Stack::up_with(&["--data", &data, "--port-base", &base().await]).await;
    let second = fleet(&["dev", "--data", &data]).output().await.unwrap();
    assert_eq!(second.status.code(), Some(1));
    let why = text(&second.stderr);
    assert!(why.contains("in use by another process") && why.contains(&data), "{why}");

    // It goes on with what it has, and what a person has changed stays as they left it.
    let removed = ["exec", "--", stack::FLEET, "users", "list"];
    assert!(text(&stack.asked(&removed).await.stdout).contains("user-1"));
    let pages = stack.environment().await["FLEET_PUBLIC_URL"].as_str().unwrap().to_owned();
    let keys = ["session.key", "broker.key"].map(|key| Path::new(&data).join(key));
    let before = keys.each_ref().map(|key| fs::read(key).unwrap());
    let at = stack.base.clone();
    // A closed terminal ends all its processes, and keeps the data.
    assert_eq!(stack.end(Signal::HUP).await, Some(0));
    let pages = pages.trim_start_matches("http://");
    assert!(TcpStream::connect(pages).await.is_err(), "the pages are served still");
    let stack = Stack::up_at(&at, &["--data", &data]).await;
    assert_eq!(stack.base, at, "{:?}", stack.notes);
    assert_eq!(keys.map(|key| fs::read(key).unwrap()), before, "sessions and keys go on");
    assert_eq!(stack.end(Signal::TERM).await, Some(0));
}

#[tokio::test]
async fn other_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.txt"), "x").unwrap();
    let data = folder.path().display().to_string();
    let refused = fleet(&["dev", "--data", &data]).output().await.unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let why = text(&refused.stderr);
    assert!(why.contains("holds other files") && why.contains("name an empty folder"), "{why}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

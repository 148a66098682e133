//! Two releases on one bucket: what a release has stored, in its bytes, under the code of this
//! one, and what this one stores under the eyes of the other.
//!
//! `tests/recorded/objects.json` is what a release wrote. A form that changes makes
//! [`the_stored_forms_are_the_recorded_ones`] fail: it takes a new version, by the rules in
//! deploy/RUNBOOK.md, *Upgrade, and back*. `FLEET_RECORD=1 cargo test --workspace --test replica
//! recorded_ones` writes the set anew, once a release has come out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::ports::{Bucket, Generation, Hints, Randomness};
use shared::record::{LATEST_READ, RecordCodec};
use shared::sealing::{Opened, Sealing};
use shared::{Error, Grant, Keyring, TokenStore, UserId};
use tests::memory::{Heard, QueueSettings, pass};
use tokio_util::sync::CancellationToken;
use worker::events::Events;
use worker::outbox::{Outbox, StoredEnding, Writable};
use worker::outcome::Status;
use worker::pubsub::Outgoing;
use worker::replica::Builder;
use worker::sweep::{Memory, Sweep, Swept};
use worker::{Dedupe, Effect};

use crate::house::{House, Notebook, Running, clock, job};

/// The key is the bytes 0 to 31.
const KEYRING: &str = r#"{"version": 1, "primary": "fake-recorded-key", "keys": [{"id": "fake-recorded-key",
    "key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "created_at": "2026-01-01T00:00:00Z"}]}"#;

const MINUTE: Duration = Duration::from_secs(60);

/// One object as it was stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Object {
    name: String,
    content: String,
    hints: Hints,
}

fn sealing() -> Sealing {
    Sealing::new(Some(Keyring::from_json(KEYRING.as_bytes()).unwrap()))
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("recorded/objects.json")
}

fn recorded() -> Vec<Object> {
    serde_json::from_slice(&std::fs::read(path()).unwrap()).unwrap()
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn house() -> House {
    let mut house = House::new(QueueSettings::default());
    house.fleet.keyring = Some(Keyring::from_json(KEYRING.as_bytes()).unwrap());
    house
}

/// A replica that remembers ends and tells changes of consent.
fn start(house: &House, name: &str, notebook: &Notebook) -> Running {
    let events = Events {
        store: house.fleet.replica("teller"),
        topic: Arc::new(Heard::new("events")),
        clock: Arc::new(clock()),
        random: Arc::new(Randomness::seeded(5)),
        source: "//test".to_owned(),
        site: None,
        unknown_users: false,
    };
    let bucket = house.fleet.replica("rememberer").bucket();
    house.start(name, notebook.clone(), |builder: Builder| {
        builder.dedupe(Dedupe::bucket(bucket, sealing())).events(Some(Arc::new(events)))
    })
}

async fn sweep(house: &House, name: &str) -> Swept {
    let store = house.fleet.replica(name);
    let sweep = Sweep {
        bucket: store.bucket(),
        store,
        jobs: Arc::new(house.jobs.clone()),
        unknown: None,
        events: None,
        clock: Arc::new(clock()),
        random: Arc::new(Randomness::seeded(name.len() as u64)),
        every: 10 * MINUTE,
    };
    let stop = CancellationToken::new();
    sweep.turn(&mut None, &mut Memory::default(), &stop).await.unwrap().unwrap()
}

/// Everything that a fleet leaves in its bucket: users in all states, a lease, parked jobs,
/// ends that are remembered and one that is still to be written, an event, a sweep's marker.
async fn stored_by_this_release() -> Vec<Object> {
    let house = house();
    let provider = &house.fleet.provider;
    provider.set_lifetime(MINUTE);
    for name in ["blocked", "expired", "refreshed", "revoked"] {
        house.fleet.user(name).await;
    }
    provider.set_lifetime(60 * MINUTE);
    house.fleet.user("active").await;
    let bare = Grant { access_token: None, expires_at: None, ..provider.consent("bare") };
    house.fleet.replica("importer").import(&user("bare"), bare, true).await.unwrap();
    pass(2 * MINUTE).await;
    provider.revoke("revoked");
    provider.deny("blocked", Some("access_denied"));
    let notebook = Notebook::default();
    let replica = start(&house, "recorder", &notebook);
    for name in ["active", "refreshed", "revoked", "blocked", "made-up"] {
        house.jobs.publish(&job(&format!("job-of-{name}"), name, "k"), "");
    }
    house.jobs.drained().await;
    replica.end().await;
    assert_eq!(notebook.ids().len(), 2, "{:?}", notebook.ids());
    let outbox = Outbox::new(house.fleet.replica("ender").bucket(), sealing());
    outbox.store(&ending()).await.unwrap();
    sweep(&house, "sweeper").await;
    stored(&house).await
}

/// A rejected job whose dead letter and outcome are still to be published.
fn ending() -> StoredEnding {
    let message = |data: Value| Outgoing { data: data.to_string().into(), ..Outgoing::default() };
    StoredEnding {
        user: Some(user("active")),
        job: "told-later".into(),
        kind: "k".into(),
        run: 0,
        message_id: "m-told-later".into(),
        status: Status::Rejected,
        effect: Effect::None,
        repeatable: true,
        reason: Some("it cannot succeed".into()),
        refused: false,
        rest: vec![
            Writable::DeadLetter {
                topic: "dead".into(),
                message: message(job("told-later", "active", "k")),
            },
            Writable::Outcome {
                topic: "outcomes".into(),
                message: message(
                    json!({"job": "told-later", "user": "active", "status": "rejected"}),
                ),
            },
        ],
        stored_at: "2026-01-01T00:00:00Z".parse().unwrap(),
    }
}

async fn stored(house: &House) -> Vec<Object> {
    let bucket = &house.fleet.bucket;
    let listing = bucket.list("", None).await.unwrap();
    let mut objects = Vec::new();
    for (name, _) in listing.objects {
        let content = bucket.get(&name).await.unwrap().unwrap().content;
        let hints = listing.hints.get(&name).cloned().unwrap_or_default();
        objects.push(Object { name, content: String::from_utf8(content.to_vec()).unwrap(), hints });
    }
    objects
}

/// A house whose bucket holds these objects, and whose provider honours their refresh tokens.
async fn house_of(objects: &[Object]) -> House {
    let house = house();
    for Object { name, content, hints } in objects {
        put(&house, name, content, hints, Generation::ABSENT).await;
        if let Some(user) = UserId::of_token_object(name)
            && let Ok(record) = RecordCodec::new(sealing()).decode(&user, content.as_bytes())
        {
            house.fleet.provider.honour(record.refresh_token.expose());
        }
    }
    house.fleet.bucket.settle();
    house
}

async fn put(house: &House, name: &str, content: &str, hints: &Hints, on: Generation) {
    let content = content.to_owned().into_bytes().into();
    house.fleet.bucket.put_with_hints(name, content, hints.clone(), on).await.unwrap();
}

async fn content(house: &House, name: &str) -> String {
    let object = house.fleet.bucket.get(name).await.unwrap().unwrap();
    String::from_utf8(object.content.to_vec()).unwrap()
}

/// What is stored, all seals opened.
fn opened(name: &str, content: &str) -> Value {
    let members = match name.split('/').next().unwrap() {
        "tokens" | "parked" => match sealing().open(name, content.as_bytes()).unwrap() {
            Opened::Sealed { clear: Value::Object(mut members), secret } => {
                let mut secret: Map<String, Value> = serde_json::from_slice(&secret).unwrap();
                assert!(secret.remove("clear").is_some(), "{name}: its clear members are bound");
                members.extend(secret);
                return members.into();
            }
            other => panic!("{name} is not sealed: {other:?}"),
        },
        "done" | "endings" => sealing().open_whole(name, content.as_bytes()).unwrap().to_vec(),
        _ => content.as_bytes().to_vec(),
    };
    serde_json::from_slice(&members).unwrap()
}

/// The form of the objects of each folder: by the path of a member, the types that it has, and
/// the value of versions.
type Forms = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn forms(objects: &[Object]) -> Forms {
    let mut forms = Forms::new();
    for Object { name, content, hints } in objects {
        let folder = name.split('/').next().unwrap().to_owned();
        let form = forms.entry(folder).or_default();
        describe("", &opened(name, content), form);
        for name in hints.keys() {
            form.entry(format!("hint {name}")).or_default().insert("string".to_owned());
        }
    }
    forms
}

fn describe(path: &str, value: &Value, form: &mut BTreeMap<String, BTreeSet<String>>) {
    let kind = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) if path == ".version" => format!("version {number}"),
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "list".to_owned(),
        Value::Object(_) => "object".to_owned(),
    };
    form.entry(path.to_owned()).or_default().insert(kind);
    match value {
        Value::Object(members) => {
            // Whose names are free.
            if path.ends_with(".attributes") || path == ".result" {
                return;
            }
            for (name, member) in members {
                describe(&format!("{path}.{name}"), member, form);
            }
        }
        Value::Array(items) => {
            for item in items {
                describe(&format!("{path}[]"), item, form);
            }
        }
        _ => {}
    }
}

/// What a strict reader of the recorded release would not understand: a member or type that no
/// recorded object has.
fn not_understood(objects: &[Object], recorded: &Forms) -> Vec<String> {
    let mut faults = Vec::new();
    for (folder, form) in forms(objects) {
        for (path, kinds) in form {
            let known = recorded.get(&folder).and_then(|form| form.get(&path));
            for kind in kinds {
                if !known.is_some_and(|known| known.contains(&kind)) {
                    faults.push(format!("{folder}{path}: {kind}"));
                }
            }
        }
    }
    faults
}

#[tokio::test(start_paused = true)]
async fn the_stored_forms_are_the_recorded_ones() {
    let now = stored_by_this_release().await;
    let folders: Vec<String> = forms(&now).into_keys().collect();
    assert_eq!(folders, ["done", "endings", "events", "leases", "parked", "sweeps", "tokens"]);
    if std::env::var_os("FLEET_RECORD").is_some() {
        let mut text = serde_json::to_string_pretty(&now).unwrap();
        text.push('\n');
        std::fs::write(path(), text).unwrap();
    }
    assert_eq!(
        forms(&now),
        forms(&recorded()),
        "a stored form has changed: it takes a new version, see deploy/RUNBOOK.md, Upgrade, and back"
    );
}

/// This release over what the recorded one has left, and the recorded one over what this one
/// makes of it.
#[tokio::test(start_paused = true)]
async fn this_release_goes_on_where_the_recorded_one_stopped_and_back() {
    let house = house_of(&recorded()).await;
    house.fleet.provider.deny("blocked", Some("access_denied"));
    pass(2 * MINUTE).await;
    let notebook = Notebook::default();
    let replica = start(&house, "new", &notebook);
    // It has ended already, and is delivered again.
    house.jobs.publish(&job("job-of-active", "active", "k"), "");
    for name in ["active", "expired", "refreshed", "bare", "blocked"] {
        house.jobs.publish(&job(&format!("new-of-{name}"), name, "k"), "");
    }
    house.jobs.drained().await;
    let mut ran = notebook.ids();
    ran.sort();
    assert_eq!(ran, ["new-of-active", "new-of-bare", "new-of-expired", "new-of-refreshed"]);
    assert_eq!(
        house.statuses(),
        BTreeMap::from([("done".to_owned(), 5), ("parked".to_owned(), 1)])
    );

    // The stored end is written.
    pass(3 * MINUTE).await;
    assert_eq!(house.statuses()["rejected"], 1);
    assert_eq!(house.dead.len(), 1);

    // Those who consent get what they waited for.
    let store = house.fleet.replica("pages");
    for name in ["revoked", "made-up"] {
        let grant = house.fleet.provider.consent(name);
        store.import(&user(name), grant, true).await.unwrap();
    }
    pass(20 * MINUTE).await;
    assert_eq!(sweep(&house, "later").await.resumed, 2);
    house.jobs.drained().await;
    replica.end().await;
    let ran = notebook.ids();
    assert!(ran.contains(&"job-of-revoked".to_owned()), "{ran:?}");
    assert!(ran.contains(&"job-of-made-up".to_owned()), "{ran:?}");
    assert_eq!(house.fleet.provider.reuse(), 0, "nobody was refreshed with a spent token");

    // Back: whatever lies there now, the recorded release can read.
    let now = stored(&house).await;
    let changed = |name: &str| {
        let before = recorded().into_iter().find(|object| object.name == name).unwrap();
        now.iter().find(|object| object.name == name).unwrap().content != before.content
    };
    for name in ["expired", "bare", "revoked"] {
        assert!(changed(&format!("tokens/{name}.json")), "{name}");
    }
    assert_eq!(not_understood(&now, &forms(&recorded())), Vec::<String>::new());
}

/// The object as a later release would have written it.
fn of_version(object: &Object, version: u32) -> Object {
    let Object { name, content, hints } = object;
    let sealing = sealing();
    let Opened::Sealed { clear: Value::Object(mut clear), secret } =
        sealing.open(name, content.as_bytes()).unwrap()
    else {
        panic!("{name} is sealed")
    };
    let mut secret: Map<String, Value> = serde_json::from_slice(&secret).unwrap();
    secret.remove("clear");
    clear.insert("version".to_owned(), version.into());
    clear.insert("audience".to_owned(), json!({"of": ["fake-audience", 1]}));
    secret.insert("proof_key".to_owned(), "fake-proof-key".into());
    let seal = sealing.seal(name, &clear, &secret, 1024).unwrap();
    clear.insert("sealed".to_owned(), serde_json::to_value(seal).unwrap());
    let content = Value::Object(clear).to_string();
    Object { name: name.clone(), content, hints: hints.clone() }
}

fn with_version(version: impl Fn(&str) -> Option<u32>) -> Vec<Object> {
    let objects = recorded().into_iter();
    objects.map(|o| version(&o.name).map_or(o.clone(), |version| of_version(&o, version))).collect()
}

async fn login(store: &TokenStore, house: &House, name: &str) -> Result<(), Error> {
    let grant = house.fleet.provider.consent(name);
    store.import(&user(name), grant, true).await.map(drop)
}

/// The next release writes another version, and both are at work.
#[tokio::test(start_paused = true)]
async fn the_next_version_is_used_and_what_it_adds_is_kept() {
    let sealed = |name: &str| name.starts_with("tokens/") || name.starts_with("parked/");
    let house = house_of(&with_version(|name| sealed(name).then_some(LATEST_READ))).await;
    pass(2 * MINUTE).await;
    house.fleet.provider.deny("blocked", Some("access_denied"));
    let notebook = Notebook::default();
    let replica = start(&house, "old", &notebook);
    for name in ["active", "expired"] {
        house.jobs.publish(&job(&format!("new-of-{name}"), name, "k"), "");
    }
    house.jobs.drained().await;
    assert_eq!(notebook.ids().len(), 2);
    let record = opened("tokens/expired.json", &content(&house, "tokens/expired.json").await);
    assert_eq!(record["version"], LATEST_READ);
    assert_eq!(record["audience"], json!({"of": ["fake-audience", 1]}));
    assert_eq!(record["proof_key"], "fake-proof-key");
    assert_ne!(record["holder"], "recorder", "and it was refreshed");
    // What a login brings is this release's own.
    let store = house.fleet.replica("pages");
    login(&store, &house, "revoked").await.unwrap();
    let record = opened("tokens/revoked.json", &content(&house, "tokens/revoked.json").await);
    assert_eq!((&record["version"], record.get("proof_key")), (&json!(LATEST_READ - 1), None));
    pass(20 * MINUTE).await;
    assert_eq!(sweep(&house, "later").await.resumed, 1, "a parked job of the next version");
    house.jobs.drained().await;
    assert!(notebook.ids().contains(&"job-of-revoked".to_owned()));
    replica.end().await;
}

/// What nobody has told this release of stays as it is, and waits.
#[tokio::test(start_paused = true)]
async fn versions_beyond_the_next_are_held_and_never_overwritten() {
    let beyond = |name: &str| {
        ["tokens/expired.json", "parked/revoked"].iter().any(|held| name.starts_with(held))
    };
    let house = house_of(&with_version(|name| beyond(name).then_some(LATEST_READ + 1))).await;
    let before: BTreeMap<String, String> = stored(&house)
        .await
        .into_iter()
        .filter(|object| beyond(&object.name))
        .map(|object| (object.name, object.content))
        .collect();
    assert_eq!(before.len(), 2, "{:?}", before.keys());
    pass(2 * MINUTE).await;
    house.fleet.provider.deny("blocked", Some("access_denied"));
    let notebook = Notebook::default();
    let replica = start(&house, "old", &notebook);
    for name in ["active", "expired"] {
        house.jobs.publish(&job(&format!("new-of-{name}"), name, "k"), "");
    }
    pass(30 * MINUTE).await;
    assert_eq!(notebook.ids(), ["new-of-active"], "the other one waits");
    assert_eq!((house.jobs.backlog(), house.dead.len()), (1, 1));
    let store = house.fleet.replica("pages");
    let refused = login(&store, &house, "expired").await.unwrap_err();
    assert!(refused.to_string().contains("version 3"), "{refused}");
    login(&store, &house, "revoked").await.unwrap();
    pass(20 * MINUTE).await;
    sweep(&house, "later").await;
    for (name, was) in before {
        assert_eq!(content(&house, &name).await, was, "{name}");
    }
    replica.end().await;
}

//! Jobs that an HTTP handler does, over a socket in the same process. While a request is on
//! its way the clock may go on, by a second at most each time: these tests count in more.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde_json::{Value, json};
use shared::ports::Monotonic;
use tests::memory::{QueueSettings, pass};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;
use worker::forward::{ForwardSettings, Forwarding, TIMEOUT};
use worker::kinds::Kinds;
use worker::replica::Builder;
use worker::{Handler, Verdict};

use crate::house::{House, Notebook, Running, clock, job, now};
use crate::retries::Script;

type Say = dyn Fn(&Value) -> Response + Send + Sync;

/// An HTTP handler at a socket of its own, which may listen or not.
#[derive(Clone)]
struct Function {
    socket: PathBuf,
    say: Arc<Say>,
    takes: Duration,
    /// How often it asks for its user's token first.
    asks: usize,
    /// Each event: when it came, and its body.
    events: Arc<Mutex<Vec<(Monotonic, Value)>>>,
    /// How many it is doing now, and how many at most.
    busy: Arc<Mutex<(usize, usize)>>,
}

impl Function {
    fn new(
        folder: &tempfile::TempDir,
        name: &str,
        say: impl Fn(&Value) -> Response + Send + Sync + 'static,
    ) -> Self {
        Self {
            socket: folder.path().join(name),
            say: Arc::new(say),
            takes: Duration::ZERO,
            asks: 0,
            events: Arc::default(),
            busy: Arc::default(),
        }
    }

    fn listen(&self) -> JoinHandle<()> {
        drop(std::fs::remove_file(&self.socket));
        let listener = UnixListener::bind(&self.socket).unwrap();
        let function = self.clone();
        let answer = move |_: HeaderMap, body: Bytes| async move {
            let event: Value = serde_json::from_slice(&body).unwrap();
            function.events.lock().unwrap().push((now(), event.clone()));
            {
                let mut busy = function.busy.lock().unwrap();
                busy.0 += 1;
                busy.1 = busy.1.max(busy.0);
            }
            for _ in 0..function.asks {
                ask(&event["credentials"]).await;
            }
            pass(function.takes).await;
            function.busy.lock().unwrap().0 -= 1;
            (function.say)(&event)
        };
        let routes = Router::new().route("/", post(answer));
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() })
    }

    fn events_of(&self, id: &str) -> Vec<Value> {
        let events = self.events.lock().unwrap();
        events.iter().filter(|(_, event)| event["id"] == id).map(|(_, e)| e.clone()).collect()
    }

    fn times(&self) -> Vec<Monotonic> {
        self.events.lock().unwrap().iter().map(|(at, _)| *at).collect()
    }
}

/// Asks for a token as a library does.
async fn ask(credentials: &Value) {
    let part = |name: &str| credentials[name].as_str().unwrap();
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "refresh_token")
        .extend_pairs(["client_id", "client_secret", "refresh_token"].map(|n| (n, part(n))))
        .finish();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let question = http.post(part("token_uri")).body(form);
    let question = question.header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(question.send().await.unwrap().status(), StatusCode::OK);
}

fn ok(event: &Value) -> Response {
    axum::Json(json!({"hello": event["user"]})).into_response()
}

async fn handlers(
    functions: &BTreeMap<&str, &Function>,
    settings: impl FnOnce(&mut ForwardSettings),
) -> (Forwarding, Kinds) {
    let route = |(kind, function): (&&str, &&Function)| {
        format!("{kind}=unix:{}", function.socket.display()).parse().unwrap()
    };
    let mut all = ForwardSettings {
        routes: functions.iter().map(route).collect(),
        once: Vec::new(),
        concurrency: 8,
        timeout: TIMEOUT,
        token_listen: "127.0.0.1:0".parse().unwrap(),
        subscription: "projects/p/subscriptions/s".to_owned(),
    };
    settings(&mut all);
    let forwarding = Forwarding::open(all).await.unwrap();
    let kinds = forwarding.handlers();
    (forwarding, kinds)
}

/// A replica that forwards these kinds, and does kind `k` itself.
async fn start(
    house: &House,
    functions: &[(&str, &Function)],
    native: impl Handler,
    settings: impl FnOnce(&mut ForwardSettings),
) -> Running {
    start_as(house, functions, native, settings, |builder| builder).await
}

/// The same, with settings of the replica besides.
async fn start_as(
    house: &House,
    functions: &[(&str, &Function)],
    native: impl Handler,
    settings: impl FnOnce(&mut ForwardSettings),
    more: impl FnOnce(Builder) -> Builder,
) -> Running {
    let functions = functions.iter().copied().collect();
    let (forwarding, kinds) = handlers(&functions, settings).await;
    let (store, builder) = house.builder("a");
    let serving = forwarding.serve(store.clone(), Arc::new(clock()), CancellationToken::new());
    tokio::spawn(serving);
    house.run(store, more(builder).handlers(kinds).handler("k", native))
}

fn nothing() -> Script {
    Script::of(|_| Verdict::done(Value::Null))
}

#[tokio::test(start_paused = true)]
async fn a_job_is_sent_as_an_event_and_ends_as_its_handler_says() {
    let (house, folder) = (House::new(QueueSettings::default()), tempfile::tempdir().unwrap());
    house.fleet.user("ann").await;
    let function = Function::new(&folder, "greet", ok);
    let _serving = function.listen();
    let replica = start(&house, &[("greet", &function)], nothing(), |_| {}).await;
    house
        .jobs
        .publish(&json!({"id": "j", "user": "ann", "kind": "greet", "params": {"n": 1}}), "ann");
    house.jobs.drained().await;
    let outcome = house.outcomes.outcomes().remove(0);
    assert_eq!((&outcome["status"], &outcome["kind"]), (&json!("done"), &json!("greet")));
    assert_eq!(outcome["result"], json!({"hello": "ann"}));
    assert_eq!((&outcome["effect"], &outcome["repeatable"]), (&json!("done"), &json!(true)));
    let event = function.events_of("j").remove(0);
    assert_eq!((&event["params"], &event["attempt"]), (&json!({"n": 1}), &json!(1)));
    assert_eq!(event["credentials"]["refresh_token"], "ann");
    assert!(!outcome.to_string().contains(event["credentials"]["client_secret"].as_str().unwrap()));
    replica.end().await;
}

/// The user's other jobs, and jobs of other kinds, go on meanwhile.
#[tokio::test(start_paused = true)]
async fn a_kind_that_is_down_is_waited_for_and_nothing_is_spent() {
    let (house, folder) = (House::new(QueueSettings::default()), tempfile::tempdir().unwrap());
    house.users(["ann".to_owned(), "bob".to_owned()]).await;
    let (down, up) = (Function::new(&folder, "down", ok), Function::new(&folder, "up", ok));
    let _up = up.listen();
    let native = nothing();
    let kinds = [("down", &down), ("up", &up)];
    let replica = start(&house, &kinds, native.clone(), |settings| {
        settings.once.push("down".to_owned());
    })
    .await;
    for n in 0..10 {
        house.jobs.publish(&job(&format!("down-{n}"), "ann", "down"), "");
    }
    house.jobs.publish(&job("native", "ann", "k"), "");
    house.jobs.publish(&job("up", "bob", "up"), "");
    pass(Duration::from_secs(20 * 60)).await;
    let ended: Vec<Value> = house.outcomes.outcomes();
    assert_eq!(house.statuses(), [("done".to_owned(), 2)].into(), "{ended:?}");
    assert_eq!(native.times("native").len(), 1);
    assert_eq!(house.jobs.deliveries(), 12, "what waits is held");
    assert!(replica.ready.check().is_ok(), "one of two kinds is down");
    let _down = down.listen();
    house.jobs.drained().await;
    assert_eq!(house.statuses(), [("done".to_owned(), 12)].into());
    for n in 0..10 {
        let events = down.events_of(&format!("down-{n}"));
        assert_eq!(events.len(), 1);
        assert_eq!(events[0]["attempt"], 1, "nobody was asked before");
    }
    assert_eq!(house.jobs.deliveries(), 12);
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_kinds_are_all_down_is_not_ready() {
    let (house, folder) = (House::new(QueueSettings::default()), tempfile::tempdir().unwrap());
    house.fleet.user("ann").await;
    let down = Function::new(&folder, "down", ok);
    let replica = start(&house, &[("down", &down)], nothing(), |_| {}).await;
    house.jobs.publish(&job("j", "ann", "down"), "");
    pass(Duration::from_secs(60)).await;
    let why = replica.ready.check().unwrap_err();
    assert_eq!(why, "kind down: the handler cannot be reached");
    let _serving = down.listen();
    house.jobs.drained().await;
    pass(Duration::from_secs(5)).await;
    assert_eq!(replica.ready.check(), Ok(()));
    replica.end().await;
}

/// As when a path was mistyped. One job at a time asks, and seldom.
#[tokio::test(start_paused = true)]
async fn a_backlog_that_is_misrouted_is_not_dead_lettered() {
    let (house, folder) = (House::new(QueueSettings::default()), tempfile::tempdir().unwrap());
    house.users((0..20).map(|n| format!("user-{n}"))).await;
    let right = Arc::new(Mutex::new(false));
    let routed = Arc::clone(&right);
    let function = Function::new(&folder, "greet", move |event| {
        if *routed.lock().unwrap() { ok(event) } else { StatusCode::NOT_FOUND.into_response() }
    });
    let _serving = function.listen();
    let replica = start(&house, &[("greet", &function)], nothing(), |_| {}).await;
    for n in 0..20 {
        house.jobs.publish(&job(&format!("j{n}"), &format!("user-{n}"), "greet"), "");
    }
    pass(Duration::from_secs(5 * 60)).await;
    let asked = function.times().len();
    assert!((8..60).contains(&asked), "one probes, with pauses up to 30 s: {asked}");
    assert!(house.outcomes.is_empty() && house.dead.is_empty());
    assert!(replica.ready.check().unwrap_err().contains("HTTP status 404"));
    *right.lock().unwrap() = true;
    house.jobs.drained().await;
    assert_eq!(house.statuses(), [("done".to_owned(), 20)].into());
    assert_eq!((house.jobs.deliveries(), house.dead.len()), (20, 0));
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_misrouted_for_ten_minutes_is_tried_again_and_given_back() {
    let (house, folder) = (House::new(QueueSettings::default()), tempfile::tempdir().unwrap());
    house.fleet.user("ann").await;
    let function = Function::new(&folder, "greet", |_| StatusCode::NOT_FOUND.into_response());
    let _serving = function.listen();
    let replica = start(&house, &[("greet", &function)], nothing(), |_| {}).await;
    house.jobs.publish(&job("j", "ann", "greet"), "");
    pass(Duration::from_secs(9 * 60)).await;
    assert_eq!(house.jobs.deliveries(), 1);
    while house.jobs.deliveries() == 1 {
        pass(Duration::from_secs(60)).await;
        assert!(now().0 < Duration::from_secs(24 * 3600), "it is never given back");
    }
    assert!(house.dead.is_empty() && house.outcomes.is_empty());
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_once_kind_is_never_asked_twice() {
    let (house, folder) = (House::new(QueueSettings::default()), tempfile::tempdir().unwrap());
    house.fleet.user("ann").await;
    let failing = |_: &Value| StatusCode::INTERNAL_SERVER_ERROR.into_response();
    let (once, again) =
        (Function::new(&folder, "once", failing), Function::new(&folder, "again", failing));
    let _serving = (once.listen(), again.listen());
    let kinds = [("once", &once), ("again", &again)];
    let replica = start(&house, &kinds, nothing(), |settings| {
        settings.once.push("once".to_owned());
    })
    .await;
    house.jobs.publish(&job("by-kind", "ann", "once"), "");
    house.jobs.publish(&job("again", "ann", "again"), "");
    while again.events_of("again").len() < 3 {
        pass(Duration::from_secs(1)).await;
    }
    assert_eq!(once.events_of("by-kind").len(), 1);
    let letter = house.dead.take().remove(0);
    assert_eq!(
        (&*letter.attributes["effect"], &*letter.attributes["repeatable"]),
        ("unknown", "false")
    );
    assert!(letter.attributes["reason"].contains("HTTP status 500"), "{:?}", letter.attributes);
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_answer_is_given_up() {
    let (house, folder) = (House::new(QueueSettings::default()), tempfile::tempdir().unwrap());
    house.fleet.user("ann").await;
    let slow = Function::new(&folder, "slow", ok);
    let slow = Function { takes: Duration::from_secs(3600), ..slow };
    let _serving = slow.listen();
    let replica = start(&house, &[("slow", &slow)], nothing(), |settings| {
        settings.once.push("slow".to_owned());
        settings.timeout = Duration::from_secs(120);
    })
    .await;
    house.jobs.publish(&job("j", "ann", "slow"), "");
    let begun = now();
    house.jobs.drained().await;
    assert!(now().since(begun) >= Duration::from_secs(120));
    let letter = house.dead.take().remove(0);
    assert!(
        letter.attributes["reason"].contains("did not answer within 120s"),
        "{:?}",
        letter.attributes
    );
    assert_eq!(letter.attributes["effect"], "unknown");
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_does_so_many_jobs_at_once_as_it_has_places() {
    let (house, folder) = (House::new(QueueSettings::default()), tempfile::tempdir().unwrap());
    house.users((0..12).map(|n| format!("user-{n}"))).await;
    let function = Function::new(&folder, "greet", ok);
    let function = Function { takes: Duration::from_secs(60), ..function };
    let _serving = function.listen();
    let native = nothing();
    let kinds = [("greet", &function)];
    let replica = start(&house, &kinds, native.clone(), |s| s.concurrency = 3).await;
    for n in 0..11 {
        house.jobs.publish(&job(&format!("j{n}"), &format!("user-{n}"), "greet"), "");
    }
    pass(Duration::from_secs(5)).await;
    house.jobs.publish(&job("native", "user-11", "k"), "");
    pass(Duration::from_secs(5)).await;
    assert_eq!(native.times("native").len(), 1, "places take up no slots");
    house.jobs.drained().await;
    assert_eq!(function.busy.lock().unwrap().1, 3);
    assert_eq!(house.statuses(), [("done".to_owned(), 12)].into());
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_asks_to_wait_is_left_alone() {
    let (house, folder) = (House::new(QueueSettings::default()), tempfile::tempdir().unwrap());
    house.users(["ann".to_owned(), "bob".to_owned()]).await;
    let first = Mutex::new(true);
    let function = Function::new(&folder, "greet", move |event| {
        if std::mem::take(&mut *first.lock().unwrap()) {
            return (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "300")]).into_response();
        }
        ok(event)
    });
    let _serving = function.listen();
    let replica = start(&house, &[("greet", &function)], nothing(), |s| {
        s.once.push("greet".to_owned());
    })
    .await;
    house.jobs.publish(&job("a", "ann", "greet"), "");
    while function.times().is_empty() {
        pass(Duration::from_secs(1)).await;
    }
    pass(Duration::from_secs(1)).await;
    house.jobs.publish(&job("b", "bob", "greet"), "");
    house.jobs.drained().await;
    let times = function.times();
    assert_eq!(times.len(), 3);
    for later in &times[1..] {
        assert!(later.since(times[0]) >= Duration::from_secs(300), "{times:?}");
    }
    assert_eq!(house.statuses(), [("done".to_owned(), 2)].into());
    assert_eq!(house.jobs.deliveries(), 2);
    replica.end().await;
}

/// Places are taken before slots: of two jobs that have one, the first may close the kind.
#[tokio::test(start_paused = true)]
async fn a_job_that_waits_for_a_slot_does_not_begin_in_a_kind_that_was_closed_meanwhile() {
    let (house, folder) = (House::new(QueueSettings::default()), tempfile::tempdir().unwrap());
    house.users(["ann", "bob", "carl"].map(str::to_owned)).await;
    let first = Mutex::new(true);
    let function = Function::new(&folder, "greet", move |event| {
        if std::mem::take(&mut *first.lock().unwrap()) {
            return (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "60")]).into_response();
        }
        ok(event)
    });
    let _serving = function.listen();
    let long = Notebook::taking(Duration::from_secs(30));
    let kinds = [("greet", &function)];
    let replica = start_as(&house, &kinds, long.clone(), |_| {}, |b| b.concurrency(1)).await;
    house.jobs.publish(&job("long", "carl", "k"), "");
    while long.ids().is_empty() {
        pass(Duration::from_secs(1)).await;
    }
    house.jobs.publish(&job("a", "ann", "greet"), "");
    house.jobs.publish(&job("b", "bob", "greet"), "");
    house.jobs.drained().await;
    let times = function.times();
    assert_eq!(times.len(), 3, "one is asked again");
    for later in &times[1..] {
        assert!(later.since(times[0]) >= Duration::from_secs(60), "{times:?}");
    }
    assert_eq!(house.statuses(), [("done".to_owned(), 3)].into());
    replica.end().await;
}

/// It is held longer than it may be tried, and then its handler fails once.
#[tokio::test(start_paused = true)]
async fn a_job_of_a_key_that_waited_for_its_handler_is_tried_as_any_other() {
    let (house, folder) = (House::new(QueueSettings::default()), tempfile::tempdir().unwrap());
    house.fleet.user("ann").await;
    let first = Mutex::new(true);
    let function = Function::new(&folder, "greet", move |event| {
        if std::mem::take(&mut *first.lock().unwrap()) {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        ok(event)
    });
    let kinds = [("greet", &function)];
    let limit = Duration::from_secs(10 * 60);
    let replica = start_as(&house, &kinds, nothing(), |_| {}, |b| b.ordered_retry(limit)).await;
    house.jobs.publish(&job("j", "ann", "greet"), "ann");
    pass(limit + Duration::from_secs(60)).await;
    let _serving = function.listen();
    house.jobs.drained().await;
    assert_eq!((house.statuses(), house.dead.len()), ([("done".to_owned(), 1)].into(), 0));
    assert_eq!((function.times().len(), house.jobs.deliveries()), (2, 1));
    replica.end().await;
}

/// As a handler does whose API rejects every token, or that is broken. The token is renewed at
/// most once in ten minutes, and what is told is what the handler said.
#[tokio::test(start_paused = true)]
async fn a_job_that_goes_on_failing_has_its_token_renewed_again_and_is_told_as_it_fails() {
    let (house, folder) = (House::new(QueueSettings::default()), tempfile::tempdir().unwrap());
    house.fleet.user("ann").await;
    let failing = |_: &Value| StatusCode::INTERNAL_SERVER_ERROR.into_response();
    let function = Function { asks: 2, ..Function::new(&folder, "greet", failing) };
    let _serving = function.listen();
    let kinds = [("greet", &function)];
    let limit = Duration::from_secs(25 * 60);
    let replica = start_as(&house, &kinds, nothing(), |_| {}, |b| b.ordered_retry(limit)).await;
    let before = house.fleet.provider.calls();
    house.jobs.publish(&job("j", "ann", "greet"), "ann");
    house.jobs.drained().await;
    let renewed = house.fleet.provider.calls() - before;
    assert!((2..=3).contains(&renewed), "{renewed} times in 25 minutes");
    let letter = house.dead.take().remove(0);
    let reason = &letter.attributes["reason"];
    assert!(reason.contains("HTTP status 500") && !reason.contains("401"), "{reason}");
    replica.end().await;
}

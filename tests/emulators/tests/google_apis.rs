//! The APIs behind the bearer token as a plain HTTP client sees them.

use std::time::Duration;

use anyhow::Result;
use async_compression::tokio::bufread::GzipEncoder;
use emulators::google::{Config, Google, Operation, StatsQuery, User, api_error};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

const SUB: &str = "1";
const DRIVE: &str = "https://www.googleapis.com/auth/drive.readonly";
const DRIVE_FILE: &str = "https://www.googleapis.com/auth/drive.file";
const CALENDAR: &str = "https://www.googleapis.com/auth/calendar.events";
const TASKS: &str = "https://www.googleapis.com/auth/tasks";
const TASKS_PATH: &str = "/tasks/v1/lists/@default/tasks";

struct Stand {
    google: Google,
    http: Client,
    token: String,
}

impl Stand {
    async fn start() -> Result<Self> {
        let google = Google::start(Config::default()).await?;
        let token = add_user(&google, SUB, &[DRIVE, TASKS]);
        Ok(Self { google, http: Client::builder().user_agent("replica-1").build()?, token })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.google.origin());
        self.http.request(method, url)
    }

    async fn get(&self, path: &str) -> Result<Response> {
        let request = self.request(Method::GET, path);
        Ok(request.bearer_auth(&self.token).send().await?)
    }

    fn insert(&self, id: &str) -> RequestBuilder {
        self.request(Method::POST, TASKS_PATH)
            .bearer_auth(&self.token)
            .header("x-effect-id", id)
            .json(&json!({"title": format!("Task of {id}")}))
    }
}

fn add_user(google: &Google, sub: &str, scopes: &[&str]) -> String {
    let user = User { sub: sub.to_owned(), ..User::default() };
    google.add_user(user, scopes.iter().copied()).access_token
}

#[tokio::test]
async fn a_dead_token_is_challenged() -> Result<()> {
    let stand = Stand::start().await?;
    let request = stand.request(Method::GET, "/drive/v3/files");
    let refused = request.bearer_auth("x").send().await?;
    assert_eq!(refused.status(), 401);
    let challenge = refused.headers()["www-authenticate"].to_str()?;
    assert!(challenge.starts_with("Bearer realm="));
    assert!(challenge.contains("error=\"invalid_token\""));
    let error = refused.json::<Value>().await?["error"].clone();
    assert_eq!(error["code"], 401);
    assert_eq!(error["status"], "UNAUTHENTICATED");
    assert_eq!(error["errors"][0]["reason"], "authError");

    let refused = stand.request(Method::GET, "/drive/v3/files").send().await?;
    assert_eq!(refused.status(), 401);
    let challenge = refused.headers()["www-authenticate"].to_str()?;
    assert!(!challenge.contains("error="));

    let refused = stand.request(Method::GET, "/v1/userinfo");
    let refused = refused.bearer_auth("x").send().await?;
    assert!(refused.headers().contains_key("www-authenticate"));
    let body: Value = refused.json().await?;
    assert_eq!(body["error_description"], "Invalid Credentials");
    assert_eq!(stand.google.stats(&StatsQuery::default()).unauthorized, 3);
    Ok(())
}

#[tokio::test]
async fn a_missing_scope_is_named() -> Result<()> {
    let stand = Stand::start().await?;
    let token = add_user(&stand.google, "2", &["openid", DRIVE]);
    let request = stand.request(Method::POST, TASKS_PATH).bearer_auth(token);
    let refused = request.json(&json!({"title": "x"})).send().await?;
    assert_eq!(refused.status(), 403);
    let challenge = refused.headers()["www-authenticate"].to_str()?;
    assert!(challenge.contains("error=\"insufficient_scope\""));
    assert!(challenge.contains(&format!("scope=\"{TASKS}\"")));
    let error = refused.json::<Value>().await?["error"].clone();
    assert_eq!(error["status"], "PERMISSION_DENIED");
    assert_eq!(error["errors"][0]["reason"], "insufficientPermissions");
    let reason = &error["details"][0]["reason"];
    assert_eq!(reason, "ACCESS_TOKEN_SCOPE_INSUFFICIENT");
    assert_eq!(stand.google.effects(), []);
    let query = StatsQuery { sub: Some("2".to_owned()) };
    assert_eq!(stand.google.stats(&query).forbidden, 1);
    Ok(())
}

#[tokio::test]
async fn a_limited_user_is_told_when_to_come_back() -> Result<()> {
    let stand = Stand::start().await?;
    stand.google.limit_user(SUB, 1, Duration::from_millis(29_500));
    assert_eq!(stand.get("/v1/echo").await?.status(), 200);
    let refused = stand.get("/v1/echo").await?;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "30");
    let error = refused.json::<Value>().await?["error"].clone();
    assert_eq!(error["status"], "RESOURCE_EXHAUSTED");
    assert_eq!(error["errors"][0]["reason"], "rateLimitExceeded");
    assert_eq!(error["errors"][0]["domain"], "usageLimits");
    stand.google.limit_user(SUB, u64::MAX, Duration::ZERO);
    assert_eq!(stand.get("/v1/echo").await?.status(), 200);
    assert_eq!(stand.google.stats(&StatsQuery::default()).throttled, 1);
    Ok(())
}

#[tokio::test]
async fn drive_lists_the_same_files_in_pages() -> Result<()> {
    let stand = Stand::start().await?;
    let mut seen = Vec::new();
    let mut path = "/drive/v3/files?pageSize=10".to_owned();
    let mut pages = 0;
    loop {
        let page: Value = stand.get(&path).await?.json().await?;
        pages += 1;
        seen.extend(page["files"].as_array().unwrap().clone());
        let Some(next) = page["nextPageToken"].as_str() else {
            break;
        };
        path = format!("/drive/v3/files?pageSize=10&pageToken={next}");
    }
    let whole: Value = stand.get("/drive/v3/files").await?.json().await?;
    assert_eq!(whole["files"], Value::Array(seen.clone()));
    assert_eq!(whole.get("nextPageToken"), None);
    assert_eq!(pages, seen.len().div_ceil(10));
    for bad in ["pageSize=0", "pageSize=x", "pageToken=x"] {
        let refused = stand.get(&format!("/drive/v3/files?{bad}")).await?;
        assert_eq!(refused.status(), 400, "{bad}");
    }
    let id = seen[3]["id"].as_str().unwrap();
    let file: Value = stand.get(&format!("/drive/v3/files/{id}")).await?.json().await?;
    assert_eq!(file, seen[3]);
    assert_eq!(stand.get("/drive/v3/files/other").await?.status(), 404);
    Ok(())
}

#[tokio::test]
async fn drive_streams_as_much_as_is_asked_for() -> Result<()> {
    let stand = Stand::start().await?;
    let files: Value = stand.get("/drive/v3/files?pageSize=1").await?.json().await?;
    let id = files["files"][0]["id"].as_str().unwrap();
    let content = async |size: u64| -> Result<_> {
        let path = format!("/drive/v3/files/{id}?alt=media&size={size}");
        let response = stand.get(&path).await?;
        assert_eq!(response.content_length(), Some(size));
        Ok(response.bytes().await?)
    };
    let large = content(1_000_000).await?;
    assert_eq!(large.len(), 1_000_000);
    let small = content(100_000).await?;
    assert_eq!(small, large[..100_000]);
    assert_eq!(content(0).await?.len(), 0);
    Ok(())
}

#[tokio::test]
async fn a_download_ends_with_the_emulator() -> Result<()> {
    let stand = Stand::start().await?;
    let files: Value = stand.get("/drive/v3/files?pageSize=1").await?.json().await?;
    let id = files["files"][0]["id"].as_str().unwrap();
    let path = format!("/drive/v3/files/{id}?alt=media&size={}", 1_u64 << 40);
    let mut endless = stand.get(&path).await?;
    assert!(endless.chunk().await?.is_some());
    drop(stand.google);
    while let Ok(chunk) = endless.chunk().await {
        assert!(chunk.is_some(), "it must not end as if it were complete");
    }
    Ok(())
}

#[tokio::test]
async fn inserted_tasks_are_effects() -> Result<()> {
    let stand = Stand::start().await?;
    for id in ["job-1", "job-2", "job-1"] {
        let inserted = stand.insert(id).send().await?;
        assert_eq!(inserted.status(), 200);
        let task: Value = inserted.json().await?;
        assert_eq!(task["kind"], "tasks#task");
        assert_eq!(task["title"], format!("Task of {id}"));
    }
    let invalid = stand.request(Method::POST, TASKS_PATH);
    let invalid = invalid.bearer_auth(&stand.token).body("[]").send().await?;
    assert_eq!(invalid.status(), 400);
    let effects = stand.google.effects();
    let ids: Vec<_> = effects.iter().filter_map(|effect| effect.id.as_deref()).collect();
    assert_eq!(ids, ["job-1", "job-2", "job-1"]);
    assert_eq!(effects[2].seq, 2);
    assert_eq!(effects[2].sub, SUB);
    assert_eq!(effects[2].user_agent.as_deref(), Some("replica-1"));
    assert!(effects[0].at <= effects[1].at);

    let first: Value = stand.get(&format!("{TASKS_PATH}?maxResults=2")).await?.json().await?;
    assert_eq!(first["items"].as_array().map(Vec::len), Some(2));
    let next = first["nextPageToken"].as_str().unwrap();
    let rest = format!("{TASKS_PATH}?maxResults=2&pageToken={next}");
    let rest: Value = stand.get(&rest).await?.json().await?;
    assert_eq!(rest["items"][0]["title"], "Task of job-1");
    assert_eq!(rest.get("nextPageToken"), None);
    let other: Value = stand.get("/tasks/v1/lists/other/tasks").await?.json().await?;
    assert_eq!(other["items"], json!([]));
    Ok(())
}

/// As the clients for Java and .NET send them.
#[tokio::test]
async fn bodies_may_be_compressed_and_a_post_may_stand_for_another_method() -> Result<()> {
    let stand = Stand::start().await?;
    let mut compressed = Vec::new();
    GzipEncoder::new(&br#"{"title":"zipped"}"#[..]).read_to_end(&mut compressed).await?;
    let post = |path: &str| stand.request(Method::POST, path).bearer_auth(&stand.token);
    let made = post(TASKS_PATH).header("content-encoding", "gzip").body(compressed).send().await?;
    assert_eq!(made.status(), 200);
    let made: Value = made.json().await?;
    assert_eq!(made["title"], "zipped");
    let task = format!("{TASKS_PATH}/{}", made["id"].as_str().unwrap());
    let patched = post(&task).header("x-http-method-override", "PATCH");
    let patched = patched.json(&json!({"title": "other"})).send().await?;
    assert_eq!(patched.json::<Value>().await?["title"], "other");
    let listed = post(TASKS_PATH).header("x-http-method-override", "GET");
    let listed = listed.body("fields=items(title)").send().await?;
    assert_eq!(listed.json::<Value>().await?, json!({"items": [{"title": "other"}]}));
    Ok(())
}

#[tokio::test]
async fn waiting_needs_no_polling() -> Result<()> {
    let stand = Stand::start().await?;
    let inserts = async {
        for id in ["a", "b", "c"] {
            stand.insert(id).send().await?;
        }
        anyhow::Ok(())
    };
    let wait = stand.google.wait_for(|stats| stats.effects >= 3);
    let (inserted, stats) = tokio::join!(inserts, wait);
    inserted?;
    assert_eq!((stats.effects, stats.api_calls), (3, 3));
    Ok(())
}

#[tokio::test]
async fn any_status_can_be_asked_for() -> Result<()> {
    let stand = Stand::start().await?;
    let busy = stand.get("/v1/status/503?retry_after=7").await?;
    assert_eq!(busy.status(), 503);
    assert_eq!(busy.headers()["retry-after"], "7");
    let error = busy.json::<Value>().await?["error"].clone();
    assert_eq!((&error["code"], &error["status"]), (&json!(503), &json!("UNAVAILABLE")));
    let limited = stand.get("/v1/status/403?reason=userRateLimitExceeded").await?;
    let error = limited.json::<Value>().await?["error"].clone();
    assert_eq!(error["errors"][0]["reason"], "userRateLimitExceeded");
    let unauthorized = stand.get("/v1/status/401").await?;
    assert!(unauthorized.headers().contains_key("www-authenticate"));
    assert_eq!(stand.get("/v1/status/204").await?.status(), 204);
    assert_eq!(stand.get("/v1/status/200").await?.status(), 200);
    let moved = stand.get("/v1/status/302?location=/v1/status/418").await?;
    assert_eq!(moved.status(), 418);
    for bad in ["99", "100", "600", "x"] {
        let refused = stand.get(&format!("/v1/status/{bad}")).await?;
        assert_eq!(refused.status(), 400, "{bad}");
    }
    let anonymous = stand.request(Method::GET, "/v1/status/200").send().await?;
    assert_eq!(anonymous.status(), 401);
    Ok(())
}

#[tokio::test]
async fn a_mirror_shows_the_token_wherever_an_answer_speaks() -> Result<()> {
    let stand = Stand::start().await?;
    for code in [200, 404, 500] {
        let answer = stand.get(&format!("/v1/mirror/{code}")).await?;
        assert_eq!(answer.status(), code);
        for name in ["x-mirror", "location", "www-authenticate"] {
            assert!(answer.headers()[name].to_str()?.contains(&stand.token), "{name}");
        }
        assert!(answer.text().await?.matches(&stand.token).count() >= 5);
    }
    Ok(())
}

#[tokio::test]
async fn echo_shows_the_request_and_no_token() -> Result<()> {
    let stand = Stand::start().await?;
    let request = stand.request(Method::PATCH, "/v1/echo?a=1&b=x%20y");
    let request = request.bearer_auth(&stand.token).header("x-test", "yes");
    let echoed = request.body("hello").send().await?.text().await?;
    assert!(!echoed.contains(&stand.token));
    let echoed: Value = serde_json::from_str(&echoed)?;
    assert_eq!(echoed["method"], "PATCH");
    assert_eq!(echoed["query"], json!({"a": "1", "b": "x y"}));
    assert_eq!(echoed["headers"]["x-test"], "yes");
    assert_eq!(echoed["headers"].get("authorization"), None);
    assert_eq!(echoed["body"], "hello");
    Ok(())
}

#[tokio::test]
async fn what_is_missing_is_refused_by_its_name() -> Result<()> {
    let stand = Stand::start().await?;
    for (method, path, names) in [
        (Method::POST, "/drive/v3/files/x/copy", "drive.files.copy"),
        (Method::GET, "/drive/v3/files?corpora=domain", "drive.files.list with corpora=domain"),
        (
            Method::GET,
            "/drive/v3/files?q=fullText+contains+'x'",
            "drive.files.list with q=fullText",
        ),
        (Method::POST, "/tasks/v1/lists/@default/clear", "tasks.tasks.clear"),
        (Method::GET, "/tasks/v1/lists/@default/tasks?dueMin=x", "tasks.tasks.list with dueMin"),
        (Method::POST, "/batch/drive/v3", "POST /batch/drive/v3"),
        (Method::POST, "/upload/drive/v3/files?uploadType=resumable", "uploadType=resumable"),
    ] {
        let token = add_user(&stand.google, "wide", &[DRIVE, TASKS, DRIVE_FILE]);
        let refused = stand.request(method, path).bearer_auth(token).send().await?;
        assert_eq!(refused.status(), 501, "{path}");
        let error = refused.json::<Value>().await?["error"].clone();
        assert_eq!(error["status"], "UNIMPLEMENTED");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(names), "{path}: {message}");
    }
    // What the reference does not have is not there; its own parameters are not looked at.
    assert_eq!(stand.get("/drive/v3/file").await?.status(), 404);
    assert_eq!(stand.get("/drive/v3/files?no_such=1&prettyPrint=false").await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn quotas_are_told_as_the_apis_tell_them() -> Result<()> {
    let stand = Stand::start().await?;
    for (status, reason, name) in [
        (429, "rateLimitExceeded", "RESOURCE_EXHAUSTED"),
        (403, "userRateLimitExceeded", "PERMISSION_DENIED"),
        (503, "backendError", "UNAVAILABLE"),
    ] {
        let wait = Some(Duration::from_secs(30));
        let fault = api_error(StatusCode::from_u16(status)?, reason, wait);
        let quota = stand.google.inject(fault.on(Operation::Api).about(SUB).times(1));
        let refused = stand.get("/drive/v3/files").await?;
        assert_eq!(refused.status(), status);
        assert_eq!(refused.headers()["retry-after"], "30");
        let error = refused.json::<Value>().await?["error"].clone();
        assert_eq!((&error["code"], &error["status"]), (&json!(status), &json!(name)));
        assert_eq!(error["errors"][0]["reason"], reason);
        assert_eq!(quota.count(), 1);
        assert_eq!(stand.get("/drive/v3/files").await?.status(), 200);
    }
    Ok(())
}

#[tokio::test]
async fn users_have_their_own() -> Result<()> {
    let stand = Stand::start().await?;
    let (ann, bob) = (
        add_user(&stand.google, "ann", &[CALENDAR, DRIVE_FILE]),
        add_user(&stand.google, "bob", &[CALENDAR, DRIVE_FILE]),
    );
    let day = json!({"start": {"date": "2030-01-01"}, "end": {"date": "2030-01-02"}});
    let events = "/calendar/v3/calendars/primary/events";
    let made = stand.request(Method::POST, events).bearer_auth(&ann).json(&day).send().await?;
    let id = made.json::<Value>().await?["id"].as_str().unwrap().to_owned();
    let file = stand.request(Method::POST, "/drive/v3/files").bearer_auth(&ann);
    let file: Value = file.json(&json!({"name": "a"})).send().await?.json().await?;
    let file = format!("/drive/v3/files/{}", file["id"].as_str().unwrap());
    for path in [format!("{events}/{id}"), file] {
        let seen = async |token: &str| {
            let request = stand.request(Method::GET, &path).bearer_auth(token);
            Ok::<_, anyhow::Error>(request.send().await?.status())
        };
        assert_eq!((seen(&ann).await?, seen(&bob).await?), (StatusCode::OK, StatusCode::NOT_FOUND));
        // Another scope than the method's is not enough.
        let refused = stand.get(&path).await?;
        let is_calendar = path.starts_with("/calendar");
        assert_eq!(refused.status(), if is_calendar { 403 } else { 404 });
    }
    Ok(())
}

//! What leaves, and what is made of what comes back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tests::stage::PATIENCE;

use super::server::{answer, json as json_answer, unframed};
use super::{EXPORTS, Scene, call, job};

const NUMBERS: &str = r#"[117.63331139400017, 9007199254740991.0,  123456789012345678901234567890, 1e400, -0, "\u00fc\/"]"#;

#[tokio::test]
async fn what_would_be_sent_otherwise_is_refused_before_anything_is_sent() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let delete = json!({"method": "DELETE"});
    let tokens = tests::stage::BUCKET;
    let google = |id: &str, url: &str| job(id, &json!({"url": url}).to_string());
    let storage =
        |id: &str, path: &str| google(id, &format!("https://storage.googleapis.com{path}"));
    let header = |name: &str| json!({"headers": {name: "DELETE"}});
    let paged = |fields: &str| json!({"paginate": true, "query": {"fields": fields}});
    let cases = [
        (call("fragment", "/calendars/team#holiday@x/events/e1", &delete), "write %23"),
        (call("query", "/v4?q=C#&maxResults=1", &json!({})), "write %23"),
        (call("dots", "/files/f1/comments/..", &delete), "folded away"),
        (call("encoded", "/files/f1/comments/%2e%2e", &delete), "folded away"),
        (call("dot", "/files/f1/.", &delete), "folded away"),
        (call("override", "/v1/x", &header("X-HTTP-Method-Override")), "cannot set"),
        (call("method", "/v1/x", &header("X-HTTP-Method")), "cannot set"),
        (call("mask", "/v1/x", &paged("files(id)")), "`nextPageToken`"),
        (call("expect", "/v1/x", &json!({"expect": [500]})), "`expect`"),
        (storage("json", &format!("/storage/v1/b/{tokens}/o")), "token bucket"),
        (storage("upload", &format!("/upload/storage/v1/b/{tokens}/o?name=x")), "token bucket"),
        (storage("xml", &format!("/{tokens}/tokens/ann.json")), "token bucket"),
        (storage("slash", &format!("/storage/v1/b%2F{tokens}/o")), "token bucket"),
        (storage("batch", "/batch/storage/v1"), "token bucket"),
        (
            google("host", &format!("https://{tokens}.storage.googleapis.com/tokens/ann.json")),
            "token bucket",
        ),
        (
            google("mtls", &format!("https://storage.mtls.googleapis.com/{tokens}/x")),
            "token bucket",
        ),
        (google("token", "https://www.googleapis.com/oauth2/v4/token"), "token service"),
        (google("secure", "https://securetoken.googleapis.com/v1/token"), "not a Google API"),
    ];
    let jobs: Vec<String> = cases.iter().map(|(job, _)| job.clone()).collect();
    let told = scene.outcomes(&jobs, &[]).await?;
    for (job, says) in &cases {
        let id = job.split('"').nth(3).unwrap();
        told[id].assert_rejected(says);
        assert_eq!(told[id].outcome["effect"], "none");
    }
    assert!(scene.api.requests().is_empty(), "{:?}", scene.api.requests());
    Ok(())
}

/// From the command line to the API's socket and back into the outcome.
#[tokio::test]
async fn bytes_pass_as_they_were_written() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let deep = format!("{}1.0{}", "[".repeat(200), "]".repeat(200));
    scene.api.at("/v1/echo", [json_answer(&format!(" {{\"b\" : {NUMBERS}, \"a\":{deep}}}\n"))]);
    let body = format!("{{\"b\" : {NUMBERS}, \"a\":{deep}}}");
    let params = format!(
        "{{\"method\":\"POST\",\"url\":\"https://www.googleapis.com/v1/echo\",\"query\":{{\"n\":1e400}},\"body\":{body}}}"
    );
    let mut inbox = scene.stage.inbox("outcomes").await?;
    let args = ["publish", "--user", "ann", "--kind", "api", "--id", "j", "--params", &params];
    let output = scene.stage.fleet(&args).await?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    let mut worker = scene.stage.worker(&[]).await?;
    let (outcome, _) = inbox.next_bytes().await?;
    assert_eq!(worker.terminate().await?, 0);
    let outcome = str::from_utf8(&outcome)?;
    assert!(outcome.contains(&format!("\"result\":{body},")), "{outcome}");
    let sent = scene.api.sent_to("/v1/echo");
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].line, "POST /v1/echo?n=1e400");
    assert_eq!(str::from_utf8(&sent[0].body)?, body);
    let bad = ["publish", "--user", "ann", "--kind", "api", "--params", "{\"fake-secret\": 1,}"];
    let output = scene.stage.fleet(&bad).await?;
    assert_eq!(output.code, 2);
    assert!(!output.stderr.contains("fake-secret"), "{}", output.stderr);
    Ok(())
}

/// What is rejected and what is parked keeps its bytes too.
#[tokio::test]
async fn dead_letters_and_parked_jobs_keep_their_bytes() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let rejected =
        job("rejected", &format!(r#"{{"url":"https://evil.example/", "body":{NUMBERS}}}"#));
    let parked = rejected.replace("rejected", "parked").replace("ann", "stranger");
    let mut dead = scene.stage.inbox("jobs-dead-review").await?;
    let mut worker = scene.stage.worker(&[]).await?;
    scene.publish([rejected.clone().into(), parked.clone().into()]).await?;
    let (letter, _) = dead.next_bytes().await?;
    assert_eq!(str::from_utf8(&letter)?, rejected);
    worker.wait_for(|line| line["job"] == "parked" && line["status"] == "parked").await?;
    assert_eq!(worker.terminate().await?, 0);
    let names = scene.stage.cloud.objects(tests::stage::BUCKET, "parked/").await?;
    let object = names.iter().find(|name| !name.ends_with("/claim")).unwrap();
    let object = scene.stage.cloud.object(tests::stage::BUCKET, object).await?;
    let object: serde_json::Value = serde_json::from_str(&object)?;
    let stored = STANDARD.decode(object["data"].as_str().unwrap())?;
    assert_eq!(str::from_utf8(&stored)?, parked);
    Ok(())
}

#[tokio::test]
async fn half_an_answer_is_no_answer() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let json_type = "content-type: application/json\r\n";
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 99\r\nconnection: close\r\n\r\n{\"a\":";
    let cases = [
        ("unframed", unframed(json_type, "{\"a\": [1, 2")),
        ("half", json_answer("{\"a\": [1, 2")),
        ("cut", cut.into()),
    ];
    let mut jobs = Vec::new();
    for (name, half) in cases {
        let whole = json_answer("{\"a\": 1.0}");
        scene.api.at(&format!("/get/{name}"), [half.clone(), whole]);
        scene.api.at(&format!("/post/{name}"), [half]);
        jobs.push(call(&format!("get-{name}"), &format!("/get/{name}"), &json!({})));
        let post = json!({"method": "POST"});
        jobs.push(call(&format!("post-{name}"), &format!("/post/{name}"), &post));
    }
    scene.api.at("/deep", [json_answer(&deep)]);
    jobs.push(call("deep", "/deep", &json!({})));
    let told = scene.outcomes(&jobs, &[]).await?;
    for name in ["unframed", "half", "cut"] {
        told[&format!("get-{name}")].assert_done("{\"a\": 1.0}");
        assert_eq!(scene.api.sent_to(&format!("/get/{name}")).len(), 2);
        told[&format!("post-{name}")].assert_warned("cut off");
        assert_eq!(scene.api.sent_to(&format!("/post/{name}")).len(), 1, "never twice");
    }
    told["deep"].assert_done(&deep);
    Ok(())
}

#[tokio::test]
async fn pages_that_are_cut_empty_or_deep() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let first =
        |next: &str| json_answer(&format!("{{\"a\": [1.0], \"nextPageToken\": \"{next}\"}}"));
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    let none = "HTTP/1.1 204 No\r\nconnection: close\r\n\r\n";
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 99\r\nconnection: close\r\n\r\n{\"a\": [2";
    scene.api.at("/cut", [first("2"), cut.into(), first("2"), json_answer("{\"a\": [2e0]}")]);
    scene.api.at("/half", [first("2"), json_answer("{\"a\": [2"), first("2"), json_answer("{}")]);
    scene.api.at("/none", [first("2"), none.into()]);
    scene.api.at("/empty", [first("2"), answer("200", "", "")]);
    scene.api.at("/deep", [first("2"), json_answer(&format!("{{\"a\": [{deep}]}}"))]);
    scene.api.at("/list", [first("2"), json_answer("[1]")]);
    let names = ["cut", "half", "none", "empty", "deep", "list"];
    let mut jobs: Vec<String> = names
        .iter()
        .map(|name| {
            let more = json!({"paginate": true, "query": {"q": "a b", "fields": "*"}});
            call(name, &format!("/{name}?x=%28+%2c"), &more)
        })
        .collect();
    scene.api.at("/lines", [first("2"), json_answer(&format!("{{\"a\": [{deep} , 1e400]}}"))]);
    let output = format!("gs://{EXPORTS}/lines");
    jobs.push(call("lines", "/lines", &json!({"paginate": true, "output": output})));
    let told = scene.outcomes(&jobs, &[]).await?;
    told["cut"].assert_done("{\"a\":[1.0,2e0]}");
    assert_eq!(scene.api.sent_to("/cut").len(), 4, "from the first page on");
    let second = &scene.api.sent_to("/cut")[1].line;
    assert_eq!(second, "GET /cut?x=%28+%2c&fields=*&q=a+b&pageToken=2");
    for name in ["half", "none", "empty"] {
        told[name].assert_done("{\"a\":[1.0]}");
    }
    told["deep"].assert_done(&format!("{{\"a\":[1.0,{deep}]}}"));
    told["list"].assert_rejected("a page is not a JSON object");
    assert_eq!(told["lines"].outcome["result"]["pages"], 2, "{}", told["lines"].text);
    let stored = scene.stage.cloud.object(EXPORTS, "lines").await?;
    assert_eq!(stored, format!("1.0\n{deep}\n1e400\n"));
    Ok(())
}

#[tokio::test]
async fn a_token_that_is_echoed_is_hidden_everywhere() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    scene.api.at("/result", [json_answer("{\"h\": \"Bearer TOKEN\"}")]);
    scene.api.at("/pages", [json_answer("{\"a\": [\"Bearer TOKEN\"]}")]);
    // In the object the token lies across two pieces.
    scene.api.at("/object", [json_answer(&format!("\"{}TOKEN\"", "x".repeat(8000)))]);
    let output = |name: &str| json!({"output": format!("gs://{EXPORTS}/{name}")});
    let mut paged = output("pages");
    paged["paginate"] = true.into();
    let jobs = [
        call("result", "/result", &json!({})),
        call("pages", "/pages", &json!({"paginate": true})),
        call("lines", "/pages", &paged),
        call("object", "/object", &output("object")),
    ];
    let told = scene.outcomes(&jobs, &[]).await?;
    let token = scene.api.requests()[0].head.clone();
    let token = token.lines().find_map(|line| line.strip_prefix("authorization: bearer ")).unwrap();
    assert!(token.starts_with("ya29."), "{token}");
    let stars = "*".repeat(token.len());
    told["result"].assert_done(&format!("{{\"h\": \"Bearer {stars}\"}}"));
    told["pages"].assert_done(&format!("{{\"a\":[\"Bearer {stars}\"]}}"));
    let lines = scene.stage.cloud.object(EXPORTS, "pages").await?;
    assert_eq!(lines, format!("\"Bearer {stars}\"\n"));
    let object = scene.stage.cloud.object(EXPORTS, "object").await?;
    assert_eq!(object, format!("\"{}{stars}\"", "x".repeat(8000)));
    Ok(())
}

#[tokio::test]
async fn what_a_job_expects_and_how_long_it_waits() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let gone = answer("404", "content-type: application/json\r\n", "{\"error\": {\"n\": 1.0}}");
    scene.api.at("/gone", [gone]);
    scene.api.at("/changed", [answer("412", "", "")]);
    scene.api.at("/silent", [bytes::Bytes::new()]);
    let delete = json!({"method": "DELETE", "expect": [404, 410]});
    let matched = json!({
        "method": "PUT", "body": "x", "expect": [412], "headers": {"If-Match": "\"7\""},
    });
    let jobs = [
        call("gone", "/gone", &delete),
        call("refused", "/gone", &json!({"method": "DELETE"})),
        call("changed", "/changed", &matched),
        call("other", "/gone", &json!({"expect": [409]})),
    ];
    let told = scene.outcomes(&jobs, &[]).await?;
    told["gone"].assert_done("{\"error\": {\"n\": 1.0}}");
    assert_eq!(told["gone"].outcome["http_status"], 404);
    assert_eq!(told["gone"].outcome["effect"], "none");
    told["changed"].assert_done("null");
    assert!(scene.api.sent_to("/changed")[0].head.contains("if-match: \"7\""));
    for id in ["refused", "other"] {
        told[id].assert_rejected("HTTP status 404");
    }
    Ok(())
}

/// Three users who are refused are everybody's trouble: nobody's next call is sent at once.
#[tokio::test]
async fn a_host_that_refuses_many_users_is_left_alone_for_a_while() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let refused = "{\"error\": {\"errors\": [{\"reason\": \"rateLimitExceeded\"}]}}";
    let refused = answer("403", "", refused);
    scene.api.at("/a", [refused.clone(), refused.clone(), refused, json_answer("1")]);
    let of = |id: &str, user: &str| call(id, "/a", &json!({})).replace("ann", user);
    let mut inbox = scene.stage.inbox("outcomes").await?;
    let mut worker = scene.stage.worker(&[]).await?;
    let first = [of("1", "ann"), of("2", "bob"), of("3", "eve")];
    scene.publish(first.map(Into::into)).await?;
    worker.wait_for_message("an API refuses many users").await?;
    let refused_calls = scene.api.sent_to("/a").len();
    assert_eq!(refused_calls, 3);
    scene.publish([of("4", "joe").into()]).await?;
    let told = inbox.outcomes(4).await?;
    assert!(told.values().all(|outcome| outcome["status"] == "done"), "{told:?}");
    assert_eq!(scene.api.sent_to("/a").len(), 7, "no call was refused in vain");
    let address = format!("http://{}/metrics", worker.health().unwrap());
    let over = async {
        loop {
            let metrics = reqwest::get(&address).await?.text().await?;
            assert!(metrics.contains("fleet_host_pauses_total 1\n"), "{metrics}");
            if metrics.contains("fleet_hosts_paused 0\n") {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, over).await??;
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}

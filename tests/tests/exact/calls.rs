//! What leaves, and what is made of what comes back.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tests::stage::PATIENCE;

use super::server::{answer, json as json_answer, silence, stalled, unframed};
use super::{EXPORTS, Scene, call, job};

const NUMBERS: &str = r#"[117.63331139400017, 9007199254740991.0,  123456789012345678901234567890, 1e400, -0, "\u00fc\/"]"#;

#[tokio::test]
async fn what_would_be_sent_otherwise_is_refused_before_anything_is_sent() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let delete = json!({"method": "DELETE"});
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
        (call("copy", "/mine/x", &header("X-Goog-Copy-Source")), "cannot set"),
        (call("copy-s3", "/mine/x", &header("x-amz-copy-source")), "cannot set"),
        (call("twice", "/v1/x", &json!({"headers": {"If-Match": "1", "if-match": "2"}})), "twice"),
        (call("parameter", "/v1/x?%24httpMethod=DELETE", &json!({})), "`$httpMethod`"),
        (call("headers", "/v1/x", &json!({"query": {"$httpHeaders": "a:b"}})), "`$httpMethod`"),
        (call("mask", "/v1/x", &paged("files(id)")), "`nextPageToken`"),
        (call("expect", "/v1/x", &json!({"expect": [500]})), "`expect`"),
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

/// Credentials are out of reach of every job, in every form that Google's servers know their
/// place by, and so is whatever makes tokens.
#[tokio::test]
async fn the_token_bucket_and_token_services_are_never_called() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let bucket = tests::stage::BUCKET;
    let of_bucket = [
        format!("storage.googleapis.com/storage/v1/b/{bucket}/o"),
        format!("storage.googleapis.com/storage/v1/b/{bucket}/o/tokens%2Fann.json?alt=media"),
        format!("www.googleapis.com/storage/v1/b/{bucket}/o/tokens%2Fann.json"),
        format!("storage.googleapis.com/download/storage/v1/b/{bucket}/o/tokens%2Fann.json"),
        format!("www.googleapis.com/download/storage/v1/b/{bucket}/o/x?alt=media"),
        format!("storage.googleapis.com/upload/storage/v1/b/{bucket}/o?name=x"),
        format!("www.googleapis.com/upload/storage/v1/b/{bucket}/o?name=x"),
        format!("storage.googleapis.com/resumable/upload/storage/v1/b/{bucket}/o?name=x"),
        format!("storage.googleapis.com/storage/v1/b/mine/o/x/rewriteTo/b/{bucket}/o/y"),
        format!("storage.googleapis.com/{bucket}/tokens/ann.json"),
        format!("storage.googleapis.com/{bucket}?prefix=tokens/"),
        format!("commondatastorage.googleapis.com/{bucket}/tokens/ann.json"),
        format!("{bucket}.storage.googleapis.com/tokens/ann.json"),
        format!("{bucket}.storage-download.googleapis.com/tokens/ann.json"),
        format!("{bucket}.commondatastorage.googleapis.com/tokens/ann.json"),
        format!("storage.mtls.googleapis.com/storage/v1/b/{bucket}/o"),
        format!("storage.mtls.googleapis.com/{bucket}/tokens/ann.json"),
        format!("{bucket}.storage.mtls.googleapis.com/tokens/ann.json"),
        format!("storage.us-east1.rep.googleapis.com/{bucket}/tokens/ann.json"),
        format!("firebasestorage.googleapis.com/v0/b/{bucket}/o/tokens%2Fann.json"),
        format!("storage.googleapis.com/v2/projects/_/buckets/{bucket}/objects"),
        format!("storage.googleapis.com/storage/v1/b%2F{bucket}/o"),
        format!("storage.googleapis.com/storage%2Fv1%2Fb%2F{bucket}%2Fo"),
        format!("storage.googleapis.com/%2F{bucket}/tokens/ann.json"),
        format!("storage.googleapis.com/storage/v1/b/{}/o", bucket.replace('-', "%252d")),
        "storage.googleapis.com/batch/storage/v1".to_owned(),
        "www.googleapis.com/batch/storage/v1".to_owned(),
        "www.googleapis.com/batch".to_owned(),
        "storage.googleapis.com/google.storage.v2.Storage/ReadObject".to_owned(),
        "storage.googleapis.com/$rpc/google.storage.v2.Storage/ReadObject".to_owned(),
    ];
    let of_tokens = [
        "www.googleapis.com/oauth2/v4/token",
        "www.googleapis.com/oauth2/v3/token",
        "www.googleapis.com/o/oauth2/token",
        "www.googleapis.com/oauth2%2Fv4%2Ftoken",
        "www.googleapis.com/batch/oauth2/v2",
        "www.googleapis.com/identitytoolkit/v3/relyingparty/verifyPassword",
        "www.googleapis.com/securetoken/v1/token",
        "iam.googleapis.com/v1/projects/-/serviceAccounts/x:generateAccessToken",
        "iam.googleapis.com/$rpc/google.iam.admin.v1.IAM/SignJwt",
        "iam.googleapis.com/batch",
    ];
    let of_hosts = [
        "oauth2.googleapis.com/token",
        "oauth2.mtls.googleapis.com/token",
        "sts.googleapis.com/v1/token",
        "iamcredentials.googleapis.com/v1/x",
        "securetoken.googleapis.com/v1/token",
        "securetoken.mtls.googleapis.com/v1/token",
        "identitytoolkit.googleapis.com/v1/accounts:signInWithPassword",
        "identitytoolkit.us.googleapis.com/v1/x",
    ];
    let cases = of_bucket
        .iter()
        .map(|url| (url.as_str(), "token bucket"))
        .chain(of_tokens.map(|url| (url, "token service")))
        .chain(of_hosts.map(|url| (url, "not a Google API")));
    let cases: Vec<_> = cases.collect();
    let mut jobs = Vec::new();
    for (n, (url, _)) in cases.iter().enumerate() {
        for method in ["GET", "POST"] {
            let params = json!({"method": method, "url": format!("https://{url}")});
            jobs.push(job(&format!("{method}-{n}"), &params.to_string()));
        }
    }
    let told = scene.outcomes(&jobs, &[]).await?;
    for (n, (url, says)) in cases.iter().enumerate() {
        for method in ["GET", "POST"] {
            let told = &told[&format!("{method}-{n}")];
            assert!(told.outcome["error"].as_str().unwrap().contains(says), "{url}: {}", told.text);
            told.assert_rejected(says);
            assert_eq!(told.outcome["effect"], "none", "{url}");
        }
    }
    assert!(scene.api.requests().is_empty(), "{:?}", scene.api.requests());
    // A redirect leads there no more than a job does.
    let to_bucket = format!("location: https://storage.googleapis.com/{bucket}/x\r\n");
    scene.api.at("/to-bucket", [answer("307", &to_bucket, "")]);
    let to_token = "location: /oauth2/v4/token\r\n";
    scene.api.at("/to-token", [answer("302", to_token, "")]);
    let jobs = ["to-bucket", "to-token"].map(|id| call(id, &format!("/{id}"), &json!({})));
    let told = scene.outcomes(&jobs, &[]).await?;
    told["to-bucket"].assert_rejected("token bucket");
    told["to-token"].assert_rejected("token service");
    assert_eq!(scene.api.requests().len(), jobs.len());
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
    for (id, method) in [("get-object", "GET"), ("post-object", "POST")] {
        scene
            .api
            .at(&format!("/{id}"), [json_answer("{\"a\": [1, 2"), json_answer("{\"a\": 1.0}")]);
        let output = format!("gs://{EXPORTS}/{id}");
        jobs.push(call(id, &format!("/{id}"), &json!({"method": method, "output": output})));
    }
    let told = scene.outcomes(&jobs, &[]).await?;
    assert_eq!(told["get-object"].outcome["result"]["bytes"], 10, "{}", told["get-object"].text);
    told["post-object"].assert_warned("cut off");
    assert_eq!(scene.api.sent_to("/post-object").len(), 1, "never twice");
    assert_eq!(scene.stage.cloud.objects(EXPORTS, "").await?, ["get-object"]);
    assert_eq!(scene.stage.cloud.object(EXPORTS, "get-object").await?, "{\"a\": 1.0}");
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
async fn what_a_job_expects_is_done() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let gone = answer("404", "content-type: application/json\r\n", "{\"error\": {\"n\": 1.0}}");
    scene.api.at("/gone", [gone]);
    scene.api.at("/changed", [answer("412", "", "")]);
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

/// A quota that is used up comes back late: its user waits for half a minute, with every job,
/// and nobody else does. A replica that was not refused goes on with what the first gives back.
#[tokio::test]
async fn a_quota_holds_up_its_user_and_nobody_else() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    scene.stage.write_user("kim", Duration::from_secs(3600)).await?;
    let reason = |name: &str| json!({"error": {"errors": [{"reason": name}]}}).to_string();
    let quotas = [
        ("ann", reason("quotaExceeded")),
        ("bob", reason("concurrentLimitExceeded")),
        ("eve", json!({"error": {"code": 403, "status": "RESOURCE_EXHAUSTED"}}).to_string()),
    ];
    let of = |id: &str, user: &str, path: &str| {
        call(id, path, &json!({"method": "POST"})).replace("\"ann\"", &format!("{user:?}"))
    };
    let mut inbox = scene.stage.inbox("outcomes").await?;
    let mut worker = scene.stage.worker(&[]).await?;
    for (user, error) in &quotas {
        scene.api.at(&format!("/{user}"), [answer("403", "", error), json_answer("1")]);
        scene.publish([of(user, user, &format!("/{user}")).into()]).await?;
        let line = worker.wait_for(|line| line["job"] == *user && line["message"].is_string());
        let line = line.await?;
        let says = line["message"].as_str().unwrap();
        assert!(says.contains("the next comes in 30.0s") && says.contains("limits"), "{line}");
    }
    // Their other jobs come before those of a user whose rate alone is limited, which goes on
    // after a second, and of one who has nothing to do with it.
    let rate = answer("403", "", reason("userRateLimitExceeded"));
    scene.api.at("/joe", [rate, json_answer("1")]);
    let others = quotas.iter().map(|(user, _)| of(&format!("{user}-2"), user, "/other"));
    let go_on = [of("joe", "joe", "/joe"), of("kim", "kim", "/kim")];
    scene.publish(others.chain(go_on).map(Into::into)).await?;
    let told = inbox.outcomes(2).await?;
    assert!(told.contains_key("joe") && told.contains_key("kim"), "{told:?}");
    assert!(told.values().all(|outcome| outcome["status"] == "done"), "{told:?}");
    assert_eq!(scene.api.sent_to("/joe").len(), 2);
    for (user, _) in &quotas {
        assert_eq!(scene.api.sent_to(&format!("/{user}")).len(), 1, "{user} waits");
    }
    assert!(scene.api.sent_to("/other").is_empty(), "so do their other jobs");
    assert_eq!(worker.terminate().await?, 0, "{}", worker.log_text());
    let mut worker = scene.stage.worker(&[]).await?;
    let told = inbox.outcomes(2 * quotas.len()).await?;
    assert!(told.values().all(|outcome| outcome["status"] == "done"), "{told:?}");
    for (user, _) in &quotas {
        assert_eq!(scene.api.sent_to(&format!("/{user}")).len(), 2, "{user}");
    }
    assert_eq!(scene.api.sent_to("/other").len(), quotas.len());
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}

/// By its own limit a job says that another try is worth while, where one does no harm.
#[tokio::test]
async fn a_call_that_outlasts_its_job_is_repeated_only_where_it_may_be() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let whole = || json_answer("{\"a\": 1.0}");
    let late = json!({"timeout_s": 3});
    let again = json!({"timeout_s": 3, "method": "POST", "idempotent": true});
    let once = json!({"timeout_s": 3, "method": "POST"});
    for path in ["/get", "/again", "/post", "/patch"] {
        scene.api.at(path, [silence(), whole()]);
    }
    // Begun, and then silent: the API did it, and only its answer is late.
    let begun = "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"a\":";
    scene.api.at("/begun", [stalled(begun)]);
    let jobs = [
        call("get", "/get", &late),
        call("again", "/again", &again),
        call("post", "/post", &once),
        call("patch", "/patch", &json!({"timeout_s": 3, "method": "PATCH"})),
        call("begun", "/begun", &once),
    ];
    let told = scene.outcomes(&jobs, &["--per-user", "8"]).await?;
    for id in ["get", "again"] {
        told[id].assert_done("{\"a\": 1.0}");
        assert_eq!(scene.api.sent_to(&format!("/{id}")).len(), 2, "{id}");
        assert_eq!(told[id].outcome["attempt"], 2, "{}", told[id].text);
    }
    for id in ["post", "patch"] {
        told[id].assert_rejected("took longer than 3s; whether it was carried out is not known");
        let outcome = &told[id].outcome;
        assert_eq!(
            (&outcome["effect"], &outcome["repeatable"]),
            (&"unknown".into(), &false.into())
        );
        assert_eq!(scene.api.sent_to(&format!("/{id}")).len(), 1, "never twice");
    }
    told["begun"].assert_warned("did not come within 3s");
    assert_eq!(told["begun"].outcome["http_status"], 200);
    assert_eq!(scene.api.sent_to("/begun").len(), 1, "never twice");
    Ok(())
}

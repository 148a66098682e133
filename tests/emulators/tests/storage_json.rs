//! The JSON API of the storage emulator as a plain HTTP client sees it.

use anyhow::Result;
use async_compression::tokio::bufread::GzipEncoder;
use emulators::storage::{Config, Storage};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

mod dates;

struct Api {
    storage: Storage,
    client: Client,
}

impl Api {
    async fn start() -> Result<Self> {
        let storage = Storage::start(Config::default()).await?;
        storage.create_bucket("tokens")?;
        Ok(Self { storage, client: Client::new() })
    }

    async fn send(&self, method: Method, path: &str, body: &'static str) -> Result<Response> {
        let url = format!("{}{path}", self.storage.http_origin());
        let request = self.client.request(method, url).body(body);
        Ok(request.send().await?)
    }

    async fn get(&self, path: &str) -> Result<Response> {
        self.send(Method::GET, path, "").await
    }

    async fn upload(&self, query: &str) -> Result<Response> {
        let path = format!("/upload/storage/v1/b/tokens/o?uploadType=media&{query}");
        self.send(Method::POST, &path, "hello").await
    }
}

/// The status, and the reason that Google's error body names.
async fn refusal(response: Response) -> Result<(u16, String)> {
    let status = response.status().as_u16();
    let body: Value = response.json().await?;
    let error = &body["error"];
    assert_eq!(error["code"], status);
    assert!(error["message"].is_string());
    assert_eq!(error["message"], error["errors"][0]["message"]);
    let reason = error["errors"][0]["reason"].as_str().unwrap_or_default();
    Ok((status, reason.to_owned()))
}

#[tokio::test]
async fn a_second_write_within_a_second_is_throttled() -> Result<()> {
    let api = Api::start().await?;
    // A machine that stalls for a second proves nothing: then another name is tried.
    for name in ["name=a", "name=b", "name=c", "name=d", "name=e"] {
        let begun = tokio::time::Instant::now();
        assert_eq!(api.upload(name).await?.status(), 200);
        let again = api.upload(name).await?;
        let object = name.replace("name=", "/storage/v1/b/tokens/o/");
        let deleted = api.send(Method::DELETE, &object, "").await?;
        if begun.elapsed() >= std::time::Duration::from_secs(1) {
            continue;
        }
        let throttled = (429, "rateLimitExceeded".to_owned());
        assert_eq!(refusal(again).await?, throttled);
        assert_eq!(refusal(deleted).await?, throttled);
        assert_eq!(api.storage.stats().throttled, 2);
        // Preconditions come first; other names are free.
        let failed = api.upload(&format!("{name}&ifGenerationMatch=0")).await?;
        assert_eq!(failed.status(), 412);
        assert_eq!(api.upload("name=other").await?.status(), 200);
        api.storage.set_one_mutation_per_second(false);
        assert_eq!(api.upload(name).await?.status(), 200);
        return Ok(());
    }
    panic!("this machine never made three requests within a second");
}

#[tokio::test]
async fn refusals_have_googles_shape() -> Result<()> {
    let api = Api::start().await?;
    let missing = api.get("/storage/v1/b/tokens/o/a?alt=media").await?;
    assert_eq!(refusal(missing).await?, (404, "notFound".to_owned()));
    let nowhere = api.get("/storage/v1/b/nowhere/o/a").await?;
    assert_eq!(refusal(nowhere).await?, (404, "notFound".to_owned()));
    let failed = api.upload("name=a&ifGenerationMatch=7").await?;
    assert_eq!(refusal(failed).await?, (412, "conditionNotMet".to_owned()));
    let malformed = api.upload("name=a&ifGenerationMatch=x").await?;
    assert_eq!(refusal(malformed).await?, (400, "invalid".to_owned()));
    let nameless = api.upload("").await?;
    assert_eq!(refusal(nameless).await?, (400, "invalid".to_owned()));
    let route = api.get("/storage/v2").await?;
    assert_eq!(refusal(route).await?, (501, "notImplemented".to_owned()));
    Ok(())
}

#[tokio::test]
async fn media_reads_describe_the_object() -> Result<()> {
    let api = Api::start().await?;
    let written: Value = api.upload("name=d%2Fa").await?.json().await?;
    assert_eq!(written["name"], "d/a");
    assert_eq!(written["size"], "5");
    let generation = written["generation"].as_str().unwrap_or_default();
    let read = api.get("/storage/v1/b/tokens/o/d%2Fa?alt=media").await?;
    assert_eq!(read.status(), 200);
    let header = |name: &str| read.headers()[name].to_str().unwrap();
    assert_eq!(header("x-goog-generation"), generation);
    assert_eq!(header("x-goog-metageneration"), "1");
    assert_eq!(header("x-goog-hash"), "crc32c=mnG7TA==,md5=XUFAKrxLKna5cZ2REBfFkg==");
    assert_eq!(header("x-goog-stored-content-length"), "5");
    assert_eq!(header("content-length"), "5");
    assert_eq!(header("content-type"), "application/octet-stream");
    assert!(header("last-modified").ends_with(" GMT"));
    assert!(header("etag").starts_with('"'));
    assert_eq!(read.text().await?, "hello");
    let metadata: Value = api.get("/storage/v1/b/tokens/o/d%2Fa").await?.json().await?;
    assert_eq!(metadata, written);

    let same = format!("/storage/v1/b/tokens/o/d%2Fa?alt=media&ifGenerationNotMatch={generation}");
    let unchanged = api.get(&same).await?;
    assert_eq!(unchanged.status(), 304);
    assert_eq!(unchanged.text().await?, "");
    Ok(())
}

#[tokio::test]
async fn a_wrong_checksum_is_refused() -> Result<()> {
    let api = Api::start().await?;
    let request = api
        .client
        .post(format!(
            "{}/upload/storage/v1/b/tokens/o?uploadType=multipart&name=a",
            api.storage.http_origin()
        ))
        .header("content-type", "multipart/related; boundary=cut")
        .body("--cut\r\n\r\n{\"crc32c\":\"AAAAAA==\"}\r\n--cut\r\n\r\nhello\r\n--cut--\r\n");
    let refused = refusal(request.send().await?).await?;
    assert_eq!(refused, (400, "invalid".to_owned()));
    assert_eq!(api.storage.object("tokens", "a"), None);
    Ok(())
}

#[tokio::test]
async fn sessions_answer_308_until_all_is_there() -> Result<()> {
    let api = Api::start().await?;
    let start = "/upload/storage/v1/b/tokens/o?uploadType=resumable&name=a";
    let started = api.send(Method::POST, start, "{}").await?;
    let session = started.headers()["location"].to_str()?.to_owned();
    let put = |range: &'static str, body: &'static str| {
        let request = api.client.put(&session).header("content-range", range);
        request.body(body).send()
    };
    let nothing = put("bytes */*", "").await?;
    assert_eq!(nothing.status(), StatusCode::PERMANENT_REDIRECT);
    assert!(!nothing.headers().contains_key("range"));
    let part = put("bytes 0-1/5", "he").await?;
    assert_eq!(part.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(part.headers()["range"], "bytes=0-1");
    let whole: Value = put("bytes 2-4/5", "llo").await?.json().await?;
    assert_eq!(whole["size"], "5");
    let again: Value = put("bytes */*", "").await?.json().await?;
    assert_eq!(again, whole);
    assert_eq!(api.storage.stats().writes, 1);
    assert_eq!(api.client.delete(&session).send().await?.status(), 499);
    assert_eq!(put("bytes */*", "").await?.status(), 404);
    Ok(())
}

#[tokio::test]
async fn sessions_take_chunks_as_the_client_for_go_sends_them() -> Result<()> {
    let api = Api::start().await?;
    for (name, chunks) in [
        ("a", [("bytes 0-1/*", "he"), ("bytes 2-4/5", "llo")]),
        // An object that ends with a whole chunk is ended by an empty one.
        ("b", [("bytes 0-4/*", "hello"), ("bytes */5", "")]),
    ] {
        let start = format!("/upload/storage/v1/b/tokens/o?uploadType=resumable&name={name}");
        let started = api.send(Method::POST, &start, "{}").await?;
        let session = started.headers()["location"].to_str()?.to_owned();
        let post = |range: &'static str, body: &'static str| {
            let request = api.client.post(&session).header("content-range", range);
            request.header("x-guploader-no-308", "yes").body(body).send()
        };
        let nothing = post("bytes */*", "").await?;
        assert_eq!(nothing.status(), 200);
        assert_eq!(nothing.headers()["x-http-status-code-override"], "308");
        assert!(!nothing.headers().contains_key("range"));
        let [(range, content), (last_range, last)] = chunks;
        let part = post(range, content).await?;
        assert_eq!(part.status(), 200);
        assert_eq!(part.headers()["x-http-status-code-override"], "308");
        let there = format!("bytes=0-{}", content.len() - 1);
        assert_eq!(part.headers()["range"], there.as_str());
        let whole = post(last_range, last).await?;
        assert!(!whole.headers().contains_key("x-http-status-code-override"));
        assert_eq!(whole.json::<Value>().await?["size"], "5");
    }
    assert_eq!(api.storage.stats().writes, 2);
    Ok(())
}

#[tokio::test]
async fn lists_and_buckets() -> Result<()> {
    let api = Api::start().await?;
    for name in ["a", "b%2F1", "b%2F2", "c"] {
        assert_eq!(api.upload(&format!("name={name}")).await?.status(), 200);
    }
    let path = "/storage/v1/b/tokens/o?delimiter=%2F&maxResults=2";
    let first: Value = api.get(path).await?.json().await?;
    assert_eq!(first["items"][0]["name"], "a");
    assert_eq!(first["prefixes"], json!(["b/"]));
    let token = first["nextPageToken"].as_str().unwrap_or_default();
    let rest: Value = api.get(&format!("{path}&pageToken={token}")).await?.json().await?;
    assert_eq!(rest["items"][0]["name"], "c");
    assert_eq!(rest.get("prefixes"), None);
    assert_eq!(rest.get("nextPageToken"), None);

    let new = r#"{"name":"more"}"#;
    let path = "/storage/v1/b?project=p";
    assert_eq!(api.send(Method::POST, path, new).await?.status(), 200);
    let again = api.send(Method::POST, path, new).await?;
    assert_eq!(refusal(again).await?, (409, "conflict".to_owned()));
    let buckets: Value = api.get(path).await?.json().await?;
    assert_eq!(buckets["items"][0]["name"], "more");
    assert_eq!(api.get("/storage/v1/b/more").await?.status(), 200);
    assert_eq!(api.get("/b/more").await?.status(), 200, "as Node's client asks an emulator");
    let deleted = api.send(Method::DELETE, "/storage/v1/b/more", "").await?;
    assert_eq!(deleted.status(), 204);
    let full = api.send(Method::DELETE, "/storage/v1/b/tokens", "").await?;
    assert_eq!(full.status(), 409);
    Ok(())
}

#[tokio::test]
async fn answers_are_dated_and_the_date_can_be_off() -> Result<()> {
    let api = Api::start().await?;
    for (skew, path) in [(0, "/storage/v1/b/tokens"), (-900, "/nothing/here"), (3_600, "/x")] {
        api.storage.set_date_skew(skew);
        let dated = api.get(path).await?.headers()["date"].to_str()?.to_owned();
        let off = dates::seconds_ahead(&dated)?;
        assert!((off - skew).abs() <= 5, "{dated}: {off} instead of {skew}");
    }
    Ok(())
}

/// A request with JSON, and the JSON of its answer.
async fn json(api: &Api, method: Method, path: &str, body: Value) -> Result<(u16, Value)> {
    let url = format!("{}{path}", api.storage.http_origin());
    let answer = api.client.request(method, url).json(&body).send().await?;
    let status = answer.status().as_u16();
    let body = answer.bytes().await?;
    Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
}

async fn gzip(content: &[u8]) -> Result<Vec<u8>> {
    let mut encoded = Vec::new();
    GzipEncoder::new(content).read_to_end(&mut encoded).await?;
    Ok(encoded)
}

/// As the clients for Java and .NET send them.
#[tokio::test]
async fn bodies_may_be_compressed_and_a_post_may_stand_for_another_method() -> Result<()> {
    let api = Api::start().await?;
    let post = |path: &str| api.client.post(format!("{}{path}", api.storage.http_origin()));
    let compressed = gzip(br#"{"name":"zipped"}"#).await?;
    let made = post("/storage/v1/b?project=p").header("content-encoding", "gzip");
    let made = made.body(compressed).send().await?;
    assert_eq!(
        (made.status(), &made.json::<Value>().await?["name"]),
        (StatusCode::OK, &json!("zipped"))
    );
    let patched = post("/storage/v1/b/tokens").header("x-http-method-override", "PATCH");
    let patched = patched.body(r#"{"labels":{"a":"1"}}"#).send().await?;
    assert_eq!(patched.status(), 200);
    let patched: Value = patched.json().await?;
    assert_eq!((&patched["metageneration"], &patched["labels"]["a"]), (&json!("2"), &json!("1")));
    let batched = "--b\r\nContent-Type: application/http\r\n\r\n\
                   POST /storage/v1/b/tokens HTTP/1.1\r\nX-HTTP-Method-Override: PATCH\r\n\r\n\
                   {\"labels\":{\"a\":\"2\"}}\r\n--b--";
    let batched = post("/batch/storage/v1").body(batched);
    let batched = batched.header("content-type", "multipart/mixed; boundary=b").send().await?;
    let batched = batched.text().await?;
    assert!(batched.contains("HTTP/1.1 200 OK"), "{batched}");
    // An upload is decoded, too, unless the object is to have the encoding.
    let compressed = gzip(b"hello").await?;
    let objects = "/upload/storage/v1/b/tokens/o?uploadType=media";
    for (query, size) in [("name=a", 5), ("name=b&contentEncoding=gzip", compressed.len())] {
        let written = post(&format!("{objects}&{query}")).header("content-encoding", "gzip");
        let written: Value = written.body(compressed.clone()).send().await?.json().await?;
        assert_eq!(written["size"], size.to_string(), "{query}");
    }
    let xml = format!("{}/tokens/c", api.storage.http_origin());
    let written = api.client.put(xml).header("content-encoding", "gzip");
    written.body(compressed.clone()).send().await?.error_for_status()?;
    let kept = api.storage.object("tokens", "c").map(|object| object.content);
    assert_eq!(kept.as_deref(), Some(&compressed[..]));
    Ok(())
}

#[tokio::test]
async fn a_condition_of_a_policy_stays() -> Result<()> {
    let api = Api::start().await?;
    let path = "/storage/v1/b/tokens/iam";
    let (_, mut policy) = json(&api, Method::GET, path, json!({})).await?;
    let binding = json!({
        "role": "roles/storage.objectViewer",
        "members": ["user:ann@example.com"],
        "condition": {"title": "tokens", "expression": "resource.name.startsWith('a')"},
    });
    policy["bindings"] = json!([binding]);
    policy["version"] = json!(3);
    // As it was read: with what only the server writes.
    assert_eq!(policy["kind"], "storage#policy");
    let (status, set) = json(&api, Method::PUT, path, policy).await?;
    assert_eq!((status, &set["bindings"]), (200, &json!([binding])));
    let (_, got) = json(&api, Method::GET, path, json!({})).await?;
    assert_eq!(got, set);
    let other = json!({"bindings": [{"role": "r", "members": [], "unless": {}}]});
    assert_eq!(json(&api, Method::PUT, path, other).await?.0, 400);
    Ok(())
}

#[tokio::test]
async fn buckets_and_objects_are_patched_under_preconditions() -> Result<()> {
    let api = Api::start().await?;
    api.storage.set_one_mutation_per_second(false);
    let bucket = "/storage/v1/b/tokens";
    let change = json!({"labels": {"a": "1"}, "storageClass": "NEARLINE"});
    let (status, patched) =
        json(&api, Method::PATCH, &format!("{bucket}?ifMetagenerationMatch=1"), change).await?;
    assert_eq!((status, &patched["metageneration"]), (200, &json!("2")));
    assert_eq!(patched["labels"], json!({"a": "1"}));
    let (status, _) =
        json(&api, Method::PATCH, &format!("{bucket}?ifMetagenerationMatch=1"), json!({})).await?;
    assert_eq!(status, 412);

    let written: Value = api.upload("name=a").await?.json().await?;
    assert_eq!(written["storageClass"], "NEARLINE");
    let object = format!("{bucket}/o/a");
    let change = json!({"metadata": {"k": "v", "gone": null}, "cacheControl": "no-store"});
    let (_, patched) = json(&api, Method::PATCH, &object, change).await?;
    assert_eq!(
        (&patched["metadata"], &patched["metageneration"]),
        (&json!({"k": "v"}), &json!("2"))
    );
    let (_, some) =
        json(&api, Method::GET, &format!("{object}?fields=name,metadata"), json!({})).await?;
    assert_eq!(some, json!({"name": "a", "metadata": {"k": "v"}}));
    let (_, held) = json(&api, Method::PATCH, &object, json!({"temporaryHold": true})).await?;
    assert_eq!(held["temporaryHold"], true);
    assert_eq!(api.send(Method::DELETE, &object, "").await?.status(), 403);
    Ok(())
}

#[tokio::test]
async fn objects_are_made_of_others() -> Result<()> {
    let api = Api::start().await?;
    api.storage.set_one_mutation_per_second(false);
    api.upload("name=a").await?;
    let object = "/storage/v1/b/tokens/o";
    let sources = json!({"sourceObjects": [{"name": "a"}, {"name": "a"}]});
    let (_, whole) = json(&api, Method::POST, &format!("{object}/w/compose"), sources).await?;
    assert_eq!((&whole["componentCount"], &whole["size"]), (&json!(2), &json!("10")));
    assert_eq!(whole["md5Hash"], Value::Null);
    let copy = format!("{object}/w/rewriteTo/b/tokens/o/c?ifGenerationMatch=0");
    let (_, copied) = json(&api, Method::POST, &copy, json!({})).await?;
    assert_eq!((&copied["done"], &copied["resource"]["name"]), (&json!(true), &json!("c")));
    let (status, _) = json(&api, Method::POST, &copy, json!({})).await?;
    assert_eq!(status, 412);
    let nowhere = format!("{object}/c/moveTo/o/c");
    assert_eq!(json(&api, Method::POST, &nowhere, json!({})).await?.0, 400);
    let moved = format!("{object}/c/moveTo/o/m");
    assert_eq!(json(&api, Method::POST, &moved, json!({})).await?.0, 200);
    assert_eq!(api.storage.object_names("tokens"), ["a", "m", "w"]);
    let read = api.get("/tokens/m").await?;
    assert_eq!((read.status(), &read.text().await?[..]), (StatusCode::OK, "hellohello"));
    Ok(())
}

#[tokio::test]
async fn a_batch_answers_each_of_its_calls() -> Result<()> {
    let api = Api::start().await?;
    api.upload("name=a").await?;
    let body = "--b\nContent-Type: application/http\nContent-ID: <x+1>\n\n\
                GET /storage/v1/b/tokens/o/a HTTP/1.1\r\n\r\n\n--b\n\
                Content-Type: application/http\nContent-ID: <x+2>\n\n\
                GET /storage/v1/b/tokens/o/none HTTP/1.1\r\n\r\n\n--b--";
    let url = format!("{}/batch/storage/v1", api.storage.http_origin());
    let kind = "multipart/mixed; boundary=\"b\"";
    let request = api.client.post(url).header("content-type", kind).body(body);
    let answer = request.send().await?.text().await?;
    assert!(answer.contains("Content-ID: <response-x+1>\r\n\r\nHTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("Content-ID: <response-x+2>\r\n\r\nHTTP/1.1 404 Not Found"));
    Ok(())
}

#[tokio::test]
async fn a_bucket_whose_name_begins_as_a_path_does_has_the_xml_api() -> Result<()> {
    let api = Api::start().await?;
    api.storage.create_bucket("batch-jobs")?;
    assert_eq!(api.send(Method::PUT, "/batch-jobs/a", "hello").await?.status(), 200);
    assert_eq!(api.get("/batch-jobs/a").await?.text().await?, "hello");
    let other = api.send(Method::POST, "/batch/other", "").await?;
    assert_eq!(refusal(other).await?, (501, "notImplemented".to_owned()));
    Ok(())
}

#[tokio::test]
async fn what_is_not_there_is_named() -> Result<()> {
    let api = Api::start().await?;
    let object = "/storage/v1/b/tokens/o";
    let copied = format!("{object}/a/rewriteTo/b/tokens/o/b");
    let media = format!("/upload{object}?uploadType=media&name=a");
    let session = format!("/upload{object}?uploadType=resumable&name=a");
    let bucket = "/storage/v1/b/tokens";
    for (method, path, body, named) in [
        (Method::POST, format!("{bucket}/notificationConfigs"), "", "notifications.insert"),
        (Method::GET, format!("{object}?softDeleted=true"), "", "softDeleted"),
        (Method::GET, format!("{object}?filter=contexts.%22a%22%3A*"), "", "filter"),
        (Method::GET, format!("{object}/a/acl"), "", "objectAccessControls.list"),
        (Method::GET, "/tokens/a?X-Goog-Signature=x".to_owned(), "", "signed URLs"),
        (Method::GET, "/tokens?location".to_owned(), "", "GET /tokens/?location"),
        (Method::POST, format!("{media}&predefinedAcl=publicRead"), "x", "predefinedAcl"),
        (Method::POST, format!("{media}&kmsKeyName=k"), "x", "kmsKeyName"),
        (Method::POST, format!("{copied}?destinationPredefinedAcl=publicRead"), "", "Predefined"),
        (Method::POST, format!("{copied}?destinationKmsKeyName=k"), "", "destinationKmsKeyName"),
        (Method::POST, copied, r#"{"kmsKeyName":"k"}"#, "kmsKeyName"),
        (Method::POST, session.clone(), r#"{"acl":[{"entity":"allUsers"}]}"#, "acl"),
        (Method::POST, session.clone(), r#"{"contexts":{"custom":{}}}"#, "contexts"),
        (Method::POST, session, r#"{"retention":{"mode":"Locked"}}"#, "retention"),
        (
            Method::POST,
            "/storage/v1/b?project=p&predefinedDefaultObjectAcl=publicRead".to_owned(),
            r#"{"name":"more"}"#,
            "predefinedDefaultObjectAcl",
        ),
        (Method::PATCH, bucket.to_owned(), r#"{"acl":[{"entity":"allUsers"}]}"#, "acl"),
    ] {
        let refused = api.send(method, &path, body).await?;
        assert_eq!(refused.status(), 501, "{path}");
        let text = refused.text().await?;
        assert!(text.contains(named), "{text}");
    }
    for (header, value) in [
        ("x-goog-acl", "public-read"),
        ("x-goog-encryption-kms-key-name", "k"),
        ("x-goog-encryption-algorithm", "AES256"),
    ] {
        let put = api.client.put(format!("{}/tokens/a", api.storage.http_origin()));
        let refused = put.header(header, value).body("x").send().await?;
        assert_eq!(refused.status(), 501, "{header}");
        assert!(refused.text().await?.contains(header));
    }
    assert!(api.storage.object_names("tokens").is_empty());
    Ok(())
}

#[tokio::test]
async fn what_clients_send_as_usual_is_taken() -> Result<()> {
    let api = Api::start().await?;
    let path = "/upload/storage/v1/b/tokens/o?uploadType=resumable&name=a&predefinedAcl=private";
    let usual = r#"{"acl":[],"contexts":null,"kmsKeyName":"","contentEncoding":"br"}"#;
    let started = api.send(Method::POST, path, usual).await?;
    let session = started.headers()["location"].to_str()?.to_owned();
    let written: Value = api.client.put(session).body("hello").send().await?.json().await?;
    assert_eq!(written["contentEncoding"], "br");
    for (name, upload) in [("b", "media"), ("c", "resumable")] {
        let query = format!("uploadType={upload}&name={name}&contentEncoding=gzip");
        let path = format!("/upload/storage/v1/b/tokens/o?{query}");
        let answer = api.send(Method::POST, &path, r#"{"contentEncoding":"br"}"#).await?;
        let answer = match answer.headers().get("location") {
            Some(session) => api.client.put(session.to_str()?).body("hello").send().await?,
            None => answer,
        };
        assert_eq!(answer.json::<Value>().await?["contentEncoding"], "gzip", "{upload}");
    }
    Ok(())
}

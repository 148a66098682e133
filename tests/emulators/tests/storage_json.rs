//! The JSON API of the storage emulator as a plain HTTP client sees it.

use anyhow::Result;
use emulators::storage::{Config, Storage};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};

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
    assert_eq!(refusal(route).await?, (404, "notFound".to_owned()));
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
    assert_eq!(header("x-goog-hash"), "crc32c=mnG7TA==");
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

//! The operators' pages over HTTP: who gets through, what changes nothing, and what is recorded.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use reqwest::header::{HOST, ORIGIN};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use url::form_urlencoded;

use super::dev::{Dev, FLEET};
use super::person::{Answer, Person};

const PATIENCE: Duration = Duration::from_secs(60);
const AUDIENCE: &str = "/projects/1/global/backendServices/2";
const HEADER: &str = "x-goog-iap-jwt-assertion";

/// Operators' pages of a running stack. They end with this.
pub(crate) struct Pages {
    pub(crate) url: String,
    lines: mpsc::UnboundedReceiver<Value>,
    _child: Child,
}

impl Pages {
    pub(crate) async fn start(dev: &Dev) -> Self {
        Self::start_with(dev, &[], &[]).await
    }

    async fn start_with(dev: &Dev, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(FLEET)
            .args(["web", "--admin", "--admin-listen", "127.0.0.1:0"])
            .args(flags)
            .envs(dev.variables())
            .env("FLEET_PUBLIC_URL", "")
            .env("FLEET_LOG_FORMAT", "gcp")
            .env("USER", "olga")
            .envs(variables.iter().copied())
            .stdin(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, lines) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                drop(sender.send(line));
            }
        });
        let mut pages = Self { url: String::new(), lines, _child: child };
        let serving = pages.line(|line| line["address"].is_string()).await;
        pages.url = format!("http://{}", serving["address"].as_str().unwrap());
        pages
    }

    async fn line(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let reading = async {
            let mut last = Value::Null;
            loop {
                let line = self.lines.recv().await;
                let line = line.unwrap_or_else(|| panic!("the pages ended: {last}"));
                if wanted(&line) {
                    return line;
                }
                last = line;
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("the line comes")
    }

    /// The line of the audit trail that tells of this act.
    async fn audited(&mut self, act: &str) -> Value {
        self.line(|line| line["act"] == act).await
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }
}

fn user_at(user: &str) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("id", user).finish();
    format!("/user?{query}")
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, String) {
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn operators_see_and_act_and_it_is_recorded() {
    let dev = Dev::start().await;
    let mut pages = Pages::start(&dev).await;
    let mut olga = Person::new();
    dev.park("user-1", &["https://www.googleapis.com/auth/other"], 2).await;
    let page = olga.get(&pages.at("/")).await;
    assert_eq!(page.status, 200, "{}", page.body);
    for part in ["Users <span class=\"count\">3", "Waiting jobs <span class=\"count\">2", "olga@"] {
        assert!(page.body.contains(part), "{part}: {}", page.body);
    }
    let page = olga.get(&pages.at("/users?begins=user-&state=active")).await.body;
    assert!(page.contains("/user?user=user-1") && page.contains("user-3"), "{page}");
    assert!(!olga.get(&pages.at("/users?state=revoked")).await.body.contains("user-1"));

    let user = pages.at(&user_at("user-1"));
    let page = olga.get(&user).await.body;
    for part in ["waits-0", "waits-1", "scopes_missing", "Last refresh", "Drop all waiting jobs"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let site = pages.url.clone();
    // Nothing is due: the scopes are the same.
    let press = async |olga: &mut Person, action: &str| -> String {
        let csrf = Person::csrf(&olga.get(&user).await.body);
        let form = [("csrf", csrf.as_str()), ("user", "user-1")];
        let pressed = olga.post(&format!("{site}{action}"), &form).await;
        assert_eq!((pressed.status, &*pressed.location()), (303, "/user?user=user-1"));
        olga.get(&user).await.body
    };
    let page = press(&mut olga, "/user/resume").await;
    assert!(page.contains("No waiting job is due"), "{page}");
    let page = press(&mut olga, "/user/drop").await;
    assert!(page.contains("2 jobs were dropped.") && page.contains("No job waits"), "{page}");
    let told = pages.audited("dropped").await;
    assert_eq!((&told["jobs"], &told["command"]), (&json!(2), &json!("web")), "{told}");
    assert!(told["by"].as_str().unwrap().starts_with("olga@"), "{told}");
    let mut objects = Person::new();
    assert!(dev.objects(&mut objects, "parked/user-1/").await.is_empty(), "and no claim is left");

    let page = press(&mut olga, "/user/revoke").await;
    assert!(page.contains("The grant has ended at the provider"), "{page}");
    assert!(page.contains("not stored"), "{page}");
    let told = pages.audited("revoked").await;
    assert!(told["by"].as_str().unwrap().starts_with("olga@"), "{told}");
    assert!(!dev.fleet(&["users", "show", "user-1"]).await.0);
    let metrics = olga.get(&pages.at("/metrics")).await.body;
    let counted = "fleet_web_events_total{event=\"admin_revoke\",outcome=\"ok\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn jobs_that_are_due_go_on() {
    let dev = Dev::start().await;
    let mut pages = Pages::start(&dev).await;
    // Jobs that wait for scopes are due when these are others than when they were parked.
    dev.park("user-2", &["https://www.googleapis.com/auth/other"], 1).await;
    dev.set_scopes("user-2", &["openid"]).await;
    let mut olga = Person::new();
    let user = pages.at(&user_at("user-2"));
    let csrf = Person::csrf(&olga.get(&user).await.body);
    let form = [("csrf", csrf.as_str()), ("user", "user-2")];
    assert_eq!(olga.post(&pages.at("/user/resume"), &form).await.status, 303);
    let page = olga.get(&user).await.body;
    assert!(page.contains("1 waiting job goes on."), "{page}");
    assert_eq!(pages.audited("resumed").await["jobs"], 1);
}

#[tokio::test]
async fn nothing_changes_but_by_a_form_of_the_operators_own() {
    let dev = Dev::start().await;
    let pages = Pages::start(&dev).await;
    let other = Pages::start(&dev).await;
    let mut olga = Person::new();
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let http = http.build().unwrap();
    let csrf_of = async |olga: &mut Person, pages: &Pages| {
        Person::csrf(&olga.get(&pages.at(&user_at("user-1"))).await.body)
    };
    let own = csrf_of(&mut olga, &pages).await;
    let others = csrf_of(&mut olga, &other).await;
    for action in ["/user/resume", "/user/drop", "/user/revoke"] {
        let url = pages.at(action);
        assert_eq!(olga.get(&format!("{url}?user=user-1&csrf={own}")).await.status, 405);
        for form in [
            vec![("user", "user-1")],
            vec![("user", "user-1"), ("csrf", "")],
            vec![("user", "user-1"), ("csrf", "guess")],
            vec![("user", "user-1"), ("csrf", &*others)],
        ] {
            assert_eq!(olga.post(&url, &form).await.status, 403, "{action} {form:?}");
        }
        let body = format!("user=user-1&csrf={own}");
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            let request = http.post(&url).header(name, value).body(body.clone());
            assert_eq!(answer(request).await.0, 403, "{action} {name} {value}");
        }
        let nobody = olga.post(&url, &[("csrf", &own)]).await;
        assert_eq!(nobody.status, 400, "{}", nobody.body);
    }
    assert!(dev.fleet(&["users", "show", "user-1"]).await.0);
}

#[tokio::test]
async fn a_name_that_was_made_to_lead_here_is_refused() {
    let dev = Dev::start().await;
    let pages = Pages::start(&dev).await;
    let http = reqwest::Client::new();
    let paths = ["/", "/users", "/user?id=user-1", "/style.css", "/metrics", "/readyz", "/nothing"];
    for path in paths {
        for host in ["evil.example", "evil.example:8081", "127.0.0.1.evil.example", "10.0.0.1"] {
            let (status, told) = answer(http.get(pages.at(path)).header(HOST, host)).await;
            assert_eq!(status, 421, "{path} {host}");
            assert!(!told.contains("user-1") && !told.contains("fleet_"), "{path}: {told}");
        }
        let (status, _) = answer(http.get(pages.at(path)).header(HOST, "localhost:9999")).await;
        assert_eq!(status, if path == "/nothing" { 404 } else { 200 }, "{path}");
    }
}

#[tokio::test]
async fn pages_have_the_headers_and_no_secret_and_no_strangers_markup() {
    let dev = Dev::start().await;
    let pages = Pages::start(&dev).await;
    let mut olga = Person::new();
    // A credential is stored once only, so that this one moves to the hostile name.
    let (_, exported) = dev.fleet(&["users", "export", "user-2"]).await;
    let (fine, told) = dev.fleet(&["users", "delete", "user-2", "--yes"]).await;
    assert!(fine, "{told}");
    let record: Value = serde_json::from_str(&exported).unwrap();
    let hostile = "<script>alert(1)</script>\u{202e}\" onclick=\"x";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("record.json");
    std::fs::write(&file, &exported).unwrap();
    let import = ["users", "import", file.to_str().unwrap(), "--as-other-user", "--user", hostile];
    let (fine, told) = dev.fleet(&import).await;
    assert!(fine, "{told}");
    let paths = ["/", "/users", "/nothing", "/user", &user_at("user-1"), &user_at(hostile)];
    for path in paths {
        let Answer { headers, body, .. } = olga.get(&pages.at(path)).await;
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{path}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{path}");
        assert_eq!(headers["cache-control"], "no-store", "{path}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        for secret in ["refresh_token", "access_token"] {
            let secret = record[secret].as_str().unwrap();
            assert!(!body.contains(secret), "{path} shows a secret");
        }
        let scripts = body.replace("<script src=\"/times.js\" defer>", "");
        assert!(!scripts.contains("<script") && !body.contains("\" onclick"), "{path}: {body}");
        assert!(!body.contains('\u{202e}'), "{path}");
    }
    // It is the very user all the same.
    let users = olga.get(&pages.at("/users?begins=%3Cscript")).await.body;
    let (_, link) = users.split_once("/user?user=").unwrap();
    let link = pages.at(&format!("/user?user={}", link.split('"').next().unwrap()));
    let csrf = Person::csrf(&olga.get(&link).await.body);
    let (_, encoded) = link.split_once("user=").unwrap();
    let (_, encoded) = form_urlencoded::parse(format!("u={encoded}").as_bytes())
        .next()
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .unwrap();
    let form = [("csrf", csrf.as_str()), ("user", encoded.as_str())];
    assert_eq!(olga.post(&pages.at("/user/revoke"), &form).await.status, 303);
    assert!(!dev.fleet(&["users", "show", hostile]).await.0);
}

/// A key of the proxy, and what it publishes of it.
struct Key {
    id: &'static str,
    secret: EncodingKey,
}

impl Key {
    fn new(id: &'static str) -> Self {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        Self { id, secret: EncodingKey::from_ec_der(pair.unwrap().as_ref()) }
    }

    fn published(&self) -> Value {
        let key = Jwk::from_encoding_key(&self.secret, Algorithm::ES256).unwrap();
        let mut key = serde_json::to_value(key).unwrap();
        key["kid"] = self.id.into();
        key["use"] = "sig".into();
        key
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, claims, &self.secret).unwrap()
    }
}

/// What the proxy says of somebody it has let through.
fn claims(email: &str) -> Value {
    let now = get_current_timestamp();
    json!({
        "iss": "https://cloud.google.com/iap", "aud": AUDIENCE, "email": email,
        "sub": format!("accounts.google.com:{email}"), "iat": now - 5, "exp": now + 595,
    })
}

/// The address where these keys are published.
async fn publish(keys: &[&Key]) -> String {
    let published = keys.iter().map(|key| key.published()).collect::<Vec<_>>();
    let published = json!({ "keys": published }).to_string();
    let routes = axum::Router::new()
        .route("/keys", axum::routing::get(move || std::future::ready(published.clone())));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { drop(axum::serve(listener, routes).await) });
    format!("http://{address}/keys")
}

#[tokio::test]
async fn behind_the_proxy_only_its_signed_header_counts() {
    let dev = Dev::start().await;
    let (key, unknown) = (Key::new("known"), Key::new("unknown"));
    let keys_url = publish(&[&key]).await;
    let flags = ["--iap-audience", AUDIENCE, "--public-url", "https://admin.example.com"];
    let mut pages = Pages::start_with(&dev, &flags, &[("FLEET_IAP_KEYS_URL", &keys_url)]).await;
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let http = http.build().unwrap();
    let get = |path: &str, host: &str, token: Option<&str>| {
        let request = http.get(pages.at(path)).header(HOST, host);
        match token {
            Some(token) => request.header(HEADER, token),
            None => request,
        }
    };
    let own = "admin.example.com";
    let ann = key.sign(&claims("ann@example.com"));
    let (status, page) = answer(get("/", own, Some(&ann))).await;
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("ann@example.com"), "{page}");

    let with = |name: &str, value: Value| {
        let mut claims = claims("ann@example.com");
        claims[name] = value;
        claims
    };
    let now = get_current_timestamp();
    let mut forged = ann.clone().into_bytes();
    let last = forged.len() - 10;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    let impostor = Key { id: "known", secret: Key::new("other").secret };
    let header = Header { kid: Some("known".to_owned()), ..Header::new(Algorithm::HS256) };
    let public = key.published()["x"].as_str().unwrap().to_owned();
    let symmetric = EncodingKey::from_secret(public.as_bytes());
    let symmetric = encode(&header, &claims("ann@example.com"), &symmetric).unwrap();
    let (_, unsigned) = ann.split_once('.').unwrap();
    let (payload, _) = unsigned.split_once('.').unwrap();
    // {"alg":"none","kid":"known"}
    let unsigned = format!("eyJhbGciOiJub25lIiwia2lkIjoia25vd24ifQ.{payload}.");
    for (what, token) in [
        ("forged", String::from_utf8(forged).unwrap()),
        ("of an impostor", impostor.sign(&claims("ann@example.com"))),
        ("of an unknown key", unknown.sign(&claims("ann@example.com"))),
        ("expired", key.sign(&with("exp", json!(now - 60)))),
        ("of another audience", key.sign(&with("aud", json!("/projects/1/apps/x")))),
        ("of another issuer", key.sign(&with("iss", json!("https://accounts.google.com")))),
        ("of the future", key.sign(&with("iat", json!(now + 300)))),
        ("without expiry", key.sign(&with("exp", Value::Null))),
        ("symmetric", symmetric),
        ("unsigned", unsigned),
        ("nonsense", "a.b.c".to_owned()),
        ("empty", String::new()),
    ] {
        for path in ["/", "/users", "/user?id=user-1", "/style.css", "/nothing"] {
            let (status, told) = answer(get(path, own, Some(&token))).await;
            assert_eq!(status, 401, "{what} {path}: {told}");
            assert!(!told.contains("user-1"), "{told}");
        }
        let revoking = http.post(pages.at("/user/revoke")).header(HOST, own);
        assert_eq!(answer(revoking.header(HEADER, token)).await.0, 401, "{what}");
    }
    assert_eq!(answer(get("/", own, None)).await.0, 401);
    let twice = get("/", own, Some(&ann)).header(HEADER, &ann);
    assert_eq!(answer(twice).await.0, 401);
    for host in
        ["evil.example", "localhost", "admin.example.com:8443", "admin.example.com.evil.example"]
    {
        assert_eq!(answer(get("/", host, Some(&ann))).await.0, 421, "{host}");
    }
    // Kubelet and the collector of metrics do not come through the proxy.
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(answer(get(path, "10.0.0.7:8081", None)).await.0, 200, "{path}");
    }

    // A form is its operator's alone, and what it does is recorded with their name.
    let bob = key.sign(&claims("bob@example.com"));
    let csrf = Person::csrf(&answer(get("/user?id=user-1", own, Some(&bob))).await.1);
    let post = |token: &str| {
        let request = http.post(pages.at("/user/revoke")).header(HOST, own).header(HEADER, token);
        let request = request.header(ORIGIN, "https://admin.example.com");
        request.body(format!("user=user-1&csrf={csrf}"))
    };
    assert_eq!(answer(post(&ann)).await.0, 403);
    assert!(dev.fleet(&["users", "show", "user-1"]).await.0);
    let revoking = post(&bob);
    assert_eq!(answer(revoking).await.0, 303);
    let told = pages.audited("revoked").await;
    assert_eq!(told["by"], "bob@example.com", "{told}");
    assert!(!dev.fleet(&["users", "show", "user-1"]).await.0);
}

#[tokio::test]
async fn without_the_proxys_keys_nobody_gets_through() {
    let dev = Dev::start().await;
    let key = Key::new("known");
    let flags = ["--iap-audience", AUDIENCE, "--public-url", "https://admin.example.com"];
    let nowhere = [("FLEET_IAP_KEYS_URL", "http://127.0.0.1:1/keys")];
    let pages = Pages::start_with(&dev, &flags, &nowhere).await;
    let request = reqwest::Client::new().get(pages.at("/")).header(HOST, "admin.example.com");
    let token = key.sign(&claims("ann@example.com"));
    let (status, told) = answer(request.header(HEADER, token)).await;
    assert_eq!(status, 503);
    assert!(told.contains("keys of Identity-Aware Proxy cannot be had"), "{told}");
}

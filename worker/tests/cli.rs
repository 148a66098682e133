//! The command line as a newcomer meets it: wrong inputs get a clear answer.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `fleet` with exactly these variables; exit code, stdout, stderr.
fn fleet(args: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_fleet"))
        .args(args)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Asserts a usage error in one line that says `parts`.
fn refused(args: &[&str], variables: &[(&str, &str)], parts: &[&str]) {
    let (code, stdout, stderr) = fleet(args, variables);
    assert_eq!(code, 2, "{args:?}: {stderr}");
    assert_eq!(stdout, "", "{args:?}");
    for part in parts {
        assert!(stderr.contains(part), "{args:?} should say {part:?}: {stderr}");
    }
}

/// A file as programs want to find one that holds a secret.
fn write_secret(path: &Path, content: &str) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// Whoever can read a keyring, a session key, a broker's key or an OAuth client has what it opens.
#[test]
fn files_with_secrets_that_others_can_read_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (client, keyring, session) = (path("client.json"), path("keyring.json"), path("key"));
    let key = path("broker.key");
    write_secret(
        Path::new(&client),
        r#"{"web": {"client_id": "x", "auth_uri": "https://a.test", "token_uri": "https://a.test"}}"#,
    );
    assert_eq!(fleet(&["keyring", "new", &keyring], &[]).0, 0);
    write_secret(Path::new(&session), &"A".repeat(44));
    write_secret(Path::new(&key), &"ab".repeat(32));
    let token = ["token", "ann", "--bucket", "b", "--client", &client, "--keyring", &keyring];
    let address = ["--public-url", "https://fleet.example", "--listen", "127.0.0.1:0"];
    let web = [&["web", "--session-key", &session], &token[2..], &address].concat();
    let login = ["login", "-u", "me.json", "-c", &client, "--no-browser"];
    let rotate = ["keyring", "rotate", &keyring];
    let broker = ["broker", "--bucket", "b", "--key", &key];
    let credentials = ["broker", "credentials", "ann", "--key", &key];
    for (mode, says) in [(0o644, "can read it (mode 0644)"), (0o666, "can change it (mode 0666)")] {
        for (file, args) in [
            (&client, &token[..]),
            (&client, &login),
            (&client, &web),
            (&keyring, &token),
            (&session, &web),
            (&keyring, &rotate),
            (&key, &broker),
            (&key, &credentials),
        ] {
            std::fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
            let (code, stdout, stderr) = fleet(args, &[]);
            assert!(code != 0 && stdout.is_empty(), "{args:?} with {file}: {stderr}");
            for part in [says, file, "chmod 600"] {
                assert!(stderr.contains(part), "{args:?} should say {part}: {stderr}");
            }
            std::fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
        }
    }
}

#[test]
fn help_shows_what_there_is() {
    let (code, stdout, _) = fleet(&["--help"], &[]);
    assert_eq!(code, 0);
    for command in [
        "worker", "broker", "publish", "profile", "token", "users", "dead", "setup", "doctor",
        "dev", "demo",
    ] {
        assert!(stdout.contains(command), "{command}");
    }
    for group in
        ["Run:\n  worker ", "People:\n  login ", "Jobs:\n  publish ", "Operate:\n  status "]
    {
        assert!(stdout.contains(group), "{group:?}: {stdout}");
    }
    let (_, stdout, _) = fleet(&["worker", "--help"], &[]);
    assert!(stdout.contains("FLEET_SUBSCRIPTION") && stdout.contains("Example"));
    assert!(stdout.contains("Tunables:\n      --lease-ttl"), "{stdout}");
    let (_, stdout, _) = fleet(&["users", "list", "--help"], &[]);
    assert!(!stdout.contains("Tunables"), "{stdout}");
    let (code, stdout, _) = fleet(&["completions", "bash"], &[]);
    assert!(code == 0 && stdout.contains("fleet"));
}

/// Whoever reaches the operators' pages may end every grant.
#[test]
fn operators_pages_are_on_loopback_or_behind_the_proxy() {
    let web = ["web", "--admin", "--bucket", "b"];
    let with = |more: &[&'static str]| [&web[..], more].concat();
    let anywhere = ["--admin-listen", "0.0.0.0:8081"];
    refused(&with(&anywhere), &[], &["--admin-listen 0.0.0.0:8081", "--iap-audience", "loopback"]);
    refused(&with(&["--iap-audience", "/projects/1/x"]), &[], &["--public-url"]);
    refused(&with(&anywhere), &[("FLEET_IAP_AUDIENCE", "")], &["--iap-audience"]);
    let keys = [("FLEET_IAP_KEYS_URL", "http://keys.example/")];
    refused(&web, &keys, &["FLEET_IAP_KEYS_URL", "https"]);
    refused(&web, &[], &["no OAuth client"]);
}

#[test]
fn user_ids() {
    let long = "x".repeat(2048);
    refused(&["profile", "", "--bucket", "b"], &[], &["empty"]);
    refused(&["profile", &long, "--bucket", "b"], &[], &["2048 bytes", "512"]);
    // These are IDs like any other; what is missing is the client.
    for id in ["..", "a/b", "😀"] {
        refused(&["profile", id, "--bucket", "b"], &[], &["no OAuth client"]);
    }
}

#[test]
fn oauth_clients() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("client.json");
    let path = file.to_str().unwrap();
    let args = ["token", "ann", "--bucket", "b", "--client", path];
    refused(&args, &[], &["cannot read", path]);
    for (content, says) in [
        ("{", "not JSON"),
        (r#"{"type": "service_account"}"#, "a service account key"),
        (r#"{"installed": {}}"#, "installed.client_id"),
        (r#"{"web": {"client_id": "x", "auth_uri": "https://a.test"}}"#, "web.token_uri"),
        (
            r#"{"web": {"client_id": "x", "auth_uri": "https://a.test", "token_uri": "http://a.test"}}"#,
            "https",
        ),
    ] {
        write_secret(&file, content);
        refused(&args, &[], &[path, says]);
    }
}

/// A variable that a manifest leaves empty names nothing.
#[test]
fn empty_path_variables_are_as_good_as_none() {
    let empty = |name| {
        [
            (name, ""),
            ("PUBSUB_EMULATOR_HOST", "127.0.0.1:1"),
            ("STORAGE_EMULATOR_HOST", "127.0.0.1:1"),
        ]
    };
    let token = ["token", "ann", "--bucket", "b"];
    refused(&token, &empty("FLEET_OAUTH_CLIENT"), &["no OAuth client: set --client"]);
    refused(&["login", "-u", "ann"], &empty("FLEET_OAUTH_CLIENT"), &["no OAuth client file"]);
    let (code, _, stderr) =
        fleet(&["users", "show", "ann", "--bucket", "b"], &empty("FLEET_OAUTH_CLIENT"));
    assert_eq!(code, 1, "the bucket is not there, and nothing is missing: {stderr}");
    let folder = tempfile::tempdir().unwrap();
    let client = folder.path().join("client.json");
    write_secret(
        &client,
        r#"{"web": {"client_id": "x", "auth_uri": "https://a.test", "token_uri": "https://a.test"}}"#,
    );
    let web =
        ["web", "--bucket", "b", "--client", client.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let web = [&web[..], &["--public-url", "https://fleet.example"]].concat();
    refused(&web, &empty("FLEET_SESSION_KEY"), &["no session key: set --session-key"]);
    refused(&token, &empty("FLEET_KEYRING"), &["no OAuth client"]);
}

/// What a manifest leaves empty is as good as not there, whichever command reads it.
#[test]
fn empty_variables_count_as_unset() {
    let required = ["--bucket", "b", "--project", "p", "--topic", "t", "--dead-topic", "d"];
    let worker = [&["worker", "--subscription", "s"], &required[..]].concat();
    for args in [
        &worker[..],
        &["worker"],
        &["web"],
        &["web", "--bucket", "b"],
        &["login", "-u", "ann"],
        &["publish"],
        &["publish", "--topic", "t", "--user", "ann", "--kind", "api"],
        &["profile", "ann"],
        &["token", "ann", "--bucket", "b"],
        &["users", "list"],
        &["users", "show", "ann"],
        &["users", "import", "none.json", "--user", "ann", "--bucket", "b"],
        &["users", "retry", "ann", "--bucket", "b"],
        &["users", "revoke", "ann"],
        &["users", "delete", "ann"],
        &["users", "connect-link", "ann", "--bucket", "b"],
        &["dead", "list"],
        &["dead", "redrive"],
        &["dead", "drop", "--yes"],
        &["setup"],
    ] {
        let (_, help, _) = fleet(&[args, &["--help"]].concat(), &[]);
        let shown = help.split("env: ").skip(1).filter_map(|rest| rest.trim().split('=').next());
        // Some are hidden where they do not matter.
        let hidden =
            ["FLEET_LEASE_TTL", "FLEET_REFRESH_AHEAD", "FLEET_MIN_TTL", "FLEET_WAIT_LIMIT"];
        let others = ["FLEET_LOG", "FLEET_LOG_FORMAT", "FLEET_API_ROOT", "FLEET_USERINFO_URL"];
        let names = shown.chain(hidden).chain(others);
        let empty: Vec<(&str, &str)> = names.map(|name| (name, "")).collect();
        assert!(empty.len() > 9, "{args:?}: {empty:?}");
        assert_eq!(fleet(args, &empty), fleet(args, &[]), "{args:?}");
    }
}

#[test]
fn dead_jobs() {
    refused(&["dead", "list"], &[], &["--bucket (FLEET_BUCKET)", "--dead-topic"]);
    refused(&["dead", "list", "--parked"], &[], &["--bucket"]);
    refused(&["dead", "list", "--dead"], &[], &["--dead-subscription"]);
    refused(&["dead", "list", "--dead", "--parked"], &[], &["cannot be used with"]);
    refused(&["dead", "redrive", "--bucket", "b"], &[], &["--topic"]);
    let topic = ["--topic", "projects/p/topics/jobs"];
    let redrive = |more: &[&'static str]| [&["dead", "redrive"], &topic[..], more].concat();
    refused(&redrive(&["--bucket", "b"]), &[], &["--yes", "--dry-run"]);
    refused(&redrive(&["--wait", "soon"]), &[], &["write a duration"]);
    refused(&redrive(&["--user", ""]), &[], &["empty"]);
    refused(
        &redrive(&["--dead-topic", "a/b", "--dry-run"]),
        &[],
        &["--dead-topic", "projects/PROJECT/topics/ID"],
    );
}

#[test]
fn emulator_variables_in_half() {
    let args = ["token", "ann", "--bucket", "b"];
    refused(&args, &[("PUBSUB_EMULATOR_HOST", "127.0.0.1:1")], &["STORAGE_EMULATOR_HOST is not"]);
    let both = [("PUBSUB_EMULATOR_HOST", "10.0.0.1:1"), ("STORAGE_EMULATOR_HOST", "127.0.0.1:1")];
    refused(&args, &both, &["FLEET_ALLOW_EMULATORS=1"]);
    refused(&args, &[("FLEET_API_ROOT", "http://127.0.0.1:1")], &["FLEET_API_ROOT is set without"]);
}

#[test]
fn names_and_tunables() {
    let job = ["publish", "--user", "ann", "--kind", "profile"];
    let with = |more: &[&'static str]| [&job[..], more].concat();
    refused(&with(&["--topic", "jobs"]), &[], &["GOOGLE_CLOUD_PROJECT"]);
    refused(&with(&["--topic", "a/b", "--project", "p"]), &[], &["projects/PROJECT/topics/ID"]);
    let worker = [
        "worker",
        "--topic",
        "t",
        "--dead-topic",
        "d",
        "--subscription",
        "s",
        "--bucket",
        "b",
        "--project",
        "p",
        "--client",
        "x",
    ];
    let with = |more: &[&'static str]| [&worker[..], more].concat();
    refused(&with(&["--ack-extension", "5s"]), &[], &["5s", "10s to 600s"]);
    refused(&with(&["--concurrency", "0"]), &[], &["at least 1"]);
    refused(&with(&["--drain", "soon"]), &[], &["write a duration such as"]);
    refused(&with(&["--allow-host", "https://x.example"]), &[], &["--allow-host", "host name"]);
    refused(
        &with(&["--allow-host", "a.example,*.b.example"]),
        &[],
        &["\"*.b.example\"", "wildcard"],
    );
    refused(
        &with(&["--allow-host", "sts.googleapis.com"]),
        &[],
        &["--allow-host", "token service"],
    );
    refused(&with(&["--allow-bucket", "exports,b"]), &[], &["--allow-bucket", "token bucket"]);
    refused(&with(&["--allow-bucket", "gs://exports"]), &[], &["--allow-bucket", "name alone"]);
    refused(&["demo", "--token-lifetime", "1500ms"], &[], &["--token-lifetime", "2s"]);
    refused(&["demo", "--jobs", "0"], &[], &["at least 1"]);
}

#[test]
fn jobs_are_checked_before_they_are_published() {
    let base = ["publish", "--topic", "projects/p/topics/jobs", "--user", "ann"];
    let with = |more: &[&'static str]| [&base[..], more].concat();
    refused(&with(&["--kind", "k", "--params", "{"]), &[], &["--params is not JSON"]);
    refused(&with(&["--kind", "k", "--params", "[]"]), &[], &["`params` must be an object"]);
    refused(&with(&[]), &[], &["--kind"]);
    // The whole file, before anything is sent: no address is looked up.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.jsonl");
    let good = r#"{"user": "ann", "kind": "profile"}"#;
    std::fs::write(&file, format!("{good}\n\n{good}\n{{\"user\": \"ann\"}}\n")).unwrap();
    let path = file.to_str().unwrap();
    let emulators =
        [("PUBSUB_EMULATOR_HOST", "127.0.0.1:1"), ("STORAGE_EMULATOR_HOST", "127.0.0.1:1")];
    let args = ["publish", "--topic", "projects/p/topics/jobs", "--file", path];
    refused(&args, &emulators, &[path, "line 4", "nothing was published"]);
}

/// What a worker would reject is not published, be it the last line of a file.
#[test]
fn api_jobs_are_checked_as_a_worker_does() {
    let emulators =
        [("PUBSUB_EMULATOR_HOST", "127.0.0.1:1"), ("STORAGE_EMULATOR_HOST", "127.0.0.1:1")];
    let api = ["publish", "--topic", "projects/p/topics/jobs", "--user", "ann", "--kind", "api"];
    let with = |more: &[&'static str]| [&api[..], more].concat();
    let tokens = r#"{"url": "https://storage.googleapis.com/tokens/x"}"#;
    let output = r#"{"url": "https://www.googleapis.com/", "output": "gs://exports/x"}"#;
    let partner = r#"{"url": "https://api.partner.example/"}"#;
    for (more, says) in [
        (&[][..], "`url` is missing"),
        (&["--params", r#"{"url": "https://www.googleapis.com/a#b"}"#], "write %23"),
        (&["--params", r#"{"url": "https://www.googleapis.com/", "colour": 1}"#], "\"colour\""),
        (&["--params", partner], "--allow-host"),
        (&["--params", partner, "--allow-host", "*.example"], "wildcard"),
        (&["--params", output], "--allow-bucket"),
        (&["--params", output, "--bucket", "exports"], "token bucket"),
        (&["--params", tokens, "--bucket", "tokens"], "token bucket"),
    ] {
        refused(&with(more), &emulators, &[says]);
    }
    let variables = [&emulators[..], &[("FLEET_BUCKET", "tokens")]].concat();
    refused(&with(&["--params", tokens]), &variables, &["token bucket"]);
    // What the workers allow is taken, and only the topic is missing.
    let allowed = [
        &emulators[..],
        &[("FLEET_ALLOW_HOSTS", "api.partner.example"), ("FLEET_ALLOW_BUCKETS", "exports,")],
    ]
    .concat();
    for params in [partner, output, tokens] {
        let (code, _, stderr) = fleet(&with(&["--params", params]), &allowed);
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains("127.0.0.1:1"), "{stderr}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.jsonl");
    let good =
        r#"{"user": "ann", "kind": "api", "params": {"url": "https://www.googleapis.com/"}}"#;
    let last = good.replace("https:", "http:");
    std::fs::write(&file, format!("{good}\n{good}\n{last}")).unwrap();
    let path = file.to_str().unwrap();
    let args = ["publish", "--topic", "projects/p/topics/jobs", "--file", path];
    refused(&args, &emulators, &[path, "line 3", "must be https", "nothing was published"]);
}

#[test]
fn log_settings() {
    refused(&["demo"], &[("FLEET_LOG_FORMAT", "xml")], &["FLEET_LOG_FORMAT", "gcp or text"]);
    refused(&["demo"], &[("FLEET_LOG", "a=b=c")], &["FLEET_LOG"]);
}

/// Google's clients would look for a minute, and blame the service.
#[test]
fn without_credentials_every_command_says_so_soon() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (client, session, key) = (path("client.json"), path("session.key"), path("broker.key"));
    write_secret(
        Path::new(&client),
        r#"{"web": {"client_id": "x", "client_secret": "fake", "auth_uri": "https://a.test", "token_uri": "https://a.test"}}"#,
    );
    write_secret(Path::new(&session), &"A".repeat(44));
    write_secret(Path::new(&key), &"ab".repeat(32));
    let home = folder.path().to_str().unwrap();
    let variables = [
        ("HOME", home),
        ("GOOGLE_CLOUD_PROJECT", "p"),
        ("FLEET_BUCKET", "b"),
        ("FLEET_OAUTH_CLIENT", &*client),
        ("FLEET_SESSION_KEY", &session),
        ("FLEET_BROKER_KEY", &key),
        ("FLEET_LISTEN", "127.0.0.1:0"),
        ("FLEET_BROKER_LISTEN", "127.0.0.1:0"),
        // Nobody listens there.
        ("GCE_METADATA_HOST", "127.0.0.1:1"),
    ];
    let topics = ["--topic", "jobs", "--dead-topic", "dead"];
    let commands: Vec<Vec<&str>> = vec![
        vec!["publish", "--topic", "jobs", "--user", "ann", "--kind", "profile"],
        vec!["outcomes", "--outcomes-topic", "outcomes", "--follow"],
        [&["setup"], &topics[..]].concat(),
        vec!["users", "list"],
        vec!["token", "ann"],
        vec!["profile", "ann"],
        vec!["dead", "list", "--dead-topic", "dead"],
        vec!["broker"],
        vec!["doctor"],
    ];
    let asked: Vec<_> = commands
        .iter()
        .map(|args| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_fleet"));
            command.args(args).env_clear().envs(variables).stdin(Stdio::null());
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            (args, command.spawn().unwrap())
        })
        .collect();
    for (args, child) in asked {
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        for part in ["no Google credentials", "127.0.0.1:1", "gcloud auth application-default"] {
            assert!(said.contains(part), "{args:?} should say {part:?}: {said}");
        }
    }
    // What serves waits, and says for what.
    for args in [
        [&["worker", "--subscription", "jobs-workers"], &topics[..]].concat(),
        vec!["web", "--public-url", "https://fleet.example"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fleet"));
        command.args(&args).env_clear().envs(variables).stdin(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let told = said.take_while(|line| !line.contains("no Google credentials")).count();
        let still_there = child.try_wait().unwrap().is_none();
        assert!(still_there && told < 10, "{args:?}: {told} lines, and then it ended");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let missing = path("no-such-file.json");
    let named =
        [("GOOGLE_APPLICATION_CREDENTIALS", &*missing), ("GCE_METADATA_HOST", "127.0.0.1:1")];
    let (code, _, said) = fleet(&["users", "list", "--bucket", "b"], &named);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&missing) && said.contains("does not exist"), "{said}");
}

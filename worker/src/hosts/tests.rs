use proptest::prelude::*;

use super::*;

fn rules() -> HostRules {
    HostRules::new(["api.partner.example", " Bücher.example "]).unwrap()
}

#[test]
fn urls_that_may_have_the_token() {
    for (url, host) in [
        ("https://www.googleapis.com/drive/v3/files", "www.googleapis.com"),
        ("https://sheets.googleapis.com:443/v4", "sheets.googleapis.com"),
        ("https://sheets.googleapis.com:0443/v4", "sheets.googleapis.com"),
        ("HTTPS://SHEETS.GoogleAPIs.COM/v4", "sheets.googleapis.com"),
        ("https://europe-west1.run.googleapis.com/", "europe-west1.run.googleapis.com"),
        ("https://us-east1-aiplatform.googleapis.com/", "us-east1-aiplatform.googleapis.com"),
        ("https://storage.us-east1.rep.googleapis.com/", "storage.us-east1.rep.googleapis.com"),
        ("https://storage.mtls.googleapis.com/", "storage.mtls.googleapis.com"),
        ("https://storagetransfer.googleapis.com/", "storagetransfer.googleapis.com"),
        ("https://www%2egoogleapis.com/", "www.googleapis.com"),
        ("https://%77ww.googleapis.com/", "www.googleapis.com"),
        ("https://ｗｗｗ。googleapis。com/", "www.googleapis.com"),
        ("https://www.googleapis.com?q=@evil.example", "www.googleapis.com"),
        ("https://www.googleapis.com/@evil.example", "www.googleapis.com"),
        ("https://www.googleapis.com/https://evil.example/", "www.googleapis.com"),
        ("https://www.googleapis.com//evil.example/...", "www.googleapis.com"),
        ("https://api.partner.example/x", "api.partner.example"),
        ("https://API.Partner.Example:443/x", "api.partner.example"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
        ("https://BÜCHER.example/", "xn--bcher-kva.example"),
        ("https://bu\u{308}cher.example/", "xn--bcher-kva.example"),
    ] {
        let checked = rules().check(url).unwrap_or_else(|why| panic!("{url}: {why}"));
        assert_eq!(checked.host_str(), Some(host), "{url}");
        let slash = |url: &str| url.matches(['/', '?', '=', '@']).count();
        assert!(slash(checked.as_str()).abs_diff(slash(url)) <= 1, "{url}: {checked}");
    }
}

#[test]
fn urls_that_may_not() {
    use Forbidden as F;
    let cases: &[(&str, Forbidden)] = &[
        // Not a URL, or another scheme.
        ("", F::NotAUrl),
        ("https://", F::NotAUrl),
        ("//www.googleapis.com/", F::NotAUrl),
        ("www.googleapis.com/drive", F::NotAUrl),
        ("https://:443/", F::NotAUrl),
        ("https:sheets.googleapis.com/v4", F::NotAUrl),
        ("https:/sheets.googleapis.com/v4", F::NotAUrl),
        ("https:///sheets.googleapis.com/v4", F::NotAUrl),
        ("https://[::1", F::NotAUrl),
        ("https://www.googleapis.com:99999/", F::NotAUrl),
        ("https://www.goo<gleapis.com/", F::NotAUrl),
        ("https://www.googleapis.com%00/", F::NotAUrl),
        ("https://www.googleapis.com%2f.evil.example/", F::NotAUrl),
        ("https://www.googleapis.com%40evil.example/", F::NotAUrl),
        ("https://xn--.googleapis.com/", F::NotAUrl),
        ("http://www.googleapis.com/", F::NotHttps),
        ("ftp://www.googleapis.com/", F::NotHttps),
        ("file://www.googleapis.com/etc/passwd", F::NotHttps),
        ("ws://www.googleapis.com/", F::NotHttps),
        ("javascript://www.googleapis.com/%0aalert(1)", F::NotHttps),
        // Ports.
        ("https://www.googleapis.com:8443/", F::Port),
        ("https://www.googleapis.com:80/", F::Port),
        ("https://www.googleapis.com:0/", F::Port),
        ("https://api.partner.example:8443/", F::Port),
        // User information.
        ("https://user@www.googleapis.com/", F::UserInfo),
        ("https://:pw@www.googleapis.com/", F::UserInfo),
        ("https://www.googleapis.com@evil.example/", F::UserInfo),
        ("https://www.googleapis.com:443@evil.example/", F::UserInfo),
        ("https://%77@www.googleapis.com/", F::UserInfo),
        ("https://@www.googleapis.com/", F::UserInfo),
        ("https://:@www.googleapis.com/", F::UserInfo),
        // What parsers do not agree about.
        ("https://www.googleapis.com\\@evil.example/", F::Ambiguous),
        ("https://evil.example\\.googleapis.com/", F::Ambiguous),
        ("https:\\\\www.googleapis.com\\", F::Ambiguous),
        ("https://www.goo\tgleapis.com/", F::Ambiguous),
        ("https://www.googleapis.com\n.evil.example/", F::Ambiguous),
        ("https://www.googleapis.com/a\r\nHost: evil.example", F::Ambiguous),
        (" https://www.googleapis.com/", F::Ambiguous),
        ("https://www.googleapis.com/\0", F::Ambiguous),
        ("https://www.googleapis.com/a b", F::Ambiguous),
        ("https://www.googleapis.com/\u{2028}", F::Ambiguous),
        // Other hosts and look-alikes.
        ("https://evil.example/", F::Host),
        ("https://googleapis.com/", F::Host),
        ("https://GOOGLEAPIS.com/", F::Host),
        ("https://.googleapis.com/", F::Host),
        ("https://..googleapis.com/", F::Host),
        ("https://www..googleapis.com/", F::Host),
        ("https://www.googleapis..com/", F::Host),
        ("https://www.googleapis.com.evil.example/", F::Host),
        ("https://www.googleapis.comevil.example/", F::Host),
        ("https://evilgoogleapis.com/", F::Host),
        ("https://www.evilgoogleapis.com/", F::Host),
        ("https://evil.example/.googleapis.com", F::Host),
        ("https://evil.example#.googleapis.com/", F::Host),
        // Other than what would be sent.
        ("https://www.googleapis.com#@evil.example", F::Fragment),
        ("https://www.googleapis.com/calendars/team#holiday@x/events/e1", F::Fragment),
        ("https://www.googleapis.com/v4?q=C#&maxResults=1", F::Fragment),
        ("https://www.googleapis.com/a#", F::Fragment),
        ("https://www.googleapis.com/files/f1/comments/..", F::Altered),
        ("https://www.googleapis.com/files/f1/comments/../", F::Altered),
        ("https://www.googleapis.com/files/f1/comments/%2e%2E", F::Altered),
        ("https://www.googleapis.com/files/f1/comments/.%2e/x", F::Altered),
        ("https://www.googleapis.com/files/./f1", F::Altered),
        ("https://www.googleapis.com/files/%2e", F::Altered),
        ("https://www.googleapis.com/files/.", F::Altered),
        ("https://www.googleapis.com/..", F::Altered),
        ("https://evil.example?.googleapis.com/", F::Host),
        ("https://ｗww.googleapis.com.evil.example/", F::Host),
        ("https://www.gооgleapis.com/", F::Host),
        ("https://www.googleapis.com\u{ad}.evil.example/", F::Host),
        ("https://www.google.com/", F::Host),
        ("https://accounts.google.com/", F::Host),
        ("https://metadata.google.internal/", F::Host),
        ("https://localhost/", F::Host),
        ("https://api.partner.example.evil.example/", F::Host),
        ("https://x.api.partner.example/", F::Host),
        ("https://partner.example/", F::Host),
        // Trailing dots.
        ("https://www.googleapis.com./", F::Host),
        ("https://www.googleapis.com../", F::Host),
        ("https://www.googleapis.com%2e/", F::Host),
        ("https://www.googleapis.com。/", F::Host),
        ("https://api.partner.example./", F::Host),
        // Token services.
        ("https://oauth2.googleapis.com/token", F::Host),
        ("https://oauth2.googleapis.com./token", F::Host),
        ("https://OAuth2.googleapis.com/token", F::Host),
        ("https://%6Fauth2.googleapis.com/token", F::Host),
        ("https://ｏauth2.googleapis.com/token", F::Host),
        ("https://oauth2.eu.googleapis.com/token", F::Host),
        ("https://oauth2.mtls.googleapis.com/token", F::Host),
        ("https://iamcredentials.googleapis.com/", F::Host),
        ("https://iamcredentials.mtls.googleapis.com/", F::Host),
        ("https://iamcredentials.us-east1.rep.googleapis.com/", F::Host),
        ("https://us-east1-iamcredentials.googleapis.com/", F::Host),
        ("https://iamcredentials-ours.p.googleapis.com/", F::Host),
        ("https://sts.googleapis.com/", F::Host),
        ("https://STS.GOOGLEAPIS.COM/", F::Host),
        ("https://sts.mtls.googleapis.com/", F::Host),
        ("https://sts.us-east1.rep.googleapis.com/", F::Host),
        ("https://sts-ours.p.googleapis.com/", F::Host),
        // Addresses.
        ("https://142.250.74.42/", F::Host),
        ("https://127.0.0.1/", F::Host),
        ("https://127.1/", F::Host),
        ("https://2130706433/", F::Host),
        ("https://0x7f000001/", F::Host),
        ("https://0x7f.0.0.1/", F::Host),
        ("https://0177.0.0.1/", F::Host),
        ("https://127.0.0.1./", F::Host),
        ("https://①②⑦.0.0.1/", F::Host),
        ("https://169.254.169.254/computeMetadata/v1/", F::Host),
        ("https://[::1]/", F::Host),
        ("https://[::ffff:127.0.0.1]/", F::Host),
        ("https://[::ffff:7f00:1]/", F::Host),
        ("https://[fd00:ec2::254]/", F::Host),
        ("https://127.0.0.1.googleapis.com.evil.example/", F::Host),
    ];
    for (url, why) in cases {
        assert_eq!(rules().check(url).map(|u| u.to_string()), Err(why.clone()), "{url:?}");
    }
}

#[test]
fn long_urls_and_names() {
    let url = |path: usize| format!("https://www.googleapis.com/{}", "a".repeat(path));
    let base = url(0).len();
    assert!(rules().check(&url(MAX_URL_BYTES - base)).is_ok());
    assert_eq!(rules().check(&url(MAX_URL_BYTES - base + 1)), Err(Forbidden::TooLong));
    let grows = format!("https://www.googleapis.com/{}", "é".repeat(MAX_URL_BYTES / 3));
    assert!(grows.len() < MAX_URL_BYTES);
    assert_eq!(rules().check(&grows), Err(Forbidden::TooLong));
    let name = |label: &str| format!("https://{label}.googleapis.com/");
    assert!(rules().check(&name(&"a".repeat(63))).is_ok());
    assert!(rules().check(&name(&"a".repeat(64))).is_err());
    assert!(rules().check(&name(&["a"; 119].join("."))).is_ok());
    assert_eq!(rules().check(&name(&["a"; 120].join("."))), Err(Forbidden::Host));
}

#[test]
fn only_plain_host_names_can_be_allowed() {
    for (bad, says) in [
        ("", "not a host name"),
        ("https://x.example", "scheme"),
        ("x.example:8080", "port"),
        ("x.example:443", "port"),
        ("*.x.example", "wildcard"),
        ("127.0.0.1", "address"),
        ("2130706433", "address"),
        ("0x7f.1", "address"),
        ("[::1]", "address"),
        ("x.example/y", "name alone"),
        ("u@x.example", "name alone"),
        ("x.example?", "name alone"),
        ("a b.example", "name alone"),
        ("x%2eexample", "name alone"),
        ("x.example.", "dot"),
        ("x..example", "not a host name"),
        ("x<y", "not a host name"),
        ("oauth2.googleapis.com", "token service"),
        ("STS.googleapis.com", "token service"),
        ("iamcredentials.mtls.googleapis.com", "token service"),
    ] {
        let error = HostRules::new([bad]).unwrap_err();
        assert!(error.contains(says), "{bad}: {error}");
        assert!(error.contains(&format!("{bad:?}")), "{bad}: {error}");
    }
}

/// The promise, stated without the code that keeps it.
fn may_have_the_token(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let google = host.strip_suffix(".googleapis.com").is_some_and(|service| {
        let mut parts = service.split(['.', '-']);
        !service.is_empty() && !parts.any(|part| TOKEN_SERVICES.contains(&part))
    });
    url.scheme() == "https"
        && url.port_or_known_default() == Some(443)
        && url.username().is_empty()
        && url.password().is_none()
        && (google || host == "api.partner.example" || host == "xn--bcher-kva.example")
}

/// Pieces that URLs which try to get past the check are made of.
fn tricky_url() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "https",
        "http",
        "://",
        ":",
        "/",
        "//",
        "\\",
        "@",
        "#",
        "?",
        ".",
        "..",
        "%2e",
        "%2f",
        "%40",
        "%00",
        "\t",
        " ",
        "。",
        "\u{ad}",
        "[::1]",
        "127.0.0.1",
        "0x7f.1",
        ":443",
        ":80",
        "www",
        "oauth2",
        "sts",
        "iamcredentials",
        "sts-x",
        "mtls",
        "rep",
        "googleapis",
        "com",
        ".googleapis.com",
        "www.googleapis.com",
        "WWW.GoogleAPIs.COM",
        "evil.example",
        "evil",
        "api.partner.example",
        "bücher.example",
        "user:pw@",
        "ａ",
        "-",
        "%6f",
        "xn--",
        "a",
    ]);
    let tail = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    (prop::bool::weighted(0.8), tail)
        .prop_map(|(https, tail)| if https { format!("https://{tail}") } else { tail })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn no_url_gets_past(url in tricky_url()) {
        if let Ok(checked) = rules().check(&url) {
            prop_assert!(may_have_the_token(&checked), "{url:?} became {checked}");
            // What is sent is what was checked.
            prop_assert_eq!(rules().check(checked.as_str()), Ok(checked.clone()));
        }
    }

    /// Path and query of a URL, read without a parser of URLs, are those that are sent.
    #[test]
    fn what_is_sent_is_what_was_given(
        path in prop::collection::vec(
            prop::sample::select(vec![
                "/", "a", ".", "..", "%2e", "%2E", "#", "?", "%", "%2", "%23", "ü", "{", "\"", "'",
                "+", "&", "=", ";", ":", "@", "//", "|", "^", "~", "%00", "%2f",
            ]),
            0..10,
        ),
    ) {
        let path = path.concat();
        let given = format!("https://www.googleapis.com/{path}");
        let Ok(checked) = rules().check(&given) else { return Ok(()) };
        let sent = checked.as_str().strip_prefix("https://www.googleapis.com/").unwrap();
        prop_assert_eq!(decoded(sent), decoded(&path));
        let count = |text: &str, c: char| text.chars().filter(|each| *each == c).count();
        for structure in ['/', '?', '&', '=', '+'] {
            prop_assert_eq!(count(sent, structure), count(&path, structure));
        }
    }

    #[test]
    fn no_redirect_gets_past(location in tricky_url()) {
        let from = Url::parse("https://www.googleapis.com/drive/v3/files").unwrap();
        if let Ok(next) = from.join(&location)
            && let Ok(checked) = rules().check(next.as_str())
        {
            prop_assert!(may_have_the_token(&checked), "{location:?} became {checked}");
        }
    }

    #[test]
    fn any_text_is_checked_without_a_panic(url in "\\PC*") {
        if let Ok(checked) = rules().check(&url) {
            prop_assert!(may_have_the_token(&checked), "{url:?} became {checked}");
        }
    }
}

#[test]
fn emulators_stand_in_for_google_only() {
    let hosts = HostRules::new(["partner.example"]).unwrap();
    let root = Url::parse("http://127.0.0.1:9/").unwrap();
    let google = hosts.check("https://www.googleapis.com/drive/v3/files?x=1").unwrap();
    let target = stand_in(Some(&root), &google);
    assert_eq!(target.as_str(), "http://127.0.0.1:9/drive/v3/files?x=1");
    assert_eq!(stand_in(None, &google), google);
    let partner = hosts.check("https://partner.example/x").unwrap();
    assert_eq!(stand_in(Some(&root), &partner), partner);
}

/// A text with everything decoded once, by another way than the check's.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes().peekable();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        let rest: Vec<u8> = bytes.clone().take(2).collect();
        let hex = std::str::from_utf8(&rest).ok().filter(|rest| rest.len() == 2);
        let code = hex.filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(code) if byte == b'%' => {
                out.push(code);
                bytes.nth(1);
            }
            _ => out.push(byte),
        }
    }
    out
}

#[test]
fn what_a_url_cannot_hold_is_encoded() {
    for (given, sent) in [
        ("https://www.googleapis.com", "https://www.googleapis.com/"),
        ("https://www.googleapis.com?a", "https://www.googleapis.com/?a"),
        ("https://www.googleapis.com/x?", "https://www.googleapis.com/x?"),
        ("https://www.googleapis.com/ü?q=ü", "https://www.googleapis.com/%C3%BC?q=%C3%BC"),
        ("https://www.googleapis.com/{a}?q='b'", "https://www.googleapis.com/%7Ba%7D?q=%27b%27"),
        ("https://www.googleapis.com/a%23b?q=C%23", "https://www.googleapis.com/a%23b?q=C%23"),
        ("https://www.googleapis.com/a%2Fb/%252e", "https://www.googleapis.com/a%2Fb/%252e"),
        ("https://www.googleapis.com/v1/x:act?a=b+c", "https://www.googleapis.com/v1/x:act?a=b+c"),
        ("https://www.googleapis.com//a//..a", "https://www.googleapis.com//a//..a"),
    ] {
        assert_eq!(rules().check(given).map(String::from).as_deref(), Ok(sent), "{given}");
    }
}

/// What was checked and what a redirect or a page leads to is the call that it says it is.
#[test]
fn a_query_says_neither_method_nor_headers() {
    for query in [
        "$httpMethod=DELETE",
        "a=1&%24httpMethod=DELETE",
        "$HTTPMETHOD=DELETE",
        "$http%48eaders=x-goog-copy-source%3A%2Four-tokens%2Fx",
        "X-HTTP-Method-Override=DELETE",
        "x-goog-copy-source=/our-tokens/x",
    ] {
        for host in ["www.googleapis.com", "api.partner.example"] {
            let checked = rules().check(&format!("https://{host}/x?{query}"));
            assert_eq!(checked.map(String::from), Err(Forbidden::Overridden), "{query}");
        }
    }
    for query in ["q=$httpMethod", "httpMethod=GET", "$fields=a", "%2524httpMethod=x"] {
        assert!(rules().check(&format!("https://www.googleapis.com/x?{query}")).is_ok(), "{query}");
    }
}

#[test]
fn the_token_bucket_is_out_of_reach() {
    let rules = rules().without_bucket("our-tokens");
    for url in [
        "https://storage.googleapis.com/storage/v1/b/our-tokens/o",
        "https://storage.googleapis.com/storage/v1/b/our-tokens",
        "https://storage.googleapis.com/storage/v1/b/our-tokens/o/tokens%2Fann.json?alt=media",
        "https://www.googleapis.com/storage/v1/b/our-tokens/o/x",
        "https://www.googleapis.com/upload/storage/v1/b/our-tokens/o?name=x",
        "https://storage.googleapis.com/upload/storage/v1/b/our-tokens/o?name=x",
        "https://storage.googleapis.com/resumable/upload/storage/v1/b/our-tokens/o",
        "https://storage.googleapis.com/download/storage/v1/b/our-tokens/o/x?alt=media",
        "https://storage.googleapis.com/storage/v1/b/mine/o/x/rewriteTo/b/our-tokens/o/y",
        "https://storage.googleapis.com/storage/v1/b/our-tokens/o/x/copyTo/b/mine/o/y",
        "https://storage.googleapis.com/our-tokens/tokens/ann.json",
        "https://storage.googleapis.com/our-tokens",
        "https://storage.googleapis.com//our-tokens/",
        "https://our-tokens.storage.googleapis.com/tokens/ann.json",
        "https://OUR-tokens.Storage.googleapis.com/",
        "https://our-tokens.storage-download.googleapis.com/x",
        "https://commondatastorage.googleapis.com/our-tokens/x",
        "https://our-tokens.commondatastorage.googleapis.com/x",
        "https://storage.mtls.googleapis.com/storage/v1/b/our-tokens/o",
        "https://our-tokens.storage.mtls.googleapis.com/x",
        "https://storage.us-east1.rep.googleapis.com/our-tokens/x",
        "https://storage-ours.p.googleapis.com/our-tokens/x",
        "https://content-storage.googleapis.com/storage/v1/b/our-tokens/o",
        "https://firebasestorage.googleapis.com/v0/b/our-tokens/o/x",
        "https://storage.googleapis.com/v2/projects/_/buckets/our-tokens/objects",
        "https://storage.googleapis.com/storage/v1/b%2Four-tokens/o",
        "https://storage.googleapis.com/storage%2Fv1%2Fb%2Four-tokens",
        "https://storage.googleapis.com/storage/v1/b/our%2Dtokens/o",
        "https://storage.googleapis.com/storage/v1/%62/our%252dtokens/o",
        "https://storage.googleapis.com/%6fur-tokens/x",
        "https://storage.googleapis.com/batch/storage/v1",
        "https://www.googleapis.com/batch/storage/v1",
        "https://www.googleapis.com/batch",
        "https://storage.googleapis.com/google.storage.v2.Storage/ReadObject",
        "https://storage.googleapis.com/$rpc/google.storage.v2.Storage/ReadObject",
        "https://storage.googleapis.com/%24rpc%2Fgoogle.storage.v2.Storage/ReadObject",
        "https://www.googleapis.com/$rpc/google.storage.v2.Storage/ReadObject",
        "https://storage.googleapis.com/$rpc/google.storage.control.v2.StorageControl/GetFolder",
    ] {
        assert_eq!(rules.check(url).map(String::from), Err(Forbidden::TokenBucket), "{url}");
    }
    for url in [
        "https://storage.googleapis.com/storage/v1/b/mine/o/our-tokens",
        "https://storage.googleapis.com/mine/our-tokens",
        "https://storage.googleapis.com/our-tokens-2/x",
        "https://storage.googleapis.com/storage/v1/b?project=p",
        "https://our-tokens-2.storage.googleapis.com/x",
        "https://www.googleapis.com/drive/v3/files/our-tokens",
        "https://people.googleapis.com/v1/b/our-tokens",
        "https://www.googleapis.com/batch/drive/v3",
        "https://api.partner.example/our-tokens",
    ] {
        assert!(rules.check(url).is_ok(), "{url}");
    }
}

#[test]
fn token_services_by_path() {
    for url in [
        "https://www.googleapis.com/oauth2/v4/token",
        "https://www.googleapis.com/oauth2/v3/token",
        "https://www.googleapis.com/oauth2/v1/tokeninfo",
        "https://www.googleapis.com//oauth2/v4/token",
        "https://www.googleapis.com/o/oauth2/token",
        "https://www.googleapis.com/%6fauth2/v4/token",
        "https://www.googleapis.com/oauth2%2Fv4/token",
        "https://www.googleapis.com/batch/oauth2/v2",
        "https://www.googleapis.com/identitytoolkit/v3/relyingparty/verifyPassword",
        "https://www.googleapis.com/securetoken/v1/token",
        "https://iam.googleapis.com/v1/projects/-/serviceAccounts/x:signJwt",
        "https://any.googleapis.com/v1/projects/-/serviceAccounts/x:generateAccessToken",
        "https://iam.googleapis.com/google.iam.admin.v1.IAM/SignJwt",
        "https://iam.googleapis.com/$rpc/google.iam.admin.v1.IAM/SignBlob",
        "https://any.googleapis.com/$rpc/google.iam.credentials.v1.IAMCredentials/GenerateAccessToken",
        "https://any.googleapis.com/google.iam.credentials.v1.IAMCredentials/GenerateIdToken",
        "https://iam.googleapis.com/batch",
        "https://iam.mtls.googleapis.com/batch",
        "https://www.googleapis.com/batch/iam/v1",
    ] {
        assert_eq!(rules().check(url).map(String::from), Err(Forbidden::TokenService), "{url}");
    }
    for host in ["securetoken", "identitytoolkit", "identitytoolkit.us", "securetoken.mtls"] {
        let url = format!("https://{host}.googleapis.com/v1/token");
        assert_eq!(rules().check(&url).map(String::from), Err(Forbidden::Host), "{url}");
    }
    for url in [
        "https://www.googleapis.com/oauth2/v2/userinfo",
        "https://www.googleapis.com/oauth2/v3/userinfo",
        "https://www.googleapis.com/oauth2/v3/certs",
        "https://www.googleapis.com/drive/v3/files/oauth2",
        "https://iam.googleapis.com/v1/projects/p/serviceAccounts",
        "https://iam.googleapis.com/$rpc/google.iam.admin.v1.IAM/ListServiceAccounts",
        "https://www.googleapis.com/batch/drive/v3",
    ] {
        assert!(rules().check(url).is_ok(), "{url}");
    }
}

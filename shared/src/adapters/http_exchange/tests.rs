//! The exchange against servers that answer byte by byte.

use std::io::Write as _;
use std::sync::mpsc;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::*;
use crate::adapters::HttpTokenEndpoint;
use crate::oauth_client::OAuthClient;
use crate::ports::{Answer, TokenEndpoint as _};
use crate::secret::Secret;

const LIMITS: Limits =
    Limits { connect: Duration::from_millis(200), answer: Duration::from_millis(400) };
const PATIENT: Limits =
    Limits { connect: Duration::from_secs(30), answer: Duration::from_secs(60) };
const GRANT: &str = r#"{"access_token":"fake-a","refresh_token":"fake-new","expires_in":60}"#;

fn endpoint_at(uri: &str, http: reqwest::Client) -> HttpTokenEndpoint {
    let file = format!(
        r#"{{"web":{{"client_id":"cid","client_secret":"fake-client-secret",
            "auth_uri":"https://provider.test/auth","token_uri":"{uri}"}}}}"#
    );
    HttpTokenEndpoint::new(&OAuthClient::from_json(file.as_bytes()).unwrap(), http).unwrap()
}

async fn ask(uri: &str, http: reqwest::Client, limits: Limits) -> Result<Answer, EndpointError> {
    endpoint_at(uri, http).refresh(&Secret::new("fake-refresh-token"), limits).await
}

fn http() -> reqwest::Client {
    http_client("test").unwrap()
}

fn http2() -> reqwest::Client {
    reqwest::Client::builder().http2_prior_knowledge().build().unwrap()
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/token", listener.local_addr().unwrap());
    (listener, uri)
}

/// Reads until the whole request has come.
async fn request(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains("fake-client-secret") {
        let n = stream.read_buf(&mut read).await.unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&read));
    }
    String::from_utf8_lossy(&read).into_owned()
}

fn with_body(head: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// What the endpoint is understood to say when it answers with these bytes and closes.
async fn answered(bytes: Vec<u8>) -> Result<Answer, EndpointError> {
    let (listener, uri) = listen().await;
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = request(&mut stream).await;
        assert!(request.contains("content-length: "), "{request}");
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    tokio::join!(ask(&uri, http(), PATIENT), serve).0
}

fn zipped(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn is_ambiguous(said: &Result<Answer, EndpointError>) -> bool {
    matches!(said, Err(EndpointError::Ambiguous { resend_after: Resend::Soon, .. }))
}

#[tokio::test]
async fn whatever_it_is_called_a_grant_is_read() {
    for head in [
        "200 OK\r\nContent-Type: application/json",
        "200 OK\r\nContent-Type: text/html; charset=latin1",
        "201 Created",
        "203 Non-Authoritative Information\r\nContent-Type: nonsense",
    ] {
        let answer = answered(with_body(head, GRANT.as_bytes())).await.unwrap();
        assert_eq!(answer.refresh_token.unwrap().expose(), "fake-new", "{head}");
    }
}

#[tokio::test]
async fn compressed_unasked_it_is_read_too() {
    for head in ["200 OK\r\nContent-Encoding: gzip", "200 OK\r\nContent-Type: application/json"] {
        let answer = answered(with_body(head, &zipped(GRANT.as_bytes()))).await.unwrap();
        assert_eq!(answer.access_token.unwrap().expose(), "fake-a", "{head}");
    }
    let cut = zipped(GRANT.as_bytes());
    let said = answered(with_body("200 OK", &cut[..cut.len() - 12])).await;
    assert!(is_ambiguous(&said), "{said:?}");
}

#[tokio::test]
async fn above_a_mebibyte_it_is_no_answer() {
    let fill = |length: usize| {
        let rest = r#"{"access_token":"fake-a","x":""}"#.len();
        format!(r#"{{"access_token":"fake-a","x":"{}"}}"#, "x".repeat(length - rest))
    };
    let fits = fill(MAX_ANSWER_BYTES);
    assert_eq!(fits.len(), MAX_ANSWER_BYTES);
    assert!(answered(with_body("200 OK", fits.as_bytes())).await.is_ok());
    assert!(answered(with_body("200 OK", &zipped(fits.as_bytes()))).await.is_ok());
    let large = fill(MAX_ANSWER_BYTES + 1);
    for body in [large.clone().into_bytes(), zipped(large.as_bytes())] {
        let said = answered(with_body("200 OK", &body)).await;
        assert!(is_ambiguous(&said), "{said:?}");
    }
}

#[tokio::test]
async fn a_wait_is_taken_from_the_headers() {
    let said = answered(with_body("429 Too Many Requests\r\nRetry-After: 600000", b"")).await;
    let Err(EndpointError::NotNow { retry_after, .. }) = said else { panic!("{said:?}") };
    assert_eq!(retry_after, Some(Duration::from_secs(600)));
}

#[tokio::test]
async fn redirects_are_never_followed() {
    let (listener, elsewhere) = listen().await;
    let head = format!("307 Temporary Redirect\r\nLocation: {elsewhere}");
    let said = answered(with_body(&head, b"")).await;
    assert!(matches!(said, Err(EndpointError::NotReached(_))), "{said:?}");
    assert!(listener.accept().now_or_never().is_none(), "nobody came");
}

#[tokio::test]
async fn what_was_sent_and_not_answered_is_ambiguous() {
    for bytes in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"access_token\":\"fake-a\"}",
        b"this is not HTTP\r\n\r\n",
    ] {
        let said = answered(bytes.to_vec()).await;
        assert!(is_ambiguous(&said), "{said:?}");
    }
}

#[tokio::test]
async fn what_nobody_took_was_not_reached() {
    let (listener, uri) = listen().await;
    drop(listener);
    let said = ask(&uri, http(), PATIENT).await;
    assert!(matches!(said, Err(EndpointError::NotReached(_))), "{said:?}");
    let said = ask("https://host.invalid/token", http(), PATIENT).await;
    assert!(matches!(said, Err(EndpointError::NotReached(_))), "{said:?}");
}

#[tokio::test]
async fn a_handshake_that_fails_or_hangs_sent_nothing() {
    // It speaks no TLS: answers something else, or nothing.
    for answer in [Some(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..]), None] {
        let (listener, uri) = listen().await;
        let uri = uri.replace("http://", "https://");
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            if let Some(bytes) = answer {
                stream.write_all(bytes).await.unwrap();
            }
            // Open until the client gives up.
            let mut sent = Vec::new();
            drop(stream.read_to_end(&mut sent).await);
            assert!(!String::from_utf8_lossy(&sent).contains("fake-"));
        };
        let (said, ()) = tokio::join!(ask(&uri, http(), LIMITS), serve);
        assert!(matches!(said, Err(EndpointError::NotReached(_))), "{said:?}");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up_and_its_connection_closed() {
    let (listener, uri) = listen().await;
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream).await;
        let mut rest = Vec::new();
        drop(stream.read_to_end(&mut rest).await);
    };
    let (said, ()) = tokio::join!(ask(&uri, http(), LIMITS), serve);
    assert!(is_ambiguous(&said), "{said:?}");
    assert!(said.unwrap_err().to_string().contains("400ms"));
}

#[tokio::test]
async fn once_sent_the_connect_limit_means_nothing() {
    let (listener, uri) = listen().await;
    let limits = Limits { connect: Duration::from_millis(1), ..PATIENT };
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream).await;
        SystemClock::default().sleep(Duration::from_millis(50)).await;
        stream.write_all(&with_body("200 OK", GRANT.as_bytes())).await.unwrap();
    };
    assert!(tokio::join!(ask(&uri, http(), limits), serve).0.is_ok());
}

/// The whole process is stopped while the answer arrives, until the limit has passed.
#[test]
fn a_frozen_process_finds_the_answer_in_its_socket() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}/token", listener.local_addr().unwrap());
    let (arrived, has_arrived) = oneshot::channel();
    let (answer, has_answered) = mpsc::channel();
    let server = std::thread::spawn(move || {
        use std::io::Read as _;
        let (mut stream, _) = listener.accept().unwrap();
        let mut read = Vec::new();
        let mut chunk = [0; 4096];
        while !String::from_utf8_lossy(&read).contains("fake-client-secret") {
            let n = stream.read(&mut chunk).unwrap();
            read.extend_from_slice(&chunk[..n]);
        }
        arrived.send(()).unwrap();
        // Sent while the client is stopped.
        stream.write_all(&with_body("200 OK", GRANT.as_bytes())).unwrap();
        answer.send(()).unwrap();
        (stream, answer)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let said = runtime.block_on(async {
        let freeze = async {
            has_arrived.await.unwrap();
            has_answered.recv().unwrap();
            // Nothing comes: the thread, and with it the runtime, is stopped.
            assert!(has_answered.recv_timeout(2 * LIMITS.answer).is_err());
        };
        tokio::join!(ask(&uri, http(), LIMITS), freeze).0
    });
    assert_eq!(said.unwrap().refresh_token.unwrap().expose(), "fake-new");
    drop(server.join().unwrap());
}

/// An HTTP/2 server that answers a request with one frame.
async fn framed(frame: &[u8]) -> Result<Answer, EndpointError> {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    let (listener, uri) = listen().await;
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(SETTINGS).await.unwrap();
        request(&mut stream).await;
        stream.write_all(frame).await.unwrap();
        stream
    };
    let (said, stream) = tokio::join!(ask(&uri, http2(), PATIENT), serve);
    drop(stream);
    assert!(listener.accept().now_or_never().is_none(), "it was not sent again by itself");
    said
}

#[tokio::test]
async fn what_an_http2_server_did_not_process_was_not_reached() {
    let reset = |reason: u8| [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, reason];
    let go_away =
        |last: u8, reason: u8| [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last, 0, 0, 0, reason];
    let refused_stream = framed(&reset(7)).await;
    assert!(matches!(refused_stream, Err(EndpointError::NotReached(_))), "{refused_stream:?}");
    for reason in [0, 11] {
        let away = framed(&go_away(0, reason)).await;
        assert!(matches!(away, Err(EndpointError::NotReached(_))), "{reason}: {away:?}");
    }
    let internal_error = framed(&reset(2)).await;
    assert!(is_ambiguous(&internal_error), "{internal_error:?}");
}

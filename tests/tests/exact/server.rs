//! An API that answers with exactly the bytes that it is told, and keeps what it was sent.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Ends an answer after which the connection stays open.
const STALLS: &[u8] = b"STALLS";

/// What was sent.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Method and target of the first line.
    pub(crate) line: String,
    /// All lines before the body, in lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    answers: HashMap<String, VecDeque<Bytes>>,
    requests: Vec<Request>,
}

/// Answers by path; each path's last answer is given again and again, and a path without
/// answers is answered with `{}`.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) origin: String,
    state: Arc<Mutex<State>>,
}

/// A whole answer with this body.
pub(crate) fn answer(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Bytes {
    let body = body.as_ref();
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Said\r\n{headers}content-length: {length}\r\n");
    [head.as_bytes(), b"connection: close\r\n\r\n", body].concat().into()
}

/// A whole answer that says that it is JSON.
pub(crate) fn json(body: &str) -> Bytes {
    answer("200", "content-type: application/json; charset=UTF-8\r\n", body)
}

/// An answer of unknown length, which ends with its connection.
pub(crate) fn unframed(headers: &str, body: &str) -> Bytes {
    format!("HTTP/1.1 200 OK\r\n{headers}connection: close\r\n\r\n{body}").into()
}

/// These bytes, and then nothing: the connection stays open until the client leaves.
pub(crate) fn stalled(begun: &str) -> Bytes {
    [begun.as_bytes(), STALLS].concat().into()
}

/// No answer at all.
pub(crate) fn silence() -> Bytes {
    stalled("")
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, Arc::clone(&shared)));
            }
        });
        Self { origin, state }
    }

    /// Answers requests for `path` with these, one after another.
    pub(crate) fn at(&self, path: &str, answers: impl IntoIterator<Item = Bytes>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.answers.insert(path.to_owned(), answers.into_iter().collect());
    }

    /// Everything that was sent.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).requests.clone()
    }

    /// What was sent to a path.
    pub(crate) fn sent_to(&self, path: &str) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| path_of(request) == path);
        requests
    }
}

fn path_of(request: &Request) -> &str {
    let target = request.line.split(' ').nth(1).unwrap_or_default();
    target.split('?').next().unwrap_or_default()
}

/// One request of each connection. `TOKEN` in an answer is the token that was sent.
async fn serve(mut connection: TcpStream, state: Arc<Mutex<State>>) {
    let Some(request) = read(&mut connection).await else { return };
    let token = request.head.lines().find_map(|line| line.strip_prefix("authorization: bearer "));
    let answer = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.requests.push(request.clone());
        match state.answers.get_mut(path_of(&request)) {
            Some(answers) if answers.len() > 1 => answers.pop_front(),
            Some(answers) => answers.front().cloned(),
            None => Some(json("{}")),
        }
    };
    let mut answer = answer.unwrap_or_default();
    let stalls = answer.ends_with(STALLS);
    if stalls {
        answer.truncate(answer.len() - STALLS.len());
    }
    let is_echo = answer.len() < 10_000 && answer.windows(5).any(|part| part == b"TOKEN");
    if let (true, Some(token)) = (is_echo, token) {
        let text = String::from_utf8_lossy(&answer).replace("TOKEN", token);
        // Its length is another one now.
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        answer = json(body);
    }
    // A client that has what it wants may be gone.
    if connection.write_all(&answer).await.is_ok() {
        if !stalls {
            connection.shutdown().await.ok();
        }
        // Closing with unread bytes would reset the connection.
        while matches!(connection.read(&mut [0; 1024]).await, Ok(1..)) {}
    }
}

async fn read(connection: &mut TcpStream) -> Option<Request> {
    let mut all = Vec::new();
    loop {
        if let Some(end) = all.windows(4).position(|part| part == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&all[..end]).into_owned();
            let body = &all[end + 4..];
            let lower = head.to_ascii_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                let line = head.lines().next().unwrap_or_default();
                let line = line.trim_end_matches(" HTTP/1.1").to_owned();
                let token = |line: &str| line.to_ascii_lowercase().starts_with("authorization:");
                let head = head
                    .lines()
                    .map(|line| match line.split_once(": ") {
                        Some((name, value)) if token(line) => {
                            let value = value.replacen("Bearer", "bearer", 1);
                            format!("{}: {value}", name.to_ascii_lowercase())
                        }
                        _ => line.to_ascii_lowercase(),
                    })
                    .collect::<Vec<_>>()
                    .join("\n");
                return Some(Request { line, head, body: body.to_vec() });
            }
        }
        if connection.read_buf(&mut all).await.ok()? == 0 {
            return None;
        }
    }
}

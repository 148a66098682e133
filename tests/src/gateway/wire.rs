//! HTTP/1.1 on a plain socket: as little as a token request needs, so that an answer can be
//! any bytes at all.

use std::collections::HashMap;
use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Above this it is no token request.
const LONGEST_HEAD: usize = 16 * 1024;

/// A request whose body has been read.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) path: String,
    /// Names in lower case.
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
}

/// A connection with what has been read beyond the last request.
#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket, buffer: Vec::new() }
    }

    /// The next request; `None` when the client is done.
    pub(super) async fn request(&mut self) -> io::Result<Option<Request>> {
        let head = loop {
            if let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let rest = self.buffer.split_off(end + 4);
                let head = std::mem::replace(&mut self.buffer, rest);
                break String::from_utf8_lossy(&head).into_owned();
            }
            if self.buffer.len() > LONGEST_HEAD {
                return Err(io::Error::other("the head of a request is too long"));
            }
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        };
        let mut lines = head.split("\r\n");
        let path = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        let headers: HashMap<String, String> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length: usize =
            headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or_default();
        while self.buffer.len() < length {
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
        let rest = self.buffer.split_off(length);
        let body = std::mem::replace(&mut self.buffer, rest);
        Ok(Some(Request { path: path.to_owned(), headers, body }))
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await?;
        self.socket.flush().await
    }

    /// Ends when the client closes the connection or sends something before its answer.
    pub(super) async fn left(&mut self) {
        drop(self.socket.read_buf(&mut self.buffer).await);
    }
}

/// A whole answer; the connection is kept.
pub(super) fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let headers: String =
        headers.iter().map(|(name, value)| [name, ": ", value, "\r\n"].concat()).collect();
    let head = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

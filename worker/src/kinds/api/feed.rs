//! Between the reading of an answer and the writing of an object: a short queue.
//!
//! An end must be announced. A queue that is merely dropped (the reader failed, or
//! the job was cut) is an error to the writer, so that no object is finished with
//! half of its content.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use google_cloud_storage::streaming_source::{SizeHint, StreamingSource};
use tokio::sync::mpsc;

use super::limits::MAX_OUTPUT_BYTES;

/// Answers come in pieces of any size; they are handed on in pieces of this size, so
/// that an API which sends single bytes costs no more memory than any other.
const PIECE: usize = 128 * 1024;

#[derive(Debug)]
enum Message {
    Piece(Bytes),
    End,
}

/// Why nothing more can be fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The writer is gone and knows why.
    Closed,
    /// It is more than an object may have.
    TooLarge,
}

/// What the reader holds.
#[derive(Debug)]
pub(super) struct Feed {
    sender: mpsc::Sender<Message>,
    buffer: BytesMut,
    /// Bytes fed so far.
    pub(super) bytes: u64,
}

/// What the writer holds.
#[derive(Debug)]
pub(super) struct Source {
    receiver: mpsc::Receiver<Message>,
    /// What has been received ahead of the writer.
    ahead: VecDeque<Bytes>,
    length: Option<u64>,
    ended: bool,
    progress: Arc<Progress>,
}

/// What the writer asked for, to see whether it is stuck.
#[derive(Debug, Default)]
pub(super) struct Progress {
    asked: AtomicU64,
    waiting: AtomicBool,
}

impl Progress {
    /// How often the writer asked for more; `None` while it waits for the reader.
    pub(super) fn asked(&self) -> Option<u64> {
        (!self.waiting.load(Ordering::SeqCst)).then(|| self.asked.load(Ordering::SeqCst))
    }
}

/// A queue for content of this length, if it is known.
pub(super) fn feed(length: Option<u64>) -> (Feed, Source) {
    let (sender, receiver) = mpsc::channel(1);
    let progress = Arc::default();
    (
        Feed { sender, buffer: BytesMut::new(), bytes: 0 },
        Source { receiver, ahead: VecDeque::new(), length, ended: false, progress },
    )
}

impl Feed {
    pub(super) async fn push(&mut self, mut content: &[u8]) -> Result<(), Stopped> {
        self.bytes = self.bytes.saturating_add(content.len() as u64);
        if self.bytes > MAX_OUTPUT_BYTES {
            return Err(Stopped::TooLarge);
        }
        while !content.is_empty() {
            let (now, later) = content.split_at(content.len().min(PIECE - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            content = later;
            if self.buffer.len() == PIECE {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Announces the end; the bytes that there were.
    pub(super) async fn end(mut self) -> Result<u64, Stopped> {
        self.flush().await?;
        self.send(Message::End).await?;
        Ok(self.bytes)
    }

    /// Ends when the writer is gone.
    pub(super) fn closed(&self) -> impl Future<Output = ()> + use<> {
        let sender = self.sender.clone();
        async move { sender.closed().await }
    }

    async fn flush(&mut self) -> Result<(), Stopped> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(PIECE));
        self.send(Message::Piece(piece.freeze())).await
    }

    async fn send(&self, message: Message) -> Result<(), Stopped> {
        self.sender.send(message).await.map_err(|_| Stopped::Closed)
    }
}

impl Source {
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// How long the content is, as far as that is known.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// Receives ahead until the length is known, or more than so many bytes are held. It holds at
    /// most a piece more.
    pub(super) async fn look_ahead(&mut self, most: usize) -> io::Result<()> {
        let mut held: usize = self.ahead.iter().map(Bytes::len).sum();
        while self.length.is_none() && held <= most {
            match self.receive().await? {
                Some(piece) => {
                    held += piece.len();
                    self.ahead.push_back(piece);
                }
                None => self.length = Some(held as u64),
            }
        }
        Ok(())
    }

    /// What the reader brings next; `None` at its announced end.
    async fn receive(&mut self) -> io::Result<Option<Bytes>> {
        match self.receiver.recv().await {
            Some(Message::Piece(piece)) => Ok(Some(piece)),
            Some(Message::End) => {
                self.ended = true;
                Ok(None)
            }
            None => Err(io::Error::other("the content ended before its end")),
        }
    }
}

impl StreamingSource for Source {
    type Error = io::Error;

    async fn next(&mut self) -> Option<Result<Bytes, io::Error>> {
        if let Some(piece) = self.ahead.pop_front() {
            self.progress.asked.fetch_add(1, Ordering::SeqCst);
            return Some(Ok(piece));
        }
        if self.ended {
            return None;
        }
        self.progress.waiting.store(true, Ordering::SeqCst);
        let received = self.receive().await;
        self.progress.asked.fetch_add(1, Ordering::SeqCst);
        self.progress.waiting.store(false, Ordering::SeqCst);
        received.transpose()
    }

    async fn size_hint(&self) -> Result<SizeHint, io::Error> {
        Ok(self.length.map_or_else(SizeHint::new, SizeHint::with_exact))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_of_one_size_then_the_end() {
        let (mut feed, mut source) = feed(None);
        let reading = async {
            for _ in 0..(PIECE + 10) {
                feed.push(b"x").await?;
            }
            feed.push(&vec![b'y'; 2 * PIECE]).await?;
            feed.end().await
        };
        let writing = async {
            let mut sizes = Vec::new();
            while let Some(piece) = source.next().await {
                sizes.push(piece.unwrap().len());
            }
            assert!(source.next().await.is_none(), "it stays ended");
            sizes
        };
        let (read, sizes) = tokio::join!(reading, writing);
        assert_eq!(read, Ok(3 * PIECE as u64 + 10));
        assert_eq!(sizes, [PIECE, PIECE, PIECE, 10]);
    }

    #[tokio::test]
    async fn what_is_received_ahead_is_not_lost() {
        for (bytes, most, known) in [
            (0, 10, true),
            (5, 10, true),
            (3 * PIECE, 3 * PIECE, true),
            (3 * PIECE + 1, 3 * PIECE, false),
            (9 * PIECE, 2 * PIECE, false),
        ] {
            let (mut feed, mut source) = feed(None);
            let reading = async {
                feed.push(&vec![b'x'; bytes]).await?;
                feed.end().await
            };
            let writing = async {
                source.look_ahead(most).await.unwrap();
                let hint = source.size_hint().await.unwrap();
                let exact = known.then_some(bytes as u64);
                assert_eq!(hint.exact(), exact, "{bytes} bytes");
                let ahead: usize = source.ahead.iter().map(Bytes::len).sum();
                assert!(ahead <= most + PIECE, "{ahead} bytes");
                let mut all = 0;
                while let Some(piece) = source.next().await {
                    all += piece.unwrap().len();
                }
                all
            };
            let (read, written) = tokio::join!(reading, writing);
            assert_eq!((read, written), (Ok(bytes as u64), bytes));
        }
    }

    #[tokio::test]
    async fn an_end_that_is_not_announced_is_an_error() {
        for known in [None, Some(3)] {
            let (mut feed, mut source) = feed(known);
            feed.push(b"abc").await.unwrap();
            drop(feed);
            let ahead = source.look_ahead(10).await;
            assert_eq!(ahead.is_err(), known.is_none());
            assert!(source.next().await.unwrap().is_err());
        }
    }

    #[tokio::test]
    async fn a_writer_that_is_gone_stops_the_reader() {
        let (mut feed, source) = feed(None);
        let closed = feed.closed();
        drop(source);
        closed.await;
        assert_eq!(feed.push(&vec![0; PIECE]).await, Err(Stopped::Closed));
    }

    #[tokio::test]
    async fn a_bucket_is_not_filled() {
        let (mut feed, _source) = feed(None);
        feed.bytes = MAX_OUTPUT_BYTES;
        assert_eq!(feed.push(b"x").await, Err(Stopped::TooLarge));
    }
}

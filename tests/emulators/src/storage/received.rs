//! The content of an upload as it comes, kept up to a limit and always measured.

use bytes::{Bytes, BytesMut};

use super::crc32c;

/// What has arrived of an object.
#[derive(Debug)]
pub(super) struct Received {
    kept: BytesMut,
    size: usize,
    crc32c: u32,
    /// Content that is longer is not kept.
    keep: usize,
}

/// How far an upload was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    size: usize,
    crc32c: u32,
}

impl Received {
    pub(super) fn new(keep: usize) -> Self {
        Self { kept: BytesMut::new(), size: 0, crc32c: 0, keep }
    }

    pub(super) fn extend(&mut self, content: &[u8]) {
        self.crc32c = crc32c::extend(self.crc32c, content);
        self.size += content.len();
        if self.size <= self.keep {
            self.kept.extend_from_slice(content);
        } else {
            self.kept = BytesMut::new();
        }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn crc32c(&self) -> u32 {
        self.crc32c
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { size: self.size, crc32c: self.crc32c }
    }

    /// Forgets what came after `mark`. What was let go stays so.
    pub(super) fn go_back(&mut self, mark: Mark) {
        self.kept.truncate(mark.size);
        (self.size, self.crc32c) = (mark.size, mark.crc32c);
        if self.kept.len() < self.size {
            self.keep = 0;
        }
    }

    /// The content: empty if it was not kept.
    pub(super) fn content(&self) -> Bytes {
        Bytes::copy_from_slice(&self.kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_content_is_measured_and_not_kept() {
        let mut received = Received::new(4);
        received.extend(b"1234");
        assert_eq!(received.content(), "1234");
        let mark = received.mark();
        received.extend(b"56789");
        assert_eq!((received.content().len(), received.size()), (0, 9));
        assert_eq!(received.crc32c(), 0xE306_9283, "the published vector");
        received.go_back(mark);
        assert_eq!(received.size(), 4);
        received.extend(b"56789");
        assert_eq!((received.content().len(), received.crc32c()), (0, 0xE306_9283));
    }
}

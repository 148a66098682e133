//! Upload sessions: an object sent in chunks, stored when the last one is there.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::conditions::Conditions;
use super::object::{Attributes, StoredObject, Upload};
use super::received::Received;
use super::refusal::Refusal;

/// Sessions kept, finished ones included; the oldest is forgotten first.
const MAX_SESSIONS: usize = 1_024;

/// The open and the finished upload sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    by_id: HashMap<String, Session>,
    order: VecDeque<String>,
    started: u64,
    /// Longer contents are measured and not kept, from the next session on.
    pub(super) keep: usize,
}

impl Default for Sessions {
    /// Keeps everything.
    fn default() -> Self {
        Self { by_id: HashMap::new(), order: VecDeque::new(), started: 0, keep: usize::MAX }
    }
}

/// What an upload is for.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) bucket: String,
    pub(super) name: String,
    pub(super) attributes: Attributes,
    pub(super) conditions: Conditions,
}

#[derive(Debug)]
struct Session {
    target: Target,
    received: Received,
    finished: Option<Arc<StoredObject>>,
}

/// What a request on a session came to.
#[derive(Debug)]
pub(super) enum Progress {
    /// So many bytes are there; more are expected.
    Incomplete(usize),
    /// The object is stored.
    Stored { bucket: String, name: String, object: Arc<StoredObject> },
}

/// The `Content-Range` of a request on a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    /// `bytes */*` or `bytes */total`: no content. Asks how far the upload is, and ends
    /// it when all of a known total is there.
    Query { total: Option<usize> },
    /// `bytes first-last/total`, either end possibly unknown (`*`).
    Content { first: usize, last: Option<usize>, total: Option<usize> },
}

impl Chunk {
    /// Reads the header; without one, the request brings the whole object.
    pub(super) fn parse(header: Option<&str>) -> Result<Self, Refusal> {
        let Some(header) = header else {
            return Ok(Self::Content { first: 0, last: None, total: None });
        };
        Self::try_parse(header)
            .ok_or_else(|| Refusal::invalid(format!("Malformed Content-Range: {header}")))
    }

    fn try_parse(header: &str) -> Option<Self> {
        let number = |text: &str| match text {
            "*" => Some(None),
            digits => digits.parse().ok().map(Some),
        };
        let (range, total) = header.strip_prefix("bytes ")?.split_once('/')?;
        let total = number(total)?;
        if range == "*" {
            return Some(Self::Query { total });
        }
        let (first, last) = range.split_once('-')?;
        let (first, last) = (first.parse().ok()?, number(last)?);
        Some(Self::Content { first, last, total })
    }
}

impl Sessions {
    /// Opens a session and returns its ID.
    pub(super) fn open(&mut self, target: Target) -> String {
        self.started += 1;
        let id = format!("upload-{}", self.started);
        let session = Session { target, received: Received::new(self.keep), finished: None };
        self.by_id.insert(id.clone(), session);
        self.order.push_back(id.clone());
        if self.order.len() > MAX_SESSIONS
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
        id
    }

    /// Gives a session up.
    pub(super) fn cancel(&mut self, id: &str) -> Result<(), Refusal> {
        self.by_id.remove(id).ok_or(Refusal::NoUpload)?;
        self.order.retain(|kept| kept != id);
        Ok(())
    }

    /// Takes one request's content, and the checksums (CRC-32C, MD5) that it tells. When it
    /// is the last, `store` is called to write the
    /// object; if that is refused, the session stays as it was before this request.
    pub(super) fn advance(
        &mut self,
        id: &str,
        chunk: Chunk,
        content: &Bytes,
        told: (Option<String>, Option<String>),
        store: impl FnOnce(&Target, Upload) -> Result<Arc<StoredObject>, Refusal>,
    ) -> Result<Progress, Refusal> {
        let session = self.by_id.get_mut(id).ok_or(Refusal::NoUpload)?;
        if let Some(object) = &session.finished {
            return Ok(session.stored(object));
        }
        let before = session.received.mark();
        if !session.accept(chunk, content)? {
            return Ok(Progress::Incomplete(session.received.size()));
        }
        match session.finish(told, store) {
            Ok(object) => Ok(session.stored(&object)),
            Err(refusal) => {
                session.received.go_back(before);
                Err(refusal)
            }
        }
    }
}

impl Session {
    fn stored(&self, object: &Arc<StoredObject>) -> Progress {
        Progress::Stored {
            bucket: self.target.bucket.clone(),
            name: self.target.name.clone(),
            object: Arc::clone(object),
        }
    }

    /// Appends what is new in `content`; true when nothing is missing any more.
    fn accept(&mut self, chunk: Chunk, content: &Bytes) -> Result<bool, Refusal> {
        let have = self.received.size();
        let (first, last, total) = match chunk {
            Chunk::Query { total } => return Ok(total == Some(have)),
            Chunk::Content { first, last, total } => (first, last, total),
        };
        let end = first.saturating_add(content.len());
        if last.is_some_and(|last| last.checked_add(1) != Some(end)) {
            return Err(Refusal::invalid("The content is not as long as its range."));
        }
        if first > have || total.is_some_and(|total| end > total) {
            return Err(Refusal::invalid(format!(
                "The content does not follow the {have} bytes that are there."
            )));
        }
        // A retried chunk may begin before what is there.
        let new = content.get(have - first..).unwrap_or_default();
        self.received.extend(new);
        Ok(match (last, total) {
            (_, Some(total)) => self.received.size() == total,
            // Of unknown length to its end: the request's own end is the object's.
            (None, None) => true,
            (Some(_), None) => false,
        })
    }

    fn finish(
        &mut self,
        told: (Option<String>, Option<String>),
        store: impl FnOnce(&Target, Upload) -> Result<Arc<StoredObject>, Refusal>,
    ) -> Result<Arc<StoredObject>, Refusal> {
        let mut attributes = self.target.attributes.clone();
        let (crc32c, md5) = told;
        for (told, known) in [(&crc32c, &attributes.crc32c), (&md5, &attributes.md5_hash)] {
            if told.as_ref().zip(known.as_ref()).is_some_and(|(told, known)| told != known) {
                let message = "The session began with another checksum than its end has.";
                return Err(Refusal::invalid(message));
            }
        }
        attributes.crc32c = crc32c.or(attributes.crc32c);
        attributes.md5_hash = md5.or(attributes.md5_hash);
        let upload = Upload::of(&self.received, attributes)?;
        let object = store(&self.target, upload)?;
        self.finished = Some(Arc::clone(&object));
        // Held by the object now.
        self.received = Received::new(0);
        Ok(object)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn open(sessions: &mut Sessions) -> String {
        sessions.open(Target {
            bucket: "bucket".to_owned(),
            name: "name".to_owned(),
            attributes: Attributes::default(),
            conditions: Conditions::default(),
        })
    }

    fn send(
        sessions: &mut Sessions,
        id: &str,
        range: Option<&str>,
        content: &'static [u8],
        allowed: bool,
    ) -> Result<Progress, Refusal> {
        let chunk = Chunk::parse(range)?;
        let content = Bytes::from_static(content);
        sessions.advance(id, chunk, &content, (None, None), |_, upload| {
            if allowed {
                Ok(Arc::new(StoredObject::new(upload, 7, SystemTime::UNIX_EPOCH)))
            } else {
                Err(Refusal::Precondition)
            }
        })
    }

    fn stored(progress: Result<Progress, Refusal>) -> Bytes {
        match progress.unwrap() {
            Progress::Stored { object, .. } => object.content.clone(),
            other @ Progress::Incomplete(_) => panic!("{other:?}"),
        }
    }

    fn incomplete(progress: Result<Progress, Refusal>) -> usize {
        match progress.unwrap() {
            Progress::Incomplete(have) => have,
            other @ Progress::Stored { .. } => panic!("{other:?}"),
        }
    }

    #[test]
    fn chunks_of_a_known_total() {
        let mut sessions = Sessions::default();
        let id = open(&mut sessions);
        let mut send = |range, content| send(&mut sessions, &id, Some(range), content, true);
        assert_eq!(incomplete(send("bytes */*", b"")), 0);
        assert_eq!(incomplete(send("bytes 0-2/6", b"abc")), 3);
        assert_eq!(incomplete(send("bytes */*", b"")), 3);
        assert_eq!(incomplete(send("bytes 1-3/6", b"bcd")), 4);
        assert!(send("bytes 5-5/6", b"f").is_err());
        assert!(send("bytes 4-5/6", b"e").is_err());
        assert_eq!(&stored(send("bytes 4-5/6", b"ef"))[..], b"abcdef");
        // Asked again after a lost reply, it answers the same.
        assert_eq!(&stored(send("bytes */*", b""))[..], b"abcdef");
    }

    #[test]
    fn chunks_of_an_unknown_total() {
        let mut sessions = Sessions::default();
        let id = open(&mut sessions);
        let mut send = |range, content| send(&mut sessions, &id, Some(range), content, true);
        assert_eq!(incomplete(send("bytes 0-2/*", b"abc")), 3);
        assert_eq!(&stored(send("bytes */3", b""))[..], b"abc");
    }

    #[test]
    fn whole_contents_in_one_request() {
        for range in [None, Some("bytes 0-*/*"), Some("bytes 0-2/3")] {
            let mut sessions = Sessions::default();
            let id = open(&mut sessions);
            let content = stored(send(&mut sessions, &id, range, b"abc", true));
            assert_eq!(&content[..], b"abc");
        }
        let mut sessions = Sessions::default();
        let id = open(&mut sessions);
        let content = stored(send(&mut sessions, &id, Some("bytes */0"), b"", true));
        assert!(content.is_empty());
    }

    #[test]
    fn a_refused_end_can_be_tried_again() {
        let mut sessions = Sessions::default();
        let id = open(&mut sessions);
        let mut send =
            |range, content, allowed| send(&mut sessions, &id, Some(range), content, allowed);
        assert_eq!(incomplete(send("bytes 0-1/4", b"ab", true)), 2);
        assert!(send("bytes 2-3/4", b"cd", false).is_err());
        assert_eq!(incomplete(send("bytes */*", b"", true)), 2);
        assert_eq!(&stored(send("bytes 2-3/4", b"cd", true))[..], b"abcd");
    }

    #[test]
    fn a_checksum_of_the_beginning_holds_at_the_end() {
        let mut sessions = Sessions::default();
        let id = sessions.open(Target {
            bucket: "bucket".to_owned(),
            name: "name".to_owned(),
            attributes: Attributes { crc32c: Some("AAAAAA==".to_owned()), ..Attributes::default() },
            conditions: Conditions::default(),
        });
        // Each is right for itself to who looks at it alone.
        let told = (Some("NkMp4A==".to_owned()), None);
        let chunk = Chunk::parse(None).unwrap();
        let refused = sessions
            .advance(&id, chunk, &Bytes::from_static(b"abc"), told, |_, _| panic!("it is stored"));
        assert!(matches!(refused, Err(Refusal::Invalid(_))), "{refused:?}");
    }

    #[test]
    fn sessions_end() {
        let mut sessions = Sessions::default();
        let id = open(&mut sessions);
        sessions.cancel(&id).unwrap();
        let gone = send(&mut sessions, &id, None, b"", true);
        assert_eq!(gone.unwrap_err(), Refusal::NoUpload);
        let oldest = open(&mut sessions);
        for _ in 0..MAX_SESSIONS {
            open(&mut sessions);
        }
        let gone = send(&mut sessions, &oldest, None, b"", true);
        assert_eq!(gone.unwrap_err(), Refusal::NoUpload);
        assert_eq!(sessions.by_id.len(), MAX_SESSIONS);
    }

    #[test]
    fn malformed_ranges_are_refused() {
        for header in ["", "bytes", "bytes 1/2", "bytes x-1/2", "bytes 0-1", "items 0-1/2"] {
            assert!(Chunk::parse(Some(header)).is_err(), "{header:?}");
        }
    }
}

//! Where a login's credential is kept: a file, an object, or the token store.
//! All three are a bucket to the store, so each is refreshed the same way.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shared::adapters::MemoryBucket;
use shared::ports::{Bucket, BucketError, Generation, Hints, Listing, Object};
use shared::{UserId, create_secret, open_secret};

use super::super::environment::Place;
use super::super::output::Usage;

/// What `-u` names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A local file.
    File(PathBuf),
    /// An object of a bucket.
    Object { bucket: String, path: String },
    /// A user of the token store.
    Stored { bucket: String, user: UserId },
}

/// Under this ID a file or object keeps its one user.
const ONLY_USER: &str = "me";

impl Target {
    pub(super) fn parse(user: &str, bucket: Option<&str>) -> Result<Self, Usage> {
        if let Some((bucket, path)) = user.split_once(':')
            && is_bucket(bucket)
            && is_json(path)
        {
            return Ok(Self::Object { bucket: bucket.to_owned(), path: path.to_owned() });
        }
        if is_json(user) || user.contains('/') {
            return Ok(Self::File(user.into()));
        }
        let id = UserId::new(user).map_err(|e| Usage(format!("--user: {e}")))?;
        let bucket = bucket.ok_or_else(|| {
            Usage(format!(
                "--user {user} is a user ID, and no token store is set: add --bucket (FLEET_BUCKET), or name a file such as {user}.json"
            ))
        })?;
        Ok(Self::Stored { bucket: bucket.to_owned(), user: id })
    }

    /// The bucket that holds it, and its user there.
    pub(super) async fn open(self, place: &Place) -> anyhow::Result<(Arc<dyn Bucket>, UserId)> {
        let only = UserId::new(ONLY_USER)?;
        Ok(match self {
            Self::Stored { bucket, user } => (place.bucket(&bucket).await?.shared(), user),
            Self::Object { bucket, path } => {
                let inner = place.bucket(&bucket).await?.shared();
                (Arc::new(OneObject { inner, path }), only)
            }
            Self::File(path) => (Arc::new(OneFile { path, leases: MemoryBucket::default() }), only),
        })
    }
}

fn is_json(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "json")
}

/// As Cloud Storage names buckets.
fn is_bucket(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    (3..=222).contains(&name.len()) && name.chars().all(plain)
}

/// A bucket whose token object is at a path of the person's choice, with its
/// lease beside it.
#[derive(Debug)]
struct OneObject {
    inner: Arc<dyn Bucket>,
    path: String,
}

impl OneObject {
    fn name(&self, name: &str) -> String {
        if name.starts_with("tokens/") { self.path.clone() } else { format!("{}.lease", self.path) }
    }
}

impl Bucket for OneObject {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Object>, BucketError>> {
        async move { self.inner.get(&self.name(name)).await }.boxed()
    }

    fn put_with_hints<'a>(
        &'a self,
        name: &'a str,
        content: Bytes,
        _hints: Hints,
        expected: Generation,
    ) -> BoxFuture<'a, Result<Generation, BucketError>> {
        async move { self.inner.put(&self.name(name), content, expected).await }.boxed()
    }

    fn delete<'a>(
        &'a self,
        name: &'a str,
        expected: Generation,
    ) -> BoxFuture<'a, Result<bool, BucketError>> {
        async move { self.inner.delete(&self.name(name), expected).await }.boxed()
    }

    fn list<'a>(
        &'a self,
        _prefix: &'a str,
        _page: Option<String>,
    ) -> BoxFuture<'a, Result<Listing, BucketError>> {
        async { Ok(Listing::default()) }.boxed()
    }
}

/// One file as a bucket. Its generation is its time of modification; a write
/// replaces it as a whole. Between two programs the check before a write has a
/// gap that Cloud Storage does not have, so a file is for one person's programs;
/// leases are this process's own.
#[derive(Debug)]
struct OneFile {
    path: PathBuf,
    leases: MemoryBucket,
}

impl OneFile {
    fn error(&self, error: &std::io::Error) -> BucketError {
        BucketError::Refused(format!("{}: {error}", self.path.display()).into())
    }

    fn generation(&self) -> Result<Generation, BucketError> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) => Ok(modified(&metadata)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Generation::ABSENT),
            Err(e) => Err(self.error(&e)),
        }
    }

    fn read(&self) -> Result<Option<Object>, BucketError> {
        let generation = self.generation()?;
        if generation == Generation::ABSENT {
            return Ok(None);
        }
        let mut content = Vec::new();
        let read = open_secret(&self.path).and_then(|mut file| file.read_to_end(&mut content));
        read.map_err(|e| self.error(&e))?;
        Ok(Some(Object { content: content.into(), generation }))
    }

    fn write(&self, content: &[u8], expected: Generation) -> Result<Generation, BucketError> {
        let before = self.generation()?;
        if before != expected {
            return Err(BucketError::PreconditionFailed);
        }
        self.replace(content, before).map_err(|e| self.error(&e))
    }

    /// Through a file of the same folder that only this person can read.
    fn replace(&self, content: &[u8], before: Generation) -> std::io::Result<Generation> {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let new = self.path.with_file_name(name);
        drop(std::fs::remove_file(&new));
        let written = (|| {
            let mut file = create_secret(&new)?;
            file.write_all(content)?;
            let mut generation = modified(&file.metadata()?);
            if generation <= before {
                // Two writes within one tick of the file system's clock.
                let next = u64::try_from(before.0 + 1).unwrap_or_default();
                file.set_modified(UNIX_EPOCH + Duration::from_nanos(next))?;
                generation = modified(&file.metadata()?);
            }
            file.sync_all()?;
            std::fs::rename(&new, &self.path)?;
            Ok(generation)
        })();
        if written.is_err() {
            drop(std::fs::remove_file(&new));
        }
        written
    }
}

fn modified(metadata: &std::fs::Metadata) -> Generation {
    let since = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let nanos = since.and_then(|since| i64::try_from(since.as_nanos()).ok());
    Generation(nanos.unwrap_or(1).max(1))
}

impl Bucket for OneFile {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Object>, BucketError>> {
        if name.starts_with("tokens/") {
            std::future::ready(self.read()).boxed()
        } else {
            self.leases.get(name)
        }
    }

    fn put_with_hints<'a>(
        &'a self,
        name: &'a str,
        content: Bytes,
        _hints: Hints,
        expected: Generation,
    ) -> BoxFuture<'a, Result<Generation, BucketError>> {
        if name.starts_with("tokens/") {
            std::future::ready(self.write(&content, expected)).boxed()
        } else {
            self.leases.put(name, content, expected)
        }
    }

    fn delete<'a>(
        &'a self,
        name: &'a str,
        expected: Generation,
    ) -> BoxFuture<'a, Result<bool, BucketError>> {
        if !name.starts_with("tokens/") {
            return self.leases.delete(name, expected);
        }
        let deleted = match self.generation() {
            Ok(Generation::ABSENT) => Ok(false),
            Ok(found) if found != expected => Err(BucketError::PreconditionFailed),
            Ok(_) => std::fs::remove_file(&self.path).map(|()| true).map_err(|e| self.error(&e)),
            Err(error) => Err(error),
        };
        std::future::ready(deleted).boxed()
    }

    fn list<'a>(
        &'a self,
        _prefix: &'a str,
        _page: Option<String>,
    ) -> BoxFuture<'a, Result<Listing, BucketError>> {
        async { Ok(Listing::default()) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn tells_files_objects_and_ids_apart() {
        let file = |path: &str| Target::File(path.into());
        for (user, target) in [
            ("me.json", file("me.json")),
            ("dir/me", file("dir/me")),
            ("./a:b.json", file("./a:b.json")),
            (
                "my-bucket:people/me.json",
                Target::Object { bucket: "my-bucket".into(), path: "people/me.json".into() },
            ),
            ("1097", Target::Stored { bucket: "store".into(), user: UserId::new("1097").unwrap() }),
        ] {
            assert_eq!(Target::parse(user, Some("store")).unwrap(), target);
        }
        let error = Target::parse("1097", None).unwrap_err().to_string();
        assert!(error.contains("--bucket"), "{error}");
    }

    #[test]
    fn a_file_is_private_and_compares_before_it_sets() {
        let folder = std::env::temp_dir().join(format!("fleet-login-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = OneFile { path: folder.join("me.json"), leases: MemoryBucket::default() };
        let first = file.write(b"1", Generation::ABSENT).unwrap();
        assert_eq!(file.write(b"2", Generation::ABSENT), Err(BucketError::PreconditionFailed));
        let second = file.write(b"2", first).unwrap();
        assert!(second > first);
        let read = file.read().unwrap().unwrap();
        assert_eq!((&read.content[..], read.generation), (&b"2"[..], second));
        let mode = std::fs::metadata(&file.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing is left beside it");
        std::fs::remove_dir_all(folder).unwrap();
    }
}

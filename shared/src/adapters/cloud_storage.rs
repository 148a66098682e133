//! The bucket port over Google Cloud Storage, through the official client.
//!
//! The client has no timeout of its own on reads and writes, and retries inside
//! itself: here every call is bounded as a whole, and the store alone decides
//! about retries.

mod failure;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use google_cloud_auth::credentials::anonymous;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::client::{Storage, StorageControl};
use tokio::sync::Semaphore;

use crate::ports::{Bucket, BucketError, Generation, Hints, Listing, Object};
use failure::{Failure, code, says_no_bucket};

/// Larger objects are cut off here; what is cut is no record and no job any more. A
/// parked job may have 1 MiB of data, a third more as base64, and 100 attributes, each byte
/// of which may take six as JSON.
const MAX_OBJECT_BYTES: usize = 3 * 1024 * 1024;
/// A stored end may hold a dead letter of 10 MB, a third more as base64.
const MAX_ENDING_BYTES: usize = 16 * 1024 * 1024;

/// How many requests are under way at once. The official client speaks HTTP/1.1, so each has a
/// connection of its own: a replica that starts amid 512 users whose tokens have expired would
/// open a thousand, and make a thousand handshakes before its first job. At 20 ms a request,
/// these make 6,400 a second.
const AT_ONCE: usize = 128;

fn most_bytes(name: &str) -> usize {
    if name.starts_with("endings/") { MAX_ENDING_BYTES } else { MAX_OBJECT_BYTES }
}

/// Where the bucket is.
#[derive(Debug, Clone, Default)]
pub struct CloudStorageConfig {
    /// The bucket's name.
    pub bucket: String,
    /// Bound on one call, from its wait for a place among the requests that are under way at
    /// once to the last byte of the answer. Default 10 s.
    pub timeout: Option<Duration>,
    /// Origin of an emulator's JSON API (`http://127.0.0.1:4443`). With it no
    /// credentials are sent.
    pub emulator: Option<String>,
    /// `host:port` of the emulator's gRPC API, for list and delete.
    pub emulator_grpc: Option<String>,
}

/// A Cloud Storage bucket.
pub struct CloudStorage {
    objects: Storage,
    /// `None` with an emulator that has no gRPC API.
    control: Option<StorageControl>,
    name: String,
    resource: String,
    timeout: Duration,
    places: Semaphore,
    /// Cloud Storage has answered, so there were credentials: one that cannot be had now is
    /// no setting to correct.
    had_answer: AtomicBool,
}

impl CloudStorage {
    /// Connects lazily, with Application Default Credentials unless an emulator
    /// is configured.
    ///
    /// # Errors
    /// A text that says what is wrong with the credentials or the endpoint.
    pub async fn connect(config: CloudStorageConfig) -> Result<Self, String> {
        let mut objects = Storage::builder().with_retry_policy(NeverRetry);
        let control = match (&config.emulator, &config.emulator_grpc) {
            (None, _) => Some(StorageControl::builder().with_retry_policy(NeverRetry)),
            (Some(_), Some(grpc)) => Some(
                StorageControl::builder()
                    .with_retry_policy(NeverRetry)
                    .with_endpoint(format!("http://{grpc}"))
                    .with_credentials(anonymous::Builder::new().build()),
            ),
            (Some(_), None) => None,
        };
        if let Some(origin) = &config.emulator {
            objects = objects
                .with_endpoint(origin.trim_end_matches('/'))
                .with_credentials(anonymous::Builder::new().build());
        }
        let text = |error: google_cloud_gax::client_builder::Error| {
            format!("the Cloud Storage client cannot be built: {error}")
        };
        Ok(Self {
            objects: objects.build().await.map_err(text)?,
            control: match control {
                Some(control) => Some(control.build().await.map_err(text)?),
                None => None,
            },
            resource: format!("projects/_/buckets/{}", config.bucket),
            name: config.bucket,
            timeout: config.timeout.unwrap_or(Duration::from_secs(10)),
            places: Semaphore::new(AT_ONCE),
            had_answer: AtomicBool::new(false),
        })
    }

    /// The bucket's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Creates the bucket, uniform access and public access prevention on, if it
    /// does not exist. Returns whether it was created.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn create_if_missing(&self, project: &str) -> Result<bool, BucketError> {
        use google_cloud_storage::model::Bucket as Wanted;
        use google_cloud_storage::model::bucket::iam_config::UniformBucketLevelAccess;
        use google_cloud_storage::model::bucket::{IamConfig, SoftDeletePolicy};
        let control = self.control()?;
        let access = IamConfig::new()
            .set_uniform_bucket_level_access(UniformBucketLevelAccess::new().set_enabled(true))
            .set_public_access_prevention("enforced");
        let wanted = Wanted::new()
            .set_project(format!("projects/{project}"))
            .set_iam_config(access)
            // A deleted credential must be gone.
            .set_soft_delete_policy(
                SoftDeletePolicy::new()
                    .set_retention_duration(google_cloud_wkt::Duration::default()),
            );
        let call = control
            .create_bucket()
            .set_parent("projects/_")
            .set_bucket_id(&self.name)
            .set_bucket(wanted)
            .send();
        match self.bounded(call).await {
            Ok(_) => Ok(true),
            Err(Failure::Service(e)) if code(&e) == Some(Code::AlreadyExists) => Ok(false),
            Err(Failure::Service(e)) if e.http_status_code() == Some(409) => Ok(false),
            Err(failure) => Err(self.failed(failure)),
        }
    }

    pub(super) fn control(&self) -> Result<&StorageControl, BucketError> {
        self.control.as_ref().ok_or_else(|| {
            BucketError::Refused(
                "listing, deleting and creating need the emulator's gRPC API; set STORAGE_EMULATOR_HOST_GRPC to its host:port"
                    .into(),
            )
        })
    }

    /// The bucket's full name.
    pub(super) fn resource(&self) -> &str {
        &self.resource
    }

    pub(super) async fn bounded<T>(
        &self,
        call: impl Future<Output = google_cloud_storage::Result<T>>,
    ) -> Result<T, Failure> {
        let answer = async {
            // It is never closed.
            let _place = self.places.acquire().await;
            call.await
        };
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(result) => {
                let from_service = |e: &google_cloud_storage::Error| {
                    e.http_status_code().is_some() || e.status().is_some()
                };
                if result.as_ref().err().is_none_or(from_service) {
                    self.had_answer.store(true, Ordering::Relaxed);
                }
                result.map_err(Failure::Service)
            }
            Err(_) => Err(Failure::TimedOut),
        }
    }
}

impl Bucket for CloudStorage {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Object>, BucketError>> {
        async move {
            let call = async {
                let mut response = self
                    .objects
                    .read_object(&self.resource, name)
                    .with_retry_policy(NeverRetry)
                    .send()
                    .await?;
                let generation = Generation(response.object().generation);
                let mut content = BytesMut::new();
                while let Some(chunk) = response.next().await {
                    content.extend_from_slice(&chunk?);
                    if content.len() > most_bytes(name) {
                        break;
                    }
                }
                Ok(Object { content: content.freeze(), generation })
            };
            // The official client's futures are tens of kilobytes large.
            match self.bounded(Box::pin(call)).await {
                Ok(object) => Ok(Some(object)),
                Err(Failure::Service(e))
                    if (e.http_status_code() == Some(404) || code(&e) == Some(Code::NotFound))
                        && !says_no_bucket(&e) =>
                {
                    Ok(None)
                }
                Err(failure) => Err(self.failed(failure)),
            }
        }
        .boxed()
    }

    fn put_with_hints<'a>(
        &'a self,
        name: &'a str,
        content: Bytes,
        hints: Hints,
        expected: Generation,
    ) -> BoxFuture<'a, Result<Generation, BucketError>> {
        async move {
            let call = self
                .objects
                .write_object(&self.resource, name, content)
                .set_if_generation_match(expected.0)
                .set_content_type("application/json")
                // Never served from a cache between here and the bucket.
                .set_cache_control("no-store")
                .set_metadata(hints)
                .with_retry_policy(NeverRetry)
                .send_buffered();
            let object = self.bounded(Box::pin(call)).await.map_err(|f| self.failed(f))?;
            Ok(Generation(object.generation))
        }
        .boxed()
    }

    fn delete<'a>(
        &'a self,
        name: &'a str,
        expected: Generation,
    ) -> BoxFuture<'a, Result<bool, BucketError>> {
        async move {
            let call = self
                .control()?
                .delete_object()
                .set_bucket(&self.resource)
                .set_object(name)
                .set_if_generation_match(expected.0)
                .send();
            match self.bounded(call).await {
                Ok(()) => Ok(true),
                Err(Failure::Service(e))
                    if (e.http_status_code() == Some(404) || code(&e) == Some(Code::NotFound))
                        && !says_no_bucket(&e) =>
                {
                    Ok(false)
                }
                Err(failure) => Err(self.failed(failure)),
            }
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        page: Option<String>,
    ) -> BoxFuture<'a, Result<Listing, BucketError>> {
        async move {
            let call = self
                .control()?
                .list_objects()
                .set_parent(&self.resource)
                .set_prefix(prefix)
                .set_page_token(page.unwrap_or_default())
                .send();
            let found = self.bounded(call).await.map_err(|f| self.failed(f))?;
            let mut listing = Listing {
                next_page: Some(found.next_page_token).filter(|t| !t.is_empty()),
                ..Listing::default()
            };
            for object in found.objects {
                if !object.metadata.is_empty() {
                    let hints = object.metadata.into_iter().collect();
                    listing.hints.insert(object.name.clone(), hints);
                }
                let created = object
                    .create_time
                    .and_then(|time| jiff::Timestamp::new(time.seconds(), time.nanos()).ok());
                if let Some(created) = created {
                    listing.created.insert(object.name.clone(), created);
                }
                listing.objects.push((object.name, Generation(object.generation)));
            }
            Ok(listing)
        }
        .boxed()
    }
}

impl fmt::Debug for CloudStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudStorage").field("bucket", &self.name).finish_non_exhaustive()
    }
}

impl CloudStorage {
    /// Shared, as the store wants it.
    pub fn shared(self) -> Arc<dyn Bucket> {
        Arc::new(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::future::join_all;
    use google_cloud_auth::errors::CredentialsError;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Barrier;

    use super::*;

    const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";

    /// Answers requests together, when so many are there that no more come.
    #[derive(Debug)]
    struct Server {
        full: Barrier,
        under_way: AtomicUsize,
        most: AtomicUsize,
    }

    impl Server {
        async fn serve(&self, mut connection: TcpStream) {
            let mut request = Vec::new();
            while connection.read_buf(&mut request).await.is_ok_and(|read| read > 0) {
                if request.ends_with(b"\r\n\r\n") {
                    request.clear();
                    let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
                    self.most.fetch_max(under_way, Ordering::SeqCst);
                    self.full.wait().await;
                    self.under_way.fetch_sub(1, Ordering::SeqCst);
                    connection.write_all(NOT_FOUND).await.unwrap();
                }
            }
        }
    }

    /// What is wrong with them before they ever worked is a setting.
    #[tokio::test]
    async fn credentials_that_worked_before_come_back() {
        let config = CloudStorageConfig {
            bucket: "tokens".into(),
            emulator: Some("http://127.0.0.1:1".to_owned()),
            ..CloudStorageConfig::default()
        };
        let bucket = CloudStorage::connect(config).await.unwrap();
        let passing = |passing: bool| {
            let error = CredentialsError::from_msg(passing, "the metadata server says no");
            bucket.failed(Failure::Service(google_cloud_storage::Error::authentication(error)))
        };
        assert!(matches!(passing(true), BucketError::Refused(_)));
        bucket.had_answer.store(true, Ordering::Relaxed);
        let BucketError::Unavailable(why) = passing(true) else { panic!("it may work soon") };
        assert!(why.contains("the metadata server says no"), "{why}");
        assert!(matches!(passing(false), BucketError::Refused(_)));
    }

    /// Neither more nor fewer, whoever asks.
    #[tokio::test]
    async fn so_many_requests_are_under_way_and_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let (under_way, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let server = Arc::new(Server { full: Barrier::new(AT_ONCE), under_way, most });
        let serving = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let server = Arc::clone(&serving);
                tokio::spawn(async move { server.serve(connection).await });
            }
        });
        let config = CloudStorageConfig {
            bucket: "tokens".into(),
            timeout: Some(Duration::from_secs(60)),
            emulator: Some(origin),
            emulator_grpc: None,
        };
        let bucket = CloudStorage::connect(config).await.unwrap();
        let found = join_all((0..3 * AT_ONCE).map(|_| bucket.get("tokens/ann.json"))).await;
        assert!(found.into_iter().all(|found| matches!(found, Ok(None))));
        assert_eq!(server.most.load(Ordering::SeqCst), AT_ONCE);
    }
}

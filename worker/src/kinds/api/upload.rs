//! Writing an object while its content comes, whole or not at all.
//!
//! Content of up to [`SINGLE`] bytes goes in one request where there is memory for it. The official
//! client sends the rest in chunks of a resumable upload, whose object appears when the last chunk
//! was taken and its checksum agrees. It bounds nothing itself, so everything is bounded here. The
//! object's metadata says which job wrote it: a job that comes again finds its own object and is
//! done.

use std::fmt;
use std::io;
use std::sync::Arc;

use google_cloud_auth::credentials::anonymous;
use google_cloud_gax::retry_policy::{NeverRetry, RetryPolicyExt as _};
use google_cloud_storage::client::{Storage, StorageControl};
use google_cloud_storage::retry_policy::RetryableErrors;
use shared::ports::Clock;
use tracing::error;
use url::form_urlencoded;

use crate::job::Job;

use super::feed::{Progress, Source};
use super::limits::STORAGE_STALL;
use super::memory::{START, Taken};
use super::output::Target;
use super::storage_failure::{Failure, NotStored, bounded, spoilt, status};

/// What goes in one request, without the two more that a resumable upload takes. All of it is held
/// in memory until Cloud Storage has it.
const SINGLE: usize = 8 * 1024 * 1024;
/// What one request of a resumable upload of longer content carries.
const CHUNK: usize = 4 * 1024 * 1024;
/// Each but the last carries a multiple of this, which is the service's rule.
const GRAIN: usize = 256 * 1024;
/// Requests of one upload that may fail; it goes on where it was.
const ATTEMPTS: u32 = 5;
const JOB: &str = "fleet-job";
const USER: &str = "fleet-user";

/// Writes objects with the worker's own credentials.
pub struct OutputStore {
    objects: Storage,
    /// `None` with an emulator that has no gRPC API.
    control: Option<StorageControl>,
    clock: Arc<dyn Clock>,
}

/// An object that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) generation: i64,
    pub(super) bytes: i64,
}

/// What was found under a job's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// An earlier run of this job wrote it.
    Ours(Stored),
    Other,
}

impl OutputStore {
    /// Connects lazily: with Application Default Credentials, or to the origin of an
    /// emulator's JSON API and the `host:port` of its gRPC API.
    ///
    /// # Errors
    /// A text that says what is wrong with the credentials or the endpoint.
    pub async fn connect(
        emulator: Option<&str>,
        emulator_grpc: Option<&str>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let text = |error: google_cloud_gax::client_builder::Error| {
            format!("the Cloud Storage client cannot be built: {error}")
        };
        let mut objects = Storage::builder();
        let mut control = Some(StorageControl::builder());
        if let Some(origin) = emulator {
            objects = objects
                .with_endpoint(origin.trim_end_matches('/'))
                .with_credentials(anonymous::Builder::new().build());
            control = emulator_grpc.map(|grpc| {
                StorageControl::builder()
                    .with_endpoint(format!("http://{grpc}"))
                    .with_credentials(anonymous::Builder::new().build())
            });
        }
        Ok(Self {
            objects: objects.build().await.map_err(text)?,
            control: match control {
                Some(control) => {
                    Some(control.with_retry_policy(NeverRetry).build().await.map_err(text)?)
                }
                None => None,
            },
            clock,
        })
    }

    /// Whether there is an object already, and whose. Without permission to look,
    /// nothing is found and the write decides.
    pub(super) async fn look(&self, target: &Target, job: &Job) -> Result<Found, NotStored> {
        let resource = resource(target);
        let look = async {
            let (generation, bytes, metadata) = if let Some(control) = &self.control {
                let get = control.get_object().set_bucket(&resource).set_object(&target.object);
                let object = get.send().await?;
                (object.generation, object.size, object.metadata)
            } else {
                let read = self.objects.read_object(&resource, &target.object);
                let object = read.with_retry_policy(NeverRetry).send().await?.object();
                (object.generation, object.size, object.metadata)
            };
            let ours = mark(job).iter().all(|(name, value)| metadata.get(*name) == Some(value));
            let stored = Stored { generation, bytes };
            Ok(if ours { Found::Ours(stored) } else { Found::Other })
        };
        match bounded(Box::pin(look)).await {
            Ok(found) => Ok(found),
            Err(Failure::Service(e)) if matches!(status(&e), Some(403 | 404)) => Ok(Found::Nothing),
            Err(failure) => Err(failure.told(target)),
        }
    }

    /// Writes what `source` brings until its announced end.
    ///
    /// Dropping the future leaves no object behind, unless all of the content was
    /// sent already.
    pub(super) async fn write(
        &self,
        target: &Target,
        job: &Job,
        content_type: &str,
        mut source: Source,
        memory: &mut Taken<'_>,
    ) -> Result<Stored, NotStored> {
        // Whoever reads the content knows why it has no end.
        let held = hold(&mut source, memory).await;
        let bucket = &target.bucket;
        let held = held.map_err(|error| NotStored::Failed(format!("bucket {bucket}: {error}")))?;
        let progress = source.progress();
        let mut request = self
            .objects
            .write_object(resource(target), &target.object, source)
            .set_content_type(content_type)
            .set_metadata(mark(job))
            .with_resumable_upload_threshold(held + 1)
            .with_resumable_upload_buffer_size(held / GRAIN * GRAIN)
            .with_retry_policy(RetryableErrors.with_attempt_limit(ATTEMPTS))
            // The same content again does no harm.
            .with_idempotency(true);
        if !target.overwrite {
            request = request.set_if_generation_match(0_i64);
        }
        let written = tokio::select! {
            biased;
            written = Box::pin(request.send_buffered()) => written,
            () = self.stuck(&progress) => return Err(NotStored::Failed(format!(
                "Cloud Storage took nothing for {STORAGE_STALL:?} while an object of bucket {bucket} was written"
            ))),
        };
        let error = match written {
            Ok(object) => {
                return Ok(Stored { generation: object.generation, bytes: object.size });
            }
            Err(error) => error,
        };
        if status(&error) == Some(412) {
            // It may be this very write, whose answer was lost and which was
            // repeated.
            return match self.look(target, job).await? {
                Found::Ours(stored) => Ok(stored),
                Found::Nothing | Found::Other => Err(NotStored::Exists),
            };
        }
        if let Some(generation) = spoilt(&error) {
            self.remove(target, generation).await;
        }
        Err(Failure::Service(error).told(target))
    }

    /// Ends when the writer has asked for nothing for too long.
    async fn stuck(&self, progress: &Progress) {
        let mut seen = None;
        loop {
            let now = progress.asked();
            if now.is_some() && now == seen {
                return;
            }
            seen = now;
            self.clock.sleep(STORAGE_STALL).await;
        }
    }

    /// Removes what Cloud Storage says it has stored and is not what was sent.
    async fn remove(&self, target: &Target, generation: i64) {
        let removed = match &self.control {
            Some(control) => {
                let delete = control
                    .delete_object()
                    .set_bucket(resource(target))
                    .set_object(&target.object)
                    .set_generation(generation);
                bounded(delete.send()).await.is_ok()
            }
            None => false,
        };
        // The rest of its name may be a user's ID, and logs hold none.
        error!(
            removed,
            generation,
            "an object of bucket {} was stored with another checksum than its content has",
            target.bucket
        );
    }
}

/// How many bytes of the content may be held: all of them if they fit, else a request's part.
async fn hold(source: &mut Source, memory: &mut Taken<'_>) -> io::Result<usize> {
    source.look_ahead(START).await?;
    let length = source.length().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    let more = match length {
        Some(length) if length <= START => return Ok(START),
        Some(length) if length <= SINGLE => length,
        Some(_) => CHUNK,
        None => SINGLE,
    };
    if !memory.grow(more) {
        return Ok(START);
    }
    source.look_ahead(more).await?;
    Ok(more)
}

/// What an object's metadata says about the job that wrote it, readable everywhere.
fn mark(job: &Job) -> [(&'static str, String); 2] {
    let id = form_urlencoded::byte_serialize(job.id.as_bytes()).collect();
    [(JOB, id), (USER, job.user.digest().to_string())]
}

fn resource(target: &Target) -> String {
    format!("projects/_/buckets/{}", target.bucket)
}

impl fmt::Debug for OutputStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputStore").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Bytes;
    use axum::http::{StatusCode, Uri};
    use axum::response::IntoResponse as _;
    use axum::routing::{get, post};
    use serde_json::json;
    use shared::UserId;
    use shared::adapters::SystemClock;
    use tokio::net::TcpListener;

    use super::super::feed::{Feed, feed};
    use super::super::memory::{BodyMemory, Need};
    use super::*;
    use crate::json::Json;

    fn job(id: &str) -> Job {
        let user = UserId::new("ann").unwrap();
        let (kind, params) = ("api".to_owned(), Json::empty_object());
        Job { id: id.to_owned(), user, kind, params, run: 0, once: false }
    }

    fn target() -> Target {
        Target { bucket: "exports".to_owned(), object: "a".to_owned(), overwrite: false }
    }

    /// Writes three bytes to a server that answers in this way.
    async fn write(listener: TcpListener, router: Option<Router>) -> Result<Stored, NotStored> {
        let (feed, source) = feed(Some(3));
        write_from(listener, router, (feed, source), 3, 32 * SINGLE).await
    }

    /// Writes so many bytes, with so much memory.
    async fn write_from(
        listener: TcpListener,
        router: Option<Router>,
        (mut feed, source): (Feed, Source),
        bytes: usize,
        memory: usize,
    ) -> Result<Stored, NotStored> {
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            if let Some(router) = router {
                return axum::serve(listener, router).await.unwrap();
            }
            let mut kept = Vec::new();
            while let Ok(connection) = listener.accept().await {
                kept.push(connection);
            }
        });
        let clock = Arc::new(SystemClock::default());
        let store = OutputStore::connect(Some(&origin), None, clock).await.unwrap();
        let feeding = async {
            feed.push(&vec![b'x'; bytes]).await?;
            feed.end().await
        };
        let (target, job) = (target(), job("j"));
        let memory = BodyMemory::new(memory);
        let mut taken = memory.take(Need::upload(0)).await;
        let writing = store.write(&target, &job, "text/plain", source, &mut taken);
        let (_, written) = tokio::join!(feeding, writing);
        serving.abort();
        written
    }

    async fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.unwrap()
    }

    /// The client would wait for ever.
    #[tokio::test(start_paused = true)]
    async fn storage_that_never_answers_is_given_up() {
        let NotStored::Failed(why) = write(listener().await, None).await.unwrap_err() else {
            panic!("it failed");
        };
        assert!(why.contains("took nothing for 120s while an object of bucket exports"), "{why}");
        assert!(!why.contains("gs:"), "its name may have a user's ID: {why}");
    }

    #[tokio::test]
    async fn another_checksum_is_no_success() {
        let stored = json!({"bucket": "exports", "name": "a", "generation": "7", "size": "3",
            "crc32c": "AAAAAA=="});
        let upload = post(|| async move { axum::Json(stored) });
        let router = Router::new().route("/upload/storage/v1/b/exports/o", upload);
        let written = write(listener().await, Some(router)).await;
        assert!(matches!(written, Err(NotStored::Failed(_))), "{written:?}");
    }

    #[tokio::test]
    async fn an_object_that_is_there_is_left() {
        let router = |marked: &'static str| {
            let refuse = post(|| async { StatusCode::PRECONDITION_FAILED });
            let read = get(move || async move {
                let headers = [
                    ("x-goog-generation", "7"),
                    ("x-goog-stored-content-length", "3"),
                    ("x-goog-meta-fleet-job", marked),
                ];
                let user =
                    [("x-goog-meta-fleet-user", UserId::new("ann").unwrap().digest().to_string())];
                (headers, user, "abc").into_response()
            });
            Router::new()
                .route("/upload/storage/v1/b/exports/o", refuse)
                .route("/storage/v1/b/exports/o/a", read)
        };
        let other = write(listener().await, Some(router("another"))).await;
        assert_eq!(other, Err(NotStored::Exists));
        // The answer to the first attempt was lost, and the client tried again.
        let ours = write(listener().await, Some(router("j"))).await;
        assert_eq!(ours, Ok(Stored { generation: 7, bytes: 3 }));
    }

    /// By the types of the requests that begin an upload.
    #[tokio::test]
    async fn small_objects_go_in_one_request() {
        let plenty = 32 * SINGLE;
        for (bytes, known, memory, upload_type) in [
            (0, true, plenty, "multipart"),
            (5_000_000, true, plenty, "multipart"),
            (SINGLE, true, plenty, "multipart"),
            (SINGLE + 1, true, plenty, "resumable"),
            (0, false, plenty, "multipart"),
            (5_000_000, false, plenty, "multipart"),
            (SINGLE, false, plenty, "multipart"),
            (SINGLE + 1, false, plenty, "resumable"),
            // There is none for so much.
            (START, true, 0, "multipart"),
            (START, false, 0, "multipart"),
            (5_000_000, true, 0, "resumable"),
            (5_000_000, false, 0, "resumable"),
        ] {
            let (types, mut seen) = tokio::sync::mpsc::unbounded_channel();
            let begun = post(move |uri: Uri, body: Bytes| {
                types.send((uri.query().unwrap_or_default().to_owned(), body.len())).unwrap();
                async { StatusCode::FORBIDDEN }
            });
            let begun = begun.layer(axum::extract::DefaultBodyLimit::disable());
            let router = Router::new().route("/upload/storage/v1/b/exports/o", begun);
            let pair = feed(known.then_some(bytes as u64));
            let written = write_from(listener().await, Some(router), pair, bytes, memory).await;
            assert!(matches!(written, Err(NotStored::Failed(_))), "{written:?}");
            let (query, sent) = seen.recv().await.unwrap();
            let expected = format!("uploadType={upload_type}");
            assert!(query.contains(&expected), "{bytes} bytes, {known}: {query}");
            assert!(query.contains("ifGenerationMatch=0"), "{query}");
            let whole = (bytes..bytes + 2000).contains(&sent);
            assert_eq!(whole, upload_type == "multipart" || bytes == 0, "{sent} of {bytes}");
            assert!(seen.try_recv().is_err(), "{bytes} bytes took more than one request");
        }
    }

    #[test]
    fn the_mark_of_a_job_is_readable() {
        let [(_, id), (_, user)] = mark(&job("a/b \n\u{fc}"));
        assert_eq!(id, "a%2Fb+%0A%C3%BC");
        assert!(!user.contains("ann"));
    }
}

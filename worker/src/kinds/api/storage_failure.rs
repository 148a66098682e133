//! What a failure of Cloud Storage means, and how it is told.

use google_cloud_gax::error::rpc::Code;
use google_cloud_storage::error::WriteError;
use shared::innermost;

use super::limits::STORAGE_CALL;
use super::output::Target;

/// Why an object was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotStored {
    /// There is one.
    Exists,
    /// Cloud Storage refused or did not answer; for logs.
    Failed(String),
}

/// Why a call of Cloud Storage failed.
pub(super) enum Failure {
    TimedOut,
    Service(google_cloud_storage::Error),
}

/// Waits for `call` no longer than [`STORAGE_CALL`]. Cancelling it drops the call.
pub(super) async fn bounded<T>(
    call: impl Future<Output = google_cloud_storage::Result<T>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(STORAGE_CALL, call).await {
        Ok(result) => result.map_err(Failure::Service),
        Err(_) => Err(Failure::TimedOut),
    }
}

/// The status over HTTP, and what stands for it over gRPC.
pub(super) fn status(error: &google_cloud_storage::Error) -> Option<u16> {
    error.http_status_code().or_else(|| match error.status()?.code {
        Code::NotFound => Some(404),
        Code::PermissionDenied => Some(403),
        Code::Unauthenticated => Some(401),
        Code::FailedPrecondition => Some(412),
        Code::ResourceExhausted => Some(429),
        _ => None,
    })
}

/// The generation of an object whose checksum is not that of its content.
pub(super) fn spoilt(error: &google_cloud_storage::Error) -> Option<i64> {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(WriteError::ChecksumMismatch { object, .. }) = inner.downcast_ref() {
            return Some(object.generation);
        }
        cause = inner.source();
    }
    None
}

impl Failure {
    /// The status, never a body, which might quote content.
    pub(super) fn told(&self, target: &Target) -> NotStored {
        let bucket = &target.bucket;
        NotStored::Failed(match self {
            Self::TimedOut => format!("no answer within {STORAGE_CALL:?} from bucket {bucket}"),
            Self::Service(e) => match status(e) {
                Some(404) => format!(
                    "bucket {bucket} does not exist; create it, or correct --allow-bucket and `output`"
                ),
                Some(403) => format!(
                    "bucket {bucket}: permission denied; grant this process roles/storage.objectUser on it (roles/storage.objectCreator is enough where nothing is overwritten)"
                ),
                Some(401) => format!(
                    "bucket {bucket}: the credentials of this process are not accepted; check Application Default Credentials"
                ),
                Some(status) => format!("bucket {bucket}: HTTP status {status}"),
                None if e.is_authentication() => format!(
                    "no credentials for bucket {bucket}; set up Application Default Credentials, or the emulator variables"
                ),
                None => format!("bucket {bucket} cannot be reached: {}", innermost(e)),
            },
        })
    }
}

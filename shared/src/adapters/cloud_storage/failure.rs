//! What a call that failed means for its caller.

use std::sync::atomic::Ordering;

use google_cloud_auth::errors::CredentialsError;
use google_cloud_gax::error::rpc::Code;

use super::CloudStorage;
use crate::error::innermost;
use crate::ports::BucketError;

impl CloudStorage {
    /// What a failure means for the caller.
    pub(in crate::adapters) fn failed(&self, failure: Failure) -> BucketError {
        let error = match failure {
            Failure::TimedOut => {
                let text = format!("no answer within {:?} from bucket {}", self.timeout, self.name);
                return BucketError::Unavailable(text.into());
            }
            Failure::Service(error) => error,
        };
        match (error.http_status_code(), code(&error)) {
            (Some(412), _) | (None, Some(Code::FailedPrecondition)) => {
                BucketError::PreconditionFailed
            }
            (Some(429), _) | (None, Some(Code::ResourceExhausted)) => BucketError::Throttled,
            (Some(404), _) | (None, Some(Code::NotFound)) => BucketError::Refused(
                format!(
                    "bucket {} does not exist; create it (`fleet setup`, or Terraform) or correct --bucket",
                    self.name
                )
                .into(),
            ),
            (Some(401), _) | (None, Some(Code::Unauthenticated)) => BucketError::Refused(
                format!(
                    "bucket {}: the credentials of this process are not accepted; check Application Default Credentials",
                    self.name
                )
                .into(),
            ),
            (Some(403), _) | (None, Some(Code::PermissionDenied)) => BucketError::Refused(
                format!(
                    "bucket {}: permission denied; grant this process roles/storage.objectUser on it",
                    self.name
                )
                .into(),
            ),
            _ if error.is_authentication() => self.without_credentials(&error),
            _ => BucketError::Unavailable(describe(&error).into()),
        }
    }

    /// Nothing was sent, since there were no credentials: a setting to correct, unless there
    /// were some before and their source may have them again.
    fn without_credentials(&self, error: &google_cloud_storage::Error) -> BucketError {
        let name = &self.name;
        if self.had_answer.load(Ordering::Relaxed) && is_passing(error) {
            let why = innermost(error);
            return BucketError::Unavailable(
                format!("no credentials for bucket {name} now: {why}").into(),
            );
        }
        BucketError::Refused(
            format!(
                "no credentials for bucket {name}; set up Application Default Credentials, or the emulator variables"
            )
            .into(),
        )
    }
}

/// Why a call brought nothing.
pub(in crate::adapters) enum Failure {
    TimedOut,
    Service(google_cloud_storage::Error),
}

/// Whether the source of credentials (a metadata server, for example) may have them again soon.
fn is_passing(error: &google_cloud_storage::Error) -> bool {
    let source = std::error::Error::source(error);
    source
        .and_then(|e| e.downcast_ref::<CredentialsError>())
        .is_some_and(CredentialsError::is_transient)
}

pub(super) fn code(error: &google_cloud_storage::Error) -> Option<Code> {
    error.status().map(|status| status.code)
}

/// The status and the innermost cause; never a body, which might quote content.
fn describe(error: &google_cloud_storage::Error) -> String {
    if let Some(status) = error.http_status_code() {
        return format!("HTTP status {status} from Cloud Storage");
    }
    if let Some(status) = error.status() {
        return format!("{} from Cloud Storage", status.code);
    }
    format!("Cloud Storage cannot be reached: {}", innermost(error))
}

/// A 404 on an object read says whether the object or the bucket is missing. A
/// missing bucket must not look like unknown users.
pub(super) fn says_no_bucket(error: &google_cloud_storage::Error) -> bool {
    let in_payload = error
        .http_payload()
        .is_some_and(|body| String::from_utf8_lossy(body).contains("bucket does not exist"));
    in_payload || error.status().is_some_and(|s| s.message.contains("bucket does not exist"))
}

//! What a request about ack IDs is answered, where the subscription promises
//! exactly-once delivery.

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::streaming_pull_response::{
    AcknowledgeConfirmation, ModifyAckDeadlineConfirmation,
};
use prost::Message as _;
use tonic::{Code, Status};

use crate::pubsub::subscription::Verdict;

const INVALID: &str = "PERMANENT_FAILURE_INVALID_ACK_ID";
const UNORDERED: &str = "TRANSIENT_FAILURE_UNORDERED_ACK_ID";

/// The IDs of a request by what became of them; empty without exactly-once delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::pubsub) struct Settlement {
    pub(in crate::pubsub) done: Vec<String>,
    pub(in crate::pubsub) invalid: Vec<String>,
    pub(in crate::pubsub) unordered: Vec<String>,
}

impl Settlement {
    pub(super) fn new(exactly_once: bool, ack_ids: &[String], verdicts: Vec<Verdict>) -> Self {
        let mut settlement = Self::default();
        if !exactly_once {
            return settlement;
        }
        for (ack_id, verdict) in ack_ids.iter().zip(verdicts) {
            let ids = match verdict {
                Verdict::Done => &mut settlement.done,
                Verdict::Invalid => &mut settlement.invalid,
                Verdict::Unordered => &mut settlement.unordered,
            };
            ids.push(ack_id.clone());
        }
        settlement
    }

    /// Adds another one's IDs.
    pub(in crate::pubsub) fn extend(&mut self, other: Self) {
        self.done.extend(other.done);
        self.invalid.extend(other.invalid);
        self.unordered.extend(other.unordered);
    }

    pub(in crate::pubsub) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The answer to a unary request: an error that names each ID that failed and why.
    /// IDs that it does not name took effect.
    pub(in crate::pubsub) fn into_answer(self) -> Result<(), Status> {
        let invalid = self.invalid.into_iter().map(|id| (id, INVALID.to_owned()));
        let unordered = self.unordered.into_iter().map(|id| (id, UNORDERED.to_owned()));
        let metadata: Vec<MetadataEntry> =
            invalid.chain(unordered).map(|(key, value)| MetadataEntry { key, value }).collect();
        if metadata.is_empty() {
            return Ok(());
        }
        let text = "Some acknowledgement IDs in the request were invalid or out of order.";
        let info = ErrorInfo {
            reason: "EXACTLY_ONCE_ACKID_FAILURE".to_owned(),
            domain: "pubsub.googleapis.com".to_owned(),
            metadata,
        };
        let status = RpcStatus {
            code: Code::FailedPrecondition.into(),
            message: text.to_owned(),
            details: vec![prost_types::Any {
                type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(),
                value: info.encode_to_vec(),
            }],
        };
        let details = status.encode_to_vec().into();
        Err(Status::with_details(Code::FailedPrecondition, text, details))
    }

    /// The answer to acknowledgements on a stream.
    pub(in crate::pubsub) fn into_acknowledged(self) -> AcknowledgeConfirmation {
        AcknowledgeConfirmation {
            ack_ids: self.done,
            invalid_ack_ids: self.invalid,
            unordered_ack_ids: self.unordered,
            temporary_failed_ack_ids: Vec::new(),
        }
    }

    /// The answer to new deadlines on a stream.
    pub(in crate::pubsub) fn into_modified(self) -> ModifyAckDeadlineConfirmation {
        ModifyAckDeadlineConfirmation {
            ack_ids: self.done,
            invalid_ack_ids: self.invalid,
            temporary_failed_ack_ids: Vec::new(),
        }
    }
}

/// `google.rpc.Status`, which travels in the trailer `grpc-status-details-bin`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(message, repeated, tag = "3")]
    metadata: Vec<MetadataEntry>,
}

/// An entry of a map, as maps go over the wire.
#[derive(Clone, PartialEq, prost::Message)]
struct MetadataEntry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

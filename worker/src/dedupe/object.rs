//! The object that remembers a job's end: `done/<user>/<digest of its identity>.json`.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::encode_segment;
use shared::sealing::{NotOpened, Sealing};

use crate::effect::Effect;
use crate::job::Job;
use crate::json::Json;
use crate::outcome::Status;

use super::{PREFIX, Recalled, Told};

const VERSION: u32 = 2;
/// The next release's form, which may add members and change the meaning of none.
const LATEST_READ: u32 = VERSION + 1;
/// Of the release before this one: only that the job is done.
const OLD_VERSION: u32 = 1;

/// As it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    /// The job, for people.
    job: String,
    kind: String,
    run: u32,
    /// When it ended.
    at: Timestamp,
    /// Digest of the job's parameters.
    params: String,
    status: Status,
    effect: Effect,
    repeatable: bool,
    http_status: Option<u16>,
    #[serde(default)]
    result: Json,
    #[serde(default)]
    reason: Option<String>,
}

/// What an object says.
#[derive(Debug)]
pub(super) enum Content {
    /// A job with these parameters ended like this.
    End { params: String, told: Told },
    /// The job is done, with whatever parameters.
    Done,
    /// It cannot be read.
    Unreadable,
}

/// Name and content of the object that remembers this end: sealed whole where `sealing` seals
/// what the release before cannot read.
pub(super) fn new(job: &Job, told: &Told, now: Timestamp, sealing: &Sealing) -> (String, Bytes) {
    let stored = Stored {
        version: VERSION,
        job: job.id.clone(),
        kind: job.kind.clone(),
        run: job.run,
        at: now,
        params: job.params_digest(),
        status: told.status,
        effect: told.effect,
        repeatable: told.repeatable,
        http_status: told.http_status,
        result: told.result.clone(),
        reason: told.reason.clone(),
    };
    let (name, plain) =
        (name(job), serde_json::to_vec(&stored).expect("strings and numbers are JSON"));
    let content =
        if sealing.seals_new_forms() { sealing.seal_whole(&name, &plain) } else { plain.into() };
    (name, content)
}

pub(super) fn name(job: &Job) -> String {
    format!("{PREFIX}{}/{}.json", job.user.encoded(), job.identity().hex())
}

/// The name that the release before this one gave it. A job that was asked for anew has none.
pub(super) fn old_name(job: &Job) -> Option<String> {
    let name = || format!("{PREFIX}{}/{}.json", job.user.encoded(), encode_segment(&job.id));
    (job.run == 0).then(name)
}

impl Content {
    /// Reads the content of the object of this name. A plain one counts for this release,
    /// also where everything else has to be sealed: the release before wrote it, and to run
    /// its job again could repeat an effect.
    pub(super) fn read(name: &str, content: &[u8], sealing: &Sealing) -> Self {
        let opened = match sealing.open_whole(name, content) {
            Ok(opened) => opened,
            Err(NotOpened::Unsealed) => content.to_vec().into(),
            Err(_) => return Self::Unreadable,
        };
        let content: &[u8] = &opened;
        let Ok(stored) = serde_json::from_slice::<Stored>(content) else {
            return Self::Unreadable;
        };
        if !(VERSION..=LATEST_READ).contains(&stored.version) {
            return Self::Unreadable;
        }
        let Stored { params, status, effect, repeatable, http_status, result, reason, .. } = stored;
        Self::End { params, told: Told { status, effect, repeatable, http_status, result, reason } }
    }

    /// Reads an object that has an old name. Anything but an old object is the end of
    /// another job, whose digest is this job's ID.
    pub(super) fn read_old(name: &str, content: &[u8], sealing: &Sealing) -> Option<Self> {
        let opened = sealing.open_whole(name, content);
        let content = opened.as_deref().map_or(content, Vec::as_slice);
        let old: Map<String, Value> = serde_json::from_slice(content).ok()?;
        (old.get("version")? == OLD_VERSION).then_some(Self::Done)
    }

    pub(super) fn recalled(self, job: &Job) -> Recalled {
        Recalled::Same(match self {
            Self::End { params, .. } if params != job.params_digest() => {
                return Recalled::OtherParameters;
            }
            Self::Unreadable => return Recalled::Unreadable { object: name(job) },
            Self::End { told, .. } => told,
            Self::Done => Told {
                status: Status::Done,
                effect: Effect::Done,
                repeatable: false,
                http_status: None,
                result: Json::null(),
                reason: None,
            },
        })
    }
}

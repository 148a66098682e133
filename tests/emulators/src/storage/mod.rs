//! Cloud Storage on loopback: the JSON API and the gRPC API over the same objects.
//!
//! The official client reads and writes over the JSON API and asks for everything
//! else over gRPC, so the emulator has two endpoints. What it is made for is what a
//! fleet builds on: generations, preconditions on every verb, and the limit on how
//! often one object may be written. All writes pass one lock with their content
//! complete, so of any number of writers that race with the same `ifGenerationMatch`
//! exactly one wins.
//!
//! Clients of other languages use the JSON API alone, and find it by `STORAGE_EMULATOR_HOST`.
//! Without that variable they take its origin: Python's as `client_options={"api_endpoint": …}`,
//! Node's as `apiEndpoint`. They want a project. Python's sends the credentials that it is given,
//! which are not looked at here; Node's sends them to another origin than Google's only with
//! `useAuthWithCustomEndpoint`, and with the variable leaves `/storage/v1` out of its paths.
//!
//! # Where production differs
//!
//! - **One mutation per second and name** is strict here: a second one within a second
//!   is always a 429 (`RESOURCE_EXHAUSTED` over gRPC). Production gives bursts some
//!   slack, and counts refused requests too. Failed preconditions come first and
//!   cost nothing. [`Storage::set_one_mutation_per_second`] switches the limit.
//! - No soft delete, object retention, object contexts, access control lists, notifications,
//!   HMAC keys, signed URLs, customer-supplied or customer-managed keys: such a call is answered
//!   with a 501 that names it. A predefined list that lets in nobody but the project is taken.
//!   Holds and a bucket's retention period keep a version from being deleted or
//!   replaced; in a bucket with versioning, older versions stay.
//! - Over gRPC there are buckets with their access policies, and get, list and delete of
//!   objects; no reads and writes of content, no update of a bucket.
//! - The XML API reads, writes, deletes and lists objects and uploads them in parts.
//! - Of a bucket's settings ([`BucketSettings`], and what the JSON API sets beside them)
//!   versioning, the default storage class and the retention period have an effect, the
//!   others and the access policy are stored and shown.
//! - Nobody is authenticated, buckets belong to no project, and everything is in memory;
//!   [`Storage::start_on`] keeps it in a folder beside.
//! - A chunk of a resumable upload counts when all of it has arrived, may have any
//!   length, and is forgotten with its session after 1,024 younger ones.
//! - Content that is not kept ([`Storage::keep_up_to`]) has no MD5.
//! - A read that is not modified is `ABORTED` over gRPC, as in Google's test bench.

mod batch;
mod buckets;
mod clock;
mod conditions;
pub(crate) mod crc32c;
mod download;
mod extract;
pub(crate) mod fields;
mod glob;
mod grpc;
mod grpc_iam;
mod json_api;
mod listing;
mod metadata;
pub(crate) mod multipart;
mod object;
mod observers;
mod operation;
mod pace;
mod received;
mod refusal;
mod resumable;
mod rewrite;
mod server;
mod settings;
mod state;
mod store;
mod unimplemented;
mod upload;
mod xml;
mod xml_parts;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use object::StoredObject;
pub use observers::Written;
pub use operation::Operation;
pub use settings::{BucketSettings, LifecycleRule};

use crate::access::Binding;
use crate::data::Data;
use crate::faults::{Fault, Faults, Injected};
use clock::Clock;
use server::Listeners;
use state::State;
use store::Store;

/// Where the emulator listens and what it enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The JSON API; port 0 takes a free one.
    pub http: SocketAddr,
    /// The gRPC API; port 0 takes a free one.
    pub grpc: SocketAddr,
    /// Whether a name that was written less than a second ago refuses another mutation.
    pub one_mutation_per_second: bool,
}

impl Default for Config {
    /// Free ports on 127.0.0.1, with the limit on.
    fn default() -> Self {
        Self {
            http: (Ipv4Addr::LOCALHOST, 0).into(),
            grpc: (Ipv4Addr::LOCALHOST, 0).into(),
            one_mutation_per_second: true,
        }
    }
}

/// How many requests for objects were answered in which way, over both protocols. Each
/// request counts once. What a fault refuses or stalls does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Content or metadata was sent.
    pub reads: u64,
    /// An object was written.
    pub writes: u64,
    /// An object was deleted.
    pub deletes: u64,
    /// A page of a listing was sent.
    pub lists: u64,
    /// 429: the name was written less than a second ago.
    pub throttled: u64,
    /// 412.
    pub precondition_failed: u64,
    /// 304.
    pub not_modified: u64,
    /// 404: the bucket is there, the object is not.
    pub not_found: u64,
}

/// A running emulator. Dropping it stops both servers and cuts what is under way.
#[derive(Debug)]
pub struct Storage {
    store: Arc<Store>,
    grpc: SocketAddr,
    _stop: DropGuard,
}

impl Storage {
    /// Starts both servers. When this returns, they accept connections.
    ///
    /// Cancelling it leaves nothing behind.
    ///
    /// # Errors
    ///
    /// When an address cannot be listened on.
    pub async fn start(config: Config) -> io::Result<Self> {
        Self::begin(config, None).await
    }

    /// Starts with what a folder keeps, and keeps there what is stored from now on. Upload
    /// sessions that were not finished and the counts of [`Storage::stats`] begin anew.
    ///
    /// # Errors
    ///
    /// As [`Storage::start`], and when the folder cannot be read.
    pub async fn start_on(config: Config, data: &Data) -> io::Result<Self> {
        Self::begin(config, Some(data)).await
    }

    async fn begin(config: Config, data: Option<&Data>) -> io::Result<Self> {
        let listeners = Listeners::bind(config.http, config.grpc).await?;
        let origin = format!("http://{}", listeners.http_address);
        let grpc = listeners.grpc_address;
        let limited = config.one_mutation_per_second;
        let state = match data {
            Some(data) => State::resume(data, limited)?,
            None => State::new(limited),
        };
        let journal = data.map(Data::journal);
        let store = Arc::new(Store::new(state, journal, Clock::start(), origin));
        let stop = CancellationToken::new();
        listeners.serve(&store, &stop);
        Ok(Self { store, grpc, _stop: stop.drop_guard() })
    }

    /// The origin of the JSON API: `http://127.0.0.1:PORT`.
    pub fn http_origin(&self) -> String {
        self.store.origin.clone()
    }

    /// The address of the gRPC API.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// What was answered so far.
    pub fn stats(&self) -> Stats {
        self.store.lock().stats
    }

    /// Switches the limit on mutations of one name, from the next request on.
    pub fn set_one_mutation_per_second(&self, enforced: bool) {
        self.store.lock().one_mutation_per_second = enforced;
    }

    /// From the next upload on, contents of more than so many bytes are measured (size and
    /// checksum) and not kept: an upload of any size then costs no memory, in chunks not even
    /// while it comes. What was not kept cannot be read.
    pub fn keep_up_to(&self, bytes: usize) {
        self.store.sessions().keep = bytes;
    }

    /// The live version of an object, read past both protocols and not counted.
    pub fn object(&self, bucket: &str, name: &str) -> Option<StoredObject> {
        let state = self.store.lock();
        state.peek(bucket, name).map(|object| (**object).clone())
    }

    /// The names of all objects in a bucket, sorted; not counted. Empty if there is no
    /// such bucket.
    pub fn object_names(&self, bucket: &str) -> Vec<String> {
        self.store.lock().names(bucket)
    }

    /// Calls `observer` for every write from now on: with no lock held, in the order of
    /// the writes, one at a time. The observer runs on a server's thread and holds up its
    /// answer, so it is to be quick. As a rule a write's answer waits for its observers;
    /// one that arrives while another write's observers run does not.
    pub fn on_write(&self, observer: impl Fn(&Written) + Send + Sync + 'static) {
        self.store.observers.add(Arc::new(observer));
    }

    /// Makes a bucket; one that exists stays as it is.
    ///
    /// # Errors
    ///
    /// When the name is not one that a bucket can have.
    pub fn create_bucket(&self, name: &str) -> Result<(), InvalidBucketName> {
        match self.store.create_bucket(name, BucketSettings::default()) {
            Ok(()) | Err(refusal::Refusal::BucketExists) => Ok(()),
            Err(_) => Err(InvalidBucketName(name.to_owned())),
        }
    }

    /// Stores an object past both protocols and the limit on mutations, whatever was there: how a
    /// test gets very many.
    ///
    /// # Errors
    ///
    /// When there is no such bucket.
    pub fn put(&self, bucket: &str, name: &str, content: Bytes) -> Result<(), NoSuchBucket> {
        let missing = |_| NoSuchBucket(bucket.to_owned());
        let upload =
            object::Upload::new(content, object::Attributes::default()).map_err(missing)?;
        let write = self.store.make(bucket, name, |state, now| {
            let limited = std::mem::take(&mut state.one_mutation_per_second);
            let written = state.write(now, bucket, name, upload, conditions::Conditions::default());
            state.one_mutation_per_second = limited;
            written
        });
        write.map(drop).map_err(missing)
    }

    /// Changes a bucket's settings. They are what reads of the bucket show and change
    /// nothing else.
    ///
    /// # Errors
    ///
    /// When there is no such bucket.
    pub fn set_bucket_settings(
        &self,
        name: &str,
        settings: BucketSettings,
    ) -> Result<(), NoSuchBucket> {
        let mut state = self.store.lock();
        state.set_settings(name, settings).map_err(|_| NoSuchBucket(name.to_owned()))
    }

    /// Replaces a bucket's access policy, which is what IAM reads show and keeps nobody
    /// from anything.
    ///
    /// # Errors
    ///
    /// When there is no such bucket.
    pub fn set_iam_bindings(
        &self,
        name: &str,
        bindings: impl IntoIterator<Item = Binding>,
    ) -> Result<(), NoSuchBucket> {
        let mut state = self.store.lock();
        state.access_mut(name).map_err(|_| NoSuchBucket(name.to_owned()))?.bind(bindings);
        Ok(())
    }

    /// Leaves these permissions out of what `TestIamPermissions` reports for a bucket, and
    /// no others; without this, everything asked for is reported.
    ///
    /// # Errors
    ///
    /// When there is no such bucket.
    pub fn deny_permissions(&self, name: &str, permissions: &[&str]) -> Result<(), NoSuchBucket> {
        let mut state = self.store.lock();
        let access = state.access_mut(name).map_err(|_| NoSuchBucket(name.to_owned()))?;
        access.deny(permissions.iter().copied());
        Ok(())
    }

    /// Has requests to either API meet a fault. Its subject is the object's name; for an
    /// [`Operation::List`] it is the prefix, for an [`Operation::Bucket`] the bucket's name.
    pub fn inject(&self, fault: Fault<Operation>) -> Injected {
        self.store.faults.inject(fault)
    }

    pub(crate) fn faults(&self) -> &Faults<Operation> {
        &self.store.faults
    }

    /// Dates answers of the JSON API so many seconds ahead of the time, or behind it if
    /// negative. Object times stay as they are.
    pub fn set_date_skew(&self, seconds: i64) {
        self.store.date.set_skew(seconds);
    }
}

/// Not a name for a bucket: those have 3 to 222 of `a–z 0–9 - _ .` and begin and end
/// with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid bucket name {0:?}")]
pub struct InvalidBucketName(pub String);

/// No bucket of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no bucket {0:?}")]
pub struct NoSuchBucket(pub String);

//! Every metric that a process may show.

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A total that only grows.
    Counter,
    /// A level.
    Gauge,
    /// A distribution; its unit is seconds.
    Histogram,
}

/// The long-running commands, which show metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// `fleet worker`.
    Worker,
    /// `fleet web`.
    Web,
}

const WORKER: &[Process] = &[Process::Worker];
const WEB: &[Process] = &[Process::Web];
const BOTH: &[Process] = &[Process::Worker, Process::Web];

/// A label of a metric.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// The values that it can have, or none where they are known at run time only.
    pub values: &'static [&'static str],
}

/// One metric as it stands in `/metrics`.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// The processes that show it.
    pub shown_by: &'static [Process],
    /// How it behaves.
    pub kind: Kind,
    /// What it tells.
    pub help: &'static str,
    /// Its labels.
    pub labels: &'static [Label],
}

/// A whole delivery: from a call that is served from memory to one that waits
/// out an outage or a `Retry-After`.
const JOB_BUCKETS: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    180.0, 600.0,
];
/// One request, or a wait for one.
pub(crate) const REQUEST_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

impl Metric {
    /// Upper bounds of a histogram's buckets, in seconds.
    pub fn buckets(&self) -> &'static [f64] {
        if [JOB_SECONDS, JOB_WAIT, QUEUE_WAIT, LEASE_WAIT].contains(&self.name) {
            &JOB_BUCKETS
        } else {
            &REQUEST_BUCKETS
        }
    }
}

/// What stands for every kind that is not registered, and for a message that is no job.
pub(super) const UNKNOWN: &str = "unknown";
/// What stands for hosts that have no label value of their own.
pub const OTHER: &str = "other";

/// The values of a label that only the running program knows: registered kinds, hosts,
/// HTTP statuses.
const OPEN: &[&str] = &[];
const STATUSES: &[&str] = &["done", "retry", "parked", "rejected"];
/// The names of [`shared::Reason::ALL`].
pub(super) const REASONS: &[&str] = &[
    "unknown_user",
    "revoked",
    "session_expired",
    "unused",
    "testing",
    "admin_policy",
    "account_restricted",
    "blocked",
    "scopes_missing",
];
/// The names of `Trouble`s of the gate.
pub(crate) const TROUBLES: &[&str] =
    &["topic", "bucket", "recall", "records", "credentials", "held"];
const OPERATIONS: &[&str] = &["get", "put", "delete", "list"];
const STORAGE_CODES: &[&str] =
    &["ok", "not_found", "precondition_failed", "throttled", "unavailable", "refused", "abandoned"];
const ENDPOINT_OUTCOMES: &[&str] =
    &["ok", "invalid_grant", "refused", "transient", "ambiguous", "abandoned"];

/// The classes of the answers of HTTP handlers, and what stands for none.
pub(super) const CLASSES: &[&str] = &["2xx", "3xx", "4xx", "5xx", "none", "unsent"];

/// Each event of [`WEB_EVENTS`] with the outcomes that it can have.
pub(super) const WEB_OUTCOMES: [(&str, &[&str]); 9] = [
    ("start", &["started", "limited", "not_offered", "failed"]),
    (
        "callback",
        &[
            "signed_in",
            "consent_again",
            "more_consent",
            "limited",
            "not_allowed",
            "stored_for_another",
            "denied",
            "refused",
            "malformed",
            "not_yours",
            "expired",
            "replayed",
            "wrong_redirect",
            "code_refused",
            "unavailable",
            "misconfigured",
            "id_token",
            "profile",
            "other_account",
            "no_refresh_token",
            "no_user",
            "store",
        ],
    ),
    ("test", &["ok", "failed", "limited"]),
    ("job", &["ok", "failed", "limited"]),
    ("disconnect", &["ok", "failed"]),
    ("admin_resume", &["ok", "failed"]),
    ("admin_drop", &["ok", "failed"]),
    ("admin_revoke", &["ok", "failed"]),
    ("admin_refused", &["host", "signature", "form"]),
];

/// A constant for each name, for whoever writes the metric, and the list of all. The list
/// repeats the name instead of using the constant, so that the compiler reports the
/// constant of a metric that nothing writes.
macro_rules! metrics_list {
    ($($const:ident = $name:literal, $shown_by:ident, $kind:ident,
        [$($label:literal: $values:expr),*], $help:literal;)*) => {
        $(pub(crate) const $const: &str = $name;)*

        /// Every metric of a process.
        pub const ALL: &[Metric] = &[
            $(Metric {
                name: $name,
                shown_by: $shown_by,
                kind: Kind::$kind,
                help: $help,
                labels: &[$(Label { name: $label, values: $values }),*],
            }),*
        ];
    };
}

metrics_list! {
    JOBS = "fleet_jobs_total", WORKER, Counter, ["kind": OPEN, "outcome": STATUSES],
        "Deliveries by kind and by how they ended: done, retry, parked, rejected.";
    PARKED = "fleet_jobs_parked_total", WORKER, Counter, ["reason": REASONS],
        "Jobs that were parked, by why their user must consent.";
    JOB_SECONDS = "fleet_job_duration_seconds", WORKER, Histogram, ["kind": OPEN],
        "From receipt to the end of a delivery, waiting included.";
    IN_FLIGHT = "fleet_jobs_in_flight", WORKER, Gauge, [], "Handlers that run now.";
    OUTSTANDING = "fleet_jobs_outstanding", WORKER, Gauge, [],
        "Messages that this replica has received and not settled, held ones included.";
    QUEUED_USERS = "fleet_users_queued", WORKER, Gauge, [],
        "Users of which this replica has jobs.";
    JOB_WAIT = "fleet_job_wait_seconds", WORKER, Histogram, [],
        "From publishing to the job's first turn, of jobs that are delivered for the first time.";
    QUEUE_WAIT = "fleet_job_queue_wait_seconds", WORKER, Histogram, [],
        "From receipt to the job's turn: behind other jobs of its user, and for a slot.";
    HELD = "fleet_jobs_held", WORKER, Gauge, [],
        "Messages that wait for something other than a slot: the end of an outage or of a \
         pause that an API asked for, or the writing of their end. More replicas do not help \
         them.";
    PAUSED = "fleet_intake_paused", WORKER, Gauge, [],
        "1 while no new jobs are taken because of an outage.";
    TROUBLE = "fleet_trouble", WORKER, Gauge, ["trouble": TROUBLES],
        "1 while this is why no new jobs are taken: topic and bucket (ends cannot be written), \
         recall (remembered ends cannot be read), records (no stored credential can be used), \
         credentials (those of many users cannot be had), held (too many jobs wait for theirs).";
    WORKER_READY = "fleet_worker_ready", WORKER, Gauge, [],
        "1 while /readyz of this worker says ready.";
    WEB_READY = "fleet_web_ready", WEB, Gauge, [],
        "1 while /readyz of these consent pages says ready, as of the last time that it was asked.";
    CLIENT_REFUSED = "fleet_oauth_client_refused", BOTH, Gauge, [],
        "1 from when the token endpoint refuses the OAuth client until it accepts it again.";
    PUBSUB_REACHABLE = "fleet_pubsub_reachable", WORKER, Gauge, [],
        "1 while Pub/Sub answers on a connection that was opened to ask, 0 while it does not.";
    DEDUPED = "fleet_jobs_deduplicated_total", WORKER, Counter, [],
        "Deliveries of jobs that were done before and did not act again.";
    DONE_REFUSED = "fleet_done_refused_total", WORKER, Counter, [],
        "Jobs that were rejected with an unknown effect because what is remembered of their end \
         could not be read for an hour.";
    ENDINGS = "fleet_endings", WORKER, Gauge, [],
        "Ends of jobs that are stored in the bucket and still to be written, as of the last \
         sweep.";
    ENDINGS_ABANDONED = "fleet_endings_abandoned_total", WORKER, Counter, [],
        "Endings that neither a topic nor the bucket took before the replica stopped: their \
         messages were given back and their jobs may act twice.";
    EVENTS = "fleet_events_total", BOTH, Counter, ["type": &["needed", "granted", "ended"]],
        "Changes of users' consent that were published to the events topic.";
    EVENTS_UNTOLD = "fleet_events_untold", WORKER, Gauge, [],
        "Changes of users' consent that are still to be published, as of the last sweep.";
    KEPT_ALIVE = "fleet_kept_alive_total", WORKER, Counter,
        ["outcome": &["alive", "needs_consent", "failed"]],
        "Grants that nobody used and that were due to be refreshed, by what came of it.";
    SLOWED = "fleet_users_slowed_total", WORKER, Counter, [],
        "Times that a user's jobs were held back because an API limits their rate.";
    SLOWED_USERS = "fleet_users_slowed", WORKER, Gauge, [],
        "Users whose rate an API limited lately.";
    HOST_PAUSES = "fleet_host_pauses_total", WORKER, Counter, [],
        "Times that no call was made to a host for a while because it refused many users.";
    PAUSED_HOSTS = "fleet_hosts_paused", WORKER, Gauge, [],
        "Hosts to which no call is made now because they refuse many users.";
    FORWARD_SENT = "fleet_forward_sent_total", WORKER, Counter, ["kind": OPEN],
        "Jobs that were sent to the HTTP handler of their kind, each attempt counted.";
    FORWARD_IN_FLIGHT = "fleet_forward_in_flight", WORKER, Gauge, ["kind": OPEN],
        "Jobs that the HTTP handler of their kind is doing now.";
    FORWARD_ANSWERS = "fleet_forward_answers_total", WORKER, Counter,
        ["kind": OPEN, "class": CLASSES],
        "Answers of HTTP handlers by class; none (reset, or too late), unsent (it could not be \
         reached, so nothing was asked of it).";
    FORWARD_WAITING = "fleet_forward_waiting", WORKER, Gauge, ["kind": OPEN],
        "Jobs that wait for one of the places of their kind, or until it is up again.";
    FORWARD_DOWN = "fleet_forward_down", WORKER, Gauge, ["kind": OPEN],
        "1 while the HTTP handler of a kind cannot be reached or is not the right one.";
    CREDENTIALS = "fleet_credentials_total", WORKER, Counter,
        ["result": &["hit", "wait", "error"]],
        "Credentials asked for: hit (in memory), wait (a read or a refresh), error.";
    CACHED_USERS = "fleet_cached_users", BOTH, Gauge, [],
        "Users whose credential is in memory.";
    REFRESHES = "fleet_refreshes_total", BOTH, Counter,
        ["outcome": &["obtained", "adopted", "needs_consent", "unavailable", "misconfigured"]],
        "Refreshes: obtained, adopted (another replica's), needs_consent, unavailable, misconfigured.";
    AMBIGUOUS = "fleet_refresh_ambiguous_total", BOTH, Counter, [],
        "Requests to the token endpoint whose answer was lost.";
    LOST_GRANTS = "fleet_lost_grants_total", BOTH, Counter, [],
        "Grants found dead after a takeover or a lost answer: their users must consent again.";
    ORPHANS = "fleet_orphan_grants_total", BOTH, Counter, [],
        "Grants that could not be stored since their user was deleted meanwhile.";
    COMMIT_CONFLICTS = "fleet_commit_conflicts_total", BOTH, Counter, [],
        "Commits that met another write.";
    REJECTED_TOKENS = "fleet_rejected_tokens_total", BOTH, Counter, [],
        "Access tokens that an API rejected before they expired.";
    UNSEALED_READS = "fleet_unsealed_reads_total", BOTH, Counter, ["form": &["plain", "unbound"]],
        "Stored objects that were read although they are not sealed as they should be: plain (with \
         --accept-unsealed only), or unbound (sealed by the release before).";
    LEASES = "fleet_leases_total", BOTH, Counter, ["outcome": &["acquired", "taken_over"]],
        "Leases: acquired, taken_over (from a holder that did not commit in time).";
    LEASE_WAIT = "fleet_lease_wait_seconds", WORKER, Histogram, [],
        "How long callers waited for a credential that was not in memory.";
    ENDPOINT = "fleet_token_endpoint_requests_total", BOTH, Counter,
        ["outcome": ENDPOINT_OUTCOMES],
        "Requests to the token endpoint: ok, invalid_grant, refused (another code, about one user \
         or about the client), transient, ambiguous, abandoned (given up by this process).";
    ENDPOINT_SECONDS = "fleet_token_endpoint_duration_seconds", BOTH, Histogram, [],
        "How long the token endpoint took.";
    STORAGE = "fleet_storage_requests_total", BOTH, Counter,
        ["operation": OPERATIONS, "code": STORAGE_CODES],
        "Requests to the bucket by operation (get, put, delete, list) and code (ok, not_found, \
         precondition_failed, throttled, unavailable, refused, abandoned: given up by this process).";
    STORAGE_SECONDS = "fleet_storage_request_duration_seconds", BOTH, Histogram,
        ["operation": OPERATIONS],
        "How long the bucket took.";
    API = "fleet_api_requests_total", WORKER, Counter, ["host": OPEN, "code": OPEN],
        "Requests to APIs by host and HTTP status (or error). Hosts that never served, and those \
         beyond the first 64, are `other`.";
    API_SECONDS = "fleet_api_request_duration_seconds", WORKER, Histogram, ["host": OPEN],
        "How long APIs took to begin an answer.";
    NEED_CONSENT = "fleet_users_needing_consent", WORKER, Gauge, [],
        "Users with parked jobs, as of the last sweep.";
    PARKED_JOBS = "fleet_parked_jobs", WORKER, Gauge, [],
        "Parked jobs, as of the last sweep.";
    RESUMED = "fleet_jobs_resumed_total", BOTH, Counter, [],
        "Parked jobs that were published again.";
    RESUMED_AGAIN = "fleet_jobs_resumed_again_total", BOTH, Counter, [],
        "Parked jobs that were published and could be neither deleted nor noted in the bucket, \
         so that they are published again.";
    PARKED_REFUSED = "fleet_parked_refused_total", BOTH, Counter, [],
        "Times that an object under parked/ was no parked job of its user and was left alone.";
    PARKED_ENDED = "fleet_parked_ended_total", WORKER, Counter, [],
        "Parked jobs of unknown users that were rejected because nobody consented within \
         --park-unknown.";
    WEB_EVENTS = "fleet_web_events_total", WEB, Counter, ["event": OPEN, "outcome": OPEN],
        "What people did on the consent pages, and operators on theirs, and how it ended.";
    BUILD = "fleet_build_info", BOTH, Gauge, ["version": OPEN],
        "Always 1; the version is the label.";
}

//! One OAuth credential per user, kept in a Cloud Storage bucket and shared
//! safely by a fleet of workers.
//!
//! Many processes need fresh access tokens of the same users. Refreshing is not
//! idempotent where the provider rotates refresh tokens: two processes that
//! refresh at once lock the user out. [`TokenStore`] lets exactly one of them do
//! it. A lease object says who, and *which generation of the token record it
//! guards*: once that generation has been replaced the lease is void by itself,
//! so nothing is ever released, deleted or broken, and leases compare no clocks.
//! Every write of a record is a compare-and-set.
//!
//! ```
//! use std::sync::Arc;
//! use shared::adapters::{CloudStorage, CloudStorageConfig, HttpTokenEndpoint, http_client};
//! use shared::{OAuthClient, TokenStore, UserId};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = OAuthClient::from_json(&std::fs::read("client.json")?)?;
//! let endpoint = HttpTokenEndpoint::new(&client, http_client("my-worker")?)?;
//! let bucket = CloudStorage::connect(CloudStorageConfig {
//!     bucket: "my-tokens".into(),
//!     ..CloudStorageConfig::default()
//! });
//! let store = TokenStore::builder(bucket.await?.shared(), Arc::new(endpoint)).build()?;
//!
//! let credentials = store.get_credentials(&UserId::new("1097")?).await?;
//! println!("fresh until {:?}", credentials.expires_at());
//! # Ok(())
//! # }
//! ```
//!
//! With a [`Keyring`] the stored secrets are sealed ([`keyring`]). Google's own
//! clients act as a stored user by [`TokenStore::google_credentials`].
//!
//! # The protocol in one page
//!
//! Two objects per user, each written once per refresh (a lease also while its holder
//! waits) and never deleted to release anything: `tokens/<user>.json`, the record, and
//! `leases/<user>.json`, who is replacing which *generation* of it.
//!
//! ```text
//! replica A            bucket                       replica B            provider
//!    │  GET token ───────▶ g7, expired                 │                     │
//!    │  PUT lease ───────▶ guards 7 (compare-and-set)  │                     │
//!    │                     guards 7 ◀────── PUT lease  │  412: held          │
//!    │  refresh ─────────────────────────────────────────────────────────▶ 200
//!    │                     g7 ◀──────────── GET token  │  waits, polls       │
//!    │  PUT token ───────▶ g8 (if still g7)            │                     │
//!    │                     g8 ◀──────────── GET token  │  moved: uses it     │
//!    │        the lease guards 7 < 8: void by itself   │                     │
//! ```
//!
//! - A lease that guards an older generation than the stored one is void. One
//!   that guards the stored generation is held until it moves, or until an
//!   observer has seen that very lease for its whole ttl on its own monotonic
//!   clock: then it may take over, by compare-and-set, and reads the token again.
//! - A holder that waits, for the provider's answer or for a write, renews its lease every
//!   half ttl: others take over only from one that they hear nothing from. An answer may
//!   take four ttls. What may be sent is decided again after every pause.
//! - A 200 of the provider is never thrown away. If the record moved meanwhile,
//!   the new grant is merged onto it as long as the refresh token that was spent
//!   is still the stored one; a newer login wins.
//! - `invalid_grant` marks a record as revoked only if the refresh token that the
//!   provider rejected is still the stored one, and after a lost answer only if it is said
//!   twice. [`TokenStore::retry`] presents a revoked record's token once more.
//! - Any other refusal makes the replica ask the endpoint about a made-up token: is it the
//!   client, or this user? A user's refusal is written into the record as `blocked`, stops
//!   nobody else, and is tried again after 10 minutes, doubling to a day.
//! - A login needs no lease. If the reply to its write was lost it reads the record: its
//!   own write is there, or what a refresh has made of it meanwhile, which a `grant_id`
//!   tells that begins with its login's. Then it is done; the write's own ID alone would
//!   not tell, and it would put its spent refresh token over the successor.
//!
//! | invariant | guarded by |
//! |---|---|
//! | I1 single refresh: no refresh token is spent twice, but for a holder that failed to commit within the ttl of its last renewal, a lost answer, or an operator who had a revoked one presented again | `model`, `simulation`; `budget::without_faults_there_is_exactly_one_refresh_per_expiry`; `regressions::thundering_herd_at_expiry`, `…::a_late_answer_thrown_away_and_its_token_sent_again` |
//! | I2 no lost grant: an answer that was received is stored, or its successor is | `model`, `simulation`; `regressions::a_successful_rotation_discarded_because_the_lease_was_lost`, `…::a_process_that_ends_while_its_answer_is_late`; `store::a_grant_without_an_access_token_is_stored_and_its_user_blocked` |
//! | I3 no destructive loser: only the stored refresh token can be revoked, and nothing older replaces what is newer | `model`, `simulation`; `regressions::the_loser_destroys_the_winners_grant`, `…::login_whose_reply_was_lost_put_over_what_became_of_it` |
//! | I4 no resurrection: after a delete no earlier refresh writes the record | `model`, `simulation`; `regressions::delete_during_a_refresh` |
//! | I5 freshness: a returned token is usable, or was obtained by this very call, and is none that was reported as rejected | `model`, `simulation`; `regressions::loser_returns_an_expired_token`; `store::a_commit_whose_reply_was_lost_and_that_was_revoked_meanwhile_is_not_handed_out` |
//! | I6 progress: an orphan lease costs one ttl, one user's trouble stops nobody else, and no caller waits beyond its limit | `model`, `simulation`; `regressions::orphan_lock_after_a_crash`; `store::one_user_who_is_refused_stops_nobody_else` |
//! | I7 bounded load: one series of attempts per user and ttl reaches a failing endpoint | `model`, `simulation`; `store::an_outage_of_the_endpoint_opens_the_breaker`, `…::a_blocked_user_is_tried_again_ever_more_seldom_and_resumes_alone` |
//! | I8 no secrets out: none in a log, error or `Debug` | the tests named `…redacted…`, `…secret…`; `core::jobs_are_published_run_and_told_about` |
//!
//! All of these are tests of the workspace's package `tests`. `model` tries everything
//! that can happen to three replicas and to whoever logs in, deletes and re-seals within
//! its budgets; refreshes, re-seals, logins and deletions are there decided by the code
//! of [`protocol`] that decides them here. `simulation` runs the whole store.
//!
//! # What is not guaranteed
//!
//! Two windows that no client can close, with a provider that rotates refresh
//! tokens: a holder that dies, or neither answers nor reaches the bucket for a ttl, between
//! the provider's answer and the commit; and an answer that is lost on its way. The refresh
//! token may then be spent and its successor known to nobody; a provider that
//! detects reuse revokes the grant, and the user must consent again. Both are
//! counted: [`Counts::takeovers`], [`Counts::ambiguous_requests`] and, when it
//! did happen, [`Counts::lost_grants`].
//!
//! A provider that is merely slow opens neither: with answers that came 12, 27, 40, 100 and
//! 119 s late (ttl 30 s, four replicas, twenty users each, a provider that revokes on
//! reuse) none of the users was revoked and each expiry cost one request. An answer later
//! than four ttls counts as lost, and so does one that a gateway gives up (a 504 after 29
//! or 60 s): the request is sent once more, which helps where the provider allows reuse for
//! a while, and where it does not the grant is lost and counted. So is an answer that would
//! make a record of more than 256 KiB, which nobody reads.
//!
//! A re-seal can make the first window, too: its PUT is sent within the ttl, but one
//! that is held up on its way until another replica has taken the lease over and spent
//! the token moves the record under that replica. Its commit is merged; a third replica
//! that reads in between may spend the token again. `model` counts such an arrival among
//! its faults and excuses that second spend and nothing else.
//!
//! The count of lost grants has a gap: if a re-seal, and no refresh, takes the lease of
//! such a holder over, the next refresh finds the grant dead without knowing that there
//! was a takeover, and neither waits for the earlier holder nor counts. Nothing else
//! depends on that: a late commit of that holder is merged and the record active again.
//!
//! A deleted user can come back once: a login or import of a user without a record writes
//! on the condition that there is none. If such a write is held up on its way, its sender
//! repeats it, and the user is deleted before the first one arrives, then that condition
//! holds again. The refresh token in it may be spent by then. Deleting again ends it.
//!
//! A caller that embeds the store must call [`TokenStore::shutdown`] before the
//! process ends, and give it [`Policy::longest_flight`], or it may make the first window
//! itself.
//!
//! # What a first job waits for
//!
//! A job whose user's token has expired waits for a refresh. With a bucket 20 ms and an endpoint
//! 150 ms away that was six requests in a row, 270 ms: GET token, GET lease, PUT lease, GET token,
//! POST, PUT token. What is left is the POST and two requests of the bucket, or four where nobody
//! has refreshed the user before.
//!
//! *The commit is not waited for.* Callers have the token at the provider's 200, and the PUT of the
//! record goes on in a task of its own, which outlives them: one request of the bucket less. The
//! answer is as safe as it was, but for a process that ends without [`TokenStore::shutdown`]
//! (`budget::a_first_job_waits_for_the_endpoint_and_not_for_the_commit`).
//!
//! *The lease's generation is remembered.* A commit writes the generation of its lease into the
//! record, so that the next refresh takes it by compare-and-set without reading it: one request
//! less. A stale one is refused and costs that read.
//!
//! # Where to look
//!
//! Decisions are pure ([`protocol`]); I/O stands behind small traits ([`ports`])
//! that [`adapters`] implement.

pub mod adapters;
mod client_question;
pub mod consent;
mod endpoint_answer;
mod error;
mod file_text;
pub mod google_credentials;
pub mod keyring;
mod oauth_client;
pub mod policy;
pub mod ports;
pub mod profile;
pub mod protocol;
mod reason;
pub mod record;
mod schedule;
mod scrub;
pub mod sealing;
mod secret;
mod secret_file;
mod store;
mod user_id;

pub use client_question::{ClientQuestion, ask_about_client};
pub use endpoint_answer::{LONGEST_WAIT, retry_after};
pub use error::{Error, innermost};
pub use file_text::file_text;
pub use keyring::Keyring;
pub use oauth_client::{BadClient, ClientKind, OAuthClient, is_loopback, may_have_secrets};
pub use policy::Policy;
pub use protocol::Grant;
pub use reason::{ConsentReason, Reason};
pub use schedule::Schedule;
pub use scrub::{is_active, scrub};
pub use secret::Secret;
pub use secret_file::{create_secret, open_secret};
pub use store::{
    Builder, Counts, Credentials, DEFAULT_CACHED_USERS, Health, Imported, Login, Resealed, Revoked,
    TokenStore,
};
pub use user_id::{InvalidUserId, MAX_ENCODED_LEN, UserDigest, UserId, encode_segment};

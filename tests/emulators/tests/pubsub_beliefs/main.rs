//! What the worker believes of Pub/Sub, shown on two servers: the embedded emulator and
//! Google's (0.8.20). The same code asks both. Where they answer differently the case
//! says what each does and cites the documentation of the service, which the embedded
//! emulator follows.
//!
//! The cases of one server run side by side, because most of them wait for an ack
//! deadline, of which the shortest has 10 s. No case sleeps: time is told by the server
//! under test, see [`scene::Scene::one_deadline`].
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attempts;
mod leases;
mod looks;
mod order;
mod publishing;
mod scene;
mod streams;

use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use emulators::installed::{GooglePubSub, NotStarted};
use emulators::pubsub::{Config, PubSub};
use scene::{Kind, Server};
use tokio::time::timeout;

type Running = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;
type Case = (&'static str, fn(Arc<Server>) -> Running);

macro_rules! cases {
    ($($module:ident: $($case:ident),* $(,)?;)*) => {
        const CASES: &[Case] = &[$($((
            concat!(stringify!($module), "::", stringify!($case)),
            |server| Box::pin($module::$case(server)),
        ),)*)*];
    };
}

cases! {
    order:
        messages_of_a_key_come_in_the_order_of_publishing,
        the_next_message_of_a_key_does_not_wait_for_the_acknowledgement_of_the_last,
        a_nack_brings_back_the_later_messages_of_its_key,
        a_message_that_was_acknowledged_behind_a_nacked_one_comes_again,
        an_expired_message_brings_back_the_later_ones_of_its_key;
    attempts:
        attempts_are_told_only_with_a_dead_letter_policy,
        without_a_policy_a_message_comes_for_ever,
        the_last_permitted_attempt_is_followed_by_a_dead_letter,
        a_message_is_kept_while_its_dead_letter_topic_is_gone,
        whoever_is_nacked_beside_a_failing_one_of_its_key_uses_up_an_attempt,
        a_key_that_is_nacked_whole_becomes_dead_letters_together,
        the_retry_policy_delays_what_was_nacked;
    leases:
        an_extended_lease_outlives_the_deadline,
        a_lapsed_lease_brings_the_message_back,
        an_acknowledgement_after_the_deadline_has_no_effect_on_the_next_delivery,
        exactly_once_tells_which_acknowledgement_failed;
    streams:
        a_killed_client_s_messages_come_back,
        a_killed_client_s_ordered_messages_come_back,
        a_half_closed_stream_ends_and_its_messages_come_back,
        a_cancelled_stream_is_served_no_more,
        an_open_and_unread_stream_burns_attempts,
        flow_control_holds_back_what_was_not_asked_for,
        a_stream_ends_with_its_subscription;
    publishing:
        limits_of_a_message,
        one_bad_message_refuses_its_whole_batch,
        a_refused_batch_is_told_to_each_of_its_messages,
        a_missing_topic_takes_nothing,
        a_failed_publish_pauses_its_ordering_key;
    looks:
        a_look_at_what_exists_and_what_does_not,
        permissions_are_tested_without_permission,
        a_filter_keeps_messages_away;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_embedded_emulator() -> anyhow::Result<()> {
    let pubsub = PubSub::start(Config::default()).await?;
    let address = pubsub.address();
    run(Server { kind: Kind::Embedded, address }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_googles_emulator() -> anyhow::Result<()> {
    match GooglePubSub::start().await {
        Ok(google) => run(Server { kind: Kind::Google, address: google.address() }).await,
        Err(missing @ NotStarted::Missing) => {
            let required = std::env::var_os("FLEET_REQUIRE_EXTERNAL");
            anyhow::ensure!(
                required.is_none_or(|value| value.is_empty()),
                "FLEET_REQUIRE_EXTERNAL is set, and {missing}"
            );
            say(&format!("LEFT OUT pubsub_beliefs::on_googles_emulator: {missing}"));
            Ok(())
        }
        Err(failed) => Err(failed.into()),
    }
}

/// No case takes longer than this, on a busy machine either.
const CASE: Duration = Duration::from_mins(4);

/// Runs every case on a server, side by side; fails with the names of those that failed.
async fn run(server: Server) -> anyhow::Result<()> {
    let server = Arc::new(server);
    let cases = CASES.iter().map(|(name, case)| {
        let running = tokio::spawn(timeout(CASE, case(Arc::clone(&server))));
        async move { (name, running.await) }
    });
    let mut failed = Vec::new();
    for (name, ended) in futures_util::future::join_all(cases).await {
        let error = match ended {
            Ok(Ok(Ok(()))) => continue,
            Ok(Ok(Err(error))) => format!("{error:#}"),
            Ok(Err(elapsed)) => elapsed.to_string(),
            Err(panic) => panic.to_string(),
        };
        failed.push(format!("{name}: {error}"));
    }
    anyhow::ensure!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
    Ok(())
}

/// Writes a line to stderr, past the test harness's capture of printed output.
fn say(text: &str) {
    // A closed stderr is no reason for a test to fail.
    drop(writeln!(std::io::stderr(), "{text}"));
}

//! A subscription's settings: what is accepted, filled in, changed.

use std::time::Duration;

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::subscription::State;

use super::error::Error;
use super::filter::Filter;
use super::message::Message;
use super::names::{self, Kind};
use super::push;

const ACK_DEADLINES: std::ops::RangeInclusive<i32> = 10..=600;
const ATTEMPTS: std::ops::RangeInclusive<i32> = 5..=100;
const DEFAULT_ATTEMPTS: i32 = 5;
const MAX_BACKOFF: Duration = Duration::from_mins(10);
const DEFAULT_MIN_BACKOFF: Duration = Duration::from_secs(10);
const DAY_SECONDS: i64 = 24 * 60 * 60;
const RETENTION: std::ops::RangeInclusive<Duration> =
    Duration::from_mins(10)..=Duration::from_hours(31 * 24);

/// What the state machine needs to know of a subscription's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) ack_deadline: Duration,
    /// Whether ordering keys are honoured.
    pub(super) ordered: bool,
    /// Whether acknowledgements and new deadlines are answered one by one.
    pub(super) exactly_once: bool,
    pub(super) retry: Option<Retry>,
    pub(super) dead_letter: Option<DeadLetterPolicy>,
    /// What is taken in; everything without one.
    pub(super) filter: Option<Filter>,
}

impl Settings {
    /// Whether the filter lets a message in.
    pub(super) fn takes(&self, message: &Message) -> bool {
        let filter = self.filter.as_ref();
        filter.is_none_or(|filter| filter.takes(&message.content.attributes))
    }
}

/// How long a failed message is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retry {
    pub(super) minimum: Duration,
    pub(super) maximum: Duration,
}

impl Retry {
    /// The delay after the n-th failure: the minimum, doubled each time, up to
    /// the maximum.
    pub(super) fn delay(&self, failures: u32) -> Duration {
        let factor = 2_u32.saturating_pow(failures.saturating_sub(1));
        self.minimum.saturating_mul(factor).min(self.maximum)
    }
}

/// When a message is given up, and where it goes then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeadLetterPolicy {
    pub(super) topic: String,
    pub(super) max_attempts: u32,
}

/// Reads the settings out of a complete resource.
pub(super) fn read(resource: &proto::Subscription) -> Result<Settings, Error> {
    let ack_deadline = ack_deadline(resource.ack_deadline_seconds)?;
    let retry = resource.retry_policy.as_ref().map(retry).transpose()?;
    let policy = resource.dead_letter_policy.as_ref();
    check_retention(resource.message_retention_duration)?;
    let ttl = resource.expiration_policy.as_ref().and_then(|policy| policy.ttl);
    if ttl.is_some_and(|ttl| ttl.seconds < DAY_SECONDS) {
        return Err(Error::Invalid("the ttl of an expiration policy is a day or more".to_owned()));
    }
    Ok(Settings {
        ack_deadline,
        ordered: resource.enable_message_ordering,
        exactly_once: resource.enable_exactly_once_delivery,
        retry,
        dead_letter: policy.map(dead_letter).transpose()?,
        filter: Filter::parse(&resource.filter)?,
    })
}

/// Checks how long a topic or a subscription keeps messages: 10 minutes to 31 days, if it says.
pub(super) fn check_retention(retention: Option<prost_types::Duration>) -> Result<(), Error> {
    let within = |retention: prost_types::Duration| {
        Duration::try_from(retention).is_ok_and(|retention| RETENTION.contains(&retention))
    };
    if retention.is_none_or(within) {
        return Ok(());
    }
    Err(Error::Invalid("message_retention_duration is 10 minutes to 31 days".to_owned()))
}

/// Checks an ack deadline of a subscription or stream: 10 to 600 seconds.
pub(super) fn ack_deadline(seconds: i32) -> Result<Duration, Error> {
    if !ACK_DEADLINES.contains(&seconds) {
        return Err(Error::Invalid(format!(
            "an ack deadline has 10 to 600 seconds, this one {seconds}"
        )));
    }
    Ok(Duration::from_secs(u64::from(seconds.unsigned_abs())))
}

/// Checks a deadline extension: 0 to 600 seconds, 0 gives the message back.
pub(super) fn extension(seconds: i32) -> Result<Duration, Error> {
    if !(0..=600).contains(&seconds) {
        return Err(Error::Invalid(format!(
            "an ack deadline is extended by 0 to 600 seconds, not by {seconds}"
        )));
    }
    Ok(Duration::from_secs(u64::from(seconds.unsigned_abs())))
}

/// Checks a new subscription and fills in what production fills in.
pub(super) fn complete(mut resource: proto::Subscription) -> Result<proto::Subscription, Error> {
    names::parse(Kind::Subscription, &resource.name)?;
    names::parse(Kind::Topic, &resource.topic)?;
    refuse_unimplemented(&resource)?;
    fill_in(&mut resource);
    read(&resource)?;
    Ok(resource)
}

/// Applies the fields that the mask names to `current`.
pub(super) fn update(
    current: &proto::Subscription,
    request: proto::UpdateSubscriptionRequest,
) -> Result<proto::Subscription, Error> {
    let new = request.subscription.unwrap_or_default();
    let paths = request.update_mask.unwrap_or_default().paths;
    if paths.is_empty() {
        return Err(Error::Invalid("update_mask must name at least one field".to_owned()));
    }
    refuse_unimplemented(&new)?;
    let mut updated = current.clone();
    for path in &paths {
        match path.as_str() {
            "ack_deadline_seconds" => updated.ack_deadline_seconds = new.ack_deadline_seconds,
            "retry_policy" => updated.retry_policy = new.retry_policy,
            "dead_letter_policy" => updated.dead_letter_policy.clone_from(&new.dead_letter_policy),
            "labels" => updated.labels.clone_from(&new.labels),
            "retain_acked_messages" => updated.retain_acked_messages = new.retain_acked_messages,
            "message_retention_duration" => {
                updated.message_retention_duration = new.message_retention_duration;
            }
            "expiration_policy" => updated.expiration_policy = new.expiration_policy,
            "enable_exactly_once_delivery" => {
                updated.enable_exactly_once_delivery = new.enable_exactly_once_delivery;
            }
            "push_config" => updated.push_config.clone_from(&new.push_config),
            _ => {
                return Err(Error::Invalid(format!(
                    "update_mask names {path:?}, which cannot be changed"
                )));
            }
        }
    }
    fill_in(&mut updated);
    read(&updated)?;
    Ok(updated)
}

/// Better refused than silently not done.
fn refuse_unimplemented(resource: &proto::Subscription) -> Result<(), Error> {
    let elsewhere = resource.push_config.as_ref().is_some_and(|push| {
        !push.push_endpoint.is_empty() && push::endpoint(&push.push_endpoint).is_none()
    });
    for (asked, what) in [
        (elsewhere, "push to other endpoints than http:// on loopback"),
        (resource.bigquery_config.is_some(), "BigQuery subscriptions"),
        (resource.bigtable_config.is_some(), "Bigtable subscriptions"),
        (resource.cloud_storage_config.is_some(), "Cloud Storage subscriptions"),
        (!resource.message_transforms.is_empty(), "message transforms"),
    ] {
        if asked {
            return Err(Error::Unimplemented(what.into()));
        }
    }
    Ok(())
}

fn fill_in(resource: &mut proto::Subscription) {
    let days = |days| prost_types::Duration { seconds: days * DAY_SECONDS, nanos: 0 };
    if resource.ack_deadline_seconds == 0 {
        resource.ack_deadline_seconds = *ACK_DEADLINES.start();
    }
    resource.message_retention_duration.get_or_insert_with(|| days(7));
    resource
        .expiration_policy
        .get_or_insert_with(|| proto::ExpirationPolicy { ttl: Some(days(31)) });
    if let Some(policy) = &mut resource.dead_letter_policy
        && policy.max_delivery_attempts == 0
    {
        policy.max_delivery_attempts = DEFAULT_ATTEMPTS;
    }
    if let Some(policy) = &mut resource.retry_policy {
        let seconds = |duration: Duration| prost_types::Duration {
            seconds: duration.as_secs().cast_signed(),
            nanos: 0,
        };
        policy.minimum_backoff.get_or_insert_with(|| seconds(DEFAULT_MIN_BACKOFF));
        policy.maximum_backoff.get_or_insert_with(|| seconds(MAX_BACKOFF));
    }
    resource.state = State::Active.into();
}

fn retry(policy: &proto::RetryPolicy) -> Result<Retry, Error> {
    let backoff = |duration: Option<prost_types::Duration>, default| match duration {
        None => Ok(default),
        Some(duration) => Duration::try_from(duration)
            .ok()
            .filter(|backoff| *backoff <= MAX_BACKOFF)
            .ok_or_else(|| Error::Invalid("a backoff has 0 to 600 seconds".to_owned())),
    };
    let minimum = backoff(policy.minimum_backoff, DEFAULT_MIN_BACKOFF)?;
    let maximum = backoff(policy.maximum_backoff, MAX_BACKOFF)?;
    if minimum > maximum {
        return Err(Error::Invalid(format!(
            "minimum_backoff {minimum:?} is more than maximum_backoff {maximum:?}"
        )));
    }
    Ok(Retry { minimum, maximum })
}

fn dead_letter(policy: &proto::DeadLetterPolicy) -> Result<DeadLetterPolicy, Error> {
    names::parse(Kind::Topic, &policy.dead_letter_topic)?;
    let attempts = policy.max_delivery_attempts;
    if !ATTEMPTS.contains(&attempts) {
        return Err(Error::Invalid(format!("max_delivery_attempts is 5 to 100, not {attempts}")));
    }
    Ok(DeadLetterPolicy {
        topic: policy.dead_letter_topic.clone(),
        max_attempts: attempts.unsigned_abs(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource() -> proto::Subscription {
        proto::Subscription {
            name: "projects/p/subscriptions/sub".to_owned(),
            topic: "projects/p/topics/top".to_owned(),
            ..proto::Subscription::default()
        }
    }

    fn seconds(seconds: i64) -> prost_types::Duration {
        prost_types::Duration { seconds, nanos: 0 }
    }

    fn update_with(new: proto::Subscription, paths: &[&str]) -> Result<proto::Subscription, Error> {
        let current = complete(resource()).expect("valid");
        update(
            &current,
            proto::UpdateSubscriptionRequest {
                subscription: Some(new),
                update_mask: Some(prost_types::FieldMask {
                    paths: paths.iter().map(|&path| path.to_owned()).collect(),
                }),
            },
        )
    }

    #[test]
    fn defaults_are_those_of_production() {
        let complete = complete(resource()).expect("valid");
        assert_eq!(complete.ack_deadline_seconds, 10);
        assert_eq!(complete.message_retention_duration, Some(seconds(7 * 86_400)));
        assert_eq!(
            read(&complete),
            Ok(Settings {
                ack_deadline: Duration::from_secs(10),
                ordered: false,
                exactly_once: false,
                retry: None,
                dead_letter: None,
                filter: None,
            })
        );
    }

    #[test]
    fn ack_deadlines_outside_their_range_are_refused() {
        for (deadline, accepted) in [(-1, false), (9, false), (10, true), (600, true), (601, false)]
        {
            let resource = proto::Subscription { ack_deadline_seconds: deadline, ..resource() };
            assert_eq!(complete(resource).is_ok(), accepted, "{deadline}");
        }
        assert!(extension(0).is_ok_and(|extension| extension.is_zero()));
        assert!(extension(-1).is_err());
        assert!(extension(601).is_err());
    }

    #[test]
    fn retry_policies_are_checked_and_filled_in() {
        let with = |minimum: Option<i64>, maximum: Option<i64>| {
            complete(proto::Subscription {
                retry_policy: Some(proto::RetryPolicy {
                    minimum_backoff: minimum.map(seconds),
                    maximum_backoff: maximum.map(seconds),
                }),
                ..resource()
            })
            .and_then(|complete| read(&complete))
        };
        let filled = with(None, None).expect("valid").retry.expect("set");
        assert_eq!(filled.minimum, Duration::from_secs(10));
        assert_eq!(filled.maximum, Duration::from_mins(10));
        assert!(with(Some(0), Some(0)).is_ok());
        assert!(with(Some(-1), None).is_err());
        assert!(with(None, Some(601)).is_err());
        assert!(with(Some(20), Some(10)).is_err());
    }

    #[test]
    fn delays_double_up_to_the_maximum() {
        let retry = Retry { minimum: Duration::from_secs(10), maximum: Duration::from_mins(1) };
        let delays: Vec<u64> = (1..=5).map(|n| retry.delay(n).as_secs()).collect();
        assert_eq!(delays, [10, 20, 40, 60, 60]);
        assert_eq!(retry.delay(u32::MAX).as_secs(), 60);
    }

    #[test]
    fn dead_letter_attempts_are_checked() {
        let with = |attempts| {
            complete(proto::Subscription {
                dead_letter_policy: Some(proto::DeadLetterPolicy {
                    dead_letter_topic: "projects/p/topics/dead".to_owned(),
                    max_delivery_attempts: attempts,
                }),
                ..resource()
            })
        };
        let policy = with(0).expect("defaulted").dead_letter_policy;
        assert_eq!(policy.expect("set").max_delivery_attempts, 5);
        assert!(with(4).is_err());
        assert!(with(100).is_ok());
        assert!(with(101).is_err());
    }

    #[test]
    fn only_the_named_fields_change() {
        let new = proto::Subscription {
            ack_deadline_seconds: 60,
            retain_acked_messages: true,
            ..proto::Subscription::default()
        };
        let updated = update_with(new, &["ack_deadline_seconds"]).expect("valid");
        assert_eq!(updated.ack_deadline_seconds, 60);
        assert!(!updated.retain_acked_messages);
        assert_eq!(updated.name, resource().name);
    }

    #[test]
    fn updates_without_or_with_a_fixed_field_are_refused() {
        let new = proto::Subscription::default();
        assert!(update_with(new.clone(), &[]).is_err());
        for fixed in ["name", "topic", "enable_message_ordering", "filter"] {
            assert!(update_with(new.clone(), &[fixed]).is_err(), "{fixed}");
        }
    }

    #[test]
    fn what_the_emulator_cannot_do_is_refused() {
        for asked in [
            proto::Subscription {
                bigquery_config: Some(proto::BigQueryConfig::default()),
                ..resource()
            },
            proto::Subscription {
                push_config: Some(proto::PushConfig {
                    push_endpoint: "https://example.com".to_owned(),
                    ..proto::PushConfig::default()
                }),
                ..resource()
            },
        ] {
            assert!(matches!(complete(asked), Err(Error::Unimplemented(_))));
        }
    }
}

//! Topics, the job subscription, and the way to the dead letters.

use std::time::Duration;

use crate::pubsub::{Inspector, MIN_BACKOFF, Settings, Unseen};
use crate::roles::{On, To};

use super::super::environment::Place;
use super::access::{pubsub_agent, role, this_process, to_see};
use super::finding::Checks;
use super::{Depth, Names};

/// Fewer deliveries than this are gone in a short outage.
const MIN_ATTEMPTS: i32 = 20;
/// Replicas that stall for so long get their messages again.
const MIN_ACK_DEADLINE: Duration = Duration::from_secs(30);

const REACH: &str =
    "see that pubsub.googleapis.com can be reached from here: egress rules, proxy, DNS";

struct Look<'a> {
    inspector: Inspector,
    names: &'a Names,
    emulated: bool,
    /// Topics that are named and do not exist: what only follows from it is not told again.
    missing: Vec<&'a str>,
    depth: Depth,
}

pub(super) async fn check(place: &Place, names: &Names, depth: Depth) -> Vec<Checks> {
    let objects = [
        ("job topic", "--topic (FLEET_TOPIC)", &names.topic),
        ("job subscription", "--subscription (FLEET_SUBSCRIPTION)", &names.subscription),
        ("dead topic", "--dead-topic (FLEET_DEAD_TOPIC)", &names.dead_topic),
        (
            "dead subscription",
            "--dead-subscription (FLEET_DEAD_SUBSCRIPTION)",
            &names.dead_subscription,
        ),
        ("outcomes topic", "--outcomes-topic (FLEET_OUTCOMES_TOPIC)", &names.outcomes_topic),
        ("events topic", "--events-topic (FLEET_EVENTS_TOPIC)", &names.events_topic),
    ];
    let mut all = Vec::new();
    let mut named = Vec::new();
    for (object, flag, name) in objects {
        let Some(name) = name else {
            let mut checks = Checks::of(object);
            checks.skip_for("exists", "none is named", format!("set {flag}"));
            all.push(checks);
            continue;
        };
        named.push((object, name.as_str()));
    }
    if named.is_empty() {
        return all;
    }
    let inspector = match connected(place, named[0].1).await {
        Ok(inspector) => inspector,
        Err(why) => {
            // Every object would only be told to be out of reach, too.
            let mut checks = Checks::of("Pub/Sub");
            checks.fail("reached", why, REACH);
            all.push(checks);
            return all;
        }
    };
    let mut missing = Vec::new();
    for name in [&names.topic, &names.dead_topic].into_iter().flatten() {
        if let Err(Unseen::Missing) = inspector.topic(name).await {
            missing.push(name.as_str());
        }
    }
    let look = Look { inspector, names, emulated: place.emulators.is_some(), missing, depth };
    for (object, name) in named {
        let mut checks = Checks::of(format!("{object} {name}"));
        match object {
            "job topic" => look.topic(name, On::JobTopic, "--topic", &mut checks).await,
            "job subscription" => look.job_subscription(name, &mut checks).await,
            "dead topic" => look.dead_topic(name, &mut checks).await,
            "dead subscription" => look.dead_subscription(name, &mut checks).await,
            "events topic" => {
                look.topic(name, On::EventsTopic, "--events-topic", &mut checks).await;
            }
            _ => look.topic(name, On::OutcomesTopic, "--outcomes-topic", &mut checks).await,
        }
        all.push(checks);
    }
    all
}

/// A connection that was found to work: whatever is answered about `name`, it is an answer.
async fn connected(place: &Place, name: &str) -> Result<Inspector, String> {
    place.reach_pubsub().await.map_err(|why| format!("{why:#}"))?;
    let inspector = Inspector::new(&place.connection());
    let looked = if name.contains("/topics/") {
        inspector.topic(name).await
    } else {
        inspector.subscription(name).await.map(drop)
    };
    match looked {
        Err(Unseen::Unreachable(why)) => Err(why),
        Ok(()) | Err(_) => Ok(inspector),
    }
}

/// The ID in a full name.
fn id(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// What a failed look means.
fn unseen(why: &Unseen, what: &'static str, flag: &str, permission: &str, checks: &mut Checks) {
    match why {
        Unseen::Missing => checks.fail(
            what,
            "it does not exist",
            format!("fleet setup, Terraform, or correct {flag}"),
        ),
        Unseen::Denied => {
            let found = format!("this process has no {permission}");
            checks.skip_for(what, found, to_see(permission));
        }
        Unseen::Nothing => checks.fail(
            what,
            "it does not exist, or this process may not use it",
            format!("fleet setup, Terraform, or correct {flag}"),
        ),
        Unseen::Unsupported => checks.skip(what, "an emulator that cannot tell"),
        Unseen::Unreachable(why) => {
            checks.fail(what, format!("Pub/Sub does not answer: {why}"), REACH);
        }
    }
}

impl Look<'_> {
    /// Whether the topic exists, and this process may publish to it.
    async fn topic(&self, name: &str, on: On, flag: &str, checks: &mut Checks) {
        match self.inspector.topic(name).await {
            Ok(()) => checks.ok("exists", "yes"),
            Err(Unseen::Missing) => {
                return unseen(&Unseen::Missing, "exists", flag, "", checks);
            }
            Err(why) => unseen(&why, "exists", flag, "pubsub.topics.get", checks),
        }
        let grant = format!("gcloud pubsub topics add-iam-policy-binding {}", id(name));
        self.may(name, on, &grant, checks).await;
    }

    async fn may(&self, name: &str, on: On, grant: &str, checks: &mut Checks) {
        let needed = role(on, To::Fleet).map_or(&[][..], |role| role.permissions);
        match self.inspector.allowed(name, needed).await {
            Ok(allowed) => this_process(on, &allowed, grant, checks),
            Err(Unseen::Unsupported) => {
                checks.skip("this process may", "an emulator that asks nobody");
            }
            Err(why) => checks.skip("this process may", why.to_string()),
        }
    }

    /// Whether Pub/Sub may do its part of dead-lettering.
    async fn agent(&self, name: &str, on: On, grant: &str, permission: &str, checks: &mut Checks) {
        match self.inspector.grants(name).await {
            Ok(grants) => pubsub_agent(on, &grants, grant, self.emulated, checks),
            Err(why) => unseen(&why, "Pub/Sub's own grant", "", permission, checks),
        }
    }

    async fn job_subscription(&self, name: &str, checks: &mut Checks) {
        let id = id(name);
        let update = |flags: &str| format!("gcloud pubsub subscriptions update {id} {flags}");
        let found = match self.inspector.subscription(name).await {
            Ok(found) => found,
            Err(why) => {
                unseen(&why, "exists", "--subscription", "pubsub.subscriptions.get", checks);
                if why == Unseen::Denied {
                    let grant = format!("gcloud pubsub subscriptions add-iam-policy-binding {id}");
                    self.may(name, On::JobSubscription, &grant, checks).await;
                }
                return;
            }
        };
        checks.ok("exists", if found.exactly_once { "exactly-once delivery" } else { "yes" });
        self.attached(&found, self.names.topic.as_deref(), checks);
        pulled(&found, &update, checks);
        if self.depth == Depth::All {
            self.promises(name, &found, &update, checks).await;
        }
        let grant = format!("gcloud pubsub subscriptions add-iam-policy-binding {id}");
        self.may(name, On::JobSubscription, &grant, checks).await;
    }

    /// What a subscription has to keep to, beyond giving jobs at all.
    async fn promises(
        &self,
        name: &str,
        found: &Settings,
        update: &impl Fn(&str) -> String,
        checks: &mut Checks,
    ) {
        let id = id(name);
        if found.ordering {
            checks.ok("message ordering", "on");
        } else {
            checks.warn(
                "message ordering",
                "off: jobs of one user may overtake each other",
                format!("it cannot be changed: create another one with --enable-message-ordering, move the workers, delete {id}"),
            );
        }
        if found.ack_deadline >= MIN_ACK_DEADLINE {
            checks.ok("ack deadline", format!("{:?}", found.ack_deadline));
        } else {
            checks.warn(
                "ack deadline",
                format!(
                    "{:?}: jobs of a replica that stalls for a moment run twice",
                    found.ack_deadline
                ),
                update("--ack-deadline=60"),
            );
        }
        match found.retry {
            Some((shortest, longest)) if shortest >= MIN_BACKOFF => {
                checks.ok("retry policy", format!("{shortest:?} to {longest:?}"));
            }
            found => checks.warn(
                "retry policy",
                match found {
                    Some((shortest, _)) => format!("jobs come again after {shortest:?}"),
                    None => "none: jobs that fail come again at once".to_owned(),
                } + ", which spends their deliveries while an API is down",
                update("--min-retry-delay=10s --max-retry-delay=600s"),
            ),
        }
        expiry(found, update, checks);
        self.dead_letter(name, found, update, checks).await;
    }

    fn attached(&self, found: &Settings, topic: Option<&str>, checks: &mut Checks) {
        match topic {
            _ if found.topic == "_deleted-topic_" || found.detached => checks.fail(
                "attached",
                "its topic is gone: nothing arrives any more",
                "create topic and subscription again (`fleet setup`, Terraform)",
            ),
            Some(topic) if topic != found.topic && !self.missing.contains(&topic) => checks.fail(
                "attached",
                format!("to {}, and jobs are published to {topic}", found.topic),
                "correct --topic or --subscription",
            ),
            _ => checks.ok("attached", format!("to {}", found.topic)),
        }
    }

    async fn dead_letter(
        &self,
        name: &str,
        found: &Settings,
        update: &impl Fn(&str) -> String,
        checks: &mut Checks,
    ) {
        let wanted = self.names.dead_topic.as_deref();
        let topic_flag = format!("--dead-letter-topic={}", wanted.unwrap_or("DEAD_TOPIC"));
        let Some((topic, attempts)) = &found.dead_letter else {
            checks.fail(
                "dead letter",
                "no policy: a job that can never succeed comes again for ever",
                update(&format!("{topic_flag} --max-delivery-attempts=100")),
            );
            return;
        };
        if wanted.is_some_and(|wanted| wanted != topic && !self.missing.contains(&wanted)) {
            checks.warn(
                "dead letter",
                format!("goes to {topic}, and rejected jobs to {}", wanted.unwrap_or_default()),
                update(&format!("{topic_flag} --max-delivery-attempts={attempts}")),
            );
        } else if *attempts < MIN_ATTEMPTS {
            checks.warn(
                "dead letter",
                format!("after {attempts} deliveries, which a short outage uses up"),
                update("--max-delivery-attempts=100"),
            );
        } else {
            checks.ok("dead letter", format!("after {attempts} deliveries to {}", id(topic)));
        }
        let grant = format!("gcloud pubsub subscriptions add-iam-policy-binding {}", id(name));
        let permission = "pubsub.subscriptions.getIamPolicy";
        self.agent(name, On::JobSubscription, &grant, permission, checks).await;
        if wanted.is_none() {
            // Otherwise it is looked at by its own name.
            let grant = format!("gcloud pubsub topics add-iam-policy-binding {}", id(topic));
            self.agent(topic, On::DeadTopic, &grant, "pubsub.topics.getIamPolicy", checks).await;
            self.kept(topic, checks).await;
        }
    }

    async fn dead_topic(&self, name: &str, checks: &mut Checks) {
        self.topic(name, On::DeadTopic, "--dead-topic", checks).await;
        if checks.failed("exists") || self.depth == Depth::Start {
            return;
        }
        let grant = format!("gcloud pubsub topics add-iam-policy-binding {}", id(name));
        self.agent(name, On::DeadTopic, &grant, "pubsub.topics.getIamPolicy", checks).await;
        self.kept(name, checks).await;
    }

    /// Without a subscription a topic keeps nothing.
    async fn kept(&self, topic: &str, checks: &mut Checks) {
        const CHECK: &str = "kept";
        match self.inspector.subscriptions_of(topic).await {
            Ok(names) if names.is_empty() => checks.fail(
                CHECK,
                "no subscription: every dead letter is lost",
                format!(
                    "gcloud pubsub subscriptions create {0}-review --topic={0} --expiration-period=never --message-retention-duration=31d",
                    id(topic)
                ),
            ),
            Ok(names) => {
                let ids: Vec<&str> = names.iter().map(|name| id(name)).collect();
                checks.ok(CHECK, format!("by {}", ids.join(", ")));
            }
            Err(why) => unseen(&why, CHECK, "", "pubsub.topics.attachSubscription", checks),
        }
    }

    async fn dead_subscription(&self, name: &str, checks: &mut Checks) {
        let id = id(name);
        let update = |flags: &str| format!("gcloud pubsub subscriptions update {id} {flags}");
        match self.inspector.subscription(name).await {
            Ok(found) => {
                checks.ok(
                    "exists",
                    format!("keeps dead letters for {} day(s)", found.retention.as_secs() / 86_400),
                );
                self.attached(&found, self.names.dead_topic.as_deref(), checks);
                pulled(&found, &update, checks);
                expiry(&found, &update, checks);
                if found.dead_letter.is_some() {
                    checks.warn(
                        "dead letter",
                        "looking at dead letters counts as a delivery and moves them on in the end",
                        update("--clear-dead-letter-policy"),
                    );
                }
            }
            Err(Unseen::Missing)
                if self.names.dead_topic.as_deref().is_some_and(|t| self.missing.contains(&t)) =>
            {
                return checks.skip("exists", "its topic does not exist");
            }
            Err(why) => {
                unseen(&why, "exists", "--dead-subscription", "pubsub.subscriptions.get", checks);
                if why != Unseen::Denied {
                    return;
                }
            }
        }
        let grant = format!("gcloud pubsub subscriptions add-iam-policy-binding {id}");
        self.may(name, On::DeadSubscription, &grant, checks).await;
    }
}

fn pulled(found: &Settings, update: &impl Fn(&str) -> String, checks: &mut Checks) {
    if !found.pulled {
        checks.fail(
            "pull",
            "its messages are pushed or exported, and no worker sees them",
            update("--push-endpoint=''"),
        );
    }
    if let Some(filter) = &found.filter {
        checks.warn(
            "filter",
            format!("what does not match {filter:?} is never delivered"),
            "it cannot be changed: create a subscription without one",
        );
    }
}

fn expiry(found: &Settings, update: &impl Fn(&str) -> String, checks: &mut Checks) {
    match found.expires_after {
        None => checks.ok("expiration", "never"),
        Some(after) => checks.fail(
            "expiration",
            format!("deleted with all its messages after {} idle day(s)", after.as_secs() / 86_400),
            update("--expiration-period=never"),
        ),
    }
}

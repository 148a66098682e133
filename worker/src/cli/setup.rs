//! `fleet setup`: creates what is missing.

use crate::pubsub::{Admin, MIN_BACKOFF, SubscriptionPlan};
use anyhow::Context as _;
use serde_json::json;

use super::connect::ProjectArgs;
use super::dead::review_subscription;
use super::environment::Place;
use super::output::{self, Usage};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  fleet setup --project my-project --bucket my-tokens --topic jobs \\
      --subscription jobs-workers --dead-topic jobs-dead

What exists is left as it is. Production uses Terraform.")]
pub(crate) struct Args {
    #[command(flatten)]
    project: ProjectArgs,
    /// Bucket of the token store
    #[arg(long, env = "FLEET_BUCKET")]
    bucket: Option<String>,
    /// Job topic
    #[arg(long, env = "FLEET_TOPIC")]
    topic: Option<String>,
    /// Job subscription; needs --topic
    #[arg(long, env = "FLEET_SUBSCRIPTION")]
    subscription: Option<String>,
    /// Where rejected and undeliverable jobs go
    #[arg(long, env = "FLEET_DEAD_TOPIC")]
    dead_topic: Option<String>,
    /// The subscription that keeps them, for `fleet dead` [default: the dead topic's name and -review]
    #[arg(long, env = "FLEET_DEAD_SUBSCRIPTION")]
    dead_subscription: Option<String>,
    /// Where outcomes are published
    #[arg(long, env = "FLEET_OUTCOMES_TOPIC")]
    outcomes_topic: Option<String>,
    /// Where changes of users' consent are published
    #[arg(long, env = "FLEET_EVENTS_TOPIC")]
    events_topic: Option<String>,
    /// What was created and what existed, as JSON
    #[arg(long)]
    json: bool,
}

/// A topic or subscription by its full name, and whether it was created.
type Made = (String, bool);

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let place = Place::from_env()?;
    let project = &args.project;
    let jobs = project.optional_topic("--topic", args.topic.as_ref())?;
    let dead = project.optional_topic("--dead-topic", args.dead_topic.as_ref())?;
    let outcomes = project.optional_topic("--outcomes-topic", args.outcomes_topic.as_ref())?;
    let events = project.optional_topic("--events-topic", args.events_topic.as_ref())?;
    let bucket = args.bucket.as_ref().filter(|name| !name.is_empty());
    let subscription = args
        .subscription
        .as_ref()
        .filter(|s| !s.is_empty())
        .map(|s| project.subscription(s))
        .transpose()?;
    if subscription.is_some() && jobs.is_none() {
        return Err(Usage("--subscription needs --topic, the topic it reads".to_owned()).into());
    }
    let topics: Vec<String> =
        [&jobs, &dead, &outcomes, &events].into_iter().flatten().cloned().collect();
    let mut plans = Vec::new();
    if let (Some(name), Some(topic)) = (subscription, jobs) {
        plans.push(SubscriptionPlan {
            name,
            topic,
            dead_topic: dead.clone(),
            ordering: true,
            min_backoff: MIN_BACKOFF,
        });
    }
    if topics.is_empty() && bucket.is_none() {
        return Err(Usage("nothing to create: name a bucket or a topic".to_owned()).into());
    }
    // Without a subscription a topic keeps nothing.
    let review = match (args.dead_subscription.as_ref().filter(|s| !s.is_empty()), dead) {
        (None, None) => None,
        (Some(name), Some(topic)) => {
            Some((project.subscription_of("--dead-subscription", name)?, topic))
        }
        (None, Some(topic)) => Some((review_subscription(&topic), topic)),
        (Some(_), None) => {
            return Err(
                Usage("--dead-subscription needs --dead-topic, the topic it reads".into()).into()
            );
        }
    };
    let mut made = create(&place, &topics, &plans, review.as_ref()).await?;
    if let Some(name) = bucket {
        let project_id = project
            .project
            .as_deref()
            .ok_or_else(|| Usage("a bucket needs --project (GOOGLE_CLOUD_PROJECT)".to_owned()))?;
        let created = place
            .bucket(name)
            .await?
            .create_if_missing(project_id)
            .await
            .with_context(|| format!("bucket {name} cannot be created"))?;
        made.push((format!("gs://{name}"), created));
    }
    if args.json {
        let list = made.iter().map(|(name, created)| json!({"name": name, "created": created}));
        return output::json(&list.collect());
    }
    for (name, created) in made {
        output::line(format!("{} {name}", if created { "created" } else { "exists " }))?;
    }
    Ok(())
}

/// Creates topics, then subscriptions. `review` is the full name of the one that
/// keeps dead letters, and of their topic.
pub(crate) async fn create(
    place: &Place,
    topics: &[String],
    plans: &[SubscriptionPlan],
    review: Option<&(String, String)>,
) -> anyhow::Result<Vec<Made>> {
    let mut made = Vec::new();
    if topics.is_empty() && plans.is_empty() {
        return Ok(made);
    }
    place.reach_pubsub().await?;
    let admin = Admin::connect(&place.connection()).await.map_err(anyhow::Error::msg)?;
    for name in topics {
        made.push((name.clone(), admin.create_topic(name).await.map_err(anyhow::Error::msg)?));
    }
    for plan in plans {
        let created = admin.create_subscription(plan).await.map_err(anyhow::Error::msg)?;
        made.push((plan.name.clone(), created));
    }
    if let Some((name, topic)) = review {
        made.push((
            name.clone(),
            admin.create_review(name, topic).await.map_err(anyhow::Error::msg)?,
        ));
    }
    Ok(made)
}

//! `fleet doctor`: looks at everything that a fleet stands on, and says what to do.

mod access;
mod bucket;
mod clock;
mod credentials;
mod finding;
mod oauth;
mod pubsub;
mod sealed;

use std::path::PathBuf;
use std::time::Duration;

use shared::Keyring;
use shared::adapters::{SystemClock, http_client};
use shared::ports::Clock as _;
use url::Url;

use super::connect::ProjectArgs;
use super::environment::Place;
use super::optional_path::{given, path_or_nothing};
use super::output;
use super::sealing::SealingArgs;
use finding::{Checks, Report, Status};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fleet doctor --project my-project --bucket my-tokens --client client.json \\
      --topic jobs --subscription jobs-workers --dead-topic jobs-dead
  fleet doctor --json --strict

What is not named is not checked. Nothing is changed but one object under
fleet-doctor-probe/ in the bucket, which is written, overwritten and deleted. Exit code 1
if a check fails; with --strict also if one warns. Run it as the identity that the
workers have: some checks ask what this process may do.")]
pub(crate) struct Args {
    #[command(flatten)]
    project: ProjectArgs,
    /// Bucket of the token store
    #[arg(long, env = "FLEET_BUCKET")]
    bucket: Option<String>,
    /// Path of the OAuth client JSON, as Google's console downloads it
    #[arg(long, short = 'c', env = "FLEET_OAUTH_CLIENT", value_name = "FILE", value_parser = path_or_nothing())]
    client: Option<PathBuf>,
    #[command(flatten)]
    sealing: SealingArgs,
    /// Job topic
    #[arg(long, env = "FLEET_TOPIC")]
    topic: Option<String>,
    /// Job subscription
    #[arg(long, env = "FLEET_SUBSCRIPTION")]
    subscription: Option<String>,
    /// Where rejected and undeliverable jobs go
    #[arg(long, env = "FLEET_DEAD_TOPIC")]
    dead_topic: Option<String>,
    /// The subscription that keeps them [default: the dead topic's name and -review]
    #[arg(long, env = "FLEET_DEAD_SUBSCRIPTION")]
    dead_subscription: Option<String>,
    /// Where outcomes are published
    #[arg(long, env = "FLEET_OUTCOMES_TOPIC")]
    outcomes_topic: Option<String>,
    /// Where changes of users' consent are published
    #[arg(long, env = "FLEET_EVENTS_TOPIC")]
    events_topic: Option<String>,
    /// Where browsers reach `fleet web`
    #[arg(long, env = "FLEET_PUBLIC_URL", value_name = "URL")]
    public_url: Option<Url>,
    /// Warnings are failures
    #[arg(long)]
    strict: bool,
    /// The findings as JSON
    #[arg(long)]
    json: bool,
}

/// Bound on everything: each call has its own, shorter one.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// What is checked, by full names.
struct Names {
    topic: Option<String>,
    subscription: Option<String>,
    dead_topic: Option<String>,
    dead_subscription: Option<String>,
    outcomes_topic: Option<String>,
    events_topic: Option<String>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let place = Place::from_env()?;
    let names = args.names()?;
    let report = tokio::select! {
        biased;
        report = args.look(&place, &names) => report?,
        () = SystemClock::default().sleep(TIME_LIMIT) => {
            anyhow::bail!("the checks did not end within {TIME_LIMIT:?}; check the network")
        }
    };
    report.show(args.json)?;
    let (failures, warnings) = (report.count(Status::Failure), report.count(Status::Warning));
    if failures > 0 {
        anyhow::bail!("{failures} check(s) failed");
    }
    if args.strict && warnings > 0 {
        anyhow::bail!("{warnings} check(s) warned, and --strict is set");
    }
    Ok(())
}

impl Args {
    fn names(&self) -> anyhow::Result<Names> {
        let project = &self.project;
        let subscription = |flag: &str, name: &Option<String>| {
            let name = name.as_ref().filter(|name| !name.is_empty());
            name.map(|name| project.subscription_of(flag, name)).transpose()
        };
        let dead_topic = project.optional_topic("--dead-topic", self.dead_topic.as_ref())?;
        let review = dead_topic.as_deref().map(super::dead::review_subscription);
        Ok(Names {
            topic: project.optional_topic("--topic", self.topic.as_ref())?,
            subscription: subscription("--subscription", &self.subscription)?,
            dead_subscription: subscription("--dead-subscription", &self.dead_subscription)?
                .or(review),
            dead_topic,
            outcomes_topic: project
                .optional_topic("--outcomes-topic", self.outcomes_topic.as_ref())?,
            events_topic: project.optional_topic("--events-topic", self.events_topic.as_ref())?,
        })
    }

    async fn look(&self, place: &Place, names: &Names) -> anyhow::Result<Report> {
        let http = http_client(concat!("fleet/", env!("CARGO_PKG_VERSION")))?;
        let (credentials, known) = credentials::check(place, &http).await;
        let client = given(self.client.as_ref());
        let (oauth, token_uri) = oauth::check(client, self.public_url.as_ref(), &http).await;
        let bucket = self.bucket.as_ref().filter(|name| !name.is_empty());
        let keyring = self.sealing.keyring(place).await;
        // One that cannot be read is told for itself.
        let opened = keyring.as_ref().ok().cloned().flatten();
        let sealing = self.sealing.sealing_with(opened);
        let keyring = told(keyring, place);
        let (bucket, pubsub, clock) = tokio::join!(
            bucket::check(place, bucket.map(String::as_str), known, &sealing),
            pubsub::check(place, names, known),
            clock::check(place, token_uri.as_deref(), &http),
        );
        let mut report = Report::default();
        for checks in [credentials, keyring, oauth, bucket] {
            report.findings.extend(checks.findings);
        }
        for checks in pubsub {
            report.findings.extend(checks.findings);
        }
        report.findings.extend(clock.findings);
        if !self.json && report.count(Status::Ok) == 0 {
            output::note("nothing was named to be checked: see `fleet doctor --help`");
        }
        Ok(report)
    }
}

/// What reading the keyring came to.
fn told(keyring: anyhow::Result<Option<Keyring>>, place: &Place) -> Checks {
    let mut checks = Checks::of("keyring");
    match keyring {
        Ok(Some(keyring)) => checks.ok(
            "opens",
            match keyring.primary() {
                Some(id) => format!("{} key(s); {id} seals", keyring.keys().count()),
                None => format!(
                    "{} key(s); none seals yet (`fleet keyring promote`)",
                    keyring.keys().count()
                ),
            },
        ),
        Ok(None) if place.emulators.is_some() => {
            checks.skip("opens", "no --keyring, which emulators do not need");
        }
        Ok(None) => checks.warn(
            "opens",
            "no --keyring: whoever can read the bucket can act as every user",
            "fleet keyring new keyring.json, and give it to every replica as --keyring (FLEET_KEYRING)",
        ),
        Err(error) => checks.fail(
            "opens",
            format!("{error:#}"),
            "name the keyring that the workers have; without it sealed records cannot be read",
        ),
    }
    checks
}

//! `fleet doctor`: looks at everything that a fleet stands on, and says what to do.

mod access;
mod bucket;
mod clock;
mod credentials;
mod finding;
mod oauth;
mod pubsub;
mod records;
mod sealed;
mod start;

use std::path::{Path, PathBuf};
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
use records::Records;

pub(crate) use start::Start;

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
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) topic: Option<String>,
    pub(crate) subscription: Option<String>,
    pub(crate) dead_topic: Option<String>,
    pub(crate) dead_subscription: Option<String>,
    pub(crate) outcomes_topic: Option<String>,
    pub(crate) events_topic: Option<String>,
}

/// How closely is looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// At what a process needs in order to work. Nothing is written.
    Start,
    /// At everything that a fleet stands on.
    All,
}

/// What is looked at.
struct Subject<'a> {
    pub(super) place: &'a Place,
    pub(super) names: &'a Names,
    pub(super) bucket: Option<&'a str>,
    pub(super) client: Option<&'a Path>,
    pub(super) sealing: &'a SealingArgs,
    pub(super) public_url: Option<&'a Url>,
    pub(super) depth: Depth,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let place = Place::from_env()?;
    let names = args.names()?;
    let subject = Subject {
        place: &place,
        names: &names,
        bucket: args.bucket.as_deref().filter(|name| !name.is_empty()),
        client: given(args.client.as_ref()),
        sealing: &args.sealing,
        public_url: args.public_url.as_ref(),
        depth: Depth::All,
    };
    let report = subject.look(TIME_LIMIT).await?;
    if !args.json && report.count(Status::Ok) == 0 {
        output::note("nothing was named to be checked: see `fleet doctor --help`");
    }
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
}

impl Subject<'_> {
    /// What is found.
    ///
    /// # Errors
    /// When it takes longer than `limit`.
    async fn look(&self, limit: Duration) -> anyhow::Result<Report> {
        tokio::select! {
            biased;
            report = self.look_at_all() => report,
            () = SystemClock::default().sleep(limit) => {
                anyhow::bail!("the checks did not end within {limit:?}; check the network")
            }
        }
    }

    async fn look_at_all(&self) -> anyhow::Result<Report> {
        let place = self.place;
        let http = http_client(concat!("fleet/", env!("CARGO_PKG_VERSION")))?;
        let (mut credentials, known) = credentials::check(place, &http).await;
        let (oauth, client) = oauth::check(self.client, self.public_url, &http).await;
        let keyring = self.sealing.keyring(place).await;
        let token_uri = client.as_ref().map(|client| client.token_uri().to_owned());
        let records = Records {
            // One that cannot be read is told for itself.
            keyring_is_read: keyring.is_ok(),
            sealing: self.sealing.sealing_with(keyring.as_ref().ok().cloned().flatten()),
            // Of one that is refused it is told already that it is another one.
            client: client.filter(|_| !oauth.has_failed()),
            http: &http,
        };
        let clock = async {
            let all = self.depth == Depth::All;
            if all { Some(clock::check(place, token_uri.as_deref(), &http).await) } else { None }
        };
        let services = async {
            if !known {
                credentials
                    .skip("asked", "without them Cloud Storage and Pub/Sub were not looked at");
                return (None, Vec::new());
            }
            let bucket = bucket::check(place, self.bucket, &records, self.depth);
            let (bucket, pubsub) =
                tokio::join!(bucket, pubsub::check(place, self.names, self.depth));
            (Some(bucket), pubsub)
        };
        let ((bucket, pubsub), clock) = tokio::join!(services, clock);
        let keyring = told(keyring, place);
        let first = [credentials, keyring, oauth].into_iter();
        let all = first.chain(bucket).chain(pubsub).chain(clock);
        Ok(Report { findings: all.flat_map(|checks| checks.findings).collect() })
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

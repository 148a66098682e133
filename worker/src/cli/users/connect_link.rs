//! `fleet users connect-link`: what an application sends to a user whose jobs wait.

use crate::waiting::waiting;
use crate::web::connect_link;
use serde_json::json;
use shared::Error;
use url::Url;

use super::super::connect::StoredUserArgs;
use super::super::environment::Place;
use super::super::output::{self, Usage};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  fleet users connect-link 1097 --bucket my-tokens --public-url https://connect.example.com

The link opens the provider's consent page for this user, with the scopes that their parked
jobs need. It holds no secret, and whoever opens it can only connect an account of their own.")]
pub(super) struct Args {
    #[command(flatten)]
    of: StoredUserArgs,
    /// Where browsers reach `fleet web`
    #[arg(long, env = "FLEET_PUBLIC_URL", value_name = "URL")]
    public_url: String,
    /// Where to lead afterwards; `fleet web` has to allow its origin (--allow-return)
    #[arg(long = "return", value_name = "URL")]
    back: Option<Url>,
    /// The link and what waits, as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, place: &Place) -> anyhow::Result<()> {
    let Args { of: StoredUserArgs { user, store }, public_url, back, json } = args;
    let site: Url = public_url
        .parse()
        .map_err(|_| Usage(format!("--public-url {public_url:?} is no URL (FLEET_PUBLIC_URL)")))?;
    let connected = store.connect_to_look(place).await?;
    let held = match connected.store.read_record(&user).await {
        Ok(record) => record.scopes,
        Err(Error::NeedsConsent(_)) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let waiting = waiting(&*connected.bucket, &user, connected.store.sealing()).await?;
    let scopes = waiting.scopes(&held);
    let link = connect_link(&site, &user, &scopes, back.as_ref());
    if json {
        return output::json(&json!({
            "user": user.as_str(), "link": link.as_str(), "waiting_jobs": waiting.jobs,
            "scopes": scopes,
        }));
    }
    output::line(link.as_str())
}

//! `fleet profile`: who a stored user is.

use anyhow::Context as _;
use serde_json::Value;
use shared::profile::get_profile;

use super::connect::{JsonAnyway, StoredUserArgs, userinfo_url};
use super::environment::Place;
use super::output;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  fleet profile 109876543210987654321 --bucket my-tokens --client client.json"
)]
pub(crate) struct Args {
    #[command(flatten)]
    of: StoredUserArgs,
    #[command(flatten)]
    _json: JsonAnyway,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let place = Place::from_env()?;
    let url = userinfo_url()?;
    let connected = args.of.store.connect(&place).await?;
    let profile = get_profile(&connected.store, &connected.http, &url, &args.of.user).await;
    connected.finish().await;
    let profile =
        profile.with_context(|| format!("no profile of user {:?}", args.of.user.as_str()))?;
    output::json(&Value::Object(profile))
}

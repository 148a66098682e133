//! `fleet profile`: who a stored user is.

use anyhow::Context as _;
use serde_json::Value;
use shared::UserId;
use shared::profile::get_profile;

use super::connect::{Place, StoreArgs, user_id, userinfo_url};
use super::output;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  fleet profile 109876543210987654321 --bucket my-tokens --client client.json"
)]
pub(crate) struct Args {
    /// The stored user's ID
    #[arg(value_name = "USER_ID", value_parser = user_id)]
    user: UserId,
    #[command(flatten)]
    store: StoreArgs,
    /// The output is JSON in any case; accepted for scripts
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let place = Place::from_env()?;
    let url = userinfo_url()?;
    let connected = args.store.connect(&place).await?;
    let profile = get_profile(&connected.store, &connected.http, &url, &args.user).await;
    connected.finish().await;
    let profile =
        profile.with_context(|| format!("no profile of user {:?}", args.user.as_str()))?;
    output::json(&Value::Object(profile))
}

//! `fleet token`: a fresh access token, for scripts.

use anyhow::Context as _;
use serde_json::json;

use super::connect::StoredUserArgs;
use super::environment::Place;
use super::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  curl -H \"Authorization: Bearer $(fleet token 109876543210987654321)\" \\
      https://www.googleapis.com/drive/v3/files

The token is a secret: keep it out of logs and shell histories.")]
pub(crate) struct Args {
    #[command(flatten)]
    of: StoredUserArgs,
    /// An object with the token, its expiry and scopes
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let place = Place::from_env()?;
    let connected = args.of.store.connect(&place).await?;
    let credentials = connected.store.get_credentials(&args.of.user).await;
    connected.finish().await;
    let credentials =
        credentials.with_context(|| format!("no token of user {:?}", args.of.user.as_str()))?;
    connected.exports(&args.of.user);
    let token = credentials.access_token().expose();
    if args.json {
        return output::json(&json!({
            "access_token": token,
            "expires_at": credentials.expires_at(),
            "scopes": credentials.scopes(),
        }));
    }
    output::line(token)
}

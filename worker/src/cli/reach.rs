//! What `api` jobs may reach: the flags that the worker and those who publish for it share,
//! so that both come to the same rules.

use crate::kinds::{HostRules, OutputRules};
use clap::Args;

use super::output::Usage;

#[derive(Debug, Args)]
pub(crate) struct ReachArgs {
    /// A host that `api` jobs may reach besides Google's APIs (repeat, or separate by commas)
    #[arg(long, env = "FLEET_ALLOW_HOSTS", value_delimiter = ',', value_name = "HOST")]
    allow_host: Vec<String>,
    /// A bucket that `output` of `api` jobs may go to, never the token bucket (repeat,
    /// or separate by commas) [default: none]
    #[arg(long, env = "FLEET_ALLOW_BUCKETS", value_delimiter = ',', value_name = "BUCKET")]
    allow_bucket: Vec<String>,
}

impl ReachArgs {
    /// The rules, which keep jobs out of the token bucket where it is named.
    pub(crate) fn rules(
        &self,
        token_bucket: Option<&str>,
    ) -> Result<(HostRules, OutputRules), Usage> {
        let hosts = HostRules::new(named(&self.allow_host))
            .map_err(|e| Usage(format!("--allow-host: {e}")))?;
        let hosts = match token_bucket {
            Some(bucket) => hosts.without_bucket(bucket),
            None => hosts,
        };
        let outputs = OutputRules::new(named(&self.allow_bucket), token_bucket.unwrap_or_default())
            .map_err(|e| Usage(format!("--allow-bucket: {e}")))?;
        Ok((hosts, outputs))
    }
}

/// A comma too many names nothing.
fn named(entries: &[String]) -> impl Iterator<Item = &String> {
    entries.iter().filter(|entry| !entry.trim().is_empty())
}

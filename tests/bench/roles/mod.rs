//! What a process of this program does as a client.

mod bare;
mod hold;

use serde::{Deserialize, Serialize};

pub(crate) use hold::Resident;

/// A client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Role {
    /// A loop of the official client.
    Bare(Bare),
    /// A store that holds more and more users in memory.
    Hold { users: Vec<usize> },
}

/// How the loop works; where, the environment says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Bare {
    /// Jobs at once.
    pub(crate) slots: usize,
    /// The one token of every call.
    pub(crate) token: String,
    /// Where jobs of the kind `forwarded` are sent.
    pub(crate) handler: String,
}

/// What tells the APIs that answers may be compressed, as `fleet worker` does.
const USER_AGENT: &str = "fleet-bench (gzip)";

/// Plays it.
pub(crate) fn play(role: Role) -> anyhow::Result<()> {
    crate::runtime()?.block_on(async {
        match role {
            Role::Bare(bare) => bare::run(bare).await,
            Role::Hold { users } => hold::run(users).await,
        }
    })
}

/// A variable that the parent set.
fn variable(name: &str) -> anyhow::Result<String> {
    std::env::var(name).map_err(|_| anyhow::anyhow!("{name} is not set"))
}

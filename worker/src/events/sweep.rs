//! Publishes what stands untold: the topic did not take it, or the process that had to
//! publish it died.

use std::collections::{BTreeMap, HashSet};

use shared::UserId;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::claim::Sighting;

use super::object::{PREFIX, hints_at_need, hints_at_told, user_of};
use super::state::Occasion;
use super::telling::{EventError, Events, Told};

/// After so many users in a row at whom the topic or the bucket failed, the rest waits for the
/// next turn.
const MAX_FAILURES: u32 = 3;

/// What a sweep found and did.
#[derive(Debug, Default)]
pub struct Swept {
    /// Events that were published.
    pub told: u64,
    /// Events that are still to be published.
    pub untold: u64,
    /// Users of whom it was told that they are needed, as far as the listing says.
    pub needed: HashSet<UserId>,
}

impl Events {
    /// Goes through `events/` once. Objects whose hints say that they are told are not read.
    /// `held` is what this process remembers of others' claims.
    ///
    /// # Errors
    /// [`EventError`] when the names cannot be listed; of what could not be told it is said
    /// how much there is.
    pub async fn sweep(
        &self,
        held: &mut BTreeMap<UserId, Sighting>,
        stop: &CancellationToken,
    ) -> Result<Swept, EventError> {
        let (bucket, mut swept) = (self.store.bucket(), Swept::default());
        let (mut page, mut failures) = (None, 0);
        loop {
            let listing = bucket.list(PREFIX, page).await?;
            for (name, _) in &listing.objects {
                let Some(user) = user_of(name) else {
                    warn!(object = name, "this is not the name of what was told of a user");
                    continue;
                };
                let hints = listing.hints.get(name);
                if hints_at_told(hints) {
                    if hints_at_need(hints) {
                        swept.needed.insert(user);
                    }
                    continue;
                }
                if stop.is_cancelled() {
                    return Ok(swept);
                }
                if failures >= MAX_FAILURES {
                    swept.untold += 1;
                    continue;
                }
                match self.tell_untold(&user, held).await {
                    Ok(told) => {
                        failures = 0;
                        match told {
                            Told::Published => swept.told += 1,
                            Told::Held(_) => swept.untold += 1,
                            Told::Nothing => {}
                        }
                    }
                    Err(why) => {
                        swept.untold += 1;
                        failures += u32::from(why.concerns_everybody());
                        warn!(user = %user.digest(), "a change of consent stays untold: {why}");
                    }
                }
            }
            page = listing.next_page;
            if page.is_none() {
                return Ok(swept);
            }
        }
    }

    /// Tells what stands untold of one user.
    ///
    /// # Errors
    /// [`EventError`].
    pub async fn tell_untold(
        &self,
        user: &UserId,
        held: &mut BTreeMap<UserId, Sighting>,
    ) -> Result<Told, EventError> {
        let told = self.tell(user, &Occasion::Untold, held.remove(user)).await?;
        if let Told::Held(sighting) = told {
            held.insert(user.clone(), sighting);
        }
        Ok(told)
    }
}

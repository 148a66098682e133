//! The answer of the provider, pasted by the person.

use shared::consent::{Callback, CallbackError, Consent, Outcome, Started, oauth_callback};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use url::Url;

use super::super::output::{self, Usage};

/// Shows the address and takes what is pasted. What is no answer is asked for again, since
/// nothing has been spent.
pub(super) async fn ask(
    consent: &Consent,
    started: &Started,
    address: &Url,
) -> anyhow::Result<Outcome> {
    output::note(format!(
        "Open this address in a browser, on any computer, and consent:\n\n    {}\n\n\
         The browser then goes to an address that begins with {address}, which shows an\n\
         error: that is expected. Copy that whole address and paste it here (or its code):",
        started.url
    ));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        let Some(line) = lines.next_line().await? else {
            return Err(Usage("nothing was pasted; nothing was changed".to_owned()).into());
        };
        if line.trim().is_empty() {
            continue;
        }
        match oauth_callback(consent, Some(&started.pending), Callback::Pasted(&line)).await {
            Err(CallbackError::Malformed(what)) => {
                output::note(format!("That is no answer of the provider: {what}. Paste it again:"));
            }
            Err(CallbackError::NotYours | CallbackError::WrongRedirect) => {
                output::note(
                    "That is the answer to another sign-in. Open the address above and paste what comes of it:",
                );
            }
            other => return Ok(other?),
        }
    }
}

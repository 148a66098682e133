//! The answer of the provider, pasted by the person.

use std::time::Duration;

use shared::consent::{Callback, CallbackError, Consent, Outcome, Started, oauth_callback};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin};
use url::Url;

use super::super::output::{self, Usage};

/// The lines of one paste follow each other within this time.
const PASTE: Duration = Duration::from_millis(100);
/// No paste is longer; a pipe may go on for ever.
const LONGEST: usize = 16 * 1024;

/// Where a person pastes. One for all rounds of a login: a read that is given up goes on, and
/// would take the next round's line.
pub(super) struct Keyboard(Lines<BufReader<Stdin>>);

impl Keyboard {
    pub(super) fn new() -> Self {
        Self(BufReader::new(tokio::io::stdin()).lines())
    }

    /// A line, and what arrives along with it: what a person copies may have been wrapped, and
    /// the first line alone would spend the login with half a code. `None` at the end.
    async fn pasted(&mut self) -> std::io::Result<Option<String>> {
        let Some(mut text) = self.0.next_line().await? else { return Ok(None) };
        while text.len() < LONGEST {
            let more = tokio::time::timeout(PASTE, self.0.next_line()).await;
            let Some(more) = more.unwrap_or(Ok(None))? else { break };
            text.push('\n');
            text.push_str(&more);
        }
        Ok(Some(text))
    }
}

/// Shows the address and takes what is pasted. What is no answer is asked for again, since
/// nothing has been spent.
pub(super) async fn ask(
    keyboard: &mut Keyboard,
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
    loop {
        let Some(text) = keyboard.pasted().await? else {
            return Err(Usage("nothing was pasted; nothing was changed".to_owned()).into());
        };
        if text.trim().is_empty() {
            continue;
        }
        match oauth_callback(consent, Some(&started.pending), Callback::Pasted(&text)).await {
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

//! Which jobs are redriven, how, and what became of them.

use clap::ValueEnum;
use serde_json::{Value, json};

use super::letter::Letter;

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct HowArgs {
    /// Job topic: an ID or a full name
    #[arg(long, env = "FLEET_TOPIC")]
    pub(super) topic: String,
    /// Show what would go on, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(super) yes: bool,
    /// Also what is no job, and what was redriven several times before
    #[arg(long)]
    pub(super) force: bool,
    /// Publish without ordering key: jobs of one user may overtake each other
    #[arg(long)]
    pub(super) unordered: bool,
    /// Also jobs that have acted, or may have: `unrecorded` takes those that never ended here
    /// and nothing else, `any` does all of them again, as a new run
    #[arg(long, value_enum)]
    pub(super) effect: Option<Effects>,
    /// At most so many [default: all]
    #[arg(long)]
    pub(super) limit: Option<usize>,
    /// The counts as JSON; with --dry-run one JSON object per line
    #[arg(long)]
    pub(super) json: bool,
}

/// Which jobs that may have acted are meant besides those that may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Effects {
    /// Only those that never ended here
    Unrecorded,
    /// All
    Any,
}

/// What became of them.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) redriven: usize,
    pub(super) skipped: usize,
    /// They have acted, or may have, and must not be repeated.
    pub(super) spent: usize,
    /// They never ended here, so whether they have acted is not known.
    pub(super) unrecorded: usize,
    pub(super) failed: usize,
    /// Gone before their turn: somebody else was faster.
    pub(super) gone: usize,
}

impl Counts {
    pub(super) fn seen(&self) -> usize {
        self.redriven + self.failed + self.gone
    }

    pub(super) fn to_json(&self, left: usize) -> Value {
        json!({
            "redriven": self.redriven,
            "skipped": self.skipped,
            "spent": self.spent,
            "unrecorded": self.unrecorded,
            "failed": self.failed,
            "gone": self.gone,
            "left": left,
        })
    }
}

/// Whether a job is redriven.
pub(super) enum Judged {
    /// It is.
    Meant,
    /// It is left where it is, and counted.
    Counted,
    /// It is left where it is, and named with this reason.
    Named(String),
}

impl HowArgs {
    pub(super) fn judge(&self, letter: &Letter, counts: &mut Counts) -> Judged {
        let never_ended = letter.known.is_none();
        match self.effect {
            None if letter.is_spent() => {
                counts.spent += 1;
                return Judged::Counted;
            }
            None if never_ended => {
                counts.unrecorded += 1;
                return Judged::Counted;
            }
            Some(Effects::Unrecorded) if !never_ended => return Judged::Counted,
            _ => {}
        }
        let why = match letter.doubt() {
            Some(why) if !self.force => format!("{why}; --force"),
            _ if letter.is_sealed => {
                "its message is sealed; name the keyring (--keyring)".to_owned()
            }
            _ if letter.has_no_room => {
                "its message has no room for what makes it the same job".to_owned()
            }
            _ => return Judged::Meant,
        };
        counts.skipped += 1;
        Judged::Named(why)
    }

    /// The run in which a job is done again: another one where what it did is repeated.
    pub(super) fn run(&self, letter: &Letter) -> u32 {
        let repeats = self.effect == Some(Effects::Any);
        let acted = letter.known.is_none() || letter.is_spent();
        if repeats && acted { letter.run.saturating_add(1) } else { letter.run }
    }
}

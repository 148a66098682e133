//! What one check explores: the job, the faults, and the safeguard that is missing, if any.

use worker::effect::Knowledge;
use worker::settlement::{Cut, Ran};

/// A safeguard that is taken away, outside the production code: by answering a machine with
/// something else than what happened, or by carrying out something else than it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// The message is acknowledged before its end is written.
    AcknowledgeFirst,
    /// A spent job whose end is not taken goes back.
    NackWhenSpent,
    /// The end is remembered after the message was acknowledged.
    RememberAfterAcknowledging,
    /// A rejected job that did nothing is remembered.
    RememberNone,
    /// A rejected job that may be repeated is remembered.
    RememberRepeatable,
    /// A replica goes on receiving and beginning while its ends are not taken.
    NoPause,
    /// Received jobs begin while an end is unwritten; only the intake pauses.
    StartWhileUnwritten,
    /// Dead letters do not say what is known of the effect.
    LetterWithoutEffect,
    /// The publisher's attributes have room in a dead letter before ours.
    EffectTrimmedAway,
    /// Whoever parked a job whose credential moved takes it back and runs it.
    ParkerIgnoresTheClaim,
    /// Whoever does not hear whether a job is parked does not look.
    ParkerReadsNothingBack,
    /// Parked jobs are published before their claim is written.
    PublishBeforeClaiming,
    /// A resumer does not note what it has published and could not delete.
    ResumerNotesNothing,
    /// A resumer does not look again after it released the claim.
    NoSecondListing,
    /// Stored ends are written without claiming them.
    OutboxWithoutClaim,
    /// A process does not go on writing a stored end's object after one failure.
    OutboxGivesUp,
    /// At the end of a replica's time unwritten ends go back instead of to the outbox.
    NackAtTheEnd,
    /// The bucket that does not keep an end stops nobody.
    UnkeptEndsStopNobody,
    /// The intake stays paused when the bucket says again what it remembers.
    BlindForEver,
    /// The bucket counts as taking ends again when it said what it remembers.
    RecallOpensForWrites,
}

/// Where ends are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dedupe {
    /// Nowhere.
    Off,
    /// In each replica.
    Memory,
    /// In the bucket.
    Bucket,
}

/// What can be out of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A process dies.
    Crash,
    /// A message's lease lapses while its replica works on.
    Lapse,
    /// An acknowledgement is lost.
    LostAck,
    /// The bucket or a topic does not take one thing.
    Once,
    /// The bucket or a topic takes nothing until it comes back.
    Down,
    /// The bucket takes a write and its answer is lost.
    LostAnswer,
    /// A replica is asked to end, and later its time is over.
    Drain,
}

/// What ends are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Place {
    /// The bucket.
    Bucket = 1,
    /// The dead topic.
    Dead = 2,
    /// The outcomes topic.
    Outcomes = 4,
}

/// One check.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How the check is called where it is reported.
    pub name: &'static str,
    /// Replicas.
    pub replicas: usize,
    /// How many deliveries a replica has in hand at most.
    pub hands: usize,
    /// What the job's runs come to, in their order; the last one repeats.
    pub script: &'static [(Ran, Knowledge)],
    /// The user has consented from the start.
    pub active: bool,
    /// Where ends are remembered.
    pub dedupe: Dedupe,
    /// Outcomes are published.
    pub outcomes: bool,
    /// How often the job was published.
    pub copies: u8,
    /// The subscription permits no further attempt.
    pub last_attempt: bool,
    /// How many attributes the publisher set.
    pub attributes: usize,
    /// A topic refuses this very message; with what cut it takes it, if with any.
    pub refuses: Option<(Place, Option<Cut>)>,
    /// How many faults there are.
    pub faults: u8,
    /// Which ones.
    pub kinds: &'static [Fault],
    /// How many dead letters are redriven.
    pub redrives: u8,
    /// What is missing.
    pub mutant: Option<Mutant>,
}

impl Setup {
    /// Two replicas with one delivery each, outcomes, and one fault of any kind.
    pub fn new(name: &'static str, script: &'static [(Ran, Knowledge)]) -> Self {
        use Fault::{Crash, Down, Drain, Lapse, LostAck, LostAnswer, Once};
        Self {
            name,
            replicas: 2,
            hands: 1,
            script,
            active: true,
            dedupe: Dedupe::Off,
            outcomes: true,
            copies: 1,
            last_attempt: false,
            attributes: 1,
            refuses: None,
            faults: 1,
            kinds: &[Crash, Lapse, LostAck, Once, Down, LostAnswer, Drain],
            redrives: 0,
            mutant: None,
        }
    }

    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    pub(super) fn may(&self, kind: Fault) -> bool {
        self.kinds.contains(&kind)
    }
}

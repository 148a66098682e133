//! What is measured.

mod expiry;
mod footprint;
mod forward;
mod limit;
mod scaling;
mod throughput;
mod unguarded;

use crate::measure::Samples;
use crate::report::{Report, Row};

/// A group of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Section {
    /// What the embedded Pub/Sub emulator itself can do
    Limit,
    /// Jobs per second and processor time per job, beside bare loops
    Throughput,
    /// Jobs that an HTTP handler does, beside a bare loop that calls it
    Forward,
    /// Beside sharing credentials without a guard, in Rust and in Python
    Unguarded,
    /// 10,000 users whose tokens expire in the same minute
    Expiry,
    /// 1 to 16 replicas; storage requests per refresh for 1 to 64
    Scaling,
    /// Size, memory, start, idling
    Footprint,
}

impl Section {
    pub(crate) fn all() -> Vec<Self> {
        <Self as clap::ValueEnum>::value_variants().to_vec()
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Limit => "what the embedded emulator can do",
            Self::Throughput => "throughput beside bare loops",
            Self::Forward => "forwarded jobs beside a bare loop",
            Self::Unguarded => "beside the unguarded way (about six minutes)",
            Self::Expiry => "mass expiry (about five minutes)",
            Self::Scaling => "scaling",
            Self::Footprint => "footprint",
        }
    }

    pub(crate) async fn run(self, runs: u16, report: &mut Report) -> anyhow::Result<()> {
        match self {
            Self::Limit => limit::run(runs, report).await,
            Self::Throughput => throughput::run(runs, report).await,
            Self::Forward => forward::run(runs, report).await,
            Self::Unguarded => unguarded::run(runs, report).await,
            Self::Expiry => expiry::run(report).await,
            Self::Scaling => scaling::run(runs, report).await,
            Self::Footprint => footprint::run(runs, report).await,
        }
    }
}

/// Our figures beside a reference's, pair by pair.
#[derive(Debug, Default)]
struct Pairs {
    ours: Samples,
    reference: Samples,
    ratio: Samples,
}

impl Pairs {
    fn push(&mut self, ours: f64, reference: f64) {
        self.ours.push(ours);
        self.reference.push(reference);
        self.ratio.push(ours / reference);
    }

    fn row(
        self,
        what: impl Into<String>,
        unit: &'static str,
        reference: impl Into<String>,
        aim: Option<(&str, bool)>,
    ) -> Row {
        Row {
            what: what.into(),
            unit,
            ours: self.ours,
            reference: Some((reference.into(), self.reference)),
            ratio: Some(self.ratio),
            aim: aim.map(|(aim, reached)| (aim.to_owned(), reached)),
        }
    }
}

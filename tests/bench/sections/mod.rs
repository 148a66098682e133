//! What is measured.

mod cold;
mod jobs;
mod large;
mod pod;
mod stalled;
mod sweep;

use crate::contender::Tools;
use crate::report::Report;

/// A group of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Section {
    /// Calls of 0, 20 and 100 ms, lists in pages, uploads and forwarded jobs, beside others
    Jobs,
    /// Calls while the uploads of other jobs stall
    Stalled,
    /// First calls: of a process, of a job, of users whose tokens have expired
    Cold,
    /// Calls of 20, 100 and 300 ms at several `--concurrency`, in the size of a worker's pod
    Pod,
    /// 20,000 parked jobs go on
    Sweep,
    /// 1,000,000 records, 100,000 users in memory, 1,000 replicas
    Large,
}

impl Section {
    pub(crate) fn all() -> Vec<Self> {
        <Self as clap::ValueEnum>::value_variants().to_vec()
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Jobs => "jobs, beside others (most of the time)",
            Self::Stalled => "beside stalled uploads",
            Self::Cold => "cold starts",
            Self::Pod => "in a pod of the manifests' size",
            Self::Sweep => "parked jobs",
            Self::Large => "large fleets",
        }
    }

    pub(crate) async fn run(
        self,
        runs: u16,
        tools: &Tools,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        match self {
            Self::Jobs => jobs::run(runs, tools, report).await,
            Self::Stalled => stalled::run(runs, tools, report).await,
            Self::Cold => cold::run(runs, tools, report).await,
            Self::Pod => pod::run(runs, tools, report).await,
            Self::Sweep => sweep::run(tools, report).await,
            Self::Large => large::run(tools, report).await,
        }
    }
}

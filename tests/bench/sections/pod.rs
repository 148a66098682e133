//! How many slots fit a pod of the manifests' size: from this `--concurrency` has its default.

use std::time::Duration;

use anyhow::Context as _;
use emulators::google;

use super::jobs::{DETAIL_RUNS, Kind, Match, Runs, USERS, one};
use crate::contender::{Contender, Tools};
use crate::ground::Ground;
use crate::pod::Pod;
use crate::report::{Figure, Report, Row};

const CALLS: [u64; 3] = [20, 100, 300];
const SLOTS: [usize; 5] = [16, 64, 128, 256, 512];
/// Nothing is forwarded.
const HANDLER: &str = "http://127.0.0.1:9/";

pub(super) async fn run(runs: u16, tools: &Tools, report: &mut Report) -> anyhow::Result<()> {
    let pod = match Pod::new() {
        Ok(pod) => pod,
        Err(why) => {
            crate::say(&format!("left out, for control groups take root: {why:#}"));
            return Ok(());
        }
    };
    let mut ground = Ground::start(google::Config::default()).await?;
    ground.users(USERS, Duration::ZERO).await?;
    for wait in CALLS {
        for slots in SLOTS {
            let measured = Match { kind: Kind::Call(wait), slots, is_detail: true };
            let mut all = Runs::default();
            for _ in 0..runs.min(DETAIL_RUNS) {
                let did =
                    one(&mut ground, tools, Contender::Fleet, &measured, (HANDLER, Some(&pod)));
                all.push(did.await.with_context(|| format!("{wait} ms, {slots} slots"))?);
            }
            let what = format!("half a processor, 512 MiB: calls of {wait} ms, {slots} slots");
            let figures = [
                Figure::new("/s", all.rate),
                Figure::new("µs", all.cpu),
                Figure::new("MB", all.memory),
            ];
            report.add(Row { is_detail: true, ..Row::ours(what, figures) });
        }
    }
    Ok(())
}

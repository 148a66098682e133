//! What the embedded emulator can do: messages published before, acknowledged over one
//! StreamingPull by a client that does nothing else.

use crate::child;
use crate::ground::Ground;
use crate::measure::Samples;
use crate::report::{Report, Row};
use crate::roles::Role;

const MESSAGES: usize = 100_000;
const OUTSTANDING: usize = 10_000;
const AIM: f64 = 20_000.0;

pub(super) async fn run(runs: u16, report: &mut Report) -> anyhow::Result<()> {
    let mut ground = Ground::embedded().await?;
    let mut rate = Samples::default();
    for _ in 0..runs {
        let place = ground.backlog("nothing", MESSAGES, 1000).await?;
        let jobs = MESSAGES as u64;
        let role = Role::Raw { place: place.clone(), jobs, outstanding: OUTSTANDING };
        rate.push(child::run(&role).await?.rate());
        ground.acknowledged(&place, jobs)?;
    }
    let reached = rate.median() >= AIM;
    report.add(Row {
        what: "the embedded Pub/Sub emulator: acknowledged through one StreamingPull".into(),
        unit: "messages/s",
        ours: rate,
        reference: None,
        ratio: None,
        aim: Some(("≥ 20,000".into(), reached)),
    });
    Ok(())
}

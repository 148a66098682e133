//! No job takes the worker's memory, and none is lost for want of it.

use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::report;
use tests::stage::Worker;
use worker::kinds::{BODY_MEMORY, MIN_BODY_MEMORY};

use super::server::{answer, json as json_answer};
use super::{EXPORTS, Scene, call};

const MIB: usize = 1024 * 1024;

/// Held by the tests here: what one needs of the machine is not the other's to measure.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The most memory that the process had at any time, in MiB.
fn peak(worker: &Worker) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id().unwrap()));
    let status = status.unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
}

/// Each job for a user of its own, so that all may run at once.
fn of_users(jobs: impl IntoIterator<Item = String>) -> Vec<String> {
    let of =
        |(n, job): (usize, String)| job.replace("\"user\":\"ann\"", &format!("\"user\":\"u{n}\""));
    jobs.into_iter().enumerate().map(of).collect()
}

async fn with_users(count: usize) -> anyhow::Result<Scene> {
    let scene = Scene::set().await?;
    for n in 0..count {
        scene.stage.write_user(&format!("u{n}"), Duration::from_secs(3600)).await?;
    }
    Ok(scene)
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// Pages of 10 MiB, uploads and gzip bombs, 64 of each at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_of_all_jobs_together_are_bounded() -> anyhow::Result<()> {
    const EACH: usize = 64;
    let _alone = ALONE.lock().await;
    let scene = with_users(3 * EACH).await?;
    scene.stage.cloud.embedded.as_ref().unwrap().1.keep_up_to(1024);
    let element = format!("\"{}\"", "x".repeat(1000));
    let page = format!("{{\"a\": [{}]}}", vec![element; 10 * MIB / 1003].join(","));
    scene.api.at("/page", [json_answer(&page)]);
    scene.api.at("/upload", [answer("200", "", vec![b'x'; 10 * MIB])]);
    let zeros = format!("{{\"a\": [{}0]}}", "0,".repeat(2_000_000));
    let bomb = gzip(zeros.as_bytes());
    assert!(bomb.len() < 20_000, "{}", bomb.len());
    let bomb = answer("200", "content-encoding: gzip\r\ncontent-type: application/json\r\n", bomb);
    scene.api.at("/bomb", [bomb]);
    let to = |id: &str| format!("gs://{EXPORTS}/{id}");
    let jobs = of_users((0..EACH).flat_map(|n| {
        let id = |kind: &str| format!("{kind}-{n}");
        let page = id("page");
        let upload = id("upload");
        [
            call(&page, "/page", &json!({"paginate": true, "output": to(&page)})),
            call(&upload, "/upload", &json!({"output": to(&upload)})),
            call(&id("bomb"), "/bomb", &json!({"paginate": true})),
        ]
    }));
    let mut inbox = scene.stage.inbox("outcomes").await?;
    let mut worker = scene.stage.worker(&["--concurrency", "192"]).await?;
    scene.publish(jobs.iter().cloned().map(Into::into)).await?;
    let told = inbox.outcomes(jobs.len()).await?;
    let most = peak(&worker);
    report::say(format!("{} jobs with large bodies at once: at most {most} MiB", jobs.len()));
    for (id, outcome) in &told {
        let ended = if id.starts_with("bomb") { "rejected" } else { "done" };
        assert_eq!(outcome["status"], ended, "{outcome}");
    }
    assert!(most < 400, "{most} MiB");
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}

/// Jobs that have not enough memory together wait for each other and all end; none is sent
/// twice, and they get on nearly as fast as jobs that do not wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_jobs_end_with_the_least_memory() -> anyhow::Result<()> {
    const JOBS: usize = 200;
    /// As many pairs as it takes until the medians are far enough from what the machine does
    /// besides.
    const PAIRS: [usize; 2] = [3, 9];
    let _alone = ALONE.lock().await;
    let scene = with_users(JOBS).await?;
    scene.stage.cloud.embedded.as_ref().unwrap().1.keep_up_to(1024);
    scene.api.at("/post", [json_answer("{\"a\": 1.0}")]);
    scene.api.at("/object", [answer("200", "", vec![b'x'; MIB])]);
    // The first run fetches every user's token; it is not compared.
    seconds(&scene, "first", JOBS, BODY_MEMORY).await?;
    // In turns, and by their medians: whatever else the machine does falls upon both alike.
    let (mut much, mut little, mut ratio) = (Vec::new(), Vec::new(), 0.0);
    while much.len() < PAIRS[0] || (ratio < 0.6 && much.len() < PAIRS[1]) {
        let pair = much.len();
        much.push(seconds(&scene, &format!("much-{pair}"), JOBS, BODY_MEMORY).await?);
        little.push(seconds(&scene, &format!("little-{pair}"), JOBS, MIN_BODY_MEMORY).await?);
        ratio = median(&much) / median(&little);
    }
    let posts = (1 + 2 * much.len()) * JOBS * 3 / 4;
    assert_eq!(scene.api.sent_to("/post").len(), posts, "no POST was sent twice");
    report::say(format!(
        "{JOBS} jobs: {much:.2?} s with 128 MiB, {little:.2?} s with 8 MiB, {ratio:.2} of the throughput"
    ));
    assert!(ratio >= 0.6, "{ratio:.2} of the throughput");
    let refused = scene.stage.fleet(&["worker", "--body-memory", "1000"]).await?;
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("--body-memory"), "{}", refused.stderr);
    Ok(())
}

/// How long a replica with so much memory for bodies takes for so many jobs, of which a
/// quarter writes an object of 1 MiB and the others post a body of 50 KB.
async fn seconds(scene: &Scene, run: &str, count: usize, memory: usize) -> anyhow::Result<f64> {
    let body = json!({"text": "x".repeat(50_000)});
    let jobs = of_users((0..count).map(|n| match n % 4 {
        0 => {
            let output = format!("gs://{EXPORTS}/{run}-{n}");
            call(&format!("{run}-{n}"), "/object", &json!({"output": output}))
        }
        _ => call(&format!("{run}-{n}"), "/post", &json!({"method": "POST", "body": body})),
    }));
    let mut inbox = scene.stage.inbox("outcomes").await?;
    let memory = memory.to_string();
    let flags = ["--body-memory", &memory, "--concurrency", "200"];
    let mut worker = scene.stage.worker(&flags).await?;
    let began = now();
    scene.publish(jobs.into_iter().map(Into::into)).await?;
    let told = inbox.outcomes(count).await?;
    let took = now().duration_since(began).as_secs_f64();
    assert!(told.values().all(|outcome| outcome["status"] == "done"), "{told:?}");
    assert_eq!(worker.terminate().await?, 0);
    Ok(took)
}

fn median(of: &[f64]) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[of.len() / 2]
}

#[expect(clippy::disallowed_methods, reason = "what a real process takes is measured")]
fn now() -> Instant {
    Instant::now()
}

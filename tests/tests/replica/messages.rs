//! Whatever arrives is ended with a reason.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tests::memory::QueueSettings;
use tests::report;
use worker::Job;
use worker::job::Malformed;

use crate::house::{House, Notebook, job};

const SEED: u64 = 4;

/// JSON that looks like a job more or less.
fn almost_a_job(random: &mut StdRng) -> Vec<u8> {
    let word = |random: &mut StdRng| -> Value {
        match random.random_range(0..30) {
            0 => Value::Null,
            1 => json!(random.random::<i64>()),
            2 => json!([1, {"a": null}]),
            3 => json!({}),
            4 => json!(""),
            5 => json!("x".repeat(random.random_range(0..3000))),
            6 => json!("\u{0}\u{1b}[31m\u{202e}\n"),
            7 => json!("../../tokens/ann"),
            _ => json!(format!("w{}", random.random_range(0..100))),
        }
    };
    let mut object = serde_json::Map::new();
    for field in ["id", "user", "kind", "params", "idempotent", "x", "User"] {
        let present = if field.len() > 6 || field == "x" || field == "User" { 1 } else { 9 };
        if random.random_range(0..10) < present {
            let value = match word(random) {
                Value::String(text) if field == "params" => json!({ text: 1 }),
                other => other,
            };
            object.insert(field.to_owned(), value);
        }
    }
    let mut data = Value::Object(object).to_string().into_bytes();
    match random.random_range(0..8) {
        0 => data.truncate(random.random_range(0..=data.len())),
        1 if !data.is_empty() => {
            let at = random.random_range(0..data.len());
            data[at] = random.random();
        }
        2 => data = (0..random.random_range(0..200)).map(|_| random.random()).collect(),
        3 => data = vec![b'['; random.random_range(0..5000)],
        _ => {}
    }
    data
}

#[test]
fn a_hundred_thousand_generated_messages_are_read_or_refused() {
    let mut random = StdRng::seed_from_u64(SEED);
    let (mut jobs, mut refused) = (0, 0);
    for n in 0..100_000 {
        match Job::decode(&almost_a_job(&mut random), &format!("m{n}")) {
            Ok(job) => {
                jobs += 1;
                assert!(!job.kind.is_empty() && !job.id.is_empty());
                assert!(job.id.len() <= worker::job::MAX_JOB_ID_BYTES);
            }
            Err(Malformed(why)) => {
                refused += 1;
                assert!(!why.is_empty() && why.len() < 1000, "{why}");
                assert!(!why.contains(char::is_control), "{why:?} would spoil a log");
            }
        }
    }
    report::say(format!("100000 generated messages: {jobs} jobs, {refused} refused, no panic"));
    assert!(jobs > 10_000 && refused > 10_000, "{jobs} jobs and {refused} refused");
}

#[tokio::test(start_paused = true)]
async fn two_thousand_malformed_messages_end_with_a_reason_and_stop_nobody() {
    let house = House::new(QueueSettings::default());
    house.fleet.user("ann").await;
    let mut random = StdRng::seed_from_u64(SEED);
    let mut malformed = 0;
    while malformed < 2000 {
        let data = almost_a_job(&mut random);
        if Job::decode(&data, "m").is_ok() {
            continue;
        }
        malformed += 1;
        let key = ["", "ann", "somebody"][random.random_range(0..3)];
        house.jobs.publish_raw(data, key);
        if malformed % 100 == 0 {
            house.jobs.publish(&job(&format!("good-{malformed}"), "ann", "k"), "ann");
        }
    }
    // A job under somebody else's ordering key would act as the wrong person.
    house.jobs.publish(&job("foreign", "ann", "k"), "bob");
    let notebook = Notebook::default();
    let replica = house.start("a", notebook.clone(), |b| b);
    house.jobs.drained().await;
    assert_eq!(notebook.ids().len(), 20, "every good one ran");
    assert_eq!(house.jobs.deliveries(), 2021, "nothing went round");
    let dead = house.dead.take();
    assert_eq!(dead.len(), 2001);
    for message in dead {
        let reason = &message.attributes["reason"];
        assert!(reason.starts_with("malformed job: "), "{reason}");
        assert!(!message.attributes["message_id"].is_empty());
    }
    let statuses = house.statuses();
    assert_eq!((statuses["rejected"], statuses["done"]), (2001, 20));
    replica.end().await;
}

//! Ends that no topic takes.

use worker::outbox::{StoredEnding, Writable};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_job_whose_outcome_no_topic_takes_acts_once_and_is_told_later() {
    let house = house().await;
    house.outcomes.close();
    let script = Script::of(|_| posted());
    let replica = house.start("a", script.clone(), |b| b);
    house.jobs.publish(&job("first", "ann", "k"), "");
    pass(MINUTE).await;
    house.jobs.publish(&job("second", "bob", "k"), "");
    pass(MINUTE).await;
    assert_eq!((runs(&script), house.jobs.deliveries(), house.jobs.acknowledged()), (1, 1, 0));
    let why = replica.ready.check().unwrap_err();
    assert!(why.contains("outcomes takes no messages"), "{why}");
    house.outcomes.open();
    house.jobs.drained().await;
    assert_eq!((runs(&script), house.jobs.deliveries()), (2, 2), "each acted once");
    assert_eq!(house.statuses()["done"], 2);
    pass(2 * SECOND).await;
    assert_eq!(replica.ready.check(), Ok(()));
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_received_before_the_trouble_does_not_begin_in_it() {
    let house = house().await;
    house.outcomes.close();
    let script = Script::of(|_| posted());
    let replica = house.start("a", script.clone(), |b| b);
    for n in 0..10 {
        house.jobs.publish(&job(&format!("{n}"), "ann", "k"), "");
    }
    pass(MINUTE).await;
    assert_eq!(runs(&script), 1, "one end is unwritten, so nothing else begins");
    house.outcomes.open();
    house.jobs.drained().await;
    assert_eq!((runs(&script), house.jobs.deliveries()), (10, 10));
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_spent_job_without_a_dead_topic_is_held_until_it_can_be_told() {
    let house = house().await;
    house.dead.close();
    let script = Script::of(|_| lost());
    let replica = house.start("a", script.clone(), |b| b);
    house.jobs.publish(&job("j", "ann", "k"), "ann");
    pass(10 * MINUTE).await;
    assert_eq!((runs(&script), house.jobs.acknowledged()), (1, 0));
    assert!(replica.ready.check().is_err());
    house.dead.open();
    house.jobs.drained().await;
    let letter = house.dead.take().remove(0);
    assert_eq!(
        (&*letter.attributes["effect"], &*letter.attributes["repeatable"]),
        ("unknown", "false")
    );
    let outcome = &house.outcomes.outcomes()[0];
    assert_eq!((&outcome["status"], &outcome["effect"]), (&json!("rejected"), &json!("unknown")));
    assert_eq!(runs(&script), 1);
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_end_that_waits_too_long_goes_to_the_outbox_and_from_there_to_its_topics() {
    let house = house().await;
    house.dead.close();
    let script = Script::of(|job| if job.id == "lost" { lost() } else { posted() });
    let replica = house.start("a", script.clone(), |b| b);
    house.jobs.publish(&job("lost", "ann", "k"), "");
    pass(17 * MINUTE).await;
    assert_eq!(house.jobs.acknowledged(), 1, "the bucket has its end");
    let kept = house.fleet.bucket.list("endings/", None).await.unwrap().objects;
    assert_eq!(kept.len(), 1, "{kept:?}");
    house.jobs.publish(&job("next", "bob", "k"), "");
    pass(5 * MINUTE).await;
    assert_eq!(runs(&script), 1, "nothing is received while the topic takes nothing");
    house.dead.open();
    house.jobs.drained().await;
    pass(MINUTE).await;
    assert_eq!(runs(&script), 2);
    assert_eq!(house.dead.take().len(), 1);
    let mut told: Vec<_> = house.outcomes.outcomes().iter().map(|o| o["job"].clone()).collect();
    told.sort_by_key(Value::to_string);
    assert_eq!(told, ["lost", "next"]);
    pass(2 * MINUTE).await;
    assert!(house.fleet.bucket.list("endings/", None).await.unwrap().objects.is_empty());
    replica.end().await;
}

fn refusal(topic: &str) -> PublishError {
    PublishError::Refused {
        topic: topic.to_owned(),
        why: "INVALID_ARGUMENT".to_owned(),
        source: Arc::from(Box::<dyn std::error::Error + Send + Sync>::from("schema")),
    }
}

/// Refuses outcomes that hold `what`, as a schema may.
fn refuse(house: &House, what: &'static str) {
    house.outcomes.refuse(move |message| {
        let holds = message.data.windows(what.len()).any(|part| part == what.as_bytes());
        holds.then(|| refusal("outcomes"))
    });
}

/// The stored ends, oldest names first.
async fn kept(house: &House) -> Vec<StoredEnding> {
    let bucket = &house.fleet.bucket;
    let mut endings = Vec::new();
    for (name, _) in bucket.list("endings/", None).await.unwrap().objects {
        let object = bucket.get(&name).await.unwrap().unwrap();
        let ending = StoredEnding::decode(&name, &object.content, &Sealing::default());
        endings.push(ending.unwrap());
    }
    endings
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_is_refused_for_itself_leaves_the_outcome_whole() {
    for outcomes_are_down in [false, true] {
        let house = house().await;
        house.dead.refuse(|_| Some(refusal("dead")));
        if outcomes_are_down {
            house.outcomes.close();
        }
        let script = Script::of(|_| lost());
        let replica = house.start("a", script.clone(), |b| b);
        house.jobs.publish(&job("j", "ann", "k"), "");
        house.jobs.drained().await;
        house.outcomes.open();
        pass(5 * MINUTE).await;
        let outcome = house.outcomes.outcomes().remove(0);
        assert_eq!((&outcome["job"], &outcome["attempt"]), (&json!("j"), &json!(1)), "{outcome}");
        let kept = kept(&house).await;
        assert!(kept.len() == 1 && kept[0].refused, "{kept:?}");
        assert_eq!(kept[0].topics().collect::<Vec<_>>(), ["dead"], "{outcomes_are_down}");
        assert_eq!((runs(&script), house.outcomes.len()), (1, 1));
        assert_eq!(replica.ready.check(), Ok(()));
        replica.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_is_refused_for_itself_is_cut_down_and_stops_nobody() {
    for (what, told) in [("\"result\":{", 2), ("\"attempt\":", 2), ("refused-job", 1)] {
        let house = house().await;
        refuse(&house, what);
        let script = Script::of(|job| {
            let result = if job.id == "other" { Value::Null } else { json!({"a": 1}) };
            Verdict::done(result).effect(Effect::Done).repeatable(false)
        });
        let replica = house.start("a", script.clone(), |b| b);
        house.jobs.publish(&job("refused-job", "ann", "k"), "");
        house.jobs.publish(&job("other", "bob", "k"), "");
        house.jobs.drained().await;
        assert_eq!((runs(&script), house.jobs.deliveries()), (2, 2), "{what}");
        assert_eq!(house.outcomes.len(), told, "{what}");
        for outcome in house.outcomes.outcomes() {
            assert_eq!((&outcome["status"], &outcome["effect"]), (&json!("done"), &json!("done")));
        }
        let kept = kept(&house).await;
        assert_eq!(kept.len(), 2 - told, "{what}: what no topic takes is kept");
        for ending in kept {
            let Writable::Outcome { message, .. } = &ending.rest[0] else { panic!("{ending:?}") };
            let told: Value = serde_json::from_slice(&message.data).unwrap();
            assert_eq!(told["result"], json!({"a": 1}), "as the job ended");
        }
        pass(2 * SECOND).await;
        assert_eq!(replica.ready.check(), Ok(()), "{what}");
        replica.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_end_ends_that_no_topic_takes_go_to_the_outbox() {
    let house = house().await;
    house.outcomes.close();
    let script = Script::of(|_| posted());
    let first = house.start("a", script.clone(), |b| b.drain(10 * SECOND));
    house.jobs.publish(&job("j", "ann", "k"), "ann");
    pass(5 * SECOND).await;
    let asked = now();
    first.end().await;
    assert!(now().since(asked) < 20 * SECOND);
    assert_eq!(house.jobs.acknowledged(), 1);
    house.outcomes.open();
    let second = house.start("b", script.clone(), |b| b);
    pass(2 * MINUTE).await;
    assert_eq!((runs(&script), house.outcomes.len()), (1, 1), "told by the next replica");
    second.end().await;
}

/// A refusal by the bucket stops jobs whichever part of an end it was that it did not take.
#[tokio::test(start_paused = true)]
async fn nothing_begins_while_the_bucket_does_not_keep_an_end_that_was_refused_for_itself() {
    let house = house().await;
    refuse(&house, "refused-job");
    let script = Script::of(|_| posted());
    let replica = house.start("a", script.clone(), |b| b);
    house.jobs.publish(&job("before", "bob", "k"), "");
    house.jobs.drained().await;
    house.fleet.bucket.set_down(true);
    house.jobs.publish(&job("refused-job", "bob", "k"), "");
    pass(5 * SECOND).await;
    house.jobs.publish(&job("after", "bob", "k"), "");
    pass(5 * MINUTE).await;
    assert_eq!(runs(&script), 2, "an end is neither written nor kept");
    let why = replica.ready.check().unwrap_err();
    assert!(why.contains("the bucket takes no objects"), "{why}");
    house.fleet.bucket.set_down(false);
    house.jobs.drained().await;
    assert_eq!((runs(&script), house.jobs.deliveries()), (3, 3));
    replica.end().await;
}

/// The bucket did not keep an end, and then its topic takes it: nothing is to be written to
/// the bucket any more that could tell that it takes objects again.
#[tokio::test(start_paused = true)]
async fn a_bucket_that_nobody_needs_any_more_pauses_nobody() {
    let house = house().await;
    let script = Script::of(|_| posted());
    let replica = house.start("a", script.clone(), |b| b);
    house.jobs.publish(&job("before", "bob", "k"), "");
    house.jobs.drained().await;
    house.outcomes.close();
    house.fleet.bucket.set_down(true);
    house.jobs.publish(&job("first", "bob", "k"), "");
    pass(20 * MINUTE).await;
    let why = replica.ready.check().unwrap_err();
    assert!(why.contains("takes no objects") && why.contains("takes no messages"), "{why}");
    house.outcomes.open();
    house.fleet.bucket.set_down(false);
    house.jobs.publish(&job("second", "bob", "k"), "");
    pass(3 * MINUTE).await;
    assert_eq!((runs(&script), house.jobs.backlog()), (3, 0));
    assert_eq!(replica.ready.check(), Ok(()));
    replica.end().await;
}

//! Whatever happens to buckets and objects, what is kept of them brings them back.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde_json::json;
use tempfile::tempdir;

use super::*;
use crate::access::Binding;
use crate::storage::conditions::Conditions;
use crate::storage::object::{Attributes, Upload};
use crate::storage::settings::BucketSettings;
use crate::storage::state::{Place, Rewrite};

const BUCKETS: [&str; 2] = ["tokens", "other"];
const NAMES: [&str; 3] = ["a", "folder/with/slashes", "Übung 1"];

/// One step; refusals are steps, too.
fn step(state: &mut State, now: SystemTime, step: u8, choice: usize) {
    let (bucket, name) = (BUCKETS[choice % 2], NAMES[choice % 3]);
    let any = Conditions::default;
    match step {
        0 => drop(state.create_bucket(now, bucket, BucketSettings::default())),
        1 => drop(state.delete_bucket(bucket, any())),
        2 => {
            let change = json!({"versioning": {"enabled": choice < 3}, "labels": {"k": "v"}});
            drop(state.update_bucket(now, bucket, &change, (any(), false)));
        }
        3 => {
            if let Ok(access) = state.access_mut(bucket) {
                access.bind([Binding::new("roles/viewer", [format!("user:{choice}@example.com")])]);
            }
        }
        4..=8 => {
            let metadata = json!({"metadata": {"k": choice.to_string()}, "contentType": "text/x"});
            let said = Attributes::default().patched(&metadata).unwrap();
            let upload = Upload::new(vec![step; choice * 100].into(), said).unwrap();
            drop(state.write(now, bucket, name, upload, any()));
        }
        9 | 10 => drop(state.delete(now, bucket, name, None, any())),
        11 => {
            let oldest = state.buckets.get(bucket).and_then(|home| home.archive.keys().next());
            if let Some((name, generation)) = oldest.cloned() {
                drop(state.delete(now, bucket, &name, Some(generation), any()));
            }
        }
        12 | 13 => {
            let change =
                json!({"metadata": {"changed": choice.to_string()}, "temporaryHold": step == 13});
            let changed = |object: &StoredObject| object.said().patched(&change);
            drop(state.update(now, (bucket, name, None), any(), changed));
        }
        _ => {
            let place = |bucket: &str, name: &str| Place {
                bucket: bucket.to_owned(),
                name: name.to_owned(),
            };
            let rewrite = Rewrite { generation: None, source: any(), target: any(), said: None };
            let from = place(bucket, name);
            if step == 14 {
                drop(state.rename(now, &from, NAMES[(choice + 1) % 3], rewrite));
            } else {
                drop(state.copy(now, &from, &place(BUCKETS[(choice + 1) % 2], name), rewrite));
            }
        }
    }
}

fn seen(state: &State) -> String {
    let buckets = state.buckets.iter().map(|(name, bucket)| {
        let Bucket { objects, archive, access, .. } = bucket;
        (name, bucket.to_json("", name), access, objects, archive)
    });
    format!("{:#?} {}", buckets.collect::<Vec<_>>(), state.last_generation)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn everything_comes_back(
        steps in proptest::collection::vec((0_u8..=15, 0_usize..6), 1..100),
    ) {
        let folder = tempdir().unwrap();
        let data = Data::open(folder.path()).unwrap();
        let mut state = State::resume(&data, false).unwrap();
        let mut now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (kind, choice) in [(0, 0), (0, 1), (2, 0)].into_iter().chain(steps) {
            now += Duration::from_millis(1);
            step(&mut state, now, kind, choice);
            data.journal().append(state.take_changes());
        }
        drop(data);
        let data = Data::open(folder.path()).unwrap();
        prop_assert_eq!(seen(&State::resume(&data, false).unwrap()), seen(&state));
        // Contents do not outlive their versions.
        let versions = state.buckets.values().map(|home| home.objects.len() + home.archive.len());
        prop_assert_eq!(data.read(CONTENT).unwrap().len(), versions.sum::<usize>());
    }
}

//! The token store's bucket: its settings, its access, and whether it keeps its
//! word about preconditions, on which everything rests.

use std::time::Duration;

use crate::roles::{On, To};
use bytes::Bytes;
use shared::adapters::{BucketSettings, CloudStorage, SystemClock};
use shared::ports::{Bucket as _, BucketError, Clock as _, Generation, Randomness};

use super::super::environment::Place;
use super::access::{MAY, public_members, role, this_process, to_see};
use super::finding::Checks;
use super::{Depth, Records, sealed};

/// Objects that must not go by themselves: all of a fleet's but those under `done/`, which a rule
/// may clear.
const KEPT: [&str; 8] =
    ["tokens/", "leases/", "parked/", "sweeps/", "endings/", "events/", "sessions/", "logins/"];
/// One object may change once a second.
const PAUSE: Duration = Duration::from_millis(1100);
const NO_GRPC: &str = "STORAGE_EMULATOR_HOST_GRPC is not set, and this emulator cannot be asked";

pub(super) async fn check(
    place: &Place,
    name: Option<&str>,
    records: &Records<'_>,
    depth: Depth,
) -> Checks {
    let Some(name) = name else {
        let mut checks = Checks::of("bucket");
        checks.skip_for("exists", "none is named", "set --bucket (FLEET_BUCKET)");
        return checks;
    };
    let mut checks = Checks::of(format!("bucket gs://{name}"));
    let bucket = match place.bucket(name).await {
        Ok(bucket) => bucket,
        Err(why) => {
            checks.fail("exists", why.to_string(), "set up Application Default Credentials");
            return checks;
        }
    };
    let grpc = place.emulators.as_ref().is_none_or(|emulators| emulators.storage_grpc.is_some());
    if grpc {
        match bucket.settings().await {
            Ok(found) if depth == Depth::All => settings(&found, name, &mut checks),
            Ok(_) => checks.ok("exists", "yes"),
            Err(why) => match whole(&why, name) {
                // Every other check would only find the same.
                Some(cause) => return cause.told(checks),
                None => unseen(&why, "settings", "storage.buckets.get", &mut checks),
            },
        }
        if depth == Depth::All {
            members(&bucket, name, &mut checks).await;
        }
        let needed = role(On::TokenBucket, To::Fleet).map_or(&[][..], |role| role.permissions);
        let grant = format!("gcloud storage buckets add-iam-policy-binding gs://{name}");
        match bucket.allowed(needed).await {
            Ok(allowed) => this_process(On::TokenBucket, &allowed, &grant, &mut checks),
            Err(why) => checks.skip("this process may", why.to_string()),
        }
    } else {
        checks.skip("settings", NO_GRPC);
    }
    if depth == Depth::All {
        round_trip(&bucket, name, grpc, &mut checks).await;
    }
    let bucket = bucket.shared();
    records.check(&bucket, &mut checks).await;
    if grpc && depth == Depth::All {
        sealed::check(&*bucket, &records.sealing, &mut checks).await;
    }
    checks
}

async fn members(bucket: &CloudStorage, name: &str, checks: &mut Checks) {
    match bucket.grants().await {
        Ok(grants) => public(&public_members(&grants), name, checks),
        Err(why) => unseen(&why, "members", "storage.buckets.getIamPolicy", checks),
    }
}

/// What is wrong with the bucket as a whole, so that nothing else about it can be said.
struct Cause {
    check: &'static str,
    found: String,
    fix: String,
}

impl Cause {
    fn told(self, mut checks: Checks) -> Checks {
        let Self { check, found, fix } = self;
        checks.fail(check, found, fix);
        checks
    }
}

/// The cause that every check of the bucket would meet, if `why` is one.
fn whole(why: &BucketError, name: &str) -> Option<Cause> {
    let text = why.to_string();
    let (check, fix) = match why {
        BucketError::Unavailable(_) => (
            "reached",
            "see that storage.googleapis.com can be reached from here: egress rules, proxy, DNS"
                .to_owned(),
        ),
        BucketError::Refused(_) if text.contains("does not exist") => {
            ("exists", format!("fleet setup --bucket {name}, Terraform, or correct --bucket"))
        }
        BucketError::Refused(_) if text.contains("are not accepted") => (
            "reached",
            "gcloud auth application-default login; on GKE, Workload Identity for the pod's service account"
                .to_owned(),
        ),
        BucketError::Throttled => ("reached", "wait a minute, and run it again".to_owned()),
        BucketError::Refused(_) | BucketError::PreconditionFailed => return None,
    };
    Some(Cause { check, found: text, fix })
}

/// A setting that cannot be seen is no failure: the smallest role for a worker
/// does not show it. The round trip tells whether the bucket works.
fn unseen(why: &BucketError, check: &'static str, permission: &str, checks: &mut Checks) {
    checks.skip_for(check, format!("it needs {permission}: {why}"), to_see(permission));
}

fn settings(found: &BucketSettings, name: &str, checks: &mut Checks) {
    let update = |flag: &str| format!("gcloud storage buckets update gs://{name} {flag}");
    checks.ok("exists", format!("in {}", found.location));
    if found.uniform_access {
        checks.ok("uniform access", "on");
    } else {
        checks.fail(
            "uniform access",
            "off: a list on an object can give access that no policy shows",
            update("--uniform-bucket-level-access"),
        );
    }
    if found.public_access_prevention {
        checks.ok("public access prevention", "enforced");
    } else {
        checks.fail(
            "public access prevention",
            "not enforced: one wrong grant shows every credential to everybody",
            update("--public-access-prevention"),
        );
    }
    match found.soft_delete {
        None => checks.ok("soft delete", "off"),
        Some(kept) => checks.warn(
            "soft delete",
            format!(
                "deleted and overwritten credentials can be brought back for {}, and cost storage",
                days(kept)
            ),
            update("--clear-soft-delete"),
        ),
    }
    if found.versioning {
        checks.warn(
            "versioning",
            "on: every credential that was ever overwritten is kept",
            update("--no-versioning"),
        );
    } else {
        checks.ok("versioning", "off");
    }
    if let Some(kept) = found.retention {
        checks.fail(
            "retention policy",
            format!("objects cannot be overwritten for {}", days(kept)),
            update("--clear-retention-period"),
        );
    }
    let mut harmful = found.lifecycle.clone();
    harmful.retain(|rule| KEPT.iter().any(|prefix| rule.reaches(prefix)));
    if harmful.is_empty() {
        checks.ok("lifecycle", "nothing happens to the fleet's objects by itself");
    } else {
        let rules: Vec<&str> = harmful.iter().map(|rule| rule.action.as_str()).collect();
        let mut concerned = KEPT.to_vec();
        concerned.retain(|prefix| harmful.iter().any(|rule| rule.reaches(prefix)));
        checks.fail(
            "lifecycle",
            format!("a rule ({}) concerns {}", rules.join(", "), concerned.join(", ")),
            update("--clear-lifecycle, or limit its rules to other prefixes"),
        );
    }
}

fn days(duration: Duration) -> String {
    let days = duration.as_secs() / 86_400;
    if days > 0 { format!("{days} day(s)") } else { format!("{duration:?}") }
}

fn public(members: &[String], name: &str, checks: &mut Checks) {
    if members.is_empty() {
        checks.ok("members", "nobody in general");
    } else {
        checks.fail(
            "members",
            format!("anybody may look: {}", members.join(", ")),
            format!(
                "gcloud storage buckets remove-iam-policy-binding gs://{name} --member=… --role=…"
            ),
        );
    }
}

/// Create, overwrite, and be refused with a stale generation.
async fn round_trip(bucket: &CloudStorage, name: &str, grpc: bool, checks: &mut Checks) {
    const CHECK: &str = "overwrite round trip";
    let object = format!("fleet-doctor-probe/{}", Randomness::from_system().id());
    let mut is_there = false;
    let result = tried(bucket, &object, &mut is_there).await;
    // Also after a failure: whatever there is of it is removed.
    let removed = if grpc { remove(bucket, &object).await } else { Ok(()) };
    match result {
        Ok(()) => checks.ok(CHECK, "created, overwritten, and stale writes refused"),
        Err(Trial::Refused(why)) => match whole(&why, name) {
            Some(Cause { check, found, fix }) => checks.fail(check, found, fix),
            None if checks.failed(MAY) => {
                checks.skip(CHECK, format!("this process may not: {why}"));
            }
            None => checks.fail(
                CHECK,
                why.to_string(),
                format!(
                    "gcloud storage buckets add-iam-policy-binding gs://{name} --role=roles/storage.objectUser --member=serviceAccount:THE_WORKERS"
                ),
            ),
        },
        Err(Trial::Wrong(what)) => checks.fail(
            CHECK,
            what,
            "what answers here is no Cloud Storage; replicas would overwrite each other's grants. Use Cloud Storage, or an emulator that honours ifGenerationMatch",
        ),
    }
    match removed {
        // Nothing was written, and why is told.
        _ if !is_there => {}
        Ok(()) if !grpc => checks.skip("probe removed", format!("{NO_GRPC}; {object} stays")),
        Ok(()) => checks.ok("probe removed", "nothing is left"),
        Err(why) if checks.failed(MAY) => checks.skip_for(
            "probe removed",
            format!("this process may not: {why}"),
            format!("gcloud storage rm gs://{name}/{object}"),
        ),
        Err(why) => checks.fail(
            "probe removed",
            format!("{object} stays: {why}"),
            format!("gcloud storage rm gs://{name}/{object}; overwriting needs storage.objects.delete too"),
        ),
    }
}

enum Trial {
    Refused(BucketError),
    Wrong(&'static str),
}

impl From<BucketError> for Trial {
    fn from(error: BucketError) -> Self {
        Self::Refused(error)
    }
}

/// `is_there` becomes true when the object was created.
async fn tried(bucket: &CloudStorage, object: &str, is_there: &mut bool) -> Result<(), Trial> {
    let clock = SystemClock::default();
    let first = bucket.put(object, Bytes::from_static(b"1"), Generation::ABSENT).await?;
    *is_there = true;
    let again = bucket.put(object, Bytes::from_static(b"x"), Generation::ABSENT).await;
    match again {
        Err(BucketError::PreconditionFailed) => {}
        Ok(_) => return Err(Trial::Wrong("an existing object was created a second time")),
        Err(error) => return Err(error.into()),
    }
    clock.sleep(PAUSE).await;
    let second = bucket.put(object, Bytes::from_static(b"2"), first).await?;
    if second <= first {
        return Err(Trial::Wrong("an overwritten object has no later generation"));
    }
    clock.sleep(PAUSE).await;
    match bucket.put(object, Bytes::from_static(b"x"), first).await {
        Err(BucketError::PreconditionFailed) => {}
        Ok(_) => return Err(Trial::Wrong("a write with a stale generation was accepted")),
        Err(error) => return Err(error.into()),
    }
    match bucket.get(object).await? {
        Some(read) if read.content == b"2"[..] && read.generation == second => Ok(()),
        _ => Err(Trial::Wrong("what was written is not what is read")),
    }
}

async fn remove(bucket: &CloudStorage, object: &str) -> Result<(), BucketError> {
    let clock = SystemClock::default();
    // It was written a moment ago.
    for _ in 0..4 {
        let Some(found) = bucket.get(object).await? else { return Ok(()) };
        match bucket.delete(object, found.generation).await {
            Ok(_) => return Ok(()),
            Err(BucketError::Throttled | BucketError::Unavailable(_)) => clock.sleep(PAUSE).await,
            Err(error) => return Err(error),
        }
    }
    Err(BucketError::Throttled)
}

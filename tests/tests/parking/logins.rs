//! Logins at the worst moment.

use super::*;

/// The bucket as the parker sees it: `happens` comes before its request of this number. The
/// second value counts its requests.
fn interrupted(
    inner: Arc<dyn Bucket>,
    before: usize,
    happens: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static,
) -> (Arc<GatedBucket>, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let bucket = GatedBucket::new(inner, move |_| {
        if counted.fetch_add(1, Ordering::SeqCst) == before {
            happens().map(Ok).boxed()
        } else {
            async { Ok(()) }.boxed()
        }
    });
    (Arc::new(bucket), requests)
}

/// A bucket that takes one mutation per second and name, as the store hands it out, which
/// tries again.
pub(super) fn once_per_second(fleet: &Fleet) -> Arc<RetryingBucket> {
    let inner: Arc<dyn Bucket> = Arc::<tests::memory::FaultyBucket>::clone(&fleet.bucket);
    let changed_at = Mutex::new(HashMap::<String, tokio::time::Instant>::new());
    retrying(Arc::new(GatedBucket::new(inner, move |request| {
        let AtGate::Change(name) = request else { return async { Ok(()) }.boxed() };
        let now = tokio::time::Instant::now();
        let mut changed_at = changed_at.lock().unwrap();
        if changed_at.get(name).is_some_and(|at| now - *at < Duration::from_secs(1)) {
            return async { Err(BucketError::Throttled) }.boxed();
        }
        changed_at.insert(name.to_owned(), now);
        async { Ok(()) }.boxed()
    })))
}

/// The states from which a login wakes a job up.
#[derive(Debug, Clone, Copy)]
pub(super) enum Before {
    Unknown,
    Revoked,
    ScopeMissing,
    Blocked,
}

impl Before {
    pub(super) async fn make(self, fleet: &Fleet) -> ConsentReason {
        match self {
            Self::Unknown => {
                fleet.login(&ann());
                ConsentReason::Unknown
            }
            Self::Revoked => {
                fleet.user("ann").await;
                fleet.provider.revoke("ann");
                tests::memory::pass(Duration::from_secs(4000)).await;
                let error = fleet.replica("finds-out").get_credentials(&ann()).await.unwrap_err();
                let shared::Error::NeedsConsent(why) = error else { panic!("{error}") };
                why
            }
            Self::ScopeMissing => {
                fleet.user("ann").await;
                ConsentReason::MissingScopes(vec!["more".into()])
            }
            Self::Blocked => {
                fleet.user("ann").await;
                fleet.provider.deny("ann", Some("admin_policy_enforced"));
                tests::memory::pass(Duration::from_secs(4000)).await;
                let error = fleet.replica("finds-out").get_credentials(&ann()).await.unwrap_err();
                let shared::Error::NeedsConsent(why) = error else { panic!("{error}") };
                why
            }
        }
    }
}

/// A login between any two steps of parking: afterwards the job was published
/// again, or its delivery goes on. It never sleeps beside an active credential, and it runs
/// once, though what was written a moment ago cannot be deleted yet.
///
/// It fails without the second look of `Parking::park`.
#[tokio::test(start_paused = true)]
async fn a_login_at_any_moment_of_parking_wakes_the_job() {
    for (before, is_known_absent) in [
        (Before::Unknown, false),
        (Before::Unknown, true),
        (Before::Revoked, false),
        (Before::ScopeMissing, false),
        (Before::Blocked, false),
    ] {
        let mut moments = 0;
        for step in 0.. {
            let fleet = Fleet::new(false);
            let why = before.make(&fleet).await;
            let topic = Arc::new(Topic::default());
            let other = fleet.replica("web");
            let slow = once_per_second(&fleet);
            let happens = {
                let all = (fleet.clone(), Arc::clone(&topic), other, Arc::clone(&slow));
                move || {
                    let (fleet, topic, other, slow) = all.clone();
                    async move {
                        log_in(&other, fleet.login(&ann())).await;
                        resume_user(&*slow, &other, &*topic, &clock(), &ann()).await.unwrap();
                    }
                    .boxed()
                }
            };
            let (seen, requests) = interrupted(Arc::<RetryingBucket>::clone(&slow), step, happens);
            let endpoint: Arc<dyn shared::ports::TokenEndpoint> =
                Arc::<tests::memory::Provider>::clone(&fleet.provider);
            let reader = TokenStore::builder(Arc::<GatedBucket>::clone(&seen), endpoint)
                .clock(Arc::new(clock()))
                .build()
                .unwrap();
            let parking = Parking::new(Arc::<GatedBucket>::clone(&seen), reader);
            if is_known_absent {
                parking.note_absent(&ann(), clock().wall());
            }
            let received = received("ann", "job", 1);
            let job = Job::of(&received).unwrap();
            let parked = parking.park(&job, &received, &why, clock().wall()).await.unwrap();
            let happened = requests.load(Ordering::SeqCst) > step;
            if parked == (Parked::Stored { moved: true }) {
                let worker = fleet.replica("worker");
                resume_user(&*slow, &worker, &*topic, &clock(), &ann()).await.unwrap();
            }
            let left = fleet.bucket.list("parked/", None).await.unwrap().objects;
            if !happened {
                let stored = Parked::Stored { moved: false };
                assert_eq!((parked, left.len()), (stored, 1), "nobody logged in");
                break;
            }
            moments += 1;
            let published = topic.jobs().len();
            assert!(
                left.is_empty() && (parked == Parked::RunIt || published == 1),
                "{before:?}, login before request {step}: {parked:?}, {published} published, {left:?}"
            );
            assert!(published + usize::from(parked == Parked::RunIt) == 1, "and only once");
        }
        let requests = if is_known_absent { 2 } else { 3 };
        assert_eq!(moments, requests, "{before:?}: two looks and the write between them");
    }
}

/// A job that waits for a scope goes on when the scopes change, and not before.
#[tokio::test(start_paused = true)]
async fn a_job_that_waits_for_a_scope_is_not_resumed_before_scopes_change() {
    let fleet = Fleet::new(false);
    fleet.user("ann").await;
    let received = received("ann", "scoped", 1);
    let why = ConsentReason::MissingScopes(vec!["more".into()]);
    let parking = Parking::new(bucket(&fleet), fleet.replica("worker"));
    let job = Job::of(&received).unwrap();
    parking.park(&job, &received, &why, clock().wall()).await.unwrap();
    let topic = Arc::new(Topic::default());
    let sweep = sweep(&fleet, "a", &topic);
    let stop = CancellationToken::new();
    let waits = Swept { resumed: 0, jobs: 1, users: 1, ..Swept::default() };
    assert_eq!(sweep.sweep(&mut Memory::default(), &stop).await.unwrap(), waits);
    log_in(&fleet.replica("web"), fleet.login(&ann())).await;
    let went_on = Swept { resumed: 1, jobs: 0, users: 0, ..Swept::default() };
    assert_eq!(sweep.sweep(&mut Memory::default(), &stop).await.unwrap(), went_on);
}

/// A job that was parked beside this very grant waits for another one.
#[tokio::test(start_paused = true)]
async fn a_job_waits_until_the_grant_is_another() {
    let fleet = Fleet::new(false);
    park(&fleet, "ann", "ann-00", 1).await;
    fleet.user("ann").await;
    let name = left(&fleet).await.remove(0);
    let object = fleet.bucket.get(&name).await.unwrap().unwrap();
    let mut parked: serde_json::Value = serde_json::from_slice(&object.content).unwrap();
    let record = fleet.replica("reader").read_record(&ann()).await.unwrap();
    parked["grant_id"] = json!(record.grant_id.0);
    parked["reason"] = json!("revoked");
    fleet.bucket.put(&name, parked.to_string().into(), object.generation).await.unwrap();
    let topic = Arc::new(Topic::default());
    let resume = || async {
        resume_user(&*bucket(&fleet), &fleet.replica("b"), &*topic, &clock(), &ann()).await.unwrap()
    };
    assert_eq!(resume().await.published, 0);
    log_in(&fleet.replica("web"), fleet.login(&ann())).await;
    assert_eq!(resume().await.published, 1);
}

/// A write whose answer was lost is read back. Where even that tells nothing, and the user
/// logs in before it is tried again, the job is parked and does not run beside that.
#[tokio::test(start_paused = true)]
async fn a_job_that_may_be_parked_does_not_run_too() {
    let fleet = Fleet::new(false);
    let other = received("ann", "ann-01", 2);
    let job = Job::of(&other).unwrap();
    let parking = Parking::new(bucket(&fleet), fleet.replica("worker"));
    fleet.bucket.fail_write("parked/", tests::memory::WriteFault::ReplyLost);
    let parked = parking.park(&job, &other, &ConsentReason::Unknown, clock().wall()).await;
    assert_eq!(parked.unwrap(), Parked::Stored { moved: false });
    let fleet = Fleet::new(false);
    let received = received("ann", "ann-00", 1);
    let job = Job::of(&received).unwrap();
    let parking = Parking::new(bucket(&fleet), fleet.replica("worker"));
    let parked = || parking.park(&job, &received, &ConsentReason::Unknown, clock().wall());
    let late = Duration::from_secs(1);
    fleet.bucket.fail_write("parked/", tests::memory::WriteFault::Late(late));
    assert!(parked().await.is_err(), "it is not there yet");
    tests::memory::pass(2 * late).await;
    fleet.user("ann").await;
    assert_eq!(parked().await.unwrap(), Parked::Stored { moved: true });
}

//! The pages over HTTP, with two replicas behind one address.

use std::time::Duration;

use worker::pubsub::{Connection, Intake, IntakeSettings, OUTSTANDING_BYTES, Source as _};

use super::dev::Dev;
use super::person::Person;

const TASKS: &str = "https://www.googleapis.com/auth/tasks";

#[tokio::test]
async fn a_login_may_begin_at_one_replica_and_end_at_the_other() {
    let dev = Dev::start().await;
    let mut person = Person::new();
    let back = person.consent(&dev.url("/oauth/start?next=/account"), "guest-1").await;
    let done = person.get(&dev.elsewhere(&back)).await;
    assert_eq!((done.status, done.location().as_str()), (303, "/account"), "{}", done.body);
    assert_eq!(done.headers["referrer-policy"], "no-referrer");
    let account = person.get(&dev.url("/account")).await;
    for text in ["Guest 1", "guest-1@example.com", "Connected", "Know who you are", "Allow more"] {
        assert!(account.body.contains(text), "{text}");
    }
    // The same address again, at either replica.
    for url in [back.clone(), dev.elsewhere(&back)] {
        assert_eq!(person.get(&url).await.status, 400);
    }
    let mut other = Person::new();
    assert_eq!(other.get(&back).await.status, 400);
    let (_, shown) = dev.fleet(&["users", "show", "guest-1"]).await;
    assert!(shown.contains("\"state\": \"active\""), "{shown}");
}

#[tokio::test]
async fn a_second_browser_cannot_use_the_first_ones_state() {
    let dev = Dev::start().await;
    let (mut first, mut second) = (Person::new(), Person::new());
    let back = first.consent(&dev.url("/oauth/start"), "guest-1").await;
    second.get(&dev.url("/oauth/start")).await;
    let refused = second.get(&back).await;
    assert_eq!(refused.status, 400);
    assert!(refused.body.contains("not started in this browser"));
    assert!(!dev.fleet(&["users", "show", "guest-1"]).await.0, "nothing is stored");
    assert_eq!(first.get(&back).await.status, 303, "the first browser's login still works");
}

#[tokio::test]
async fn two_callbacks_for_one_user_at_once_leave_one_good_record() {
    let dev = Dev::start().await;
    let (mut first, mut second) = (Person::new(), Person::new());
    let back = first.consent(&dev.url("/oauth/start"), "guest-2").await;
    let also = second.consent(&dev.url("/oauth/start"), "guest-2").await;
    let also = dev.elsewhere(&also);
    let (one, two) = tokio::join!(first.get(&back), second.get(&also));
    // The later exchange brings no refresh token; if nothing was stored yet, the person is
    // sent to the consent page once more.
    for (person, answer) in [(&mut first, one), (&mut second, two)] {
        assert_eq!(answer.status, 303);
        if answer.location().contains("prompt=consent") {
            let back = person.decide(&answer.location(), "guest-2", Some(&[])).await;
            assert_eq!(person.get(&back).await.location(), "/account");
        }
        let mut page = person.get(&dev.url("/account")).await;
        if page.status == 303 {
            // The other login came later, which ends the session of this one.
            person.sign_in(&dev, "guest-2").await;
            page = person.get(&dev.url("/account")).await;
        }
        let csrf = Person::csrf(&page.body);
        person.post(&dev.url("/account/test"), &[("csrf", &csrf)]).await;
        let told = person.get(&dev.url("/account")).await.body;
        assert!(told.contains("It works"), "{told}");
    }
    let (fine, profile) = dev.fleet(&["profile", "guest-2"]).await;
    assert!(fine && profile.contains("guest-2@example.com"), "{profile}");
}

#[tokio::test]
async fn forms_of_other_sites_and_old_pages_change_nothing() {
    let dev = Dev::start().await;
    let mut person = Person::new();
    let back = person.consent(&dev.url("/oauth/start"), "guest-1").await;
    person.get(&back).await;
    for action in
        ["/account/test", "/account/job", "/account/less", "/account/disconnect", "/sign-out"]
    {
        for form in [&[][..], &[("csrf", "guess")]] {
            assert_eq!(person.post(&dev.url(action), form).await.status, 403, "{action}");
        }
        assert_eq!(Person::new().post(&dev.url(action), &[]).await.status, 403);
    }
    assert!(dev.fleet(&["users", "show", "guest-1"]).await.0);
}

#[tokio::test]
async fn every_answer_has_the_security_headers() {
    let dev = Dev::start().await;
    let mut person = Person::new();
    let paths = [
        "/",
        "/account",
        "/oauth/start",
        "/oauth/callback?error=%3Cscript%3E",
        "/nothing",
        "/style.css",
        "/healthz",
    ];
    for path in paths {
        let answer = person.get(&dev.url(path)).await;
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{path}");
        assert!(!policy.contains("unsafe") && policy.contains("script-src 'self';"), "{path}");
        for part in ["frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"] {
            assert!(policy.contains(part), "{path}");
        }
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        let scripts = answer.body.replace("<script src=\"/times.js\" defer>", "");
        assert!(!scripts.contains("<script"), "{path}");
    }
    assert!(person.get(&dev.url("/metrics")).await.body.contains("fleet_web_events_total"));
    assert_eq!(person.get(&dev.url("/readyz")).await.status, 200);
}

#[tokio::test]
async fn starts_are_limited_and_lead_nowhere_else() {
    let dev = Dev::start().await;
    let mut person = Person::new();
    let unknown = person.get(&dev.url("/oauth/start?scopes=https://mail.google.com/")).await;
    assert_eq!(unknown.status, 400);
    let start = dev.url(&format!("/oauth/start?scopes={TASKS}&next=//evil.example"));
    let back = person.consent(&start, "guest-1").await;
    let done = person.get(&back).await;
    assert_eq!((done.status, done.location().as_str()), (303, "/"));
    let told = person.get(&dev.url("/account")).await.body;
    assert!(told.contains("did not allow everything"), "{told}");
    let mut statuses = Vec::new();
    for _ in 0..25 {
        statuses.push(person.get(&dev.url("/oauth/start")).await.status);
    }
    assert_eq!(statuses.last(), Some(&429));
}

#[tokio::test]
async fn parked_jobs_go_on_when_their_user_consents() {
    let dev = Dev::start().await;
    let mut person = Person::new();
    let bucket =
        format!("{}/storage/v1/b/{}/o", dev.get("STORAGE_EMULATOR_HOST"), dev.get("FLEET_BUCKET"));
    let listing = format!("{bucket}?prefix=parked/guest-1/");
    let parked = |body: &str| body.contains("parked/guest-1/");
    assert!(!parked(&person.get(&listing).await.body));
    let job = ["publish", "--user", "guest-1", "--kind", "profile", "--id", "waits"];
    assert!(dev.fleet(&job).await.0);
    // Each look is a round trip; the replica parks the job within some.
    let mut looks = 0;
    while !parked(&person.get(&listing).await.body) {
        looks += 1;
        assert!(looks < 20_000, "the job was not parked");
    }
    let back = person.consent(&dev.url("/oauth/start"), "guest-1").await;
    assert_eq!(person.get(&back).await.status, 303);
    while parked(&person.get(&listing).await.body) {
        looks += 1;
        assert!(looks < 40_000, "the job was not resumed: {}", person.get(&listing).await.body);
    }
}

/// Sign-out, disconnecting and a new login end every copy of a session's cookie, at every
/// replica.
#[tokio::test]
async fn a_copied_session_ends_with_the_session() {
    let dev = Dev::start().await;
    let mut person = Person::new();
    let account = dev.elsewhere(&dev.url("/account"));
    person.sign_in(&dev, "guest-1").await;
    let mut thief = person.copied();
    assert_eq!(thief.get(&account).await.status, 200);
    person.press(&dev, "/sign-out").await;
    assert_eq!(thief.get(&account).await.status, 303, "signed out");

    person.sign_in(&dev, "guest-1").await;
    let mut thief = person.copied();
    assert_eq!(thief.get(&account).await.status, 200);
    let again = person.get(&dev.url(&format!("/oauth/start?scopes={TASKS}"))).await.location();
    let back = person.decide(&again, "guest-1", Some(&[TASKS])).await;
    assert_eq!(person.get(&back).await.status, 303);
    assert_eq!(thief.get(&account).await.status, 303, "a new grant");
    assert_eq!(person.get(&account).await.status, 200);

    let mut thief = person.copied();
    person.press(&dev, "/account/disconnect").await;
    assert_eq!(thief.get(&account).await.status, 303, "disconnected");
    // Nor does it come back to life with the person.
    person.sign_in(&dev, "guest-1").await;
    assert_eq!(thief.get(&account).await.status, 303);
}

#[tokio::test]
async fn a_browser_remembers_whose_account_it_was_and_nothing_narrows() {
    let dev = Dev::start().await;
    let mut person = Person::new();
    let start = dev.url(&format!("/oauth/start?scopes={TASKS}"));
    let asked = person.get(&start).await.location();
    let back = person.decide(&asked, "guest-1", Some(&[TASKS])).await;
    assert_eq!(person.get(&back).await.status, 303);
    person.press(&dev, "/sign-out").await;
    let asked = person.get(&dev.url("/oauth/start")).await.location();
    assert!(asked.contains("auth%2Ftasks") && asked.contains("login_hint=guest-1"), "{asked}");
    let asked = Person::new().get(&dev.url("/oauth/start")).await.location();
    assert!(!asked.contains("tasks"), "nobody is known: {asked}");
}

/// Any site can have a link to a sign-in, and a person may well press Allow then.
#[tokio::test]
async fn a_form_of_ours_asks_for_less_and_no_link_does() {
    let dev = Dev::start().await;
    let mut person = Person::new();
    let asked = person.get(&dev.url(&format!("/oauth/start?scopes={TASKS}"))).await.location();
    let back = person.decide(&asked, "guest-1", Some(&[TASKS])).await;
    assert_eq!(person.get(&back).await.status, 303);
    let asked = person.get(&dev.url("/oauth/start?only=1")).await.location();
    assert!(asked.contains("auth%2Ftasks"), "{asked}");
    let csrf = Person::csrf(&person.get(&dev.url("/account")).await.body);
    let asked = person.post(&dev.url("/account/less"), &[("csrf", &csrf)]).await.location();
    assert!(asked.contains("prompt=consent") && !asked.contains("tasks"), "{asked}");
}

#[tokio::test]
async fn what_no_provider_reports_is_asked_for_and_not_offered() {
    let dev = Dev::start_with(&["--offer-scope=offline_access"]).await;
    let mut person = Person::new();
    let asked = person.get(&dev.url("/oauth/start")).await.location();
    assert!(asked.contains("offline_access"), "{asked}");
    person.sign_in(&dev, "guest-1").await;
    let page = person.get(&dev.url("/account")).await.body;
    assert!(page.contains("See, change and delete your tasks"), "{page}");
    assert!(!page.contains("Keep access while you are away"), "{page}");
}

#[tokio::test]
async fn abandoned_sign_ins_leave_four_cookies() {
    let dev = Dev::start().await;
    let mut person = Person::new();
    let mut pages = Vec::new();
    for _ in 0..12 {
        pages.push(person.get(&dev.url("/oauth/start")).await.location());
    }
    let logins = || person.cookies.keys().filter(|name| name.contains("login_")).count();
    assert_eq!(logins(), 4);
    let first = person.decide(&pages[0], "guest-1", Some(&[])).await;
    assert_eq!(person.get(&first).await.status, 400, "too long ago");
    let last = person.decide(&pages[11], "guest-1", Some(&[])).await;
    assert_eq!(person.get(&last).await.status, 303);
}

#[tokio::test]
async fn replays_and_test_jobs_are_limited() {
    let dev = Dev::start().await;
    let mut person = Person::new();
    let back = person.consent(&dev.url("/oauth/start"), "guest-1").await;
    let mut statuses = Vec::new();
    for _ in 0..25 {
        statuses.push(person.get(&back).await.status);
    }
    assert_eq!((statuses[0], statuses[1], statuses[24]), (303, 400, 429));
    for told in ["The test job is done: ", "Wait ten seconds."] {
        person.press(&dev, "/account/job").await;
        let page = person.get(&dev.url("/account")).await.body;
        assert!(page.contains(told), "{page}");
    }
}

/// Of the subscriptions that read outcomes for one job none is left.
async fn no_reader_is_left(dev: &Dev, person: &mut Person) {
    let project = dev.get("GOOGLE_CLOUD_PROJECT");
    let list =
        format!("http://{}/v1/projects/{project}/subscriptions", dev.get("PUBSUB_EMULATOR_HOST"));
    let list = person.get(&list).await.body;
    assert!(list.contains("outcomes") && !list.contains("fleet-reader-"), "{list}");
}

/// The page says what became of the test job, whichever replica of the pages is asked next.
#[tokio::test]
async fn a_test_job_shows_what_became_of_it() {
    let dev = Dev::start().await;
    let (mut one, mut two) = (Person::new(), Person::new());
    one.sign_in(&dev, "guest-1").await;
    two.sign_in(&dev, "guest-2").await;
    tokio::join!(one.press(&dev, "/account/job"), two.press(&dev, "/account/job"));
    for (person, name) in [(&mut one, "Guest 1"), (&mut two, "Guest 2")] {
        let page = person.get(&dev.elsewhere(&dev.url("/account"))).await.body;
        let told = format!("a worker acted for you, and the provider said that this is {name}.");
        assert!(page.contains(&told), "{page}");
    }
    no_reader_is_left(&dev, &mut one).await;

    // The worker is the first to notice that the access has ended.
    let mut two = Person::new();
    two.sign_in(&dev, "user-3").await;
    assert!(dev.revoke_at_provider("user-3").await);
    dev.expire("user-3").await;
    two.press(&dev, "/account/job").await;
    let page = two.get(&dev.url("/account")).await.body;
    assert!(page.contains("The test job waits for you. "), "{page}");
    assert!(page.contains("ended this access; connect again to go on."), "{page}");
    no_reader_is_left(&dev, &mut two).await;
}

#[tokio::test]
async fn without_an_outcomes_topic_a_test_job_is_queued_and_no_more_is_said() {
    let dev = Dev::start_with(&["--outcomes-topic="]).await;
    let mut person = Person::new();
    person.sign_in(&dev, "guest-1").await;
    person.press(&dev, "/account/job").await;
    let page = person.get(&dev.url("/account")).await.body;
    assert!(page.contains("A test job is queued. Its message ID is "), "{page}");
    assert!(page.contains("What becomes of it is not shown here."), "{page}");
}

#[tokio::test]
async fn a_link_of_an_application_asks_for_what_it_names_and_leads_back() {
    let dev = Dev::start_with(&["--allow-return=https://app.example.com"]).await;
    let mut person = Person::new();
    person.sign_in(&dev, "guest-1").await;
    let (fine, link) = dev
        .fleet(&[
            "users",
            "connect-link",
            "guest-1",
            "--return",
            "https://app.example.com/done?x=1",
        ])
        .await;
    assert!(fine && link.starts_with(&dev.url("/connect?user_hint=guest-1")), "{link}");
    dev.park("guest-1", &[TASKS], 1).await;
    let (_, link) = dev
        .fleet(&[
            "users",
            "connect-link",
            "guest-1",
            "--return",
            "https://app.example.com/done?x=1",
        ])
        .await;
    assert!(link.contains("scopes=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Ftasks"), "{link}");
    let mut elsewhere = Person::new();
    let asked = elsewhere.get(link.trim()).await.location();
    assert!(asked.contains("auth%2Ftasks") && asked.contains("login_hint=guest-1"), "{asked}");
    let back = elsewhere.decide(&asked, "guest-1", Some(&[TASKS])).await;
    let done = elsewhere.get(&back).await;
    let to = elsewhere.get(&dev.url(&done.location())).await;
    assert_eq!((to.status, &*to.location()), (303, "https://app.example.com/done?x=1"));
    for (query, status) in [
        ("return=https://evil.example/", 400),
        ("return=//app.example.com/", 400),
        ("scopes=https://mail.google.com/", 400),
        ("", 303),
    ] {
        assert_eq!(
            person.get(&dev.url(&format!("/connect?{query}"))).await.status,
            status,
            "{query}"
        );
    }
    assert_eq!(person.get(&dev.url("/back?to=https://evil.example/")).await.status, 400);
}

/// Five people follow their links at once, and all that waited for them is done.
#[tokio::test]
async fn five_people_at_once_and_their_jobs() {
    let dev = Dev::start().await;
    let people = ["guest-1", "guest-2", "user-1", "user-2", "user-3"];
    for user in people {
        dev.fleet(&["users", "delete", user, "--yes"]).await;
        for n in 0..3 {
            let id = format!("{user}-{n}");
            let job = ["publish", "--user", user, "--kind", "profile", "--id", &id];
            assert!(dev.fleet(&job).await.0);
        }
    }
    let mut client = Person::new();
    while dev.objects(&mut client, "parked/").await.len() < 15 {
        tokio::task::yield_now().await;
    }
    let consenting = people.map(|user| {
        let dev = &dev;
        async move {
            let (fine, link) = dev.fleet(&["users", "connect-link", user]).await;
            assert!(fine, "{link}");
            let mut person = Person::new();
            let asked = person.get(link.trim()).await.location();
            let back = person.decide(&asked, user, Some(&[])).await;
            assert_eq!(person.come_back(&back, user).await.location(), "/account");
            let page = person.get(&dev.url("/account")).await.body;
            assert!(page.contains("You are connected. 3 waiting jobs go on."), "{page}");
        }
    });
    futures_util::future::join_all(consenting).await;
    while !dev.objects(&mut client, "parked/").await.is_empty() {
        tokio::task::yield_now().await;
    }
    for user in people {
        let (fine, profile) = dev.fleet(&["profile", user]).await;
        assert!(fine && profile.contains(&format!("\"sub\": \"{user}\"")), "{profile}");
    }
}

#[tokio::test]
async fn disconnecting_takes_along_what_waits() {
    let dev = Dev::start().await;
    let mut person = Person::new();
    person.sign_in(&dev, "guest-1").await;
    dev.park("guest-1", &[TASKS], 2).await;
    person.press(&dev, "/account/disconnect").await;
    let page = person.get(&dev.url("/")).await.body;
    assert!(page.contains("with 2 waiting jobs"), "{page}");
    for prefix in ["tokens/guest-1", "parked/guest-1/", "done/guest-1/", "sessions/guest-1"] {
        assert!(dev.objects(&mut person, prefix).await.is_empty(), "{prefix}");
    }
}

#[tokio::test]
async fn applications_are_told_who_connects_and_who_leaves() {
    let dev = Dev::start().await;
    let connection = Connection { emulator: Some(dev.get("PUBSUB_EMULATOR_HOST").to_owned()) };
    let settings = IntakeSettings {
        subscription: "projects/fleet-local/subscriptions/events".to_owned(),
        max_outstanding: 10,
        max_outstanding_bytes: OUTSTANDING_BYTES,
        ack_extension: Duration::from_secs(60),
    };
    let mut events = Intake::open(&connection, settings).await.unwrap();
    let mut person = Person::new();
    let mut told = async |word: &str| {
        let next = tokio::time::timeout(Duration::from_secs(60), events.next()).await;
        let delivery = next.expect("an event comes").unwrap();
        let attributes = delivery.received.attributes.clone();
        delivery.settle.ack().await;
        assert_eq!(attributes["ce-type"], format!("fleet.consent.{word}"));
        assert_eq!(attributes["ce-subject"], "guest-1");
    };
    person.sign_in(&dev, "guest-1").await;
    told("granted").await;
    person.press(&dev, "/account/disconnect").await;
    told("ended").await;
    person.sign_in(&dev, "guest-1").await;
    told("granted").await;
}

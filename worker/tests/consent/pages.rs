//! The pages over HTTP, with two replicas behind one address.

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
    for text in ["Guest 1", "guest-1@example.com", "Connected", "Know who you are", "Grant more"] {
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
        let page = person.get(&dev.url("/account")).await;
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
    for action in ["/account/test", "/account/job", "/account/disconnect", "/sign-out"] {
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
        assert!(!policy.contains("unsafe") && !policy.contains("script-src"), "{path}");
        for part in ["frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"] {
            assert!(policy.contains(part), "{path}");
        }
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert!(!answer.body.contains("<script"), "{path}");
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

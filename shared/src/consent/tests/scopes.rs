//! Which scopes are asked for, and which are kept.

use super::*;

impl World {
    /// What the provider reports from now on.
    fn report(&self, names: &[&str]) {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        *self.provider.scopes.lock().unwrap() = Some(names);
    }

    /// The provider refuses the user by its administrator's policy, as a worker finds out.
    async fn block(&self) {
        let name = user().token_object();
        let stored = self.bucket.get(&name).await.unwrap().unwrap();
        let mut record: Value = serde_json::from_slice(&stored.content).unwrap();
        record["blocked"] = json!({
            "code": "admin_policy_enforced", "since": "2026-01-01T00:00:00Z",
            "next_try": "2100-01-01T00:00:00Z",
        });
        self.bucket.put(&name, record.to_string().into(), stored.generation).await.unwrap();
    }
}

async fn stored_scopes(world: &World) -> Vec<String> {
    world.replicas[0].store.read_record(&user()).await.unwrap().scopes
}

#[tokio::test]
async fn of_a_known_person_everything_is_asked_that_they_allowed_before() {
    let mut world = World::new();
    for replica in &mut world.replicas {
        *replica = replica.clone().listed(vec!["drive".into(), "tasks".into()]);
    }
    world.report(&["openid", "Drive", "retired"]);
    signed_in(world.sign_in(Start::default()).await);
    let more = || Start { scopes: vec!["tasks".into()], ..Start::default() };
    let (_, asked) = world.start(Start { user: Some(user()), ..more() }).await;
    assert_eq!(asked["scope"], "openid email profile tasks Drive", "and nothing retired");
    let (_, asked) = world.start(Start { remembered: Some(user()), ..more() }).await;
    assert_eq!(asked["scope"], "openid email profile tasks Drive");
    assert_eq!(asked["prompt"], "consent", "without the page no refresh token might come");
    let (_, asked) = world.start(Start { remembered: Some(user()), ..Start::default() }).await;
    assert!(!asked.contains_key("prompt"), "somebody else may sign in");
    let (_, asked) = world.start(Start { user: Some(user()), only: true, ..more() }).await;
    assert_eq!(asked["scope"], "openid email profile tasks");
    assert_eq!(asked["prompt"], "consent", "else no new grant would come");
    assert!(!asked.contains_key("include_granted_scopes"), "the provider would add the others");
    let (_, asked) = world.start(more()).await;
    assert_eq!(asked["scope"], "openid email profile tasks", "nobody is known");
}

#[tokio::test]
async fn a_scope_that_is_gone_is_left_out_the_second_time() {
    let world = World::new();
    world.report(&["openid", "email", "profile", "gone"]);
    signed_in(world.sign_in(Start::default()).await);
    let (started, asked) = world.start(Start { user: Some(user()), ..Start::default() }).await;
    assert_eq!(asked["scope"], "openid email profile gone");
    let query = format!("error=invalid_scope&state={}", asked["state"]);
    let Outcome::ConsentAgain(alone) = world.answer(0, &started, &query).await.unwrap() else {
        panic!("it is not repeated");
    };
    let asked = world.asked(&alone);
    assert_eq!(asked["scope"], "openid email profile");
    world.report(&["openid", "email", "profile"]);
    let query = format!("error=invalid_scope&state={}", asked["state"]);
    assert_eq!(world.answer(0, &alone, &query).await.unwrap_err().name(), "refused");
    let query = format!("code=c&state={}", asked["state"]);
    assert!(signed_in(world.answer(0, &alone, &query).await).stored, "and asked no third time");
}

#[tokio::test]
async fn a_login_that_narrows_is_stored_and_repeated_once_with_the_union() {
    let world = World::new();
    world.report(&["openid", "email", "profile", "drive"]);
    signed_in(world.sign_in(Start::default()).await);
    world.report(&["email", "profile"]);
    let outcome = world.sign_in(Start::default()).await.unwrap();
    let Outcome::MoreConsent(done, again) = outcome else { panic!("the wider grant is lost") };
    assert!(done.stored);
    assert_eq!(stored_scopes(&world).await, ["email", "profile"], "always stored");
    let asked = world.asked(&again);
    assert_eq!(asked["scope"], "openid email profile drive");
    assert_eq!((&*asked["prompt"], &*asked["login_hint"]), ("consent", "s1"));
    // What the person declines then is theirs to decline.
    let query = format!("code=c&state={}", asked["state"]);
    assert!(signed_in(world.answer(1, &again, &query).await).stored);
    assert_eq!(stored_scopes(&world).await, ["email", "profile"]);
}

/// Nobody was known at the start; after the first round somebody is.
#[tokio::test]
async fn a_second_round_asks_for_what_the_person_allowed_before() {
    for (blocked, only, scopes) in [
        (false, false, "openid email profile tasks drive"),
        (true, false, "openid email profile tasks drive"),
        (false, true, "openid email profile tasks"),
    ] {
        let world = World::new();
        world.report(&["openid", "email", "profile", "drive"]);
        signed_in(world.sign_in(Start::default()).await);
        if blocked {
            world.block().await;
        }
        *world.provider.refresh_token.lock().unwrap() = false;
        world.report(&["openid", "email", "profile", "tasks"]);
        let more = Start { scopes: vec!["tasks".into()], only, ..Start::default() };
        let Outcome::ConsentAgain(again) = world.sign_in(more).await.unwrap() else {
            panic!("no refresh token came for more than is stored");
        };
        assert_eq!(world.asked(&again)["scope"], scopes, "{blocked} {only}");
    }
}

/// Providers need not report `openid`, and none reports `offline_access`.
#[tokio::test]
async fn what_providers_do_not_report_is_not_missing() {
    for (reported, scopes) in [
        (&["email", "profile"][..], vec![]),
        (&["email", "profile", "mail.read"], vec!["offline_access".into(), "Mail.Read".into()]),
    ] {
        let world = World::new();
        world.report(reported);
        let start = || Start { scopes: scopes.clone(), ..Start::default() };
        let done = signed_in(world.sign_in(start()).await);
        assert!(done.missing.is_empty(), "{:?}", done.missing);
        let (_, asked) = world.start(Start { user: Some(user()), ..start() }).await;
        assert!(!asked.contains_key("prompt"), "{reported:?}: everything is granted");
    }
}

/// Without it such a provider gives no refresh token, and no record says so.
#[tokio::test]
async fn offline_access_is_always_asked_for_where_it_is_listed() {
    let mut world = World::new();
    for replica in &mut world.replicas {
        *replica = replica.clone().listed(vec!["Mail.Read".into(), "offline_access".into()]);
    }
    world.report(&["email", "profile", "Mail.Read"]);
    signed_in(world.sign_in(Start::default()).await);
    let mine = || Start { user: Some(user()), ..Start::default() };
    for (start, scopes) in [
        (Start::default(), "openid email profile offline_access"),
        (mine(), "openid email profile offline_access Mail.Read"),
        (Start { only: true, ..mine() }, "openid email profile offline_access"),
    ] {
        let (_, asked) = world.start(start).await;
        assert_eq!(asked["scope"], scopes);
    }
}

#[tokio::test]
async fn less_by_name_alone_does_not_narrow() {
    let world = World::new();
    world.report(&["openid", "offline_access", "email", "Mail.Read"]);
    signed_in(world.sign_in(Start::default()).await);
    world.report(&["https://www.googleapis.com/auth/userinfo.email", "mail.read"]);
    assert!(signed_in(world.sign_in(Start::default()).await).stored);
    // Told so, a person may allow less.
    world.report(&["email"]);
    let less = Start { user: Some(user()), only: true, ..Start::default() };
    assert!(signed_in(world.sign_in(less).await).stored);
    assert_eq!(stored_scopes(&world).await, ["email"]);
}

/// Browsers keep 4096 bytes of a cookie.
#[tokio::test]
async fn many_scopes_fit_into_a_cookie() {
    let world = World::new();
    let scopes: Vec<String> = (0..52)
        .map(|n| format!("https://www.googleapis.com/auth/service-{n:02}.readonly"))
        .collect();
    let names: Vec<&str> = scopes.iter().map(String::as_str).collect();
    world.report(&[&["openid", "email", "profile"], &names[..]].concat());
    signed_in(world.sign_in(Start { scopes: scopes.clone(), ..Start::default() }).await);
    let start = Start { scopes: scopes[..26].to_vec(), user: Some(user()), ..Start::default() };
    let (started, asked) = world.start(start).await;
    assert_eq!(asked["scope"].split(' ').count(), 55);
    assert!(started.pending.len() < 3_900, "{}", started.pending.len());
    let query = format!("code=c&state={}", asked["state"]);
    assert!(signed_in(world.answer(1, &started, &query).await).missing.is_empty());
}

#[tokio::test]
async fn the_page_is_insisted_on_only_when_scopes_grow() {
    let world = World::new();
    *world.provider.scopes.lock().unwrap() = Some(vec![
        "https://www.googleapis.com/auth/userinfo.email".into(),
        "https://www.googleapis.com/auth/userinfo.profile".into(),
        "openid".into(),
    ]);
    let done = signed_in(world.sign_in(Start::default()).await);
    assert!(done.missing.is_empty(), "the long names mean the same: {:?}", done.missing);
    let mine = || Start { user: Some(user()), ..Start::default() };
    let (_, asked) = world.start(mine()).await;
    assert!(!asked.contains_key("prompt"));
    assert_eq!(asked["login_hint"], "s1");
    let more = Start { scopes: vec!["extra".into()], ..mine() };
    let (started, asked) = world.start(more).await;
    assert_eq!(asked["prompt"], "consent");
    let query = format!("code=c&state={}", asked["state"]);
    let done = signed_in(world.answer(0, &started, &query).await);
    assert_eq!(done.missing, ["extra"], "fewer granted than asked is reported");
    let stranger = Start { user: Some(UserId::new("s2").unwrap()), ..Start::default() };
    assert_eq!(world.sign_in(stranger).await.unwrap_err().name(), "other_account");
}

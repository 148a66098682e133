//! From the first link to the stored record.

use super::*;

#[tokio::test]
async fn a_login_on_two_replicas_stores_a_record() {
    let world = World::new();
    let start =
        Start { scopes: vec!["extra".into()], next: "/account?a=b".into(), ..Start::default() };
    let (started, asked) = world.start(start).await;
    assert_eq!(asked["scope"], "openid email profile extra");
    assert_eq!(asked["access_type"], "offline");
    assert_eq!(asked["include_granted_scopes"], "true");
    assert_eq!(asked["code_challenge_method"], "S256");
    assert_eq!(asked["redirect_uri"], REDIRECT);
    assert!(!asked.contains_key("prompt"), "the provider may skip the page");
    let query = format!("code=c%2F1&state={}", asked["state"]);
    let done = signed_in(world.answer(1, &started, &query).await);
    assert_eq!((done.user.as_str(), done.next.as_str()), ("s1", "/account?a=b"));
    assert!(done.stored && done.missing.is_empty());
    let record = world.replicas[0].store.read_record(&user()).await.unwrap();
    assert_eq!(record.refresh_token.expose(), "fake-refresh-1");
    let (code, verifier) = world.provider.exchanges.lock().unwrap()[0].clone();
    assert_eq!(code, "c/1");
    assert!(verifier.len() >= 43);
    assert!(!started.url.as_str().contains(&verifier));
    assert!(!format!("{started:?}{:?}", world.replicas[0]).contains(&asked["state"]));
}

#[tokio::test]
async fn a_state_is_used_once_across_replicas() {
    let world = World::new();
    let (started, asked) = world.start(Start::default()).await;
    let query = format!("code=c&state={}", asked["state"]);
    let (one, two) =
        tokio::join!(world.answer(0, &started, &query), world.answer(1, &started, &query),);
    let replays = [&one, &two].into_iter().filter(|r| matches!(r, Err(CallbackError::Replayed)));
    assert_eq!(replays.count(), 1);
    assert_eq!(world.provider.exchanges.lock().unwrap().len(), 1);
    assert_eq!(world.objects("logins/").await.len(), 1);
    world.clock.pass(SignedDuration::from_hours(2));
    let swept = sweep_logins(&*world.bucket, &*world.clock).await.unwrap();
    assert_eq!((swept, world.objects("logins/").await.len()), (1, 0));
}

#[tokio::test]
async fn what_is_not_this_browsers_login_changes_nothing() {
    let world = World::new();
    let (started, asked) = world.start(Start::default()).await;
    let (other, other_asked) = world.start(Start::default()).await;
    let (state, foreign) = (&asked["state"], &other_asked["state"]);
    assert_ne!(state, foreign);
    for (query, says) in [
        (format!("code=c&state={foreign}"), "not_yours"),
        ("code=c&state=".to_owned(), "not_yours"),
        ("code=c".to_owned(), "malformed"),
        (format!("state={state}"), "malformed"),
        (format!("code=c&code=d&state={state}"), "malformed"),
        (format!("code=c&error=x&state={state}"), "malformed"),
        (format!("code=c&state={state}&iss=https%3A%2F%2Fevil.test"), "malformed"),
        (format!("error=access_denied&state={state}"), "denied"),
        (format!("error=server_error&state={state}"), "refused"),
        (format!("error=%3Cscript%3E&state={state}"), "refused"),
        (String::new(), "malformed"),
    ] {
        let error = world.answer(0, &started, &query).await.unwrap_err();
        assert_eq!(error.name(), says, "{query}");
        assert!(!error.to_string().contains('<'), "{error}");
    }
    let query = format!("code=c&state={state}");
    let none = oauth_callback(&world.replicas[0], None, Callback::Query(&query)).await;
    assert_eq!(none.unwrap_err().name(), "not_yours");
    let elsewhere = format!("https://app.test/elsewhere?{query}");
    let wrong =
        oauth_callback(&world.replicas[0], Some(&started.pending), Callback::Pasted(&elsewhere));
    assert_eq!(wrong.await.unwrap_err().name(), "wrong_redirect");
    world.clock.pass(SignedDuration::from_mins(16));
    assert_eq!(world.answer(0, &started, &query).await.unwrap_err().name(), "expired");
    assert_eq!(world.objects("").await, Vec::<String>::new());
    assert!(world.provider.exchanges.lock().unwrap().is_empty());
    drop(other);
}

#[tokio::test]
async fn a_lifetime_that_is_not_stated_is_five_minutes_from_when_it_was_asked() {
    let world = World::new();
    *world.provider.unstated.lock().unwrap() = true;
    signed_in(world.sign_in(Start::default()).await);
    let record = world.replicas[0].store.read_record(&user()).await.unwrap();
    assert_eq!(record.expires_in, Some(Duration::from_secs(300)));
    assert_eq!(record.expires_at.unwrap().to_string(), "2026-01-01T00:05:00Z");
    assert!(record.access_token.is_some());
}

#[tokio::test]
async fn what_the_provider_refuses_at_a_login_is_said_in_a_persons_words() {
    let refused = |code: &str, why: &str| EndpointError::Refused {
        code: code.into(),
        why: format!("https://provider.test/token answered ({why})").into(),
    };
    for (error, name, says) in [
        (EndpointError::InvalidGrant("invalid_grant: spent".into()), "code_refused", "spent"),
        (refused("redirect_uri_mismatch", ""), "code_refused", "redirect_uri_mismatch"),
        (refused("invalid_client", "Unauthorized"), "misconfigured", "operator"),
        (refused("admin_policy_enforced", ""), "not_allowed", "Your organization"),
        (refused("access_denied", "Account restricted"), "not_allowed", "your account"),
        (EndpointError::NotReached("refused".into()), "unavailable", "in a while"),
    ] {
        let world = World::new();
        *world.provider.refusal.lock().unwrap() = Some(error);
        let error = world.sign_in(Start::default()).await.unwrap_err();
        assert_eq!(error.name(), name);
        assert!(error.to_string().contains(says), "{error}");
        assert!(world.objects("tokens/").await.is_empty());
    }
}

#[tokio::test]
async fn what_a_person_pastes_is_understood() {
    let state = "STATE";
    for (pasted, code) in [
        ("4%2F0Afake", "4/0Afake"),
        ("4/0Afake+x", "4/0Afake+x"),
        ("code=4%2F0Afake&scope=openid", "4/0Afake"),
        ("?state=STATE&code=4%2F0Afake", "4/0Afake"),
        ("app.test/oauth/callback?state=STATE&code=4%2F0Afake&scope=a%20b", "4/0Afake"),
        ("https://app.test/oauth/callback?code=4%2F0Afake&state=STATE#", "4/0Afake"),
        ("\"https://app.test/oauth/callback?code=4%2F0Afake&state=STATE\"", "4/0Afake"),
        ("'4%2F0Afake'\r\n", "4/0Afake"),
        ("https://app.test/oauth/callback?state=STATE&\n  code=4%2F0Afake", "4/0Afake"),
    ] {
        let world = World::new();
        let (started, asked) = world.start(Start::default()).await;
        // The address without a scheme is taken for http, which is how `fleet login` listens.
        let mut consent = world.replicas[1].clone();
        if pasted.starts_with("app.test") {
            consent.redirect_uri = "http://app.test/oauth/callback".parse().unwrap();
            let pending = pending::Pending::open(&consent.key, &started.pending).unwrap();
            let redirect_uri = consent.redirect_uri.to_string();
            let sealed = pending::Pending { redirect_uri, ..pending }.seal(&consent.key);
            let text = pasted.replace(state, &asked["state"]);
            let done = oauth_callback(&consent, Some(&sealed), Callback::Pasted(&text)).await;
            assert!(signed_in(done).stored, "{pasted}");
        } else {
            let text = pasted.replace(state, &asked["state"]);
            let callback = Callback::Pasted(&text);
            let done = oauth_callback(&consent, Some(&started.pending), callback).await;
            assert!(signed_in(done).stored, "{pasted}");
        }
        assert_eq!(world.provider.exchanges.lock().unwrap()[0].0, code, "{pasted}");
    }
    for (pasted, name) in [
        ("", "malformed"),
        ("  ''  ", "malformed"),
        ("https://app.test/oauth/callback", "malformed"),
        ("scope=openid", "malformed"),
        ("ä", "malformed"),
        ("?state=other&code=c", "not_yours"),
        ("https://evil.test/oauth/callback?code=c", "wrong_redirect"),
        ("error=access_denied", "denied"),
    ] {
        let world = World::new();
        let (started, _) = world.start(Start::default()).await;
        let callback = Callback::Pasted(pasted);
        let error = oauth_callback(&world.replicas[0], Some(&started.pending), callback).await;
        assert_eq!(error.unwrap_err().name(), name, "{pasted}");
        assert!(world.provider.exchanges.lock().unwrap().is_empty(), "{pasted}");
    }
}

#[tokio::test]
async fn another_account_replaces_a_record_only_when_told_to() {
    let mut world = World::new();
    for replica in &mut world.replicas {
        *replica = replica.clone().users(Arc::new(OneUser(user())));
    }
    signed_in(world.sign_in(Start::default()).await);
    *world.provider.sub.lock().unwrap() = Some("s2");
    let error = world.sign_in(Start::default()).await.unwrap_err();
    assert_eq!(error.name(), "stored_for_another");
    let record = world.replicas[0].store.read_record(&user()).await.unwrap();
    assert_eq!(record.sub.as_deref(), Some("s1"));
    let told = Start { replace: true, ..Start::default() };
    assert!(signed_in(world.sign_in(told).await).stored);
    let record = world.replicas[0].store.read_record(&user()).await.unwrap();
    assert_eq!(record.sub.as_deref(), Some("s2"));
}

#[tokio::test]
async fn without_a_refresh_token_it_asks_once_more() {
    let world = World::new();
    *world.provider.refresh_token.lock().unwrap() = false;
    let Outcome::ConsentAgain(again) = world.sign_in(Start::default()).await.unwrap() else {
        panic!("nothing is stored, so there is nothing to sign in to");
    };
    let asked = world.asked(&again);
    assert_eq!(asked["prompt"], "consent");
    assert_eq!(asked["login_hint"], "s1");
    let query = format!("code=c&state={}", asked["state"]);
    let error = world.answer(0, &again, &query).await.unwrap_err();
    assert_eq!(error.name(), "no_refresh_token");
    assert!(world.objects("tokens/").await.is_empty());

    *world.provider.refresh_token.lock().unwrap() = true;
    assert!(signed_in(world.sign_in(Start::default()).await).stored);
    *world.provider.refresh_token.lock().unwrap() = false;
    let known = signed_in(world.sign_in(Start::default()).await);
    assert!(!known.stored, "known: simply signed in");
    let more = Start { scopes: vec!["extra".into()], ..Start::default() };
    let outcome = world.sign_in(more).await.unwrap();
    assert!(matches!(outcome, Outcome::ConsentAgain(_)), "the stored grant allows less");
}

#[tokio::test]
async fn the_embedding_program_chooses_the_user() {
    let world = World::new();
    let app = UserId::new("app-user-7").unwrap();
    let consent = world.replicas[0].clone().users(Arc::new(OneUser(app.clone())));
    let started = oauth_start(&consent, Start::default()).await.unwrap();
    world.asked(&started);
    let code = Callback::Pasted(" c \n");
    let done = oauth_callback(&consent, Some(&started.pending), code).await;
    assert_eq!(signed_in(done).user, app);
    assert_eq!(world.objects("tokens/").await, [app.token_object()]);
}

#[test]
fn next_is_a_local_path_only() {
    for fine in ["/", "/account", "/a/b?c=d&e=%2F#f", "/a//b"] {
        assert_eq!(start::local_path(fine), fine);
    }
    for bad in [
        "",
        "account",
        "//evil.test",
        "/\\evil.test",
        "\\\\evil.test",
        "https://evil.test",
        "/\t/evil.test",
        "/a\\b",
        "javascript:alert(1)",
        "/ä",
        "/a b",
        "/a\r\nSet-Cookie: x",
    ] {
        assert_eq!(start::local_path(bad), "/", "{bad:?}");
    }
    assert_eq!(start::local_path(&format!("/{}", "x".repeat(1100))), "/");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever query arrives: no panic, nothing stored, nothing echoed.
    #[test]
    fn any_query_is_refused_without_a_trace(
        query in prop_oneof![
            "\\PC{0,80}",
            "(code|state|error|iss|scope)=[<>\"'&%=a-zA-Z0-9]{0,40}(&(code|state|error|iss)=[<>\"'%a-z0-9]{0,30}){0,3}",
        ],
        sealed in proptest::option::of("[A-Za-z0-9_-]{0,80}"),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let (started, _) = world.start(Start::default()).await;
            for pending in [sealed.as_deref(), Some(started.pending.as_str())] {
                let callback = Callback::Query(&query);
                let error = oauth_callback(&world.replicas[0], pending, callback).await
                    .expect_err("no state was guessed");
                let text = error.to_string();
                assert!(!text.contains(['<', '>', '"']), "{text}");
            }
            assert!(world.objects("").await.is_empty());
        });
    }
}

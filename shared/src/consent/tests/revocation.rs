//! Taking a consent back.

use super::*;

#[tokio::test]
async fn revoking_tells_the_provider_and_then_deletes() {
    let world = World::new();
    signed_in(world.sign_in(Start::default()).await);
    let store = &world.replicas[0].store;
    let revoked = store.revoke(&user(), &*world.provider).await.unwrap();
    assert_eq!(revoked, crate::Revoked::Revoked);
    assert_eq!(*world.provider.revoked.lock().unwrap(), ["fake-refresh-1"]);
    assert!(world.objects("tokens/").await.is_empty());
    let again = store.revoke(&user(), &*world.provider).await.unwrap();
    assert_eq!(again, crate::Revoked::Unknown);
}

#[tokio::test]
async fn a_revocation_that_is_not_confirmed_keeps_the_record() {
    let world = World::new();
    signed_in(world.sign_in(Start::default()).await);
    let store = &world.replicas[0].store;
    for (error, misconfigured) in [
        (EndpointError::Refused { code: "unsupported_token_type".into(), why: "x".into() }, false),
        (EndpointError::Refused { code: "invalid_client".into(), why: "x".into() }, true),
        (EndpointError::NotNow { code: None, why: "x".into(), retry_after: None }, false),
        (EndpointError::NotReached("x".into()), false),
    ] {
        *world.provider.refusal.lock().unwrap() = Some(error);
        let error = store.revoke(&user(), &*world.provider).await.unwrap_err();
        assert_eq!(matches!(error, Error::Misconfigured(_)), misconfigured, "{error}");
        assert_eq!(world.objects("tokens/").await.len(), 1);
    }
}

#[tokio::test]
async fn a_marker_whose_reply_was_lost_is_recognised() {
    let world = World::new();
    let (started, asked) = world.start(Start::default()).await;
    // The name is known; somebody else's marker there is a replay.
    let query = format!("code=c&state={}", asked["state"]);
    signed_in(world.answer(0, &started, &query).await);
    let marker = world.objects("logins/").await.remove(0);
    let other = bytes::Bytes::from_static(b"{}");
    let generation = world.bucket.get(&marker).await.unwrap().unwrap().generation;
    assert_ne!(generation, Generation::ABSENT);
    world.bucket.put(&marker, other, generation).await.unwrap();
    assert_eq!(world.answer(1, &started, &query).await.unwrap_err().name(), "replayed");
}

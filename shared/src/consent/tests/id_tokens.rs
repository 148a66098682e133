//! What an ID token must say.

use super::*;

#[tokio::test]
async fn wrong_id_tokens_store_nothing() {
    for (claim, value, says) in [
        ("iss", json!("https://evil.test"), "issuer"),
        ("aud", json!("other"), "aud"),
        ("aud", json!(["cid", "other"]), "azp"),
        ("azp", json!("other"), "azp"),
        ("exp", json!(1), "exp"),
        ("iat", json!(4_000_000_000_u64), "iat"),
        ("nonce", json!("other"), "nonce"),
        ("exp", json!("4000000000"), "exp"),
        ("exp", json!(-1.5), "exp"),
        ("iat", json!(4.0e9), "iat"),
        ("nbf", json!(4_000_000_000_u64), "nbf"),
        ("nbf", json!("soon"), "nbf"),
        ("sub", json!(""), "sub"),
        ("sub", json!(1.5), "sub"),
        ("sub", json!(1e30), "sub"),
        ("sub", json!("s2"), "different accounts"),
    ] {
        let world = World::new();
        world.provider.claims.lock().unwrap().insert(claim, value);
        let error = world.sign_in(Start::default()).await.unwrap_err();
        assert!(error.to_string().contains(says), "{claim}: {error}");
        assert!(world.objects("tokens/").await.is_empty());
    }
}

#[tokio::test]
async fn times_in_id_tokens_are_numeric_dates() {
    for (claim, value) in [
        ("exp", json!(1_767_229_200.75)),
        ("exp", json!(4.0e9)),
        ("iat", json!(1_767_225_600.25)),
        ("nbf", json!(1_767_225_600.5)),
        ("auth_time", json!("never")),
    ] {
        let world = World::new();
        world.provider.claims.lock().unwrap().insert(claim, value.clone());
        assert!(signed_in(world.sign_in(Start::default()).await).stored, "{claim} {value}");
    }
}

#[test]
fn an_account_is_a_text_or_an_integer() {
    let named = |profile: Value| subject(profile.as_object().unwrap());
    for (profile, name) in [
        (json!({"sub": "s"}), Some("s")),
        (json!({"sub": "s", "id": "i"}), Some("s")),
        (json!({"sub": "", "id": "i"}), Some("i")),
        (json!({"sub": null, "id": 7}), Some("7")),
        (json!({"id": u64::MAX}), Some("18446744073709551615")),
        (json!({"id": 1.5}), None),
        (json!({"id": 1e30}), None),
        (json!({"sub": 1e30, "id": "i"}), None),
        (json!({"sub": true}), None),
        (json!({}), None),
    ] {
        assert_eq!(named(profile.clone()).as_deref(), name, "{profile}");
    }
}

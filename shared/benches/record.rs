//! A stored record to bytes and back, plain and sealed, each beside the least that it
//! could cost: `serde_json` of a struct of the same fields, and for a sealed one
//! AES-256-GCM of the same secrets besides.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench fails by panicking")]

mod measuring;

use std::hint::black_box;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::ports::Generation;
use shared::record::{GrantId, RecordCodec, State, TokenRecord, WriteId};
use shared::sealing::Sealing;
use shared::{Keyring, UserId};

use measuring::Measured;

/// Of the length that Google's have.
const ACCESS_TOKEN: usize = 220;
const REFRESH_TOKEN: usize = 103;

/// The stored fields, as anybody would write them down.
#[derive(Serialize, Deserialize)]
struct Plain {
    version: u32,
    user: String,
    sub: Option<String>,
    state: State,
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<Seal>,
    expires_at: Option<Timestamp>,
    expires_in: Option<u64>,
    scopes: Vec<String>,
    token_uri: String,
    client_id: String,
    grant_id: String,
    write_id: String,
    holder: String,
    lease_generation: Option<i64>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Seal {
    key: String,
    nonce: String,
    content: String,
}

fn record() -> TokenRecord {
    let fake = |length: usize| format!("fake-{}", "x".repeat(length - 5));
    TokenRecord {
        user: UserId::new("109700000000000000007").unwrap(),
        sub: Some("109700000000000000007".into()),
        state: State::Active,
        reason: None,
        refresh_token: fake(REFRESH_TOKEN).into(),
        access_token: Some(fake(ACCESS_TOKEN).into()),
        expires_at: Some("2026-01-01T01:00:00Z".parse().unwrap()),
        expires_in: Some(Duration::from_secs(3599)),
        scopes: vec![
            "https://www.googleapis.com/auth/drive.readonly".into(),
            "https://www.googleapis.com/auth/userinfo.email".into(),
            "openid".into(),
        ],
        token_uri: "https://oauth2.googleapis.com/token".into(),
        client_id: "1234567890-test.apps.googleusercontent.com".into(),
        blocked: None,
        grant_id: GrantId("0".repeat(32)),
        write_id: WriteId("1".repeat(32)),
        holder: "2".repeat(32),
        lease_generation: Some(Generation(1_700_000_000_000_000)),
        created_at: "2025-01-01T00:00:00Z".parse().unwrap(),
        later: None,
        updated_at: "2026-01-01T00:00:00Z".parse().unwrap(),
    }
}

fn cipher() -> RandomizedNonceKey {
    RandomizedNonceKey::new(&AES_256_GCM, &[7; 32]).unwrap()
}

/// What the codec seals: both secrets as JSON.
fn secrets() -> Vec<u8> {
    let record = record();
    let access_token = record.access_token.unwrap();
    serde_json::to_vec(&serde_json::json!({
        "refresh_token": record.refresh_token.expose(),
        "access_token": access_token.expose(),
    }))
    .unwrap()
}

fn encoding(name: &'static str, codec: RecordCodec) -> Measured {
    let record = record();
    Measured::each(name, move || {
        black_box(codec.encode(black_box(&record)));
    })
}

fn decoding(name: &'static str, codec: RecordCodec) -> Measured {
    let record = record();
    let stored = codec.encode(&record);
    Measured::each(name, move || {
        black_box(codec.decode(&record.user, black_box(&stored))).unwrap();
    })
}

fn plain_encoding(name: &'static str, stored: &[u8]) -> Measured {
    let plain: Plain = serde_json::from_slice(stored).unwrap();
    Measured::each(name, move || {
        black_box(serde_json::to_vec_pretty(black_box(&plain))).unwrap();
    })
}

fn plain_decoding(name: &'static str, stored: &[u8]) -> Measured {
    let stored = stored.to_vec();
    Measured::each(name, move || {
        black_box(serde_json::from_slice::<Plain>(black_box(&stored))).unwrap();
    })
}

fn with_sealing(name: &'static str, stored: &[u8]) -> Measured {
    let plain: Plain = serde_json::from_slice(stored).unwrap();
    let (cipher, secrets) = (cipher(), secrets());
    Measured::each(name, move || {
        let mut text = secrets.clone();
        cipher.seal_in_place_append_tag(Aad::from("name"), black_box(&mut text)).unwrap();
        black_box(serde_json::to_vec_pretty(black_box(&plain))).unwrap();
    })
}

fn with_opening(name: &'static str, stored: &[u8]) -> Measured {
    let stored = stored.to_vec();
    let (cipher, mut sealed) = (cipher(), secrets());
    let nonce = cipher.seal_in_place_append_tag(Aad::from("name"), &mut sealed).unwrap();
    let nonce: [u8; NONCE_LEN] = *nonce.as_ref();
    Measured::each(name, move || {
        let mut text = sealed.clone();
        let nonce = Nonce::assume_unique_for_key(nonce);
        cipher.open_in_place(nonce, Aad::from("name"), black_box(&mut text)).unwrap();
        black_box(serde_json::from_slice::<Plain>(black_box(&stored))).unwrap();
    })
}

fn main() {
    let plain = RecordCodec::default();
    let sealing = RecordCodec::new(Sealing::new(Some(Keyring::new(Timestamp::UNIX_EPOCH))));
    let (stored, sealed) = (plain.encode(&record()), sealing.encode(&record()));
    measuring::run(
        "record",
        &[
            encoding("encode", plain.clone()),
            plain_encoding("encode: serde_json", &stored),
            decoding("decode", plain),
            plain_decoding("decode: serde_json", &stored),
            encoding("seal", sealing.clone()),
            with_sealing("seal: serde_json + AES-256-GCM", &sealed),
            decoding("open", sealing),
            with_opening("open: serde_json + AES-256-GCM", &sealed),
        ],
    );
}

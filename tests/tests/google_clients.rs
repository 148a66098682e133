//! Google's own clients acting as a stored user, against a loopback server that
//! checks the bearer token as Google's do.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::error::Error as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use google_cloud_auth::credentials::{CacheableResource, Credentials, EntityTag};
use google_cloud_storage::client::Storage;
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderValue};
use shared::{Error, UserId};
use tests::memory::{AnswerFault, Fleet, pass};
use tokio::net::TcpListener;

const HOUR: Duration = Duration::from_secs(3600);

/// What the server accepts, and what it was sent.
#[derive(Debug, Default)]
struct Door {
    accepted: Mutex<String>,
    presented: Mutex<Vec<String>>,
}

async fn answer(State(door): State<Arc<Door>>, headers: HeaderMap) -> Response {
    let sent = headers.get(AUTHORIZATION).map_or("", |v| v.to_str().unwrap()).to_owned();
    let accepted = sent == format!("Bearer {}", door.accepted.lock().unwrap());
    door.presented.lock().unwrap().push(sent);
    if !accepted {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let known = [("x-goog-generation", "7"), ("content-type", "text/plain")];
    (known, "the user's own notes").into_response()
}

async fn serve(door: &Arc<Door>) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer).with_state(Arc::clone(door));
    // Ends with the test's runtime.
    tokio::spawn(async move { axum::serve(listener, app).await });
    origin
}

async fn read(client: &Storage) -> google_cloud_storage::Result<String> {
    let mut response = client.read_object("projects/_/buckets/theirs", "notes.txt").send().await?;
    let mut text = Vec::new();
    while let Some(chunk) = response.next().await {
        text.extend_from_slice(&chunk?);
    }
    Ok(String::from_utf8(text).unwrap())
}

/// An hour goes by at once, and real I/O goes on afterwards.
async fn an_hour_later() {
    tokio::time::pause();
    tokio::time::advance(HOUR + Duration::from_secs(1)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn an_official_client_acts_as_the_stored_user_across_a_renewal() {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    let store = fleet.replica("a");
    let door = Arc::new(Door::default());
    let accept_current = async || {
        let record = store.read_record(&user).await.unwrap();
        let token = record.access_token.unwrap().expose().to_owned();
        door.accepted.lock().unwrap().clone_from(&token);
        token
    };
    let client = Storage::builder()
        .with_endpoint(serve(&door).await)
        .with_credentials(store.google_credentials(&user))
        .build()
        .await
        .unwrap();
    let first = accept_current().await;
    assert_eq!(read(&client).await.unwrap(), "the user's own notes");
    an_hour_later().await;
    // Another replica renews it; this one's client learns of it by itself.
    fleet.replica("b").get_credentials(&user).await.unwrap();
    let second = accept_current().await;
    assert_eq!(read(&client).await.unwrap(), "the user's own notes");
    let presented = door.presented.lock().unwrap().clone();
    assert_eq!(presented, [format!("Bearer {first}"), format!("Bearer {second}")]);
    assert_ne!(first, second);
    assert_eq!(fleet.provider.calls(), 1);
}

#[tokio::test]
async fn a_client_is_told_that_the_user_must_consent() {
    let fleet = Fleet::new(true);
    let door = Arc::new(Door::default());
    let nobody = UserId::new("nobody").unwrap();
    let client = Storage::builder()
        .with_endpoint(serve(&door).await)
        .with_credentials(fleet.replica("a").google_credentials(&nobody))
        .build()
        .await
        .unwrap();
    let error = read(&client).await.unwrap_err();
    assert!(error.is_authentication(), "{error:?}");
    assert!(door.presented.lock().unwrap().is_empty(), "nothing is sent without a token");
}

async fn headers(
    credentials: &Credentials,
    tag: Option<EntityTag>,
) -> (Option<HeaderValue>, Option<EntityTag>) {
    let mut extensions = Extensions::new();
    if let Some(tag) = tag {
        extensions.insert(tag);
    }
    match credentials.headers(extensions).await.unwrap() {
        CacheableResource::NotModified => (None, None),
        CacheableResource::New { entity_tag, data } => {
            assert_eq!(data.len(), 1);
            (data.get(AUTHORIZATION).cloned(), Some(entity_tag))
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_tag_stands_for_one_grant() {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    let store = fleet.replica("a");
    let credentials = store.google_credentials(&user);
    let (first, tag) = headers(&credentials, None).await;
    let first = first.unwrap();
    assert!(first.to_str().unwrap().starts_with("Bearer fake-access-"));
    let (again, same) = headers(&credentials, None).await;
    assert_eq!((again.as_ref(), &same), (Some(&first), &tag), "headers for who sent no tag");
    assert_eq!(headers(&credentials, tag.clone()).await, (None, None), "not modified");
    let (foreign, _) = headers(&credentials, Some(EntityTag::new())).await;
    assert_eq!(foreign, Some(first.clone()), "a tag of something else is no match");
    pass(HOUR + Duration::from_secs(1)).await;
    let (second, newer) = headers(&credentials, tag.clone()).await;
    assert!(second.is_some_and(|second| second != first) && newer != tag);
    assert_eq!(headers(&credentials.clone(), newer).await, (None, None), "clones share tags");
}

#[tokio::test(start_paused = true)]
async fn errors_say_whether_trying_again_can_help() {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    pass(HOUR + Duration::from_secs(1)).await;
    let store = fleet.replica("a");
    let failure = async |user: &UserId| {
        let error = store.google_credentials(user).headers(Extensions::new()).await.unwrap_err();
        let source = error.source().and_then(|s| s.downcast_ref::<Error>()).cloned();
        (error.is_transient(), source.expect("the store's own error"))
    };
    fleet.bucket.set_down(true);
    assert!(matches!(failure(&user).await, (true, Error::Unavailable(_))));
    fleet.bucket.set_down(false);
    fleet.provider.fail(AnswerFault::Misconfigured);
    assert!(matches!(failure(&user).await, (false, Error::Misconfigured(_))));
    let nobody = UserId::new("nobody").unwrap();
    assert!(matches!(failure(&nobody).await, (false, Error::NeedsConsent(_))));
}

#[tokio::test(start_paused = true)]
async fn debug_shows_neither_token_nor_person() {
    let fleet = Fleet::new(true);
    let user = fleet.user("ann@example.com").await;
    let credentials = fleet.replica("a").google_credentials(&user);
    let CacheableResource::New { data, .. } = credentials.headers(Extensions::new()).await.unwrap()
    else {
        panic!("no tag was sent")
    };
    let shown = format!("{credentials:?} {data:?}");
    assert!(!shown.contains("fake-") && !shown.contains("ann"), "{shown}");
}

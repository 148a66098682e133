//! A token endpoint as it is in the world: it stands before the identity emulator's, which
//! rotates refresh tokens and ends a grant whose spent one comes again, and does with each
//! request what a test says. It has it done and holds the answer back, loses it, puts another
//! one in its place, or never asks.
//!
//! The emulator records the calls that were carried out; the gateway records all, and whether
//! their answers went out. It knows whose refresh token a request presents: successors from
//! the answers that pass, first ones from [`Gateway::learn`].

mod manner;
mod passage;
mod wire;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use emulators::account::Call;
use emulators::google::{Fingerprint, Google};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use url::form_urlencoded;

use manner::Reply;
pub use manner::{JSON, Manner, answer};
pub use passage::{Asked, End, Passage};
use wire::{Connection, Request};

type Script = dyn Fn(&Asked) -> Manner + Send + Sync;

struct Shared {
    token_uri: String,
    script: Mutex<Arc<Script>>,
    ledger: Mutex<Ledger>,
    /// Whether requests are neither read nor answered.
    frozen: watch::Sender<bool>,
    /// Grows with the ledger.
    news: watch::Sender<usize>,
    /// Held while the emulator carries a request out, so that its calls come in this order.
    http: tokio::sync::Mutex<reqwest::Client>,
}

#[derive(Default)]
struct Ledger {
    owners: HashMap<Fingerprint, String>,
    passages: Vec<Passage>,
    carried_out: usize,
}

/// A running gateway. Dropping it closes its connections.
pub struct Gateway {
    shared: Arc<Shared>,
    origin: String,
    _stop: DropGuard,
}

impl Gateway {
    /// Stands before the token endpoint of `google`. Until a script is set, every request
    /// passes.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn before(google: &Google) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let origin = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(Shared {
            token_uri: format!("{}/token", google.origin()),
            script: Mutex::new(Arc::new(|_: &Asked| Manner::honest())),
            ledger: Mutex::default(),
            frozen: watch::Sender::new(false),
            news: watch::Sender::new(0),
            http: tokio::sync::Mutex::new(reqwest::Client::new()),
        });
        let stop = CancellationToken::new();
        let (serving, stopped) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = accept(listener, &serving, &stopped) => {}
            }
        });
        Ok(Self { shared, origin, _stop: stop.drop_guard() })
    }

    /// What a client file and a record name as their `token_uri`.
    pub fn token_uri(&self) -> String {
        format!("{}/token", self.origin)
    }

    /// What every request from now on meets.
    pub fn script(&self, script: impl Fn(&Asked) -> Manner + Send + Sync + 'static) {
        *lock(&self.shared.script) = Arc::new(script);
    }

    /// Whose first refresh token this is.
    pub fn learn(&self, user: &str, refresh_token: &str) {
        let fingerprint = Fingerprint::of(refresh_token);
        lock(&self.shared.ledger).owners.insert(fingerprint, user.to_owned());
    }

    /// Stops reading and answering, or goes on: as a process that is stopped and continued.
    pub fn freeze(&self, frozen: bool) {
        self.shared.frozen.send_replace(frozen);
    }

    /// All requests for a refresh so far, in order.
    pub fn passages(&self) -> Vec<Passage> {
        lock(&self.shared.ledger).passages.clone()
    }

    /// Waits until the requests so far satisfy `condition`, and returns them.
    pub async fn wait_for(&self, condition: impl Fn(&[Passage]) -> bool) -> Vec<Passage> {
        let mut news = self.shared.news.subscribe();
        loop {
            let passages = self.passages();
            // The sender lives in `self`.
            if condition(&passages) || news.changed().await.is_err() {
                return passages;
            }
        }
    }

    /// The calls that `google` carried out, for an account: those whose answers went out are
    /// known to.
    pub fn calls(&self, google: &Google) -> Vec<Call> {
        let passages = self.passages();
        let delivered = |index: usize| {
            passages.iter().any(|passage| {
                passage.carried_out == Some(index)
                    && matches!(passage.end, End::Answered(200..=299))
            })
        };
        let calls = google.refresh_calls().into_iter().enumerate();
        calls
            .map(|(index, call)| {
                let call = Call::from(call);
                if delivered(index) { call.delivered() } else { call }
            })
            .collect()
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("origin", &self.origin).finish_non_exhaustive()
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: &Arc<Shared>, stop: &CancellationToken) {
    while let Ok((socket, _)) = listener.accept().await {
        let (shared, stop) = (Arc::clone(shared), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // A client that breaks off ends its own connection only.
                served = serve(Connection::new(socket), &shared) => drop(served),
            }
        });
    }
}

async fn serve(mut connection: Connection, shared: &Shared) -> io::Result<()> {
    while let Some(request) = connection.request().await? {
        shared.thawed().await;
        let arrived = Instant::now();
        let refresh = presented(&request.body);
        let Some(token) = refresh else {
            // No refresh: codes are exchanged, and revocations refused, by the emulator.
            let (status, body) = shared.carry_out(&request).await?;
            connection.write(&wire::answer(status, &[JSON], &body)).await?;
            continue;
        };
        let (number, manner) = shared.enter(arrived, &token, &request);
        let (status, body) = if manner.work {
            let mut order = shared.http.lock().await;
            let done = forward(&mut order, &shared.token_uri, &request).await?;
            shared.carried_out(number, done.0, &done.1);
            done
        } else {
            (0, Vec::new())
        };
        tokio::select! {
            () = sleep_until(arrived + manner.pause) => {}
            () = connection.left() => {
                shared.ended(number, End::Left);
                return Ok(());
            }
        }
        shared.thawed().await;
        let (bytes, keep) = match manner.reply {
            Reply::Honest => (wire::answer(status, &[JSON], &body), true),
            Reply::Edited(edit) => {
                (edit(status, &serde_json::from_slice(&body).unwrap_or_default()), true)
            }
            Reply::Raw(bytes) => (bytes.to_vec(), false),
            Reply::Cut => {
                shared.ended(number, End::Closed);
                return Ok(());
            }
        };
        let said = status_of(&bytes);
        // Noted before it is written: whoever reads the answer may look at once.
        shared.ended(number, End::Answered(said));
        if connection.write(&bytes).await.is_err() {
            shared.ended(number, End::Left);
        }
        if !keep {
            return Ok(());
        }
    }
    Ok(())
}

/// The refresh token of a request for a refresh.
fn presented(body: &[u8]) -> Option<String> {
    let form: HashMap<_, _> = form_urlencoded::parse(body).into_owned().collect();
    let refresh = form.get("grant_type").is_some_and(|kind| kind == "refresh_token");
    if refresh { form.get("refresh_token").cloned() } else { None }
}

/// The status of an answer's first line.
fn status_of(bytes: &[u8]) -> u16 {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

async fn forward(
    http: &mut reqwest::Client,
    token_uri: &str,
    request: &Request,
) -> io::Result<(u16, Vec<u8>)> {
    let mut forwarded = http.post(token_uri).body(request.body.clone());
    for name in ["content-type", "authorization", "user-agent"] {
        if let Some(value) = request.headers.get(name) {
            forwarded = forwarded.header(name, value);
        }
    }
    let answer = forwarded.send().await.map_err(io::Error::other)?;
    let status = answer.status().as_u16();
    Ok((status, answer.bytes().await.map_err(io::Error::other)?.to_vec()))
}

impl Shared {
    async fn thawed(&self) {
        let mut frozen = self.frozen.subscribe();
        // The sender lives in `self`.
        drop(frozen.wait_for(|frozen| !frozen).await);
    }

    async fn carry_out(&self, request: &Request) -> io::Result<(u16, Vec<u8>)> {
        let mut http = self.http.lock().await;
        forward(&mut http, &self.token_uri.replace("/token", &request.path), request).await
    }

    /// Notes a request; its number and what happens to it.
    fn enter(&self, at: Instant, token: &str, request: &Request) -> (usize, Manner) {
        let script = Arc::clone(&*lock(&self.script));
        let mut ledger = lock(&self.ledger);
        let user = ledger.owners.get(&Fingerprint::of(token)).cloned();
        let number = ledger.passages.len();
        let same = ledger.passages.iter().filter(|passage| passage.user == user);
        let asked = Asked { before: number, before_of_user: same.count(), user: user.clone() };
        let agent = request.headers.get("user-agent").cloned().unwrap_or_default();
        let passage = Passage { at, user, agent, carried_out: None, end: End::Pending };
        ledger.passages.push(passage);
        drop(ledger);
        self.tell();
        (number, script(&asked))
    }

    /// The emulator has answered: a successor belongs to the same user.
    fn carried_out(&self, number: usize, status: u16, body: &[u8]) {
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut ledger = lock(&self.ledger);
        let index = ledger.carried_out;
        ledger.carried_out += 1;
        ledger.passages[number].carried_out = Some(index);
        let user = ledger.passages[number].user.clone();
        if let (200, Some(user), Some(token)) = (status, user, answer["refresh_token"].as_str()) {
            ledger.owners.insert(Fingerprint::of(token), user);
        }
        drop(ledger);
        self.tell();
    }

    fn ended(&self, number: usize, end: End) {
        lock(&self.ledger).passages[number].end = end;
        self.tell();
    }

    fn tell(&self) {
        self.news.send_modify(|news| *news += 1);
    }
}

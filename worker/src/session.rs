//! What a handler acts with: one user's credentials, and clients that carry them.

use std::fmt;
use std::sync::{Arc, LazyLock, OnceLock};

use google_cloud_auth::credentials::Credentials as GoogleCredentials;
use reqwest::Method;
use shared::ports::Clock;
use shared::{Credentials, UserId};
use url::Url;

use crate::api_clients::ApiClient;
use crate::audit::HandedOn;
use crate::calls::ApiRequest;
use crate::carrier::Carrier;
use crate::effect::{CallLedger, CallUnderWay};
use crate::hosts::{Forbidden, HostRules, stand_in};
use crate::job::Received;

/// One run of a handler as one user.
pub struct Session<'a> {
    carrier: &'a Carrier,
    client: ApiClient<'a>,
    credentials: Credentials,
    /// Of the job, for the audit trail.
    kind: Arc<str>,
    ledger: Arc<CallLedger>,
    attempt: Attempt<'a>,
    rejected: OnceLock<Credentials>,
}

/// Which attempt of a job a run is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt<'a> {
    /// How often the handler is asked for this delivery, this time included.
    pub(crate) number: u32,
    /// What was received.
    pub(crate) received: &'a Received,
    /// The user's token was renewed for this attempt: another rejection renews none.
    pub(crate) renewed: bool,
}

/// What a run without a delivery has received.
static NOTHING: LazyLock<Received> = LazyLock::new(Received::default);

impl<'a> Session<'a> {
    /// For one run of a handler.
    pub(crate) fn new(carrier: &'a Carrier, credentials: Credentials) -> Self {
        let ledger = Arc::default();
        let attempt = Attempt { number: 1, received: &NOTHING, renewed: false };
        let (kind, rejected) = ("".into(), OnceLock::new());
        let client = carrier.clients.take();
        Self { carrier, client, credentials, kind, ledger, attempt, rejected }
    }

    /// A session for a job of this kind.
    pub(crate) fn of_kind(self, kind: &Arc<str>) -> Self {
        Self { kind: Arc::clone(kind), ..self }
    }

    /// Where tokens are noted that the job's HTTP handler is given.
    pub(crate) fn handed_on(&self) -> HandedOn {
        HandedOn::to_handler(&self.carrier.observer.usage, &self.kind)
    }

    /// A session for this attempt of a delivery.
    pub(crate) fn of(self, attempt: Attempt<'a>) -> Self {
        Self { attempt, ..self }
    }

    /// The attempt that it is.
    pub(crate) fn attempt(&self) -> Attempt<'a> {
        self.attempt
    }

    /// Notes which credentials [`Verdict::Unauthorized`](crate::Verdict::Unauthorized) is
    /// about, where the run used others than its own.
    pub(crate) fn reject(&self, credentials: Credentials) {
        drop(self.rejected.set(credentials));
    }

    /// The credentials that were rejected, if any were.
    pub(crate) fn rejected(&self) -> &Credentials {
        self.rejected.get().unwrap_or(&self.credentials)
    }

    /// Time.
    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.carrier.observer.clock
    }

    /// On whose behalf.
    pub fn user(&self) -> &UserId {
        self.credentials.user()
    }

    /// The user's fresh credentials. Whoever takes the token out of them decides
    /// where it goes; [`Session::request`] sends it to allowed hosts only.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// A request that carries the user's token, to a host that the operator's
    /// rules allow. It follows no redirects, is counted in the metrics and seen in the
    /// trace.
    ///
    /// # Errors
    /// [`Forbidden`] says why the token may not go there.
    pub fn request(&self, method: Method, url: &str) -> Result<ApiRequest<'_>, Forbidden> {
        let url = self.carrier.hosts.check(url)?;
        Ok(self.request_trusted(method, &url))
    }

    /// The same to a URL that was checked, or that the operator configured.
    pub(crate) fn request_trusted(&self, method: Method, url: &Url) -> ApiRequest<'_> {
        let Self { carrier, client, credentials, kind, ledger, .. } = self;
        let builder = client.request(method.clone(), self.resolve(url));
        ApiRequest::new(carrier, builder, ledger, credentials, kind, method, url)
    }

    /// Where the user's token may go.
    pub(crate) fn hosts(&self) -> &HostRules {
        &self.carrier.hosts
    }

    /// Notes a call that is made otherwise than by [`Session::request`], by an official
    /// client for example, so that a run that is cut or panics meanwhile is not repeated
    /// unless the call is `repeatable`. Begin it before the first byte is sent, and say by
    /// [`CallUnderWay::ended`] what became of it.
    pub fn begin_call(&self, repeatable: bool) -> CallUnderWay {
        self.ledger.begin(repeatable)
    }

    /// What is known of the calls of this run. It outlives the session.
    pub fn ledger(&self) -> Arc<CallLedger> {
        Arc::clone(&self.ledger)
    }

    /// Where requests for an allowed URL really go: with emulators their stand-in
    /// for Google's APIs, else the URL itself.
    pub fn resolve(&self, url: &Url) -> Url {
        stand_in(self.carrier.api_root.as_ref(), url)
    }

    /// Credentials for Google's official clients, which then act as the user;
    /// always fresh, for as long as the client lives.
    pub fn google_credentials(&self) -> GoogleCredentials {
        self.carrier.store.google_credentials(self.user())
    }
}

/// No token.
impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("user", self.user()).finish_non_exhaustive()
    }
}

/// A user with a fresh token, and a server that answers as it is told, for tests of what
/// handlers do with a session.
#[cfg(test)]
pub(crate) mod stand {
    use crate::api_clients::ApiClients;
    use crate::observer::Observer;
    use shared::TokenStore;
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;
    use shared::adapters::{MemoryBucket, SystemClock, http_client};
    use shared::ports::{Answer, EndpointError, Limits, TokenEndpoint};
    use shared::{Grant, Secret};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;

    use super::*;

    #[derive(Debug)]
    struct Unused;

    impl TokenEndpoint for Unused {
        fn refresh<'a>(
            &'a self,
            _: &'a Secret,
            _: Limits,
        ) -> BoxFuture<'a, Result<Answer, EndpointError>> {
            async { unreachable!("the token is fresh") }.boxed()
        }

        fn client_id(&self) -> &'static str {
            "client"
        }

        fn token_uri(&self) -> &'static str {
            "https://token.test/"
        }
    }

    /// What sessions share, with Google's APIs at `api_root`, and the user's credentials.
    pub(crate) async fn carrier(api_root: &str) -> (Carrier, Credentials) {
        let bucket = Arc::new(MemoryBucket::default());
        let store = TokenStore::builder(bucket, Arc::new(Unused)).build().unwrap();
        let user = UserId::new("ann").unwrap();
        let hour = Duration::from_secs(3600);
        let grant = Grant {
            refresh_token: Some("fake-refresh".into()),
            access_token: Some("fake-access".into()),
            expires_at: SystemClock::default().wall().checked_add(hour).ok(),
            expires_in: Some(hour),
            ..Grant::default()
        };
        store.set_credentials(&user, grant).await.unwrap();
        let credentials = store.get_credentials(&user).await.unwrap();
        let carrier = Carrier {
            store,
            clients: Arc::new(ApiClients::new(1, Box::new(|| http_client("test").unwrap()))),
            hosts: HostRules::default(),
            api_root: Some(api_root.parse().unwrap()),
            observer: Arc::new(Observer::new(Arc::new(SystemClock::default()))),
            host_limits: Arc::default(),
        };
        (carrier, credentials)
    }

    /// The origin of a server that answers each connection's one request with the next of
    /// these bytes and closes it, and a message for each request that it has read whole.
    /// After the last answer it says nothing, and closes nothing.
    pub(crate) async fn raw(
        answers: impl IntoIterator<Item = Vec<u8>>,
    ) -> (String, mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let (requests, read) = mpsc::unbounded_channel();
        let mut answers: Vec<Vec<u8>> = answers.into_iter().collect();
        answers.reverse();
        tokio::spawn(async move {
            let mut silent = Vec::new();
            while let Ok((mut connection, _)) = listener.accept().await {
                let request = read_request(&mut connection).await;
                let answer = answers.pop();
                if let Some(answer) = &answer {
                    connection.write_all(answer).await.unwrap();
                    connection.shutdown().await.unwrap();
                }
                drop(requests.send(request));
                if answer.is_none() {
                    silent.push(connection);
                }
            }
        });
        (origin, read)
    }

    async fn read_request(connection: &mut TcpStream) -> String {
        let mut request = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                    return text;
                }
            }
            assert!(connection.read_buf(&mut request).await.unwrap() > 0, "{text}");
        }
    }
}

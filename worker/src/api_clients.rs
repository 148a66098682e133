//! The HTTP clients that carry the calls of a worker's jobs.
//!
//! A client of `reqwest` opens one HTTP/2 connection to a host, and a server bounds how many
//! requests one connection carries (RFC 9113, section 5.1.2): Google's front ends carry 100.
//! What comes beyond waits in the client, whatever `--concurrency` says. So there are as many
//! clients as the jobs that may run at once need, and each is made when those before it are full.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Client;

/// How many jobs act through one client. Google's bound is 100, and a job may make a second
/// call before the body of its first has ended.
const JOBS_PER_CLIENT: usize = 64;

/// Makes one client.
pub(crate) type Make = dyn Fn() -> Client + Send + Sync;

/// As many clients as a worker's jobs need.
pub(crate) struct ApiClients {
    make: Box<Make>,
    lanes: Box<[Lane]>,
}

#[derive(Debug, Default)]
struct Lane {
    client: OnceLock<Client>,
    jobs: AtomicUsize,
}

/// A client that a job acts through, until it is dropped.
#[derive(Debug)]
pub(crate) struct ApiClient<'a> {
    client: &'a Client,
    jobs: &'a AtomicUsize,
}

impl ApiClients {
    /// For so many jobs at once, made by `make`. Of these the first is made at once.
    pub(crate) fn new(concurrency: usize, make: Box<Make>) -> Self {
        let lanes = (0..concurrency.div_ceil(JOBS_PER_CLIENT).max(1)).map(|_| Lane::default());
        let clients = Self { make, lanes: lanes.collect() };
        drop(clients.take());
        clients
    }

    /// The first client that is not full; if all are, the one with the fewest jobs.
    pub(crate) fn take(&self) -> ApiClient<'_> {
        let jobs = |lane: &&Lane| lane.jobs.load(Ordering::Relaxed);
        let open = self.lanes.iter().find(|lane| jobs(lane) < JOBS_PER_CLIENT);
        let lane = open.or_else(|| self.lanes.iter().min_by_key(jobs));
        let lane = lane.expect("there is one at least");
        // Two jobs may find the same last place: one more on a connection does no harm.
        lane.jobs.fetch_add(1, Ordering::Relaxed);
        ApiClient { client: lane.client.get_or_init(&self.make), jobs: &lane.jobs }
    }
}

impl std::ops::Deref for ApiClient<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client
    }
}

impl Drop for ApiClient<'_> {
    fn drop(&mut self) {
        self.jobs.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for ApiClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiClients").field("lanes", &self.lanes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use futures_util::future::join_all;
    use h2::server::{Builder, SendResponse};
    use http::Response;
    use shared::adapters::http_client_builder;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Barrier;
    use tokio::time::timeout;

    use super::*;

    /// Far more than any of it takes.
    const PATIENCE: Duration = Duration::from_secs(60);
    /// What one connection of Google's front ends carries.
    const STREAMS: u32 = 100;

    fn clients(concurrency: usize) -> ApiClients {
        let make = || http_client_builder("test").http2_prior_knowledge().build().unwrap();
        ApiClients::new(concurrency, Box::new(make))
    }

    /// The origin of a server that hands each request on.
    async fn serve<F, Fut>(answer: F) -> String
    where
        F: Fn(String, SendResponse<Bytes>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        async fn connected<F, Fut>(connection: TcpStream, answer: F)
        where
            F: Fn(String, SendResponse<Bytes>) -> Fut,
            Fut: Future<Output = ()> + Send + 'static,
        {
            let mut streams = Builder::new();
            streams.max_concurrent_streams(STREAMS);
            let mut streams = streams.handshake(connection).await.unwrap();
            while let Some(Ok((request, respond))) = streams.accept().await {
                tokio::spawn(answer(request.uri().path().to_owned(), respond));
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(connected(connection, answer.clone()));
            }
        });
        origin
    }

    /// None is answered before all have come.
    #[tokio::test]
    async fn as_many_calls_are_under_way_as_jobs_may_run() {
        for concurrency in [1, 64, 65, 300] {
            let all = Arc::new(Barrier::new(concurrency));
            let origin = serve(move |_, mut respond| {
                let all = Arc::clone(&all);
                async move {
                    all.wait().await;
                    respond.send_response(Response::default(), true).unwrap();
                }
            });
            let (origin, clients) = (origin.await, clients(concurrency));
            let jobs = (0..concurrency).map(|_| async {
                let client = clients.take();
                client.get(&origin).send().await.unwrap().bytes().await.unwrap()
            });
            let ended = timeout(PATIENCE, join_all(jobs)).await;
            assert_eq!(ended.unwrap_or_default().len(), concurrency);
        }
    }

    /// Six jobs read no more of their answers, as when the storage that they write to stalls.
    #[tokio::test]
    async fn answers_that_nobody_reads_stop_no_other() {
        let origin = serve(|path, mut respond| async move {
            let body = if path == "/large" { vec![7; 32 << 20] } else { b"small".to_vec() };
            let mut sending = respond.send_response(Response::default(), false).unwrap();
            sending.send_data(body.into(), true).unwrap();
        });
        let (origin, clients) = (origin.await, clients(7));
        let mut stalled = Vec::new();
        for _ in 0..6 {
            let client = clients.take();
            let large = client.get(format!("{origin}/large")).send();
            let mut answer = timeout(PATIENCE, large).await.unwrap().unwrap();
            let begun = timeout(PATIENCE, answer.chunk()).await.unwrap().unwrap();
            assert!(begun.is_some_and(|chunk| !chunk.is_empty()));
            stalled.push((client, answer));
        }
        let client = clients.take();
        // Once more, since the windows may not have been full at the first.
        for _ in 0..3 {
            let small = async { client.get(&origin).send().await.unwrap().text().await.unwrap() };
            assert_eq!(timeout(PATIENCE, small).await.as_deref(), Ok("small"));
        }
        assert_eq!(clients.lanes.len(), 1, "they share a connection");
    }

    /// A connection that few jobs need is not opened.
    #[tokio::test]
    async fn clients_are_made_as_they_are_needed() {
        let clients = clients(200);
        let made = |clients: &ApiClients| {
            clients.lanes.iter().filter(|lane| lane.client.get().is_some()).count()
        };
        assert_eq!((clients.lanes.len(), made(&clients)), (4, 1));
        let mut jobs: Vec<_> = (0..65).map(|_| clients.take()).collect();
        assert_eq!(made(&clients), 2);
        jobs.swap_remove(0);
        jobs.push(clients.take());
        assert_eq!(clients.lanes[0].jobs.load(Ordering::Relaxed), 64, "the first that has room");
        jobs.extend((0..200).map(|_| clients.take()));
        assert!(jobs.len() > 4 * JOBS_PER_CLIENT, "more than fit are taken all the same");
        drop(jobs);
        assert!(clients.lanes.iter().all(|lane| lane.jobs.load(Ordering::Relaxed) == 0));
    }
}

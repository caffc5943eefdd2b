//! The connections of the HTTP server: how many may be open, and how long each may wait.
//!
//! A client without a token can open connections. They must not use up the file descriptors that the host
//! needs for databases and brokers, and must not keep other clients from being answered. Invariants:
//!
//! - At most `Bounds::most` connections are open, and one more that was just accepted.
//! - A connection is closed after `Bounds::patience` if it has no request, or an incomplete head of a request, or if
//!   the client does not read the answer. Single bytes do not extend the time for a head.
//! - If all places are taken, a new connection gets the place of the connection that has waited longest
//!   without a request. A request that is being processed is never interrupted.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::Request;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The shortest interval between two warnings that all connections are in use.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// How many connections may be open.
    pub(super) most: usize,
    /// How long a connection may wait for its client.
    pub(super) patience: Duration,
}

impl Default for Bounds {
    /// At most an eighth of the process's file descriptors: the rest is reserved for databases and brokers.
    fn default() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = (descriptors / 8).clamp(8, 128) as usize;
        Self { most, patience: Duration::from_secs(10) }
    }
}

/// Accepts connections within [`Bounds`].
pub(super) struct Bounded {
    listener: TcpListener,
    bounds: Bounds,
    places: Arc<Semaphore>,
    /// The open connections, oldest first. May contain some that are closed.
    open: VecDeque<Weak<State>>,
    last_warning: Option<Instant>,
}

impl Bounded {
    pub(super) fn new(listener: TcpListener, bounds: Bounds) -> Self {
        let places = Arc::new(Semaphore::new(bounds.most));
        Self { listener, bounds, places, open: VecDeque::new(), last_warning: None }
    }

    /// Waits for a place for a new connection. If all places are taken, closes the connection that has waited longest
    /// without a request.
    async fn place(&mut self) -> OwnedSemaphorePermit {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return place;
        }
        if self.last_warning.is_none_or(|last| last.elapsed() >= WARNING_INTERVAL) {
            self.last_warning = Some(Instant::now());
            let most = self.bounds.most;
            tracing::warn!(
                most,
                "all connections of the admin API are in use: each new connection closes the one that has waited longest without a request"
            );
        }
        let mut idle = self.open.iter().filter_map(Weak::upgrade);
        if let Some(longest) = idle.find(|state| !state.is_busy() && !state.evicted.is_cancelled()) {
            longest.evicted.cancel();
        }
        self.places.clone().acquire_owned().await.expect("the semaphore is never closed")
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let place = self.place().await;
        let state = Arc::new(State::default());
        self.open.retain(|state| state.strong_count() > 0);
        self.open.push_back(Arc::downgrade(&state));
        (Connection::new(stream, state, self.bounds.patience, place), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// State that a connection and its requests share.
#[derive(Default)]
struct State {
    is_busy: AtomicBool,
    /// The number of answered requests.
    answered: AtomicUsize,
    /// Cancelled when another connection needs this place.
    evicted: CancellationToken,
}

impl State {
    fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Acquire)
    }
}

/// The connection that a request came on.
#[derive(Clone)]
pub(super) struct Carrier(Arc<State>);

impl Connected<IncomingStream<'_, Bounded>> for Carrier {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Self {
        Carrier(stream.io().state.clone())
    }
}

/// Middleware around every request: while a request is processed, its connection counts as busy and is not
/// closed.
pub(super) async fn busy(
    ConnectInfo(Carrier(state)): ConnectInfo<Carrier>,
    request: Request,
    next: Next,
) -> Response {
    struct Busy(Arc<State>);
    impl Drop for Busy {
        fn drop(&mut self) {
            self.0.answered.fetch_add(1, Ordering::Release);
            self.0.is_busy.store(false, Ordering::Release);
        }
    }
    state.is_busy.store(true, Ordering::Release);
    let _busy = Busy(state);
    next.run(request).await
}

/// A connection that fails with [`ErrorKind::TimedOut`] if the client does not send or read for too long.
pub(super) struct Connection {
    stream: TcpStream,
    state: Arc<State>,
    patience: Duration,
    deadline: Pin<Box<Sleep>>,
    evicted: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The number of answered requests when the deadline was last extended.
    answered: usize,
    /// The client does not read what is sent.
    is_stalled: bool,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: TcpStream, state: Arc<State>, patience: Duration, place: OwnedSemaphorePermit) -> Self {
        let deadline = Box::pin(tokio::time::sleep(patience));
        let evicted = Box::pin(state.evicted.clone().cancelled_owned());
        Self { stream, state, patience, deadline, evicted, answered: 0, is_stalled: false, _place: place }
    }

    /// Gives the client the whole time again.
    fn extend(&mut self) {
        self.deadline.as_mut().reset(Instant::now() + self.patience);
    }

    /// Whether the deadline has passed or the connection is evicted. If not, the task is woken when that
    /// happens.
    fn is_late(&mut self, context: &mut Context<'_>) -> bool {
        let answered = self.state.answered.load(Ordering::Acquire);
        if answered != self.answered {
            self.answered = answered;
            self.extend();
        }
        let is_evicted = !self.is_stalled && self.evicted.as_mut().poll(context).is_ready();
        is_evicted || self.deadline.as_mut().poll(context).is_ready()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Checked before the read: otherwise a client that sends single bytes would never be late.
        if !self.state.is_busy() && self.is_late(context) {
            return Poll::Ready(Err(ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.is_stalled = written.is_pending();
        match written {
            Poll::Pending if self.is_late(context) => Poll::Ready(Err(ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
            written => {
                self.extend();
                written
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream as Client;
    use std::sync::mpsc;

    use axum::Router;
    use axum::routing::get;

    use super::*;

    /// Serves `/`, which answers at once, and `/slow`, which takes three times the patience.
    async fn serve(bounds: Bounds) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let slow = move || async move {
            tokio::time::sleep(bounds.patience * 3).await;
            "slow"
        };
        let router = Router::new()
            .route("/", get(async || "fast"))
            .route("/slow", get(slow))
            .route("/large", get(async || "x".repeat(64 * 1024 * 1024)))
            .layer(axum::middleware::from_fn(busy));
        let served = axum::serve(
            Bounded::new(listener, bounds),
            router.into_make_service_with_connect_info::<Carrier>(),
        );
        tokio::spawn(async move { served.await.expect("it serves") });
        address
    }

    fn connect(address: SocketAddr, sent: &str) -> Client {
        let mut client = Client::connect(address).expect("connected");
        client.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        client.write_all(sent.as_bytes()).expect("sent");
        client
    }

    /// What the server sends until it closes the connection.
    fn rest(mut client: Client) -> String {
        let mut all = Vec::new();
        match client.read_to_end(&mut all) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    const UNFINISHED: &str = "GET / HTTP/1.1\r\nhost: a\r\n";
    const FAST: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_connection_without_a_complete_head_is_closed_even_if_single_bytes_arrive() {
        let address = serve(Bounds { most: 8, patience: Duration::from_millis(500) }).await;
        let begun = std::time::Instant::now();
        let mut client = connect(address, UNFINISHED);
        while client.write_all(b"a").is_ok() {
            assert!(begun.elapsed() < Duration::from_secs(30), "the connection is never closed");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(rest(connect(address, UNFINISHED)), "");
        assert_eq!(rest(connect(address, "")), "");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_slow_request_is_answered_and_the_next_one_too() {
        let patience = Duration::from_millis(300);
        let address = serve(Bounds { most: 1, patience }).await;
        let mut client = connect(address, "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n");
        let mut read = Vec::new();
        while !read.ends_with(b"slow") {
            let mut some = [0; 1024];
            let count = client.read(&mut some).expect("an answer");
            assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&read));
            read.extend(&some[..count]);
        }
        client.write_all(FAST.as_bytes()).expect("sent");
        assert!(rest(client).ends_with("fast"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_new_connection_gets_the_place_of_the_connection_that_waits_longest() {
        let address = serve(Bounds { most: 4, patience: Duration::from_secs(3_600) }).await;
        let mut waiting: Vec<Client> = (0..4).map(|_| connect(address, UNFINISHED)).collect();
        assert!(rest(connect(address, FAST)).ends_with("fast"));
        assert_eq!(rest(waiting.remove(0)), "", "the first one was closed");
        for client in &mut waiting {
            client.write_all(b"connection: close\r\n\r\n").expect("sent");
        }
        for client in waiting {
            assert!(rest(client).ends_with("fast"), "the others were not");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_that_does_not_read_the_answer_loses_its_place() {
        let address = serve(Bounds { most: 1, patience: Duration::from_millis(300) }).await;
        let _never_reads = connect(address, "GET /large HTTP/1.1\r\nhost: a\r\n\r\n");
        let (done, answer) = mpsc::channel();
        std::thread::spawn(move || done.send(rest(connect(address, FAST))));
        let answer = answer.recv_timeout(Duration::from_secs(30)).expect("answered in time");
        assert!(answer.ends_with("fast"), "{answer}");
    }
}

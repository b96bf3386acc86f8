//! The accept loop: connections under limits, each served until its client is done or the server ends.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};

use super::address::{HttpConnection, HttpListener};
use super::peers::{AddressRange, Peer};
use super::stall::StallLimit;

/// How long a client may take from the accept until its first request has come, and from one request's first byte to its last.
const HEADER_TIME: Duration = Duration::from_secs(5);

/// How long a connection may stay open between two requests, and how long the header of a later request may take.
const IDLE_TIME: Duration = Duration::from_secs(75);

/// The longest header of a request, in bytes.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// Requests that one HTTP/2 connection may have open at once.
const MAX_STREAMS: u32 = 128;

/// How long the loop waits after the system refused a connection, for example because too many files are open.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(100);

/// What is served to a client.
pub(crate) trait Answers: Clone + Send + Sync + 'static {
    /// The answer to a request, whatever happens.
    fn answer(self, request: Request<Incoming>) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// Which client addresses have connections, and how many.
type ConnectionCounts = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// A place of an address among its connections; given back when it is dropped.
struct AddressSlot {
    counts: ConnectionCounts,
    address: IpAddr,
}

impl AddressSlot {
    /// A place, unless the address has `most` already.
    fn take(counts: &ConnectionCounts, address: IpAddr, most: usize) -> Option<AddressSlot> {
        let mut held = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(AddressSlot { counts: Arc::clone(counts), address })
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let mut held = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.address);
            }
        }
    }
}

/// How many connections a listener serves.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionLimits {
    /// Connections at once; more wait in the system's queue.
    pub(crate) all: usize,
    /// Connections of one client address; more are closed. A browser opens six to a host.
    pub(crate) of_address: usize,
    /// Proxies, whose connections are those of many clients: they are not counted by address.
    pub(crate) trusted_proxies: Vec<AddressRange>,
}

/// Serves the connections of a listener until `closing` becomes true; then no connection is accepted any more, and requests in flight
/// are answered, for at most `patience`.
pub(crate) async fn serve(
    listener: HttpListener,
    answers: impl Answers,
    limits: ConnectionLimits,
    mut closing: watch::Receiver<bool>,
    patience: Duration,
) {
    let (graceful, permits) = (GracefulShutdown::new(), Arc::new(Semaphore::new(limits.all)));
    let counts = ConnectionCounts::default();
    loop {
        // The permit first: what cannot be served is not accepted.
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            _ = closing.wait_for(|closing| *closing) => break,
            next = next => next,
        };
        let (Ok(permit), connection) = (permit, accepted) else { break };
        let connection = match connection {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!("a connection could not be accepted ({error})");
                tokio::time::sleep(PAUSE_AFTER_REFUSAL).await;
                continue;
            }
        };
        let (watcher, answers) = (graceful.watcher(), answers.clone());
        match connection {
            HttpConnection::Tcp(stream, address) => {
                let place = if limits.trusted_proxies.iter().any(|range| range.contains(address)) {
                    None
                } else {
                    let Some(place) = AddressSlot::take(&counts, address, limits.of_address) else { continue };
                    Some(place)
                };
                tokio::spawn(async move {
                    connected(stream, Some(address), answers, watcher).await;
                    drop((permit, place));
                });
            }
            #[cfg(unix)]
            HttpConnection::Unix(stream) => {
                tokio::spawn(async move {
                    connected(stream, None, answers, watcher).await;
                    drop(permit);
                });
            }
        }
    }
    drop(listener);
    // Whoever has not taken its answer by then is cut off.
    if tokio::time::timeout(patience, graceful.shutdown()).await.is_err() {
        tracing::warn!("some clients did not take their answers within {} s", patience.as_secs());
    }
}

/// Serves one connection to its end. `peer` is the address at its other end; a Unix socket has none.
async fn connected(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Option<IpAddr>,
    answers: impl Answers,
    watcher: Watcher,
) {
    let has_asked = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&has_asked);
    let service = service_fn(move |mut request: Request<Incoming>| {
        asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(Peer(peer));
        let answers = answers.clone();
        async move { Ok::<_, Infallible>(answers.answer(request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_TIME).max_buf_size(MAX_HEADER_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .keep_alive_interval(IDLE_TIME);
    let connection = builder.serve_connection(TokioIo::new(StallLimit::new(stream)), service).into_owned();
    let served = watcher.watch(connection);
    tokio::pin!(served);
    // The time limit of the HTTP library begins with the first byte, which may never come.
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = tokio::time::sleep(HEADER_TIME) => {
            if !has_asked.load(Ordering::Relaxed) {
                return;
            }
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended early ({error})");
    }
}

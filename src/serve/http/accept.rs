//! The accept loop: it limits the number of connections and serves each of them until its client is done or the server ends.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{HOST, TRANSFER_ENCODING};
use http::{Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};

use super::address::{HttpConnection, HttpListener};
use super::answer::Answer;
use super::peers::{AddressRange, Peer};
use super::stall::StallLimit;

/// The limit for the time from accepting a connection to the end of its first request's header, and from the first byte of a request to its
/// last.
const HEADER_TIME: Duration = Duration::from_secs(5);

/// The limit for the time between two requests of a connection, and for receiving the header of a later request.
const IDLE_TIME: Duration = Duration::from_secs(75);

/// The most bytes that the header of a request may have.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// The most requests that one HTTP/2 connection may have open at once.
const MAX_STREAMS: u32 = 128;

/// How long the loop waits after accepting a connection failed, for example because the process has too many open files.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(100);

/// Answers the requests of clients.
pub(crate) trait Answers: Clone + Send + Sync + 'static {
    /// Answers a request; every failure becomes an answer, too.
    fn answer(self, request: Request<Incoming>) -> impl Future<Output = Answer> + Send;
}

/// What is wrong with the form of a request, so that it is answered with 400 and its connection is closed; `None` if nothing is.
///
/// A request needs the one header `Host`, or is of a version that needs none (RFC 9112, section 3.2): a cache in front may go by another header than
/// this server would. Its body may be chunked, and coded in no other way (section 6.1): a proxy in front may find another end of it.
pub(crate) fn malformed(request: &Request<Incoming>) -> Option<&'static str> {
    let has_one_host = match request.headers().get_all(HOST).iter().count() {
        0 => request.version() != Version::HTTP_11,
        count => count == 1,
    };
    if !has_one_host {
        return Some("a request of HTTP/1.1 needs one Host header");
    }
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    let is_plain = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(one), None) => one.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        _ => false,
    };
    (!is_plain).then_some("the only transfer coding that is understood is chunked")
}

/// The names by which clients may ask a listener that only programs of this machine reach. A page on the internet can have its own name lead to
/// 127.0.0.1, and then a browser lets it read the answers (DNS rebinding): such a request has that name. `None` for every name.
#[derive(Debug, Clone)]
pub(crate) struct KnownHosts(Option<Arc<[String]>>);

impl KnownHosts {
    /// Every name.
    pub(crate) const ALL: KnownHosts = KnownHosts(None);

    /// The message of the answer to a request by another name.
    pub(crate) const UNKNOWN: &str =
        "this listener answers by its IP address or localhost only; hosts in [serve] lists further names";

    /// IP addresses, `localhost`, the host of `public_url`, and a list.
    pub(crate) fn of(public_url: Option<&str>, hosts: &[String]) -> KnownHosts {
        let own = public_url.and_then(|url| url.parse::<http::Uri>().ok()).and_then(|url| Some(url.host()?.to_owned()));
        KnownHosts(Some(hosts.iter().cloned().chain(own).collect()))
    }

    /// True if a request names no host, or a known one.
    pub(crate) fn knows(&self, request: &Request<Incoming>) -> bool {
        let Some(known) = &self.0 else { return true };
        let given = request.headers().get_all(HOST).iter().map(|value| value.to_str().unwrap_or_default());
        let mut named = given.chain(request.uri().authority().map(http::uri::Authority::as_str));
        named.all(|host| host.is_empty() || is_known(known, host))
    }
}

/// True if a host, perhaps with a port, is an IP address, `localhost` or in the list.
fn is_known(known: &[String], host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || known.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// The number of open connections of each client address that has any.
type ConnectionCounts = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// The right of an address to one connection; dropping it gives the right back.
struct AddressSlot {
    counts: ConnectionCounts,
    address: IpAddr,
}

impl AddressSlot {
    /// A slot for a connection of `address`; `None` if the address has `most` connections already.
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

/// The limits for the connections of a listener.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionLimits {
    /// The most open connections; further ones wait in the system's accept queue.
    pub(crate) all: usize,
    /// The limits by address; a change applies to later connections.
    pub(crate) by_address: watch::Receiver<AddressLimits>,
}

/// The limits for the connections of client addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddressLimits {
    /// The most open connections of one client address; further ones are closed at once. A browser opens six to a host.
    pub(crate) most: usize,
    /// Trusted proxies. Their connections carry many clients' requests, so these are not counted by address.
    pub(crate) trusted_proxies: Vec<AddressRange>,
}

/// A client address has reached its limit of connections.
struct TooManyConnections;

impl ConnectionLimits {
    /// The slot of a connection of `address`. A trusted proxy needs none.
    fn admit(&self, counts: &ConnectionCounts, address: IpAddr) -> Result<Option<AddressSlot>, TooManyConnections> {
        let limits = self.by_address.borrow();
        if limits.trusted_proxies.iter().any(|range| range.contains(address)) {
            return Ok(None);
        }
        AddressSlot::take(counts, address, limits.most).map(Some).ok_or(TooManyConnections)
    }
}

/// Serves the connections of a listener until `closing` becomes true. From then on it accepts no connection, and waits at most `patience`
/// until the requests in flight are answered.
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
        // Take the permit before accepting, so that no connection is accepted that cannot be served.
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
                let Ok(place) = limits.admit(&counts, address) else { continue };
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
    // Clients that have not received their answer by then are disconnected.
    if tokio::time::timeout(patience, graceful.shutdown()).await.is_err() {
        tracing::warn!("some clients did not take their answers within {} s", patience.as_secs());
    }
}

/// Serves one connection until it ends. `peer` is the address at its other end; `None` for a Unix socket.
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
    // The HTTP library's time limit starts with the first byte, which may never come.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_if_it_is_an_address_localhost_or_listed() {
        let known = ["tiles.example.org".to_owned()];
        for host in [
            "127.0.0.1",
            "127.0.0.1:9180",
            "[::1]",
            "[::1]:80",
            "10.0.0.7:1",
            "localhost",
            "LocalHost:80",
            "Tiles.example.org:8",
        ] {
            assert!(is_known(&known, host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:80",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "x@127.0.0.1",
            "a:b",
        ] {
            assert!(!is_known(&known, host), "{host}");
        }
    }
}

//! One connection, of HTTP/1.1 or HTTP/2, from its first byte until its client is done, is too slow, or the server
//! ends.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Ping, Reason, SendStream};
use http::header::{CONTENT_LENGTH, DATE, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::Receiver;
use tokio::sync::{Notify, watch};

use super::address::{ClientKey, Peer};
use super::answer::{Answer, AnswerBody, RequestBody};
use super::stall::{Progress, StallLimit};
use super::unread::{Sending, UnreadAnswers};

/// The most bytes that the header of a request may have.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// The most requests that one HTTP/2 connection may have open at once. A map asks for some twenty tiles at a time.
const MAX_STREAMS: u32 = 32;

/// The most bytes of an answer that are queued at a time on an HTTP/2 connection, so that its streams take turns.
const PIECE: usize = 64 << 10;

/// Answers the requests of clients.
pub(crate) trait Answers: Clone + Send + Sync + 'static {
    /// Answers a request; every failure becomes an answer, too.
    fn answer(self, request: Request<RequestBody>) -> impl Future<Output = Answer> + Send;
}

/// What is wrong with the form of a request, so that it is answered with 400 and its connection is closed; `None` if
/// nothing is.
///
/// A request needs the one header `Host`, or is of a version that needs none (RFC 9112, section 3.2): a cache in front
/// may go by another header than this server would. Its body may be chunked, and coded in no other way (section 6.1): a
/// proxy in front may find another end of it.
pub(crate) fn malformed<B>(request: &Request<B>) -> Option<&'static str> {
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

/// The names by which clients may ask a listener that only programs of this machine reach. A page on the internet can
/// have its own name lead to 127.0.0.1, and then a browser lets it read the answers (DNS rebinding): such a request has
/// that name. `None` for every name.
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
    pub(crate) fn knows<B>(&self, request: &Request<B>) -> bool {
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

/// The time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionTimes {
    /// From accepting a connection to the end of its first request's header.
    pub(crate) first_request: Duration,
    /// Between two requests of a connection; in HTTP/1.1 also for receiving the header of a later request.
    pub(crate) idle: Duration,
    /// For taking [`MIN_PROGRESS`](crate::serve::http::stall) of an answer.
    pub(crate) stall: Duration,
    /// For the client to end an idle connection of HTTP/2 that it was asked to end.
    pub(crate) parting: Duration,
}

impl Default for ConnectionTimes {
    fn default() -> ConnectionTimes {
        ConnectionTimes {
            first_request: Duration::from_secs(5),
            idle: Duration::from_secs(75),
            stall: Duration::from_secs(30),
            parting: Duration::from_secs(5),
        }
    }
}

/// A connection: what it does at the moment.
#[derive(Debug)]
pub(crate) struct Connection {
    begun: Instant,
    /// Requests that are being answered.
    open: AtomicUsize,
    /// When the last request was answered, in milliseconds after `begun`, plus 1; 0 before the first request.
    last: AtomicU64,
    sending: Arc<Sending>,
    end: Notify,
}

/// A request that is being answered.
struct OpenRequest(Arc<Connection>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.touch();
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    /// A connection that was just accepted.
    pub(crate) fn new() -> Connection {
        Connection {
            begun: Instant::now(),
            open: AtomicUsize::new(0),
            last: AtomicU64::new(0),
            sending: Arc::default(),
            end: Notify::new(),
        }
    }

    fn touch(&self) {
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.last.store(millis + 1, Ordering::Relaxed);
    }

    fn opens_request(self: &Arc<Self>) -> OpenRequest {
        self.open.fetch_add(1, Ordering::Relaxed);
        if !self.has_asked() {
            self.touch();
        }
        OpenRequest(Arc::clone(self))
    }

    fn has_asked(&self) -> bool {
        self.last.load(Ordering::Relaxed) > 0
    }

    /// How long no request has been answered and no answer been sent; `None` while one is.
    pub(crate) fn idle_for(&self) -> Option<Duration> {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed).saturating_sub(1));
        let is_idle = self.open.load(Ordering::Relaxed) == 0 && !self.sending.is_waiting();
        is_idle.then(|| self.begun.elapsed().saturating_sub(last))
    }

    /// How long it has been open.
    pub(crate) fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Ends the connection at once.
    pub(crate) fn end(&self) {
        self.end.notify_one();
    }
}

/// What all connections of a listener are served with.
#[derive(Clone)]
pub(crate) struct ServedWith<A> {
    pub(crate) answers: A,
    pub(crate) times: ConnectionTimes,
    pub(crate) unread: UnreadAnswers,
    /// True once the server ends: no further request is read then.
    pub(crate) closing: watch::Receiver<bool>,
}

impl<A: Answers> ServedWith<A> {
    /// Serves one connection until it ends. `peer` is the address at its other end; `None` for a Unix socket.
    pub(crate) async fn serve(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send,
        peer: Option<IpAddr>,
        connection: Arc<Connection>,
    ) {
        let progress = Progress::new(self.times.stall, Arc::clone(&connection.sending), self.unread.clone());
        let mut stream = StallLimit::new(stream, progress);
        let (end, mut closing, first_request) =
            (Arc::clone(&connection), self.closing.clone(), self.times.first_request);
        let served = async {
            let is_http2 = tokio::select! {
                read = tokio::time::timeout(first_request, stream.is_http2()) => read,
                _ = closing.wait_for(|closing| *closing) => return,
            };
            match is_http2 {
                Ok(Ok(true)) => self.serve_http2(stream, peer, connection).await,
                Ok(Ok(false)) => self.serve_http1(stream, peer, connection).await,
                Ok(Err(error)) => tracing::debug!("a connection broke off ({error})"),
                Err(_late) => {}
            }
        };
        tokio::select! {
            () = served => {}
            () = end.end.notified() => {}
        }
    }

    async fn serve_http1(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send,
        peer: Option<IpAddr>,
        connection: Arc<Connection>,
    ) {
        let ServedWith { answers, times, mut closing, .. } = self;
        let of_requests = Arc::clone(&connection);
        let service = service_fn(move |request: Request<Incoming>| {
            let (open, answers) = (of_requests.opens_request(), answers.clone());
            let mut request = request.map(RequestBody::Http1);
            request.extensions_mut().insert(Peer(peer));
            async move {
                let answer = answers.answer(request).await;
                answer.body().begins(&open.0.sending);
                Ok::<_, Infallible>(answer)
            }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(times.idle).max_buf_size(MAX_HEADER_BYTES as usize);
        let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
        // The HTTP library's time limit is that of later requests.
        let mut first_request = pin!(tokio::time::sleep(times.first_request.saturating_sub(connection.age())));
        let (mut is_first, mut is_closing) = (true, false);
        loop {
            tokio::select! {
                ended = served.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!("a connection ended early ({error})");
                    }
                    return;
                }
                () = first_request.as_mut(), if is_first => {
                    if !connection.has_asked() {
                        return;
                    }
                    is_first = false;
                }
                _ = closing.wait_for(|closing| *closing), if !is_closing => {
                    is_closing = true;
                    served.as_mut().graceful_shutdown();
                }
            }
        }
    }

    /// An idle connection is asked to end (GOAWAY), whether or not its client answers pings, and cut off if the client
    /// does not end it. While requests are being answered, pings show if the client is still there.
    async fn serve_http2(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send,
        peer: Option<IpAddr>,
        connection: Arc<Connection>,
    ) {
        let (limits, mut closing) = (self.times, self.closing.clone());
        connection.sending.queues_for(ClientKey::of(peer));
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(MAX_STREAMS).max_header_list_size(MAX_HEADER_BYTES);
        let mut timer = pin!(tokio::time::sleep(limits.first_request.saturating_sub(connection.age())));
        let shaken = tokio::select! {
            shaken = builder.handshake::<_, Piece>(stream) => shaken,
            () = timer.as_mut() => return,
        };
        let Ok(mut served) = shaken else { return };
        let (mut pings, mut is_pinged) = (served.ping_pong(), false);
        let (mut is_ending, mut is_closing) = (false, false);
        loop {
            tokio::select! {
                request = served.accept() => match request {
                    Some(Ok((request, respond))) => {
                        let mut request = request.map(RequestBody::Http2);
                        request.extensions_mut().insert(Peer(peer));
                        tokio::spawn(self.clone().answer(request, respond, connection.opens_request()));
                    }
                    Some(Err(error)) => return tracing::debug!("a connection ended early ({error})"),
                    None => return,
                },
                answered = pong(pings.as_mut()), if is_pinged => {
                    if answered.is_err() {
                        return;
                    }
                    is_pinged = false;
                }
                () = timer.as_mut() => {
                    let next = match connection.idle_for() {
                        _ if !connection.has_asked() || is_pinged => return,
                        Some(_) if is_ending => return,
                        Some(idle) if idle < limits.idle => limits.idle.saturating_sub(idle),
                        Some(_) => {
                            is_ending = true;
                            served.graceful_shutdown();
                            limits.parting
                        }
                        None => {
                            is_pinged = pings.as_mut().is_some_and(|pings| pings.send_ping(Ping::opaque()).is_ok());
                            limits.idle
                        }
                    };
                    timer.as_mut().reset(tokio::time::Instant::now() + next);
                }
                _ = closing.wait_for(|closing| *closing), if !is_closing => {
                    is_closing = true;
                    served.graceful_shutdown();
                }
            }
        }
    }

    /// Answers a request of HTTP/2. If the client resets its stream, nothing more is done for it.
    async fn answer(self, request: Request<RequestBody>, mut respond: SendResponse<Piece>, open: OpenRequest) {
        let answer = tokio::select! {
            biased;
            answer = self.answers.clone().answer(request) => answer,
            _reset = poll_fn(|context| respond.poll_reset(context)) => return,
        };
        if let Err(error) = self.send(answer, respond, &open.0).await {
            tracing::debug!("an answer was not sent ({error})");
        }
    }

    async fn send(
        self,
        answer: Answer,
        mut respond: SendResponse<Piece>,
        connection: &Connection,
    ) -> Result<(), h2::Error> {
        let sending = Arc::new(Sending::default());
        answer.body().begins(&sending);
        let (parts, body) = answer.into_parts();
        let mut head = http::Response::from_parts(parts, ());
        if let Ok(now) = HeaderValue::from_str(&httpdate::fmt_http_date(SystemTime::now())) {
            head.headers_mut().entry(DATE).or_insert(now);
        }
        let (queue, progress) = (&connection.sending, Progress::new(self.times.stall, sending, self.unread));
        match body {
            AnswerBody::Full(bytes, ..) if bytes.is_empty() => respond.send_response(head, true).map(drop),
            AnswerBody::Full(bytes, _, hold) => {
                head.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| bytes.len().into());
                let stream = respond.send_response(head, false)?;
                let progress = progress.counted_by(hold);
                Pieces { stream, progress, queue }.send(bytes, true).await.map(|_sent| ())
            }
            AnswerBody::Events(mut events) => {
                let stream = respond.send_response(head, false)?;
                let mut pieces = Pieces { stream, progress, queue };
                while let Some(event) = pieces.next(&mut events).await? {
                    if pieces.send(event, false).await? == Sent::Cut {
                        return Ok(());
                    }
                }
                pieces.stream.send_data(Piece::new(Bytes::new(), queue), true)
            }
        }
    }
}

/// The answer to the last ping.
async fn pong(pings: Option<&mut h2::PingPong>) -> Result<(), h2::Error> {
    match pings {
        Some(pings) => poll_fn(|context| pings.poll_pong(context)).await.map(drop),
        None => std::future::pending().await,
    }
}

/// A piece of an answer in the queue of an HTTP/2 connection, which counts the queued bytes.
struct Piece {
    bytes: Bytes,
    length: usize,
    queue: Arc<Sending>,
}

impl Piece {
    fn new(bytes: Bytes, queue: &Arc<Sending>) -> Piece {
        queue.queued(bytes.len());
        Piece { length: bytes.len(), bytes, queue: Arc::clone(queue) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.queue.unqueued(self.length);
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

/// Whether a body was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    All,
    /// The client was too slow, or the memory was needed: the stream was reset.
    Cut,
}

/// Sends a body on a stream of HTTP/2, no more at a time than the client has room for: what it does not accept stays
/// countable, and can be dropped.
struct Pieces<'a> {
    stream: SendStream<Piece>,
    progress: Progress,
    queue: &'a Arc<Sending>,
}

impl Pieces<'_> {
    /// Sends some bytes; `is_last` if nothing follows.
    async fn send(&mut self, mut bytes: Bytes, is_last: bool) -> Result<Sent, h2::Error> {
        while !bytes.is_empty() {
            self.stream.reserve_capacity(bytes.len().min(PIECE));
            let Some(room) = poll_fn(|context| self.poll_room(context)).await else {
                self.stream.send_reset(Reason::CANCEL);
                return Ok(Sent::Cut);
            };
            let room = room?;
            let piece = bytes.split_to(room.min(PIECE).min(bytes.len()));
            self.progress.took(piece.len());
            self.stream.send_data(Piece::new(piece, self.queue), is_last && bytes.is_empty())?;
        }
        self.progress.finished();
        Ok(Sent::All)
    }

    /// The bytes for which the client has room; `None` if the answer has to end.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<usize, h2::Error>>> {
        loop {
            match self.stream.capacity() {
                0 => {}
                room => return Poll::Ready(Some(Ok(room))),
            }
            match self.stream.poll_capacity(context) {
                Poll::Ready(Some(Ok(_grown))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(Some(Err(Reason::CANCEL.into()))),
                Poll::Pending => return self.progress.poll_waiting(context).map(|_cut| None),
            }
        }
    }

    /// The next event; `None` if there will be none, or the client has reset the stream.
    async fn next(&mut self, events: &mut Receiver<Bytes>) -> Result<Option<Bytes>, h2::Error> {
        tokio::select! {
            event = events.recv() => Ok(event),
            reset = poll_fn(|context| self.stream.poll_reset(context)) => Err(reset?.into()),
        }
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

    #[test]
    fn the_host_of_the_public_url_is_known_beside_the_listed_ones() {
        let hosts = KnownHosts::of(Some("https://tiles.example.org:8443/map/"), &["metrics.internal".to_owned()]);
        let knows = |host: &str| hosts.knows(&Request::builder().header(HOST, host).body(()).unwrap());
        for host in ["tiles.example.org", "Tiles.Example.org:443", "metrics.internal", "localhost:9180"] {
            assert!(knows(host), "{host}");
        }
        for host in ["example.org", "map.tiles.example.org", "tiles.example.org.evil.example"] {
            assert!(!knows(host), "{host}");
        }
        let without = KnownHosts::of(None, &[]);
        assert!(!without.knows(&Request::builder().header(HOST, "tiles.example.org").body(()).unwrap()));
    }
}

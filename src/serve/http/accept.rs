//! The accept loop: which connections are served, and whose connections end for others when all are taken.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::address::{AddressRange, ClientKey, HttpConnection, HttpListener};
use super::connection::{Answers, Connection, ConnectionTimes, ServedWith};
use super::unread::UnreadAnswers;

/// How long the loop waits after accepting a connection failed, for example because the process has too many open
/// files.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(100);

/// The pause between two lines of the log about refused connections.
const FLOOD_PAUSE: Duration = Duration::from_secs(60);

/// Descriptors that connections of the public listener leave to the rest of the program: files of the target, sessions,
/// Redis, the admin listener.
const RESERVED_DESCRIPTORS: u64 = 512;

/// The most connections of the admin listener.
pub(crate) const ADMIN_CONNECTIONS: usize = 128;

/// Raises the soft limit of open files (`RLIMIT_NOFILE`) as far as `connections` need it. Returns the number of
/// connections for which it suffices: at most `connections`.
pub(crate) fn raise_descriptors(connections: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = (connections as u64).saturating_add(RESERVED_DESCRIPTORS);
    let Some(soft) = limit.current.filter(|soft| *soft < wanted) else { return connections };
    let raised = limit.maximum.map_or(wanted, |hard| wanted.min(hard));
    let now = match setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum }) {
        Ok(()) => raised,
        Err(error) => {
            tracing::warn!("the limit of open files cannot be raised from {soft} to {raised} ({error})");
            soft
        }
    };
    if now >= wanted {
        return connections;
    }
    // With a very low limit, half is for connections.
    let left = now.saturating_sub(RESERVED_DESCRIPTORS).max(now / 2).max(1);
    let left = usize::try_from(left).unwrap_or(connections).min(connections);
    tracing::warn!(
        "the system allows {now} open files (ulimit -n, LimitNOFILE), so that {left} connections are served at once and not {connections}: allow {wanted}"
    );
    left
}

/// Other systems have no such limit.

#[derive(Debug, Clone)]
pub(crate) struct ConnectionLimits {
    /// The most open connections.
    pub(crate) all: usize,
    /// The limits by address; a change applies to later connections.
    pub(crate) by_address: watch::Receiver<AddressLimits>,
    pub(crate) times: ConnectionTimes,
    /// The answers that clients are slow to read, of all listeners.
    pub(crate) unread: UnreadAnswers,
}

/// The limits for the connections of client addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddressLimits {
    /// The most open connections of one client; further ones are closed at once. A browser opens six to a host.
    pub(crate) most: usize,
    /// Trusted proxies. Their connections carry many clients' requests, so these are not counted by address.
    pub(crate) trusted_proxies: Vec<AddressRange>,
}

/// The open connections of each client that has any; those of trusted proxies and of Unix sockets are not in it. Clones
/// share them.
#[derive(Debug, Clone, Default)]
struct ConnectionTable(Arc<Mutex<HashMap<ClientKey, Vec<Arc<Connection>>>>>);

/// A connection in the table, until it is dropped.
struct ConnectionSlot {
    table: ConnectionTable,
    client: ClientKey,
    connection: Arc<Connection>,
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut clients = self.table.0.lock();
        if let Some(of_client) = clients.get_mut(&self.client) {
            of_client.retain(|other| !Arc::ptr_eq(other, &self.connection));
            if of_client.is_empty() {
                clients.remove(&self.client);
            }
        }
    }
}

/// What becomes of a connection that comes when all are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Newcomer {
    /// It is served as soon as another one has ended.
    Waits,
    /// It is closed: its client has as many as any other.
    Closed,
}

impl ConnectionTable {
    /// Puts a connection into the table; `None` if its client has `most` already.
    fn admit(&self, client: ClientKey, connection: &Arc<Connection>, most: usize) -> Option<ConnectionSlot> {
        let mut clients = self.0.lock();
        let of_client = clients.entry(client).or_default();
        if of_client.len() >= most {
            return None;
        }
        of_client.push(Arc::clone(connection));
        Some(ConnectionSlot { table: self.clone(), client, connection: Arc::clone(connection) })
    }

    /// Makes room for a connection of `newcomer` (`None` for one that the table does not count), which is in the table
    /// already: ends the connection of the client with the most, if it has more than the newcomer: the one that has
    /// been idle longest, else the oldest. If nobody has more, a connection that is idle may end for the only one of
    /// its client.
    fn make_room(&self, newcomer: Option<ClientKey>) -> Newcomer {
        let clients = self.0.lock();
        let own = newcomer.and_then(|client| clients.get(&client)).map_or(0, Vec::len);
        let others =
            || clients.iter().filter(move |(client, _)| Some(**client) != newcomer).map(|(_, of_client)| of_client);
        let Some(most) = others().max_by_key(|of_client| of_client.len()) else { return Newcomer::Waits };
        let longest_idle = |connection: &&Arc<Connection>| (connection.idle_for(), connection.age());
        let victim = if most.len() > own {
            most.iter().max_by_key(longest_idle)
        } else if own <= 1 {
            others().flatten().filter(|connection| connection.idle_for().is_some()).max_by_key(longest_idle)
        } else {
            return Newcomer::Closed;
        };
        if let Some(victim) = victim {
            victim.end();
        }
        Newcomer::Waits
    }
}

/// Says in the log that connections are refused: one line at first, then at most one a minute.
#[derive(Debug, Default)]
struct FloodLog {
    said: Option<Instant>,
    /// Connections that were refused or ended since that line.
    more: u64,
}

impl FloodLog {
    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.said.is_some_and(|said| said.elapsed() < FLOOD_PAUSE) {
            self.more += 1;
            return;
        }
        let more = match std::mem::take(&mut self.more) {
            0 => String::new(),
            more => format!(" ({more} more since the last such line)"),
        };
        tracing::warn!("{}{more}", what());
        self.said = Some(Instant::now());
    }
}

/// Serves the connections of a listener until `closing` becomes true. From then on it accepts no connection, and waits
/// at most `patience` until the requests in flight are answered.
pub(crate) async fn serve(
    listener: HttpListener,
    answers: impl Answers,
    limits: ConnectionLimits,
    mut closing: watch::Receiver<bool>,
    patience: Duration,
) {
    let permits = Arc::new(Semaphore::new(limits.all));
    let (table, mut flood) = (ConnectionTable::default(), FloodLog::default());
    let served_with =
        ServedWith { answers, times: limits.times, unread: limits.unread.clone(), closing: closing.clone() };
    loop {
        let accepted = tokio::select! {
            _ = closing.wait_for(|closing| *closing) => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                flood.note(|| format!("a connection could not be accepted ({error})"));
                // If there are too many open files, a connection less helps.
                table.make_room(None);
                tokio::time::sleep(PAUSE_AFTER_REFUSAL).await;
                continue;
            }
        };
        let (connection, address) = (Arc::new(Connection::new()), stream.address());
        let (client, slot) = {
            let of_addresses = limits.by_address.borrow();
            let is_trusted = |address| of_addresses.trusted_proxies.iter().any(|range| range.contains(address));
            let client = address.filter(|address| !is_trusted(*address)).map(|address| ClientKey::of(Some(address)));
            let most = of_addresses.most;
            let slot = client.map(|client| table.admit(client, &connection, most));
            if let (Some(None), Some(client)) = (&slot, client) {
                flood.note(|| format!("{client} has {most} connections open: further ones are closed"));
                continue;
            }
            (client, slot.flatten())
        };
        let permit = match Arc::clone(&permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_all_taken) => {
                let all = limits.all;
                flood.note(|| {
                    format!("all {all} connections are taken: those of the clients with the most end for others")
                });
                if table.make_room(client) == Newcomer::Closed {
                    continue;
                }
                let freed = tokio::select! {
                    _ = closing.wait_for(|closing| *closing) => break,
                    permit = Arc::clone(&permits).acquire_owned() => permit,
                };
                let Ok(permit) = freed else { break };
                permit
            }
        };
        let served_with = served_with.clone();
        match stream {
            HttpConnection::Tcp(stream, _) => {
                tokio::spawn(held(served_with.serve(stream, address, connection), permit, slot));
            }
            HttpConnection::Unix(stream) => {
                tokio::spawn(held(served_with.serve(stream, None, connection), permit, slot));
            }
        }
    }
    drop(listener);
    // Every connection has a permit. Clients that have not received their answer by then are disconnected.
    let all = u32::try_from(limits.all).unwrap_or(u32::MAX);
    if tokio::time::timeout(patience, permits.acquire_many(all)).await.is_err() {
        tracing::warn!("some clients did not take their answers within {} s", patience.as_secs());
    }
}

/// Serves a connection, and gives its permit and its slot back once it has ended.
async fn held(served: impl Future<Output = ()>, permit: OwnedSemaphorePermit, slot: Option<ConnectionSlot>) {
    served.await;
    drop((permit, slot));
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{Request, Response};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpSocket, TcpStream};

    use super::*;
    use crate::serve::http::address::ListenAddress;
    use crate::serve::http::answer::Answer;
    use crate::serve::http::answer::{AnswerBody, RequestBody};

    /// Answers `/small` with two bytes and everything else with more than the buffers of a connection hold.
    #[derive(Clone)]
    struct Bodies(Bytes);

    const ANSWER_BYTES: usize = 16 << 20;

    impl Answers for Bodies {
        async fn answer(self, request: Request<RequestBody>) -> Answer {
            let small = Bytes::from_static(b"ok");
            Response::new(AnswerBody::from(if request.uri().path() == "/small" { small } else { self.0 }))
        }
    }

    /// A server with short time limits, until it is dropped.
    struct Running {
        port: u16,
        unread: UnreadAnswers,
        _closing: watch::Sender<bool>,
    }

    const STALL: Duration = Duration::from_millis(400);
    const IDLE: Duration = Duration::from_millis(600);
    const LONG: Duration = Duration::from_secs(60);

    async fn running(all: usize, most: usize, idle: Duration) -> Running {
        let listener = HttpListener::bind(&ListenAddress::ANY_LOCAL).await.unwrap();
        let port = listener.url().unwrap().rsplit(':').next().unwrap().parse().unwrap();
        let times = ConnectionTimes {
            first_request: Duration::from_secs(20),
            idle,
            stall: STALL,
            parting: Duration::from_millis(100),
        };
        let (closing, closes) = watch::channel(false);
        let (_limits, by_address) = watch::channel(AddressLimits { most, trusted_proxies: Vec::new() });
        let unread = UnreadAnswers::new(1 << 30);
        let limits = ConnectionLimits { all, by_address, times, unread: unread.clone() };
        let answers = Bodies(Bytes::from(vec![7; ANSWER_BYTES]));
        tokio::spawn(serve(listener, answers, limits, closes, Duration::ZERO));
        Running { port, unread, _closing: closing }
    }

    impl Running {
        /// A connection from an address of this machine.
        async fn connect_from(&self, last: u8) -> TcpStream {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 0, last], 0).into()).unwrap();
            socket.connect(([127, 0, 0, 1], self.port).into()).await.unwrap()
        }

        /// A connection of HTTP/2 on which streams may send nothing before they are given a window.
        async fn http2(&self) -> Http2Client {
            let mut stream = self.connect_from(1).await;
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
            let mut client = Http2Client(stream);
            // SETTINGS_INITIAL_WINDOW_SIZE = 0.
            client.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).await;
            client.send(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()).await;
            client
        }
    }

    // Kinds of frames (RFC 9113, section 6).
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const WINDOW_UPDATE: u8 = 8;

    struct Http2Client(TcpStream);

    impl Http2Client {
        async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
            let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
            let frame = [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
            self.0.write_all(&frame).await.unwrap();
        }

        /// Asks for a path, which is written without an index (RFC 7541, section 6.2.2).
        async fn get(&mut self, stream: u32, path: &str) {
            let length = [u8::try_from(path.len()).unwrap()];
            let head = [&[0x82, 0x86, 0x04], &length[..], path.as_bytes(), &[0x01, 1], b"x"].concat();
            self.send(HEADERS, 0x5, stream, &head).await;
        }

        /// The next frame of a kind: its stream and payload; `None` if the connection ends before.
        async fn next(&mut self, kind: u8) -> Option<(u32, Vec<u8>)> {
            loop {
                let mut head = [0; 9];
                self.0.read_exact(&mut head).await.ok()?;
                let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
                self.0.read_exact(&mut payload).await.ok()?;
                if head[3] == kind {
                    return Some((u32::from_be_bytes(head[5..].try_into().unwrap()), payload));
                }
            }
        }
    }

    async fn until(what: &str, is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_stream_that_nobody_reads_is_reset_and_the_others_of_its_connection_go_on() {
        let running = running(8, 8, IDLE).await;
        let mut client = running.http2().await;
        for stream in [1, 3, 5] {
            client.get(stream, "/large").await;
        }
        until("the answers count, their shared bytes once", || running.unread.counts().held == ANSWER_BYTES as u64)
            .await;
        let mut reset: Vec<u32> = Vec::new();
        for _ in 0..3 {
            reset.push(client.next(RST_STREAM).await.unwrap().0);
        }
        reset.sort_unstable();
        assert_eq!(reset, [1, 3, 5]);
        let counts = running.unread.counts();
        assert_eq!((counts.held, counts.cut_as_slow, counts.cut_for_memory), (0, 3, 0));
        client.get(7, "/small").await;
        client.send(WINDOW_UPDATE, 0, 7, &2_u32.to_be_bytes()).await;
        assert_eq!(client.next(DATA).await.unwrap(), (7, b"ok".to_vec()));
    }

    #[tokio::test]
    async fn a_byte_now_and_then_is_not_enough_and_a_slow_client_is() {
        let running = running(8, 8, IDLE).await;
        let mut client = running.http2().await;
        client.get(1, "/large").await;
        client.get(3, "/large").await;
        let begun = Instant::now();
        // The first stream gets a byte each time, the second one 1 kB: more than 4 kB within the limit.
        while begun.elapsed() < 4 * STALL {
            client.send(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()).await;
            client.send(WINDOW_UPDATE, 0, 3, &1_024_u32.to_be_bytes()).await;
            tokio::time::sleep(STALL / 16).await;
        }
        assert_eq!(client.next(RST_STREAM).await.unwrap().0, 1);
        assert_eq!(running.unread.counts().cut_as_slow, 1);
        assert_eq!(client.next(RST_STREAM).await.unwrap().0, 3, "from here on it gets nothing");
    }

    #[tokio::test]
    async fn an_answer_of_http1_that_nobody_reads_ends_its_connection() {
        let running = running(8, 8, IDLE).await;
        for request in ["GET /large HTTP/1.1\r\nHost: x\r\n\r\n", "GET /large HTTP/1.0\r\n\r\n"] {
            let mut client = running.connect_from(1).await;
            // Pipelined: the second answer has to wait for the first.
            client.write_all(request.repeat(3).as_bytes()).await.unwrap();
            until("it counts", || running.unread.counts().held == ANSWER_BYTES as u64).await;
            until("it ends", || running.unread.counts().held == 0).await;
            let mut rest = Vec::new();
            let read = client.read_to_end(&mut rest).await;
            assert!(read.is_err() || rest.len() < ANSWER_BYTES, "{}", rest.len());
        }
        assert_eq!(running.unread.counts().cut_as_slow, 2);
    }

    #[tokio::test]
    async fn an_idle_connection_of_http2_ends_though_its_client_answers_pings() {
        let running = running(8, 8, IDLE).await;
        let mut client = running.http2().await;
        client.get(1, "/small").await;
        client.send(WINDOW_UPDATE, 0, 1, &2_u32.to_be_bytes()).await;
        let Http2Client(stream) = client;
        let (read, write) = stream.into_split();
        let pinging = tokio::spawn(async move {
            let mut write = write;
            let ping = [&[0, 0, 8, PING, 0, 0, 0, 0, 0][..], &[7; 8]].concat();
            // Until the server closes the connection.
            while write.write_all(&ping).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let (mut read, mut bytes) = (read, Vec::new());
        let ended = tokio::time::timeout(Duration::from_secs(60), read.read_to_end(&mut bytes)).await;
        assert!(ended.is_ok(), "it never ends");
        pinging.await.unwrap();
        let mut rest = &bytes[..];
        let mut kinds = Vec::new();
        while rest.len() >= 9 {
            kinds.push(rest[3]);
            rest = &rest[(9 + u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize).min(rest.len())..];
        }
        assert!(kinds.contains(&DATA) && kinds.contains(&GOAWAY), "{kinds:?}");
    }

    /// Asks for something small on a connection that stays open; false if the server closes it.
    async fn is_answered(client: &mut TcpStream) -> bool {
        let mut answer = Vec::new();
        let asked = client.write_all(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n").await;
        while asked.is_ok() && !answer.ends_with(b"\r\n\r\nok") {
            match client.read_buf(&mut answer).await {
                Ok(0) | Err(_) => return false,
                Ok(_) => {}
            }
        }
        answer.starts_with(b"HTTP/1.1 200")
    }

    #[tokio::test]
    async fn when_all_connections_are_taken_the_clients_with_the_most_make_room() {
        let running = running(6, 4, LONG).await;
        let mut taken = Vec::new();
        for address in [2, 3, 2, 3, 2, 3] {
            let mut client = running.connect_from(address).await;
            assert!(is_answered(&mut client).await);
            taken.push(client);
        }
        // A client that has as many connections is turned away; a client that has fewer is served.
        assert!(!is_answered(&mut running.connect_from(2).await).await);
        let mut newcomer = running.connect_from(4).await;
        assert!(is_answered(&mut newcomer).await);
        let mut second = running.connect_from(4).await;
        assert!(is_answered(&mut second).await && is_answered(&mut newcomer).await);
        assert!(!is_answered(&mut running.connect_from(4).await).await, "all have two");
        let mut left = 0;
        for client in &mut taken {
            left += usize::from(is_answered(client).await);
        }
        assert_eq!(left, 4);
    }
}

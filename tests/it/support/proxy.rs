//! A proxy in front of an S3 server that behaves like real networks and servers: it refuses, breaks off, is slow. It
//! also counts.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as a rule sees it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// GET, PUT …
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The whole head.
    pub head: String,
    /// How many requests came before it.
    pub number: usize,
}

impl Seen {
    /// Whether it writes a tile.
    pub(crate) fn is_tile(&self) -> bool {
        self.method == "PUT" && self.target.contains(".pbf")
    }
}

/// What happens to a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// It is served.
    None,
    /// It is served later.
    Slow(Duration),
    /// It is served once [`Proxy::let_go`] was called.
    Held,
    /// It is answered as if the server had stored the object, although the server has not.
    Taken,
    /// It is answered with this document, and not served.
    Answered(&'static str),
    /// It is answered with an S3 error.
    Error(u16, &'static str, &'static str),
    /// The connection is reset before the request is read.
    Reset,
    /// It is served, but the answer breaks off in the middle.
    Truncated,
    /// It is served, but its answer is lost.
    Lost,
}

/// What an S3 server under load says.
pub(crate) const SLOW_DOWN: Fault = Fault::Error(503, "SlowDown", "Please reduce your request rate.");

type Rule = Box<dyn FnMut(&Seen) -> Fault + Send>;

/// The proxy, until it is dropped.
pub(crate) struct Proxy {
    /// Its address.
    pub endpoint: String,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: String,
    rule: Mutex<Rule>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    closed: AtomicBool,
    /// The number of requests that are held back, and whether they may continue.
    held: AtomicUsize,
    lets_go: AtomicBool,
}

impl Proxy {
    /// A proxy before a server, with a rule.
    pub(crate) fn before(endpoint: &str, rule: impl FnMut(&Seen) -> Fault + Send + 'static) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream: endpoint.strip_prefix("http://").unwrap().to_owned(),
            rule: Mutex::new(Box::new(rule)),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            lets_go: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if of_thread.closed.load(Ordering::Relaxed) {
                    return;
                }
                of_thread.connections.fetch_add(1, Ordering::Relaxed);
                let (client, shared) = (client.unwrap(), Arc::clone(&of_thread));
                // Connections that end in the middle are the purpose of this proxy.
                std::thread::spawn(move || drop(serve(&client, &shared)));
            }
        });
        Proxy { endpoint: format!("http://{address}"), shared }
    }

    /// Changes the rule.
    pub(crate) fn rule(&self, rule: impl FnMut(&Seen) -> Fault + Send + 'static) {
        *self.shared.rule.lock().unwrap() = Box::new(rule);
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How many requests are held back.
    pub(crate) fn held(&self) -> usize {
        self.shared.held.load(Ordering::Relaxed)
    }

    /// Serves the requests that are held back, and waits until they are served.
    pub(crate) fn let_go(&self) {
        self.shared.lets_go.store(true, Ordering::Relaxed);
        super::until("what was held back is served", || self.held() == 0);
    }

    /// Returns the requests seen so far, and clears the list.
    pub(crate) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.seen.lock().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        // Wakes the listener, so that it sees the end.
        drop(TcpStream::connect(self.endpoint.strip_prefix("http://").unwrap()));
    }
}

fn serve(client: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut from_client = BufReader::new(client.try_clone()?);
    let mut upstream: Option<BufReader<TcpStream>> = None;
    loop {
        let head = read_head(&mut from_client)?;
        let mut words = head.split(' ');
        let (method, target) =
            (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
        if method.is_empty() {
            return Ok(());
        }
        let fault = {
            let mut seen = shared.seen.lock().unwrap();
            let request = Seen { method: method.clone(), target, head: head.clone(), number: seen.len() };
            seen.push(request.clone());
            (shared.rule.lock().unwrap())(&request)
        };
        if matches!(fault, Fault::Reset) {
            // Because of the bytes that were not read, the system answers with a reset.
            return client.shutdown(Shutdown::Both);
        }
        let mut to_client = client.try_clone()?;
        if header(&head, "expect").is_some() {
            to_client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let head: String =
            head.split_inclusive("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("expect:")).collect();
        let body = read_body(&mut from_client, &head)?;
        if let Fault::Slow(delay) = fault {
            std::thread::sleep(delay);
        }
        let _held = matches!(fault, Fault::Held).then(|| HeldRequest::wait(shared));
        if let Fault::Error(status, code, message) = fault {
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{message}</Message><RequestId>1</RequestId></Error>"
            );
            let body = if method == "HEAD" { String::new() } else { body };
            let answer = format!(
                "HTTP/1.1 {status} Fault\r\ncontent-type: application/xml\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            to_client.write_all(answer.as_bytes())?;
            continue;
        }
        if let Fault::Answered(body) = fault {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\ncontent-length: ";
            to_client.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes())?;
            continue;
        }
        if matches!(fault, Fault::Taken) {
            to_client.write_all(
                b"HTTP/1.1 200 OK\r\netag: \"0123456789abcdef0123456789abcdef\"\r\ncontent-length: 0\r\n\r\n",
            )?;
            continue;
        }
        let server = if let Some(server) = &mut upstream {
            server
        } else {
            let server = TcpStream::connect(&shared.upstream)?;
            server.set_nodelay(true)?;
            upstream.insert(BufReader::new(server))
        };
        let mut message = head.into_bytes();
        message.extend(body);
        server.get_mut().write_all(&message)?;
        let head = read_head(server)?;
        let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        let empty = method == "HEAD" || status == 204 || status == 304;
        let body = if empty { Vec::new() } else { read_body(server, &head)? };
        let mut message = head.into_bytes();
        message.extend(body);
        match fault {
            Fault::Lost => return client.shutdown(Shutdown::Both),
            Fault::Truncated => {
                to_client.write_all(&message[..message.len() - message.len() / 8 - 1])?;
                return client.shutdown(Shutdown::Both);
            }
            _ => to_client.write_all(&message)?,
        }
    }
}

/// A request that was held back, until it is served.
struct HeldRequest<'a>(&'a Shared);

impl<'a> HeldRequest<'a> {
    fn wait(shared: &'a Shared) -> HeldRequest<'a> {
        shared.held.fetch_add(1, Ordering::Relaxed);
        while !shared.lets_go.load(Ordering::Relaxed) && !shared.closed.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        HeldRequest(shared)
    }
}

impl Drop for HeldRequest<'_> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

fn read_head(from: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head)? == 0 {
            return if head.is_empty() { Ok(head) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) };
        }
    }
    Ok(head)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.split("\r\n").filter_map(|line| line.split_once(':'));
    lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// The body as it is on the wire, chunks included.
fn read_body(from: &mut BufReader<TcpStream>, head: &str) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if header(head, "transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        loop {
            let mut size = String::new();
            from.read_line(&mut size)?;
            body.extend(size.as_bytes());
            let size = u64::from_str_radix(size.trim(), 16).map_err(std::io::Error::other)?;
            from.by_ref().take(size + 2).read_to_end(&mut body)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    let length = header(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    from.by_ref().take(length).read_to_end(&mut body)?;
    Ok(body)
}

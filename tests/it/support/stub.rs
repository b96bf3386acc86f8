//! A server that simulates a provider's API: it records its requests, and answers as a function says.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A request as the stub has read it.
#[derive(Debug, Clone)]
pub(crate) struct StubRequest {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl StubRequest {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The request on one line, without headers.
    pub(crate) fn line(&self) -> String {
        format!("{} {} {}", self.method, self.path, self.body).trim_end().to_owned()
    }
}

/// What the stub does with a request.
#[derive(Debug, Clone)]
pub(crate) enum StubAnswer {
    /// A status, further header lines, a body.
    Says(u16, &'static str, String),
    /// The same with a body of bytes.
    Sends(u16, String, Vec<u8>),
    /// It takes the request and cuts the connection before the answer.
    Cut,
}

impl StubAnswer {
    pub(crate) fn of(status: u16, body: &str) -> StubAnswer {
        StubAnswer::Says(status, "", body.to_owned())
    }
}

/// The server, until the test ends.
pub(crate) struct Stub {
    /// Its address, `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<StubRequest>>>,
    has_ended: Arc<AtomicBool>,
}

/// What `answer` holds, such as a process, is dropped with the stub and the last of its connections.
impl Drop for Stub {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::Relaxed);
        // The listener waits for a client.
        drop(TcpStream::connect(self.url.trim_start_matches("http://")));
    }
}

impl Stub {
    /// A server that answers as `answer` says, one request after the other.
    pub(crate) fn new(answer: impl FnMut(&StubRequest) -> StubAnswer + Send + 'static) -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (Arc::clone(&asked), Arc::new(Mutex::new(answer)));
        let has_ended = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&has_ended);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(client.try_clone().unwrap());
                    let mut client = client;
                    while let Some(request) = read(&mut reader) {
                        let said = answer.lock().unwrap()(&request);
                        kept.lock().unwrap().push(request);
                        if !say(&mut client, &said) {
                            return;
                        }
                    }
                });
            }
        });
        Stub { url, asked, has_ended }
    }

    /// The requests that it has received so far.
    pub(crate) fn asked(&self) -> Vec<StubRequest> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().iter().map(StubRequest::line).collect()
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<StubRequest> {
    let mut line = || {
        let mut line = String::new();
        (reader.read_line(&mut line).ok()? > 0).then(|| line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let line = line()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, length)| length.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    Some(StubRequest { method, path, headers, body: String::from_utf8(body).unwrap() })
}

/// Returns false if the connection must be cut.
fn say(client: &mut TcpStream, answer: &StubAnswer) -> bool {
    let (status, headers, body) = match answer {
        StubAnswer::Says(status, headers, body) => (status, *headers, body.as_bytes()),
        StubAnswer::Sends(status, headers, body) => (status, headers.as_str(), body.as_slice()),
        StubAnswer::Cut => return false,
    };
    // A 304 has no body (RFC 9112, 6.3).
    let length = if *status == 304 { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let head = format!("HTTP/1.1 {status} Said\r\n{headers}{length}\r\n");
    client.write_all(&[head.as_bytes(), body].concat()).is_ok()
}

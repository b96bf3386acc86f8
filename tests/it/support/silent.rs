//! Peers that keep the program waiting: servers that do not answer, pipes that nobody reads or writes.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::until;

/// How far a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// It takes the connection, and says nothing.
    AtOnce,
    /// It agrees to TLS, and says nothing more.
    AfterTls,
    /// It lets a client of PostgreSQL in, and does nothing that the client asks for: a pooler without a free
    /// connection.
    AfterLogin,
}

/// A server that keeps its clients waiting, until it is dropped.
pub(crate) struct SilentServer {
    /// Its address.
    pub address: String,
    met: Arc<AtomicUsize>,
}

impl SilentServer {
    /// A server that falls silent at some point.
    pub(crate) fn new(silence: Silence) -> SilentServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let met = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&met);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let counted = Arc::clone(&counted);
                std::thread::spawn(move || {
                    if serve(client, silence, &counted).is_err() {
                        eprintln!("a client of the silent server has gone");
                    }
                });
            }
        });
        SilentServer { address, met }
    }

    /// The URL of a database there.
    pub(crate) fn database(&self, db: &super::Db, parameters: &str) -> String {
        format!("postgresql://oar_tiles@{}/{}?{parameters}", self.address, db.name)
    }

    /// Waits until the server keeps a client waiting; each call waits for another one.
    #[track_caller]
    pub(crate) fn meets_a_client(&self) {
        until("somebody waits for the silent server", || self.met.load(Ordering::SeqCst) > 0);
        self.met.store(0, Ordering::SeqCst);
    }
}

fn serve(mut client: TcpStream, silence: Silence, met: &AtomicUsize) -> std::io::Result<()> {
    match silence {
        Silence::AtOnce => {
            met.fetch_add(1, Ordering::SeqCst);
        }
        Silence::AfterTls => {
            let mut request = [0; 8];
            client.read_exact(&mut request)?;
            client.write_all(b"S")?;
            met.fetch_add(1, Ordering::SeqCst);
        }
        Silence::AfterLogin => {
            let server = database_socket();
            let mut upstream = UnixStream::connect(server)?;
            let mut begin = [0; 8192];
            let count = client.read(&mut begin)?;
            upstream.write_all(&begin[..count])?;
            let mut answers = upstream.try_clone()?;
            let mut to_client = client.try_clone()?;
            std::thread::spawn(move || std::io::copy(&mut answers, &mut to_client).unwrap_or_default());
            // The client's next request is read and never answered.
            let count = client.read(&mut begin)?;
            met.fetch_add(usize::from(count > 0), Ordering::SeqCst);
            return std::io::copy(&mut client, &mut std::io::sink()).map(drop);
        }
    }
    // Kept open until the client closes it.
    std::io::copy(&mut client, &mut std::io::sink()).map(drop)
}

/// The socket of the server that `scripts/test` started, which asks for no password.
fn database_socket() -> PathBuf {
    let url = std::env::var("TEST_DATABASE_URL").expect("run scripts/test");
    let query = url.split_once('?').unwrap().1;
    let value = |name: &str| query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')).unwrap();
    Path::new(&value("host").replace("%2F", "/")).join(format!(".s.PGSQL.{}", value("port")))
}

/// Makes a FIFO.
pub(crate) fn fifo(path: PathBuf) -> PathBuf {
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

/// `O_NONBLOCK` of Linux: opening a FIFO does not wait for the other side, nor does writing to it.
const NONBLOCK: i32 = 0o4000;

/// Waits until somebody has opened a FIFO to read it. While the returned value lives, the reader waits for more.
#[track_caller]
pub(crate) fn is_read(path: &Path) -> File {
    let mut writer = None;
    until("somebody reads the FIFO", || {
        writer = OpenOptions::new().write(true).custom_flags(NONBLOCK).open(path).ok();
        writer.is_some()
    });
    writer.unwrap()
}

/// The writing side of a pipe that is full; the reading side is kept open and not read.
pub(crate) struct FullPipe {
    path: PathBuf,
    _reader: File,
}

impl FullPipe {
    pub(crate) fn new(path: PathBuf) -> FullPipe {
        let path = fifo(path);
        let reader = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(&path).unwrap();
        let mut writer = OpenOptions::new().write(true).custom_flags(NONBLOCK).open(&path).unwrap();
        while writer.write(&[b'.'; 512]).is_ok() {}
        FullPipe { path, _reader: reader }
    }

    /// Another writing side, which waits for the reader.
    pub(crate) fn writer(&self) -> File {
        OpenOptions::new().write(true).open(&self.path).unwrap()
    }
}

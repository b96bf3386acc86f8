//! A door before the server: it lets the first client in, and no other until it is opened. Connections that exist do
//! not notice.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A port of its own that leads to the server that `scripts/test` started.
pub(crate) struct Door {
    /// A database's URL through the door.
    pub url: String,
    open: Arc<AtomicBool>,
}

impl Door {
    /// A door to a database. All clients except the first are disconnected without an answer, as by a server that shuts
    /// down.
    pub(crate) fn for_one(database: &str) -> Door {
        let url = std::env::var("TEST_DATABASE_URL_TCP").expect("run scripts/test");
        let url = super::database::with_database(&url, database);
        let (user, rest) = url.split_once('@').unwrap();
        let (server, rest) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{user}@{}/{rest}", listener.local_addr().unwrap());
        let (open, server) = (Arc::new(AtomicBool::new(false)), server.to_owned());
        let door = Door { url, open: Arc::clone(&open) };
        std::thread::spawn(move || {
            for (number, client) in listener.incoming().map_while(Result::ok).enumerate() {
                if number == 0 || open.load(Ordering::SeqCst) {
                    lead(client, &server);
                }
            }
        });
        door
    }

    /// Closes it.
    pub(crate) fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
    }

    /// Opens it for everybody.
    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

/// Copies bytes in both directions until both sides have closed.
fn lead(client: TcpStream, server: &str) {
    let server = TcpStream::connect(server).unwrap();
    for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
        std::thread::spawn(move || {
            let mut bytes = [0; 8192];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                if to.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
            // The other side may be gone already.
            drop(to.shutdown(Shutdown::Write));
        });
    }
}

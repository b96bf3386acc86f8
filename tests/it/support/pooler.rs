//! Components between the program and its database: an address of several servers, and a pooler.

use std::fs;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::process::{Process, Start as _};
use super::{Db, until};

/// An address of several servers, like the reader address of a cluster: each new connection goes to the next server.
/// `before` is first called with the number of each connection. Returns the port.
pub(crate) fn spread(servers: Vec<String>, before: impl Fn(usize) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            before(number);
            let (client, server) = (client.unwrap(), TcpStream::connect(&servers[number % servers.len()]).unwrap());
            for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                std::thread::spawn(move || {
                    // Either side may end at any time.
                    let copied = std::io::copy(&mut from, &mut to);
                    to.shutdown(Shutdown::Both).and(copied.map(drop)).unwrap_or_default();
                });
            }
        }
    });
    port
}

/// The address in a URL over TCP, as `host:port`.
pub(crate) fn address(url: &str) -> String {
    url.split_once('@').unwrap().1.split_once('/').unwrap().0.to_owned()
}

/// `PgBouncer` that lends a server's connection for one transaction. Stopped when the value is dropped.
pub(crate) struct Pooler {
    child: Process,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Pooler {
    pub(crate) fn new(connections: u32) -> Pooler {
        Pooler::with_options(connections, "")
    }

    /// A pooler on whose connections another client has left prepared statements of the names that this program gives
    /// them.
    pub(crate) fn with_statements_left(connections: u32) -> Pooler {
        let leave = "DO $$ BEGIN FOR i IN 0..99 LOOP EXECUTE format(''PREPARE s%s AS SELECT 1'', i); END LOOP; END $$";
        Pooler::with_options(connections, &format!("connect_query='{leave}'"))
    }

    pub(crate) fn with_options(connections: u32, options: &str) -> Pooler {
        let server = std::env::var("TEST_DATABASE_URL_TCP").expect("run scripts/test");
        // postgresql://oar_tiles:PASSWORD@127.0.0.1:PORT/postgres
        let (user, rest) = server.trim_start_matches("postgresql://").split_once('@').unwrap();
        let ((user, password), (host, _)) = (user.split_once(':').unwrap(), rest.split_once('/').unwrap());
        let (host, server_port) = host.split_once(':').unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ini = folder.path().join("pgbouncer.ini");
        // A port that is free now; if another process takes it first, the pooler ends.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        fs::write(
            &ini,
            format!(
                "[databases]\n* = host={host} port={server_port} user={user} password={password} {options}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
                 pool_mode = transaction\ndefault_pool_size = {connections}\nmax_client_conn = 50\n"
            ),
        )
        .unwrap();
        let mut pgbouncer = Command::new("/usr/sbin/pgbouncer");
        if !Path::new("/usr/sbin/pgbouncer").exists() {
            pgbouncer = Command::new("pgbouncer");
        }
        // `PgBouncer` refuses to run as root. It reads its file before it switches to another account.
        if fs::metadata(folder.path()).unwrap().uid() == 0 {
            pgbouncer.args(["-u", "nobody"]);
        }
        let child = pgbouncer.arg(&ini).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).start();
        let mut pooler = Pooler { child, port, _folder: folder };
        until("the pooler listens", || {
            assert!(pooler.child.try_wait().unwrap().is_none(), "the pooler has ended");
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        pooler
    }

    pub(crate) fn url(&self, db: &Db) -> String {
        format!("postgresql://anyone@127.0.0.1:{}/{}", self.port, db.name)
    }
}

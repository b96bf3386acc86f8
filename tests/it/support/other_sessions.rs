//! Sessions of other clients: one that alters a table, and one that reads it all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use super::until;

/// A separate connection.
pub(crate) struct Connection {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Connection {
    /// Opens it with `name` as its application name.
    pub(crate) fn open(url: &str, name: &str) -> Connection {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
            tokio::spawn(connection);
            client.batch_execute(&format!("SET application_name = '{name}'")).await.unwrap();
            client
        });
        Connection { runtime, client }
    }

    /// Runs a statement.
    pub(crate) fn run(&self, sql: &str) {
        self.runtime.block_on(self.client.batch_execute(sql)).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Whether a statement could be run.
    pub(crate) fn tries(&self, sql: &str) -> bool {
        self.runtime.block_on(self.client.batch_execute(sql)).is_ok()
    }

    /// The one value of a query.
    pub(crate) fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        self.runtime.block_on(self.client.query_one(sql, &[])).unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }
}

/// Statements that run one after the other on a connection of their own.
pub(crate) struct Statements(JoinHandle<Duration>);

impl Statements {
    /// Starts them.
    pub(crate) fn start(url: &str, statements: &[&str]) -> Statements {
        let connection = Connection::open(url, "somebody");
        let statements: Vec<String> = statements.iter().map(|sql| (*sql).to_owned()).collect();
        Statements(std::thread::spawn(move || {
            let begun = Instant::now();
            for sql in &statements {
                connection.run(sql);
            }
            begun.elapsed()
        }))
    }

    /// Whether all are done.
    pub(crate) fn are_done(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for their end; returns how long they took.
    #[track_caller]
    pub(crate) fn end(self, what: &str) -> Duration {
        until(&format!("{what} ends"), || self.are_done());
        self.0.join().unwrap()
    }
}

/// A query that is repeated on a connection of its own.
pub(crate) struct Reader {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Reader {
    /// Starts to run the query.
    pub(crate) fn start(url: &str, query: &str) -> Reader {
        let connection = Connection::open(url, "reader");
        let (ends, query) = (Arc::new(AtomicBool::new(false)), query.to_owned());
        let is_over = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !is_over.load(Ordering::SeqCst) {
                let begun = Instant::now();
                // What the query reads may be missing for a moment.
                connection.tries(&query);
                longest = longest.max(begun.elapsed());
                // Leaves the processor to others.
                std::thread::sleep(Duration::from_millis(2));
            }
            longest
        });
        Reader { ends, thread }
    }

    /// The longest wait for one answer. Ends the reader.
    pub(crate) fn longest_wait(self) -> Duration {
        self.ends.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

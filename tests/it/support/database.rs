//! A separate database for each test, in the server that `scripts/test` started. Dropped with the value.

use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{Client, NoTls, Row};

/// A database.
pub(crate) struct Db {
    /// Its URL over the socket, as a superuser.
    pub url: String,
    /// Its name.
    pub name: String,
    server: String,
    runtime: tokio::runtime::Runtime,
    client: Client,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

fn server() -> String {
    std::env::var("TEST_DATABASE_URL").expect("these tests need a server of their own: run scripts/test")
}

/// The same server, another database.
pub(crate) fn with_database(url: &str, name: &str) -> String {
    let (front, query) =
        url.split_once('?').map_or((url, String::new()), |(front, query)| (front, format!("?{query}")));
    let (front, _) = front.rsplit_once('/').expect("a URL has a path");
    format!("{front}/{name}{query}")
}

impl Db {
    /// A new database with PostGIS.
    pub(crate) fn new() -> Db {
        // Copied from a database that has PostGIS, which takes a fifth of the time.
        static TEMPLATE: OnceLock<String> = OnceLock::new();
        super::say_failures_at_once();
        let template = TEMPLATE.get_or_init(|| {
            let name = format!("test_{}_postgis", std::process::id());
            let runtime = runtime();
            let on = |url: &str, sql: &str| runtime.block_on(connect(&runtime, url).batch_execute(sql)).unwrap();
            on(&server(), &format!("CREATE DATABASE {name}"));
            on(&with_database(&server(), &name), "CREATE EXTENSION postgis");
            // A session in the template would prevent others from copying it.
            on(&server(), &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"));
            name
        });
        Db::like(&server(), template)
    }

    /// A new database with PostGIS, of another encoding than the server's.
    pub(crate) fn encoded(encoding: &str) -> Db {
        let db = Db::made(&server(), &format!("TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"));
        db.run("CREATE EXTENSION postgis");
        db
    }

    /// A new database without PostGIS.
    pub(crate) fn empty() -> Db {
        Db::on(&server())
    }

    /// A database that exists already, such as a copy in a standby; it is not dropped.
    pub(crate) fn there(server: &str, name: &str) -> std::mem::ManuallyDrop<Db> {
        let (url, runtime) = (with_database(server, name), runtime());
        let client = connect(&runtime, &url);
        std::mem::ManuallyDrop::new(Db { url, name: name.to_owned(), server: server.to_owned(), runtime, client })
    }

    /// A new database in some server.
    pub(crate) fn on(server: &str) -> Db {
        Db::like(server, "template1")
    }

    fn like(server: &str, template: &str) -> Db {
        Db::made(server, &format!("TEMPLATE {template}"))
    }

    fn made(server: &str, options: &str) -> Db {
        let name = format!("test_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let runtime = runtime();
        let admin = connect(&runtime, server);
        // PostgreSQL has copied files by default until version 14, and has only that way.
        let version: i32 =
            runtime.block_on(admin.query_one("SELECT current_setting('server_version_num')::int", &[])).unwrap().get(0);
        let strategy = if version >= 150_000 { " STRATEGY file_copy" } else { "" };
        runtime.block_on(admin.batch_execute(&format!("CREATE DATABASE {name} {options}{strategy}"))).unwrap();
        let url = with_database(server, &name);
        let client = connect(&runtime, &url);
        Db { url, name, server: server.to_owned(), runtime, client }
    }

    /// A new database with the registry's table and some generated facilities.
    pub(crate) fn with_facilities(count: u32) -> Db {
        Db::new().filled(count)
    }

    /// The same in some server.
    pub(crate) fn with_facilities_on(server: &str, count: u32) -> Db {
        Db::on(server).filled(count)
    }

    fn filled(self, count: u32) -> Db {
        // Uses the existing session: psql would need two more processes and two more sessions.
        self.run(include_str!("../../../scripts/schema.sql"));
        self.run(&include_str!("../../../scripts/facilities.sql").replace(":count", &count.to_string()));
        self
    }

    /// A new database with the registry's table and the facilities of a CSV file.
    pub(crate) fn with_csv(path: &std::path::Path) -> Db {
        let db = Db::empty();
        let loaded = Command::new(super::repository("scripts/load")).arg(path).arg(&db.url).output().unwrap();
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
        db
    }

    /// The same database over another connection, for another thread.
    pub(crate) fn again(&self) -> std::mem::ManuallyDrop<Db> {
        let runtime = runtime();
        let client = connect(&runtime, &self.url);
        // Dropping this value must not drop the database.
        let (url, name, server) = (self.url.clone(), self.name.clone(), self.server.clone());
        std::mem::ManuallyDrop::new(Db { url, name, server, runtime, client })
    }

    /// Connects again, after the server was restarted.
    pub(crate) fn reconnect(&mut self) {
        self.client = connect(&self.runtime, &self.url);
    }

    /// Runs some SQL.
    pub(crate) fn run(&self, sql: &str) {
        self.runtime.block_on(self.client.batch_execute(sql)).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// The rows of a query.
    pub(crate) fn rows(&self, sql: &str) -> Vec<Row> {
        self.runtime.block_on(self.client.query(sql, &[])).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// The one value of a query.
    pub(crate) fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        self.rows(sql)[0].get(0)
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn connect(runtime: &tokio::runtime::Runtime, url: &str) -> Client {
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        // The planner overestimates the slow queries that tests compare with: compiling them takes longer than running
        // them.
        client.batch_execute("SET jit = off").await.unwrap();
        client
    })
}

impl Drop for Db {
    fn drop(&mut self) {
        // If a test has stopped the server, its databases stay.
        let dropped = self.runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&self.server, NoTls).await?;
            tokio::spawn(connection);
            client.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name)).await
        });
        if let Err(error) = dropped {
            eprintln!("{} is left behind: {error}", self.name);
        }
    }
}

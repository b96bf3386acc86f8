//! A database with several sessions at work, and targets that follow it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::SinkExt as _;
use oar_tiles::config::{Settings, gather};
use oar_tiles::postgis::ConnectParts;
use oar_tiles::report::{Report, Style, report};
use oar_tiles::run::TilesetRun;
use oar_tiles::run::reseed::{ReseedOptions, reseed};
use oar_tiles::run::seed::seed;
use oar_tiles::stop::Stop;
use oar_tiles::target::{BucketLocation, DirectoryReader, MbtilesReader, PmtilesReader, Template, TileReader};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

use super::chance::Chance;
use super::tables::Table;
use crate::support::Db;
use crate::support::program::{program, run};
use crate::support::s3::{Prefix, options};

/// Sessions that change things.
const SESSIONS: usize = 4;
/// Steps of a round; after each, some of the targets are reseeded.
const STEPS: u64 = 5;

/// A session, and whether it is in a transaction.
struct Session {
    url: String,
    client: Client,
    open: bool,
}

impl Session {
    async fn new(url: String) -> Session {
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        // Whoever waits for another session's row for long gives up: nobody else would move meanwhile.
        client.batch_execute("SET lock_timeout = '20ms'").await.unwrap();
        Session { url, client, open: false }
    }

    /// Ends a transaction that broke.
    async fn start_over(self, broke: &Step) -> Session {
        match broke {
            // A COPY that is refused leaves this client out of step with the server (rust-postgres, issue 789).
            Step::Copy(..) => Session::new(self.url).await,
            Step::Run(_) => {
                self.client.batch_execute("ROLLBACK").await.unwrap();
                Session { open: false, ..self }
            }
        }
    }
}

/// All of it.
pub(crate) struct World {
    tables: Vec<Table>,
    sessions: Vec<Session>,
    folder: tempfile::TempDir,
    config: PathBuf,
    runtime: Runtime,
    shown: Arc<dyn Report>,
    prefix: Prefix,
    db: Db,
    /// The first are also looked at between the steps.
    targets: &'static [&'static str],
    /// Whether the targets are there already.
    seeded: bool,
}

/// Targets of every kind. The last is a prefix in S3; it is looked at once a round only.
const EVERY: [&str; 5] = ["a.mbtiles", "b.pmtiles", "c/", "d.mbtiles", "s3"];
/// The one that takes the least time.
const ONE: [&str; 1] = ["a.mbtiles"];

impl World {
    /// A world of some tables of every kind, drawn in every way, with targets of every kind.
    pub(crate) fn of_every_kind(count: usize) -> World {
        World::new(Table::of_every_kind(count), "0,2,6,11-12", &EVERY)
    }

    /// A world of so many tables of points, with the least that there is to do for each.
    pub(crate) fn of_points(count: usize) -> World {
        World::new(Table::of_points(count), "1,12", &ONE)
    }

    /// A world of some tables, with the change log installed.
    fn new(tables: Vec<Table>, zooms: &str, targets: &'static [&'static str]) -> World {
        let db = Db::new();
        for table in &tables {
            db.run(&table.create());
        }
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.toml");
        let layers: String = tables.iter().map(Table::layer).collect();
        std::fs::write(&config, format!("[tileset]\nzoom = \"{zooms}\"\n[run]\nworkers = 2\n{layers}")).unwrap();
        let mut install = program();
        install.args(["track", "install", "--database-url", &db.url, "--config"]).arg(&config);
        run(&mut install).ok();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let sessions = (0..SESSIONS).map(|_| runtime.block_on(Session::new(db.url.clone()))).collect();
        World {
            tables,
            sessions,
            folder,
            config,
            runtime,
            shown: report(Style::Nothing),
            prefix: Prefix::new(),
            db,
            targets,
            seeded: false,
        }
    }

    fn settings(&self, output: &str) -> Settings {
        let BucketLocation { bucket, prefix, .. } = &self.prefix.location;
        let output = match output {
            "s3" => PathBuf::from(format!("s3://{bucket}/{prefix}")),
            _ => self.folder.path().join(output),
        };
        let flags = vec![
            ("--database-url", "database.url", self.db.url.clone().into()),
            ("--output", "tileset.output", output.to_str().unwrap().into()),
        ];
        let values = gather(Some(&self.config), None, [], flags).unwrap();
        let mut settings = Settings::resolve(&values, &ConnectParts::default(), &[]).unwrap();
        settings.tileset.bucket = options(&self.prefix.endpoint);
        settings
    }

    fn seed(&self, output: &str) {
        let settings = self.settings(output);
        let done = async { seed(&TilesetRun::new(settings, false, &self.shown, &Stop::new())?).await };
        self.runtime.block_on(done).unwrap();
    }

    fn reseed(&self, output: &str) {
        let settings = self.settings(output);
        let done = async {
            let tileset_run = TilesetRun::new(settings, false, &self.shown, &Stop::new())?;
            reseed(&tileset_run, &ReseedOptions::default()).await
        };
        self.runtime.block_on(done).unwrap_or_else(|error| panic!("{output}: {error}"));
    }

    /// One round; gives how many histories were in it.
    pub(crate) fn round(&mut self, seed: u64) -> u64 {
        let mut chance = Chance::new(seed);
        for table in &self.tables {
            self.db.run(&table.begin(&mut chance));
        }
        // What the round begins with is a part of the history of targets that are there.
        if !std::mem::replace(&mut self.seeded, true) {
            for target in self.targets {
                self.seed(target);
            }
        }
        for _ in 0..STEPS {
            let scripts: Vec<Vec<Step>> = (0..SESSIONS).map(|_| self.script(&mut chance)).collect();
            let due: Vec<&str> = self.targets.iter().copied().take(4).filter(|_| chance.often(40)).collect();
            let sessions = std::mem::take(&mut self.sessions);
            // The sessions write while the targets are reseeded.
            let working: Vec<_> = (sessions.into_iter().zip(scripts))
                .map(|(session, script)| self.runtime.spawn(work(session, script)))
                .collect();
            for target in due {
                self.reseed(target);
            }
            self.sessions = working.into_iter().map(|done| self.runtime.block_on(done).unwrap()).collect();
        }
        for session in &mut self.sessions {
            let end = if chance.often(70) { "COMMIT" } else { "ROLLBACK" };
            self.runtime.block_on(session.client.batch_execute(end)).unwrap();
            session.open = false;
        }
        for target in self.targets {
            self.reseed(target);
        }
        self.seed("fresh.mbtiles");
        let fresh = self.tiles("fresh.mbtiles");
        for target in self.targets {
            differ(target, &self.tiles(target), &fresh);
        }
        self.tables.len() as u64
    }

    /// What a session does in a step.
    fn script(&self, chance: &mut Chance) -> Vec<Step> {
        // Some six for each table in a round.
        let most = 7 * self.tables.len() as u64 / 10;
        (0..chance.below(most))
            .map(|_| {
                let table = chance.one_of(&self.tables);
                match chance.below(20) {
                    0..=1 => Step::Run("BEGIN".to_owned()),
                    2 => Step::Run("ROLLBACK".to_owned()),
                    3..=5 => Step::Run("COMMIT".to_owned()),
                    6 => Step::Run("SAVEPOINT s".to_owned()),
                    7 => Step::Run("ROLLBACK TO SAVEPOINT s".to_owned()),
                    8 => match table.copied(chance) {
                        Some((statement, lines)) => Step::Copy(statement, lines),
                        None => Step::Run(table.statement(chance)),
                    },
                    _ => Step::Run(table.statement(chance)),
                }
            })
            .collect()
    }

    fn tiles(&self, output: &str) -> Tiles {
        let path = self.folder.path().join(output);
        if output == "s3" {
            let tiles = self.prefix.tiles().into_iter();
            return tiles.map(|(name, bytes)| (name.trim_end_matches(".pbf").to_owned(), bytes.into())).collect();
        }
        let mut reader: Box<dyn TileReader> = match output.rsplit_once('.').map(|(_, ending)| ending) {
            Some("mbtiles") => Box::new(MbtilesReader::open(&path).unwrap()),
            Some("pmtiles") => Box::new(PmtilesReader::open(&path).unwrap()),
            _ => Box::new(DirectoryReader::open(&path, &Template::new("{z}/{x}/{y}.pbf").unwrap()).unwrap()),
        };
        let mut ids = reader.list().unwrap();
        ids.sort_by_key(|id| (id.coord.zoom(), id.coord.x(), id.coord.y()));
        let bytes = reader.read(&ids).unwrap();
        ids.iter().map(ToString::to_string).zip(bytes.into_iter().map(Option::unwrap)).collect()
    }
}

type Tiles = BTreeMap<String, Box<[u8]>>;

/// Fails with the first tiles that differ.
#[track_caller]
fn differ(target: &str, found: &Tiles, fresh: &Tiles) {
    let names = found.keys().chain(fresh.keys()).collect::<std::collections::BTreeSet<_>>();
    let wrong: Vec<String> = names
        .into_iter()
        .filter(|name| found.get(*name) != fresh.get(*name))
        .map(|name| match (found.get(name), fresh.get(name)) {
            (None, _) => format!("{name} is missing"),
            (_, None) => format!("{name} should be gone"),
            _ => format!("{name} is stale"),
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{target}: of {} tiles {}: {:?}",
        fresh.len(),
        wrong.len(),
        &wrong[..wrong.len().min(20)]
    );
}

/// One thing that a session does.
enum Step {
    Run(String),
    Copy(String, String),
}

/// Does it. Statements fail now and then: a key is taken, a row is locked, a transaction is broken. A broken
/// transaction ends.
async fn work(mut session: Session, script: Vec<Step>) -> Session {
    for step in script {
        let done = match &step {
            Step::Run(sql) => match sql.as_str() {
                "BEGIN" if session.open => continue,
                "COMMIT" | "ROLLBACK" | "SAVEPOINT s" | "ROLLBACK TO SAVEPOINT s" if !session.open => continue,
                _ => {
                    let done = session.client.batch_execute(sql).await;
                    session.open = match sql.as_str() {
                        "BEGIN" => true,
                        "COMMIT" | "ROLLBACK" => false,
                        _ => session.open,
                    };
                    // Its lock keeps readers waiting, the reseed among them, until it is committed.
                    if done.is_ok() && session.open && sql.starts_with("TRUNCATE") {
                        session.client.batch_execute("COMMIT").await.unwrap();
                        session.open = false;
                    }
                    done
                }
            },
            Step::Copy(statement, lines) => match session.client.copy_in(statement).await {
                Ok(sink) => {
                    let mut sink = std::pin::pin!(sink);
                    match sink.send(bytes::Bytes::from(lines.clone())).await {
                        Ok(()) => sink.finish().await.map(drop),
                        Err(error) => Err(error),
                    }
                }
                Err(error) => Err(error),
            },
        };
        if let Err(error) = done {
            let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
            // Unique and locked rows, deadlocks, what comes in a broken transaction, and a savepoint that is not there.
            assert!(
                ["23505", "23514", "55P03", "40P01", "25P02", "3B001"].contains(&code.as_str()),
                "a writer was hurt: {error:?}"
            );
            session = session.start_over(&step).await;
        }
    }
    session
}

//! A database with a change log: installed by the program, read and checked as `reseed` does it.

use std::path::{Path, PathBuf};
use std::process::Command;

use oar_tiles::change_log::{Cursor, Watch, tracked};
use oar_tiles::config::{Settings, gather};
use oar_tiles::postgis::{ConnectParts, Database, probe};
use oar_tiles::stop::Stop;

use super::Db;
use super::program::{Run, program, run};

/// Words that [`Tracking::named`] replaces by names of roles.
const ROLES: [&str; 5] = ["ATTACKER", "WRITER", "MILLER", "KEEPER", "BOSS"];

/// A database, and a configuration of layers in it.
pub(crate) struct Tracking {
    /// The database.
    pub db: Db,
    folder: tempfile::TempDir,
}

impl Tracking {
    /// A database with PostGIS and some tables, and a configuration; nothing is installed.
    pub(crate) fn over(tables: &str, config: &str) -> Tracking {
        let db = Db::new();
        // Our role has the same name as the schema of the log. Without this statement, later tables would be created in
        // that schema.
        db.run("SET search_path = public");
        db.run(tables);
        Tracking::of(db, config)
    }

    /// The same for a database that exists already.
    pub(crate) fn of(db: Db, config: &str) -> Tracking {
        let tracking = Tracking { db, folder: tempfile::tempdir().unwrap() };
        tracking.configure(config);
        tracking
    }

    /// The same, with the change log installed.
    pub(crate) fn installed(tables: &str, config: &str) -> Tracking {
        let tracking = Tracking::over(tables, config);
        tracking.install(&[]).ok();
        tracking
    }

    /// Replaces the configuration.
    pub(crate) fn configure(&self, config: &str) {
        std::fs::write(self.config(), config).unwrap();
    }

    /// The file of the configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.path("c.toml")
    }

    /// A file next to the configuration.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `oar-tiles track …` with the configuration, as some role.
    pub(crate) fn track_as(&self, role: &str, arguments: &[&str]) -> Run {
        let url = self.db.url.replace("oar_tiles@", &format!("{role}@"));
        let config = self.config();
        run(program().env("OAR_TILES_CONFIG", config).arg("track").args(arguments).args(["--database-url", &url]))
    }

    /// `oar-tiles track …` as a superuser.
    pub(crate) fn track(&self, arguments: &[&str]) -> Run {
        self.track_as("oar_tiles", arguments)
    }

    /// `oar-tiles track install`.
    pub(crate) fn install(&self, arguments: &[&str]) -> Run {
        self.track(&[&["install"], arguments].concat())
    }

    /// `oar-tiles seed` or `reseed` into a target with the configuration, as a superuser.
    pub(crate) fn oar_tiles(&self, verb: &str, arguments: &[&str], target: &Path) -> Run {
        let mut command = program();
        command.env("OAR_TILES_CONFIG", self.config());
        command.args([verb, "--progress", "none", "--database-url", &self.db.url]);
        run(command.arg("--output").arg(target).args(arguments))
    }

    /// Runs statements with psql as a superuser, up to the first that fails; returns its output.
    pub(crate) fn psql(&self, sql: &str) -> String {
        let file = self.folder.path().join("statements.sql");
        std::fs::write(&file, sql).unwrap();
        let done = Command::new("psql")
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"])
            .arg(&file)
            .arg(&self.db.url)
            .output();
        String::from_utf8_lossy(&done.unwrap().stderr).into_owned()
    }

    /// Statements with roles of this database alone in place of [`ROLES`], because roles belong to the whole server.
    pub(crate) fn named(&self, sql: &str) -> String {
        let name = |sql: String, role: &&str| sql.replace(role, &format!("{}_{}", role.to_lowercase(), self.db.name));
        ROLES.iter().fold(sql.to_owned(), name)
    }

    /// Runs statements with roles of this database alone.
    pub(crate) fn run(&self, sql: &str) {
        self.db.run(&self.named(sql));
    }

    /// Drops the roles of this database alone, with everything that they own.
    pub(crate) fn drop_roles(&self) {
        for role in ROLES {
            self.run(&format!(
                "RESET ROLE; DO $$ BEGIN IF to_regrole('{role}') IS NOT NULL THEN DROP OWNED BY {role} CASCADE; DROP ROLE {role}; END IF; END $$"
            ));
        }
    }

    /// The content of the log, in the order of its transactions: how many rows changed, and the positions, or what a
    /// query needs.
    pub(crate) fn log(&self) -> Vec<String> {
        let sql = "
            SELECT concat_ws(' ', rows,
                (SELECT string_agg(format('%s,%s', a, b), ' ' ORDER BY a, b) FROM unnest(x, y) AS p (a, b)),
                (SELECT string_agg(public.ST_AsEWKT(g), ' ' ORDER BY public.ST_AsEWKT(g)) FROM unnest(places) AS g),
                (SELECT string_agg(k::text, ' ' ORDER BY k::text) FROM unnest(keys) AS k),
                CASE WHEN everything THEN 'everything' END)
            FROM oar_tiles.change ORDER BY xid, at";
        self.db.rows(sql).iter().map(|row| row.get(0)).collect()
    }

    /// Empties the log.
    pub(crate) fn forget(&self) {
        self.db.run("DELETE FROM oar_tiles.change");
    }

    /// The database's state as a cursor.
    pub(crate) fn now(&self) -> Cursor {
        self.db.value::<String>("SELECT pg_current_snapshot()::text").parse().unwrap()
    }

    /// The watches of each layer, or why the log cannot be trusted after the cursor `since`.
    pub(crate) fn check(&self, since: &Cursor) -> Result<Vec<Vec<Watch>>, String> {
        self.check_as("oar_tiles", since)
    }

    /// The same as some role.
    pub(crate) fn check_as(&self, role: &str, since: &Cursor) -> Result<Vec<Vec<Watch>>, String> {
        let url = self.db.url.replace("oar_tiles@", &format!("{role}@"));
        let flags = vec![("--database-url", "database.url", url.as_str().into())];
        let values = gather(Some(&self.config()), None, [], flags).unwrap();
        let settings = Settings::resolve(&values, &ConnectParts::default(), &[]).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let database =
                Database::new(&settings.database.connect, settings.database.session.clone(), &Stop::new()).unwrap();
            let snapshot = database.snapshot().await.unwrap();
            let probed = probe(&snapshot, &settings.tileset.layers).await.unwrap();
            let found =
                tracked(&database, &snapshot, &settings.database.changes.schema, None, &probed.layers, since).await;
            found.map_err(|error| error.to_string())
        })
    }
}

/// What the watches note: table, columns.
pub(crate) fn watched(db: &Db) -> Vec<String> {
    let sql = "
        SELECT format('%s%s: %s', relation::regclass, CASE WHEN query IS NOT NULL THEN ' ' || logged::text END,
            (SELECT string_agg(column_name, ' ' ORDER BY column_name) FROM oar_tiles.watched WHERE watch = id))
        FROM oar_tiles.watch ORDER BY 1";
    db.rows(sql).iter().map(|row| row.get(0)).collect()
}

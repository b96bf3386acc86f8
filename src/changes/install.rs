//! Installing the change log: what is missing is worked out first, then run, or printed, as one script.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{Error, OVERTAKEN, Untracked};
use super::facts::{Facts, Presence};
use super::noter::Source;
use super::reads::{Wish, reads};
use super::script::{WatchScript, add_needs};
use super::table::Table;
use super::{ChangesOptions, Cursor, LAYOUT, TrackedLayer, WATCHER_LOCK, at_postgis, literal};
use crate::postgis::{Database, Session, quoted};

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// The statements, from BEGIN to COMMIT, as psql takes them; only a remark if there is nothing to do.
    pub sql: String,
    /// Whether there is nothing to do.
    pub is_done: bool,
    /// What is done, a line each: tables, columns, triggers.
    pub steps: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

const PLACE: &str = "looking into the change log";

/// A watch to be, wished by one layer or several.
pub(super) struct Watched {
    pub(super) wish: Wish,
    pub(super) table: Table,
    pub(super) columns: BTreeSet<String>,
}

/// Works out what is missing for some layers of a database that was probed. Changes nothing.
///
/// # Errors
/// If a layer reads what cannot be watched, or the schema holds other things.
pub async fn plan_install(
    database: &Database,
    options: &ChangesOptions,
    layers: &[TrackedLayer<'_>],
    readers: &[String],
) -> Result<Installation, Error> {
    let postgis = database.postgis_schema().unwrap_or("public");
    let session = database.writing().await?;
    session.begin_writing(PLACE).await?;
    let mut plan = Plan { postgis, options, statements: Vec::new(), steps: Vec::new() };
    let mut warnings = Vec::new();
    let mut needs: Vec<(TrackedLayer<'_>, Vec<Wish>)> = Vec::new();
    for layer in layers {
        let mut reads = reads(&session, *layer).await?;
        warnings.append(&mut reads.warnings);
        needs.push((*layer, reads.wishes));
    }
    let watched = plan.watched(&session, needs.iter().flat_map(|(_, wishes)| wishes)).await?;
    let facts = plan.found(&session, database, layers, &watched).await?;
    session.script(PLACE, "ROLLBACK").await?;

    let mut last = facts.as_ref().map_or(0, |facts| facts.last_watch);
    let gone = facts.iter().flat_map(|facts| &facts.watches).filter(|watch| watch.now_called.is_none());
    for watch in gone {
        plan.step(&WatchScript::forget(&options.schema, watch.id), format!("{}: gone, and forgotten", watch.name));
    }
    let mut numbers: BTreeMap<(u32, Source), i32> = BTreeMap::new();
    for watch in &watched {
        let before = facts.iter().flat_map(|facts| &facts.watches).find(|before| watch.is(before));
        let number = before.map_or_else(|| last + 1, |before| before.id);
        last = last.max(number);
        numbers.insert((watch.wish.relation, watch.wish.source.clone()), number);
        let script = WatchScript { options, postgis, number, watch, before };
        if let Some((sql, step)) = script.write() {
            plan.step(&sql, step);
        }
    }
    for (layer, wishes) in &needs {
        let wanted: Vec<(i32, Vec<String>)> = wishes
            .iter()
            .filter_map(|wish| {
                let key = (wish.relation, wish.source.clone());
                let watch =
                    watched.iter().find(|watch| (watch.wish.relation, &watch.wish.source) == (key.0, &key.1))?;
                Some((*numbers.get(&key)?, watch.needed(wish)))
            })
            .collect();
        if let Some(sql) = add_needs(&options.schema, *layer, &wanted, facts.as_ref()) {
            plan.step(&sql, format!("layer \"{}\": noted what it needs", layer.layer.name()));
        }
    }
    Ok(plan.finish(facts.as_ref(), last, readers, warnings))
}

/// The script in the making.
struct Plan<'a> {
    postgis: &'a str,
    options: &'a ChangesOptions,
    statements: Vec<String>,
    steps: Vec<String>,
}

impl Plan<'_> {
    fn step(&mut self, sql: &str, step: String) {
        self.statements.push(format!("-- {}\n{sql}", step.replace('\n', " ")));
        self.steps.push(step);
    }

    /// What all layers wish, each table and source once.
    async fn watched<'w>(
        &self,
        session: &Session,
        wishes: impl Iterator<Item = &'w Wish>,
    ) -> Result<Vec<Watched>, Error> {
        let mut all: Vec<Watched> = Vec::new();
        for wish in wishes {
            let known =
                all.iter_mut().find(|watch| watch.wish.relation == wish.relation && watch.wish.source == wish.source);
            if let Some(known) = known {
                let needed = known.needed(wish);
                known.columns.extend(needed);
                continue;
            }
            let table = Table::look_up(session, self.postgis, wish.relation, PLACE).await?;
            let mut watch = Watched { wish: wish.clone(), table, columns: BTreeSet::new() };
            watch.columns = watch.needed(wish).into_iter().collect();
            watch.columns.extend(watch.table.key.iter().map(|key| key.name.clone()));
            all.push(watch);
        }
        for watch in &all {
            watch.check()?;
        }
        Ok(all)
    }

    /// What is installed already; none if nothing is.
    async fn found(
        &self,
        session: &Session,
        database: &Database,
        layers: &[TrackedLayer<'_>],
        watched: &[Watched],
    ) -> Result<Option<Facts>, Error> {
        let schema = &self.options.schema;
        match Presence::look_up(session, schema, PLACE).await? {
            Presence::Readable => {}
            Presence::Nothing => return Ok(None),
            Presence::Foreign => {
                return Err(Error::Foreign { schema: quoted(schema), server: database.server().clone() });
            }
            Presence::Unreadable { role } => {
                return Err(Error::Installed(Untracked::Unreadable { role, schema: quoted(schema) }));
            }
        }
        let definitions: Vec<String> = layers.iter().map(TrackedLayer::definition).collect();
        let tables: Vec<u32> = watched.iter().map(|watch| watch.wish.relation).collect();
        let facts = Facts::look_up(session, schema, &definitions, &tables, &Cursor::default(), PLACE).await?;
        if facts.layout > LAYOUT {
            let schema = quoted(schema);
            return Err(Error::Installed(Untracked::Newer { schema, found: facts.layout, known: LAYOUT }));
        }
        Ok(Some(facts))
    }

    fn finish(self, facts: Option<&Facts>, last: i32, readers: &[String], warnings: Vec<String>) -> Installation {
        let schema = quoted(&self.options.schema);
        let (mut begin, mut steps) = (Vec::new(), self.steps);
        match facts {
            None => {
                let name = literal(&self.options.schema);
                // A schema that the owner made for us, still empty, is as good: making one takes a right on the database.
                begin.push(format!(
                    "DO $oar_tiles$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = {name}) THEN CREATE SCHEMA {schema}; END IF;
END $oar_tiles$;"
                ));
                let layout = at_postgis(include_str!("sql/layout.sql"), self.postgis);
                begin.push(layout.replace("{layout}", &LAYOUT.to_string()).replace("{schema}", &schema));
                steps.insert(0, format!("schema {schema}: the change log"));
            }
            Some(facts) => begin.push(format!(
                "-- This was written for the log as it is now.
DO $oar_tiles$ BEGIN
    IF (SELECT installs FROM {schema}.state) <> {} THEN
        RAISE EXCEPTION 'something else was installed meanwhile' USING ERRCODE = '{OVERTAKEN}';
    END IF;
END $oar_tiles$;",
                facts.installs
            )),
        }
        let is_done = steps.is_empty() && readers.is_empty();
        if is_done {
            let sql = "-- Everything is installed.\n".to_owned();
            return Installation { sql, is_done, steps, warnings };
        }
        let mut sql = format!(
            "BEGIN READ WRITE;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL lock_timeout = '10s';   -- who waits for a table holds up everybody behind
SET LOCAL statement_timeout = 0;
SELECT pg_advisory_xact_lock({}, {}); -- one install at a time
",
            WATCHER_LOCK.0,
            WATCHER_LOCK.1 + 1
        );
        for statement in begin.iter().chain(&self.statements) {
            sql.push_str(&format!("\n{}\n", statement.trim_end()));
        }
        if !self.statements.is_empty() {
            sql.push_str(&format!("\nUPDATE {schema}.state SET installs = installs + 1, last_watch = {last};\n"));
        }
        for reader in readers {
            let reader = quoted(reader);
            sql.push_str(&format!(
                "\nGRANT USAGE ON SCHEMA {schema} TO {reader};\nGRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {reader};\n"
            ));
            steps.push(format!("role {reader}: may read the change log"));
        }
        sql.push_str("\nCOMMIT;\n");
        Installation { sql, is_done, steps, warnings }
    }
}

/// Runs an installation, all of it or nothing.
///
/// # Errors
/// If the role lacks a right, a table is not free, or somebody else installed meanwhile.
pub async fn run(database: &Database, installation: &Installation) -> Result<(), Error> {
    script(database, "install", &installation.sql).await
}

/// The statements that remove the log with its triggers.
#[must_use]
pub fn removal(schema: &str) -> String {
    let schema = quoted(schema);
    let state = literal(&format!("{schema}.state"));
    include_str!("sql/remove.sql").replace("{schema_state}", &state).replace("{schema}", &schema)
}

/// Removes the log with its triggers, all of it or nothing; gives what was removed, a line each.
///
/// # Errors
/// If there is no log in the schema, the role lacks a right, or a table is not free.
pub async fn remove(database: &Database, schema: &str) -> Result<Vec<String>, Error> {
    let session = database.writing().await?;
    let (name, server) = (quoted(schema), database.server().clone());
    match Presence::look_up(&session, schema, PLACE).await? {
        Presence::Readable | Presence::Unreadable { .. } => {}
        Presence::Foreign => return Err(Error::Foreign { schema: name, server }),
        Presence::Nothing => return Err(Error::NotThere { schema: name, server }),
    }
    let ended = session.script("removing the change log", &removal(schema)).await;
    ended.map_err(|error| Error::of_script("remove", database.server(), error))
}

async fn script(database: &Database, verb: &'static str, sql: &str) -> Result<(), Error> {
    let session = database.writing().await?;
    let ended = session.script("installing the change log", sql).await;
    ended.map(drop).map_err(|error| Error::of_script(verb, database.server(), error))
}

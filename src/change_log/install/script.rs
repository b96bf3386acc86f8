//! The whole script of an install, from BEGIN to COMMIT.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::FunctionOwner;
use super::trigger::TriggerFunction;
use crate::change_log::error::{ChangeLogError, OVERTAKEN, TAKEN};
use crate::change_log::facts::{Facts, MemberFacts, WatchFacts, ties, triggers};
use crate::change_log::log::{
    LAYOUT, QUALIFIED_NAME, SAFE_LAYOUT, WATCHER_LOCK, at_postgis, literal, literal_in_block, of_schema,
};
use crate::change_log::relations::{PlannedWatch, WatchSource};
use crate::change_log::witness::ADD_KEY;
use crate::change_log::{ChangesSection, definition};
use crate::postgis::{Database, Layer, quoted};

/// How an install changes the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InstallKind {
    /// There was no log before.
    First,
    /// It notes changes that were not noted before.
    NotesMore,
    /// It notes the same changes; rights, owners or keys differ.
    NotesTheSame,
}

/// A planned install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installation {
    /// The statements, from BEGIN to COMMIT, as psql takes them; only a comment if there is nothing to do.
    pub sql: String,
    /// How it changes the log; `None` if there is nothing to do.
    pub(crate) kind: Option<InstallKind>,
    /// What the statements do, one line for each table, column or trigger.
    pub steps: Vec<String>,
    pub warnings: Vec<String>,
}

/// The part of a script that changes watches and layers.
pub(crate) struct ScriptWork {
    pub(crate) statements: Vec<String>,
    /// What the statements do, in words.
    pub(crate) steps: Vec<String>,
    pub(crate) locks: TableLocks,
}

/// The first statements of a script.
pub(crate) const BEGIN: &str = include_str!("sql/begin.sql");

/// The statements that let the tables be published.
const REPLICA_IDENTITY: &str = include_str!("sql/replica_identity.sql");

/// The state of the database for which a script is written.
pub(crate) struct ScriptContext<'a> {
    pub(crate) schema: &'a str,
    pub(crate) postgis: &'a str,
    /// The log as installed; `None` if no log is installed.
    pub(crate) facts: Option<&'a Facts>,
    pub(crate) owner: &'a FunctionOwner,
    /// True if the triggers can do more than append to the log.
    pub(crate) is_unsafe: bool,
    /// The highest id of a watch.
    pub(crate) last: i32,
}

impl ScriptContext<'_> {
    /// Writes the whole script, with the statements for watches and layers.
    pub(crate) fn write(&self, work: ScriptWork, readers: &[String], warnings: Vec<String>) -> Installation {
        let ScriptWork { statements, mut steps, locks } = work;
        let schema = quoted(self.schema);
        let begin = match self.facts {
            None => {
                steps.insert(0, format!("schema {schema}: the change log"));
                self.new_log()
            }
            Some(facts) => self.known_log(facts),
        };
        if self.facts.is_some_and(|facts| !facts.has_key) {
            steps.push(format!("schema {schema}: the key by which targets say which database they show"));
        }
        if self.facts.is_some_and(|facts| facts.ahead.is_some()) {
            steps.push(format!(
                "schema {schema}: emptied, because it is ahead of the database. Every target needs a seed"
            ));
        }
        if self.facts.is_some_and(|facts| !facts.is_identified) {
            steps.push(format!("schema {schema}: a replica identity, so that its tables may be published"));
        }
        let is_upgrade = self.facts.is_some_and(|facts| facts.layout < SAFE_LAYOUT);
        let is_owned_anew = self.facts.is_none_or(|facts| self.owner.differs(facts)) || is_upgrade || self.is_unsafe;
        if is_owned_anew {
            steps.push(self.owner.step());
        }
        if steps.is_empty() && readers.is_empty() {
            let sql = "-- Everything is installed.\n".to_owned();
            return Installation { sql, kind: None, steps, warnings };
        }
        let kind = match self.facts {
            None => InstallKind::First,
            Some(_) if !statements.is_empty() => InstallKind::NotesMore,
            Some(_) => InstallKind::NotesTheSame,
        };
        let mut parts = vec![
            BEGIN.to_owned(),
            one_at_a_time(),
            of_schema(if self.facts.is_none() { include_str!("sql/schema.sql") } else { "" }, self.schema),
            of_schema("{guard}", self.schema),
            locks.block(&self.altered_tables()),
            begin,
        ];
        let alters = is_owned_anew || !statements.is_empty();
        if alters {
            parts.push(self.owner.begin(self.schema, self.facts.is_none_or(|facts| self.owner.differs(facts))));
            parts.extend(statements);
            parts.push(format!("UPDATE {schema}.state SET installs = installs + 1, last_watch = {};", self.last));
            parts.push(self.owner.end(self.schema));
        }
        for reader in readers {
            let reader = quoted(reader);
            parts.push(format!(
                "GRANT USAGE ON SCHEMA {schema} TO {reader};\nGRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {reader};"
            ));
            steps.push(format!("role {reader}: may read the change log"));
        }
        parts.push("COMMIT;".to_owned());
        let sql = parts
            .iter()
            .map(|part| part.trim_end())
            .filter(|part| !part.is_empty())
            .map(|part| format!("{part}\n"))
            .collect::<Vec<_>>()
            .join("\n");
        Installation { sql, kind: Some(kind), steps, warnings }
    }

    fn altered_tables(&self) -> Vec<String> {
        let Some(facts) = self.facts else { return Vec::new() };
        let altered = [
            ("change", !facts.is_identified),
            ("needs", !facts.is_identified),
            ("state", !facts.has_key || facts.layout < SAFE_LAYOUT),
        ];
        let altered = altered.into_iter().filter(|(_, is_altered)| *is_altered);
        altered.map(|(table, _)| format!("{}.{}", quoted(self.schema), quoted(table))).collect()
    }

    fn new_log(&self) -> String {
        let layout = at_postgis(include_str!("sql/layout.sql"), self.postgis).replace("{layout}", &LAYOUT.to_string());
        let layout = layout.replace("{replica_identity}", REPLICA_IDENTITY.trim_end());
        let layout = layout.replace("{schema}", &quoted(self.schema));
        format!("{layout}\n{}\n{}", self.add_key(), of_schema(include_str!("sql/revoke_defaults.sql"), self.schema))
    }

    /// The statements that give the log its key.
    fn add_key(&self) -> String {
        ADD_KEY.replace("{schema}", &quoted(self.schema))
    }

    /// The check that the log is still in the state for which the script was written, and the statements for what an
    /// older layout lacks.
    fn known_log(&self, facts: &Facts) -> String {
        let schema = quoted(self.schema);
        let check = format!(
            "-- The script fits only the state of the log for which it was written.
DO $oar_tiles$ BEGIN
    IF (SELECT installs FROM {schema}.state) <> {} THEN
        RAISE EXCEPTION 'something else was installed meanwhile' USING ERRCODE = '{OVERTAKEN}';
    END IF;
END $oar_tiles$;",
            facts.installs
        );
        let mut check = check;
        if !facts.is_identified {
            check.push_str(&format!("\n{}", REPLICA_IDENTITY.replace("{schema}", &schema)));
        }
        if facts.ahead.is_some() {
            check.push_str(&format!("\n{}", include_str!("sql/discard_entries.sql").replace("{schema}", &schema)));
        }
        if !facts.has_key || facts.ahead.is_some() {
            check.push_str(&format!("\n{}", self.add_key()));
        }
        if facts.layout == LAYOUT {
            return check;
        }
        let owner = if facts.layout < SAFE_LAYOUT {
            format!(
                "ALTER TABLE {schema}.state ADD COLUMN owner text, ADD COLUMN owner_is_made boolean NOT NULL DEFAULT false;\n"
            )
        } else {
            String::new()
        };
        format!("{check}\n{owner}UPDATE {schema}.state SET layout = {LAYOUT};")
    }
}

// The tables that an install or a removal locks before it changes anything, and the repeated attempts to lock them.

/// How long an install or a removal tries to lock the tables.
const MAX_TRYING: Duration = Duration::from_secs(10);

/// The pause after an attempt, in which sessions that have queued behind it can proceed.
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LockMode {
    /// While others may read, to add triggers.
    ShareRowExclusive,
    /// Exclusively, to drop triggers or to alter the table.
    AccessExclusive,
}

impl LockMode {
    fn sql(self) -> &'static str {
        match self {
            LockMode::ShareRowExclusive => "SHARE ROW EXCLUSIVE",
            LockMode::AccessExclusive => "ACCESS EXCLUSIVE",
        }
    }
}

/// The tables that a script locks: schema and name, quoted.
#[derive(Debug, Default)]
pub(crate) struct TableLocks(BTreeMap<String, LockMode>);

impl TableLocks {
    pub(crate) fn add(&mut self, table: &str, mode: LockMode) {
        let known = self.0.entry(table.to_owned()).or_insert(mode);
        *known = mode.max(*known);
    }

    pub(crate) fn merge(&mut self, other: TableLocks) {
        for (table, mode) in other.0 {
            self.add(&table, mode);
        }
    }

    /// The block that takes these locks, and then the locks on tables of the log. Writers take them in the same order.
    /// Once all are held, every earlier writer has ended, and every later one sees the new triggers and functions.
    pub(crate) fn block(&self, of_log: &[String]) -> String {
        let alone = |table: &String| (table.clone(), LockMode::AccessExclusive);
        let targets: Vec<String> = self
            .0
            .iter()
            .map(|(table, mode)| (table.clone(), *mode))
            .chain(of_log.iter().map(alone))
            .map(|(table, mode)| format!("({}, '{}')", literal_in_block(&format!("ONLY {table}")), mode.sql()))
            .collect();
        if targets.is_empty() {
            return String::new();
        }
        lock_block(&format!("SELECT * FROM (VALUES {}) AS t (called, mode)", targets.join(",\n        ")))
    }
}

/// The block that locks the tables that a query returns as `called`, each in its `mode`, in the order of the rows.
pub(crate) fn lock_block(query: &str) -> String {
    include_str!("sql/table_locks.sql").replace("{targets}", query)
}

/// The block that keeps other installs out.
pub(crate) fn one_at_a_time() -> String {
    include_str!("sql/install_lock.sql")
        .replace("{class}", &WATCHER_LOCK.0.to_string())
        .replace("{object}", &(WATCHER_LOCK.1 + 1).to_string())
        .replace("{taken}", TAKEN)
}

/// Runs a script in one transaction, and returns the first column of each row. A script waits only a fraction of a
/// second for a table; it is repeated until it gets all its tables, within [`MAX_TRYING`].
pub(crate) async fn run_script(
    database: &Database,
    verb: &'static str,
    sql: &str,
) -> Result<Vec<String>, ChangeLogError> {
    let session = database.writing().await?;
    let context = if verb == "remove" { "removing the change log" } else { "installing the change log" };
    let begun = Instant::now();
    loop {
        let error = match session.script(context, sql).await {
            Ok(rows) => return Ok(rows),
            Err(error) => ChangeLogError::from_script(verb, database.server(), error),
        };
        if !matches!(error, ChangeLogError::Locked { .. } | ChangeLogError::Taken { .. })
            || begun.elapsed() + PAUSE > MAX_TRYING
        {
            return Err(error);
        }
        session.script(context, "ROLLBACK").await?;
        tokio::time::sleep(PAUSE).await;
    }
}

// The statements of one watch: its function, its triggers, and the log's records about them.

/// The statements that install or alter a watch.
pub(crate) struct WatchChange {
    pub(crate) sql: String,
    /// What the statements do, in words.
    pub(crate) step: String,
    pub(crate) locks: TableLocks,
}

/// The present and the wanted state of a watch.
pub(crate) struct WatchScript<'a> {
    pub(crate) options: &'a ChangesSection,
    pub(crate) postgis: &'a str,
    pub(crate) number: i32,
    pub(crate) watch: &'a PlannedWatch,
    /// The watch as installed; `None` if it is new.
    pub(crate) before: Option<&'a WatchFacts>,
}

/// Turns off compression in a log of an earlier version. Compressing shapes takes a writer more time than everything
/// else.
fn uncompressed_places(schema: &str) -> String {
    let log = literal(&format!("{schema}.change"));
    format!(
        "DO $oar_tiles$ BEGIN
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = {log}::regclass AND attname = 'places' AND attstorage <> 'e') THEN
        ALTER TABLE {schema}.change ALTER COLUMN places SET STORAGE EXTERNAL;
    END IF;
END $oar_tiles$;
"
    )
}

impl WatchScript<'_> {
    /// The statements; `None` if everything is installed.
    pub(crate) fn write(&self) -> Option<WatchChange> {
        let (options, watch, number) = (self.options, self.watch, self.number);
        let has = |name: &String| watch.table.column(name).is_some();
        // Columns that other layers need stay, unless the table no longer has them.
        let known = self.before.map_or(&[][..], |before| &before.columns);
        let known_names: BTreeSet<&String> = known.iter().map(|column| &column.name).collect();
        let columns: Vec<String> = watch
            .columns
            .iter()
            .chain(known_names.iter().copied().filter(|name| has(name)))
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let gone: Vec<&String> = known_names.into_iter().filter(|name| !has(name)).collect();
        let fresh: Vec<&String> = columns
            .iter()
            .filter(|name| !self.before.and_then(|before| before.column(name)).is_some_and(|column| column.is_same))
            .collect();
        let key: Vec<String> = watch.table.key.iter().map(|key| key.name.clone()).collect();
        let logged = match &watch.request.source {
            WatchSource::Column(_) => Vec::new(),
            WatchSource::Query { logged, .. } => logged.clone(),
        };
        let is_intact = self.before.is_some_and(WatchFacts::is_intact);
        let is_named = self.before.is_some_and(|before| before.name == watch.request.name);
        let limit = i64::from(options.truncate_rows);
        let trigger_function = TriggerFunction {
            schema: &options.schema,
            postgis: self.postgis,
            watch: number,
            table: &watch.table,
            source: &watch.request.source,
            columns: &columns,
        };
        let hash = trigger_function.hash();
        let is_same = is_intact
            && is_named
            && fresh.is_empty()
            && gone.is_empty()
            && self
                .before
                .is_some_and(|before| before.key == key && before.logged == logged && before.truncate_rows == limit)
            && self.before.is_some_and(|before| before.function_hash.as_ref() == Some(&hash));
        if is_same {
            return None;
        }
        let (schema, name) = (quoted(&options.schema), literal(&watch.request.name));
        let function = TriggerFunction::name(&options.schema, number);
        let mut sql = String::new();
        if self.before.is_some() && !self.may_replace() {
            // A function that is not ours may belong to another role, or grant rights to it.
            sql.push_str(&format!("DROP FUNCTION IF EXISTS {function}() CASCADE;\n"));
        }
        let (geometry, query) = watch.source();
        let nullable = |text: Option<&str>| text.map_or_else(|| "NULL".to_owned(), literal);
        sql.push_str(&format!(
            "INSERT INTO {schema}.watch (id, relation, name, geometry, query, logged, key, truncate_rows, noter, noter_xmin, since)
VALUES ({number}, {name}::regclass, {name}, {}, {}, {logged}, {key}, {limit}, 0, '0', '0')
ON CONFLICT (id) DO UPDATE SET name = excluded.name, logged = excluded.logged, key = excluded.key, truncate_rows = excluded.truncate_rows;
{}
REVOKE ALL ON FUNCTION {function}() FROM PUBLIC;
",
            nullable(geometry),
            nullable(query),
            trigger_function.statement(self.may_replace()),
            logged = texts(&logged),
            key = texts(&key),
        ));
        if trigger_function.logs_shapes() {
            sql.push_str(&uncompressed_places(&schema));
        }
        sql.push_str(&self.triggers(&function));
        sql.push_str(&self.records(&function, &fresh, &gone, is_intact));
        let step = format!(
            "{}: {} on {}; notes changes of {}{}",
            watch.request.name,
            if is_intact { "the triggers stay" } else { "triggers" },
            watch.table.relatives.iter().map(|relative| relative.name.as_str()).collect::<Vec<_>>().join(", "),
            columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", "),
            if geometry.is_some() { "" } else { ", for the declared geometry" }
        );
        Some(WatchChange { sql, step, locks: self.locks() })
    }

    /// True if the function is the one that was installed, so that it may be replaced.
    fn may_replace(&self) -> bool {
        self.before.is_some_and(|before| before.function_is_ours)
    }

    /// The locks on all tables that get or lose triggers.
    fn locks(&self) -> TableLocks {
        let mut locks = TableLocks::default();
        for relative in &self.watch.table.relatives {
            locks.add(&relative.name, LockMode::ShareRowExclusive);
        }
        for member in self.before.iter().flat_map(|before| &before.members) {
            let stays = self.may_replace() && member.is_related && member.is_same();
            if !stays && !member.found.is_empty() {
                locks.add(&member.name, LockMode::AccessExclusive);
            }
        }
        locks
    }

    /// Creates the triggers of every table whose triggers are not as they were installed.
    fn triggers(&self, function: &str) -> String {
        let member =
            |name: &str| self.before.and_then(|before| before.members.iter().find(|member| member.name == name));
        let detached = self.before.iter().flat_map(|before| &before.members).filter(|member| !member.is_related);
        let mut sql = String::new();
        let drop = |member: &MemberFacts| {
            // A line is name, state and xmin; the name may contain spaces.
            let names = member.found.lines().filter_map(|line| line.rsplitn(3, ' ').nth(2));
            names
                .map(|name| format!("DROP TRIGGER IF EXISTS {} ON {};\n", quoted(name), member.name))
                .collect::<String>()
        };
        for member in detached {
            sql.push_str(&drop(member));
        }
        for relative in &self.watch.table.relatives {
            let found = member(&relative.name);
            if self.may_replace() && found.is_some_and(MemberFacts::is_same) {
                continue;
            }
            sql.extend(found.map(drop));
            for (verb, when, rows) in [
                ("insert", "AFTER INSERT", " REFERENCING NEW TABLE AS oar_tiles_new"),
                ("update", "AFTER UPDATE", " REFERENCING OLD TABLE AS oar_tiles_old NEW TABLE AS oar_tiles_new"),
                ("delete", "AFTER DELETE", " REFERENCING OLD TABLE AS oar_tiles_old"),
                ("truncate", "BEFORE TRUNCATE", ""),
            ] {
                let (table, trigger) = (&relative.name, quoted(&self.trigger(verb)));
                // ALWAYS means also in sessions with session_replication_role = replica.
                sql.push_str(&format!(
                    "CREATE TRIGGER {trigger} {when} ON {table}{rows} FOR EACH STATEMENT EXECUTE FUNCTION {function}();
ALTER TABLE ONLY {table} ENABLE ALWAYS TRIGGER {trigger};
"
                ));
            }
        }
        sql
    }

    /// A trigger's name: different for each log, and at most 63 bytes, so that PostgreSQL does not shorten it.
    fn trigger(&self, verb: &str) -> String {
        let mut schema = self.options.schema.as_str();
        while schema.len() > 40 {
            schema = &schema[..schema.char_indices().next_back().map_or(0, |(at, _)| at)];
        }
        format!("{schema}_{}_{verb}", self.number)
    }

    /// The statements that record what was installed.
    fn records(&self, function: &str, fresh: &[&String], gone: &[&String], is_intact: bool) -> String {
        let (schema, number, name) = (quoted(&self.options.schema), self.number, literal(&self.watch.request.name));
        let oids: Vec<String> = self
            .watch
            .table
            .relatives
            .iter()
            .map(|relative| format!("{}::regclass", literal(&relative.name)))
            .collect();
        let oids = format!("ARRAY[{}]::oid[]", oids.join(", "));
        let mut sql = String::new();
        if !gone.is_empty() {
            sql.push_str(&format!(
                "DELETE FROM {schema}.watched WHERE watch = {number} AND column_name = ANY ({});\n",
                texts(gone)
            ));
        }
        if !fresh.is_empty() {
            sql.push_str(&format!(
                "INSERT INTO {schema}.watched (watch, column_name, attnum, attribute_xmin, since)
SELECT {number}, a.attname, a.attnum, a.xmin, pg_current_xact_id() FROM pg_attribute AS a
WHERE a.attrelid = {name}::regclass AND NOT a.attisdropped AND a.attname = ANY ({})
ON CONFLICT (watch, column_name) DO UPDATE SET attnum = excluded.attnum, attribute_xmin = excluded.attribute_xmin, since = excluded.since;
",
                texts(fresh)
            ));
        }
        let signature = literal(&format!("{function}()"));
        let since = if is_intact { "" } else { ", since = pg_current_xact_id()" };
        sql.push_str(&format!(
            "DELETE FROM {schema}.member WHERE watch = {number};
INSERT INTO {schema}.member (watch, relation, name, triggers, ties)
SELECT {number}, c.oid, {QUALIFIED_NAME}, {triggers}, {ties}
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = ANY ({oids});
UPDATE {schema}.watch SET noter = p.oid, noter_xmin = p.xmin{since} FROM pg_proc AS p WHERE id = {number} AND p.oid = {signature}::regprocedure;
",
            triggers = triggers("c.oid", &format!("{signature}::regprocedure")),
            ties = ties("c.oid"),
        ));
        sql
    }

    /// The statements that remove a watch whose table was dropped.
    pub(crate) fn forget(schema: &str, number: i32) -> String {
        format!(
            "DROP FUNCTION IF EXISTS {}() CASCADE;\nDELETE FROM {}.watch WHERE id = {number};\n",
            TriggerFunction::name(schema, number),
            quoted(schema)
        )
    }
}

/// The statements that record what a layer needs; `None` if the log has the same record.
pub(crate) fn add_needs(
    schema: &str,
    layer: &Layer,
    wanted: &[(i32, Vec<String>)],
    facts: Option<&Facts>,
) -> Option<String> {
    let definition = definition(layer);
    let known: BTreeSet<(Option<i32>, BTreeSet<&String>)> = facts
        .iter()
        .flat_map(|facts| &facts.needs)
        .filter(|need| need.definition == definition)
        .map(|need| (need.watch, need.columns.iter().collect()))
        .collect();
    let mut rows: BTreeSet<(Option<i32>, BTreeSet<&String>)> =
        wanted.iter().map(|(watch, columns)| (Some(*watch), columns.iter().collect())).collect();
    if rows.is_empty() {
        rows.insert((None, BTreeSet::new()));
    }
    if known == rows {
        return None;
    }
    let (schema, definition, name) = (quoted(schema), literal(&definition), literal(layer.name()));
    let values: Vec<String> = rows
        .iter()
        .map(|(watch, columns)| {
            let watch = watch.map_or_else(|| "NULL".to_owned(), |watch| watch.to_string());
            let columns: Vec<&String> = columns.iter().copied().collect();
            format!("({definition}, {name}, {watch}, {})", texts(&columns))
        })
        .collect();
    Some(format!(
        "DELETE FROM {schema}.needs WHERE definition = {definition};
INSERT INTO {schema}.needs (definition, layer, watch, columns) VALUES {};
",
        values.join(", ")
    ))
}

/// SQL for an array of texts.
fn texts(texts: &[impl AsRef<str>]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| literal(text.as_ref())).collect();
    format!("ARRAY[{}]::text[]", texts.join(", "))
}

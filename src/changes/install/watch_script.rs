//! The statements of one watch: its function, its triggers, and the log's records about them.

use std::collections::BTreeSet;

use super::locks::{LockMode, TableLocks};
use super::trigger::TriggerFunction;
use crate::changes::log::{Facts, MemberFacts, QUALIFIED_NAME, WatchFacts, literal, ties, triggers};
use crate::changes::options::{ChangesOptions, TrackedLayer};
use crate::changes::relations::{PlannedWatch, WatchSource};
use crate::postgis::quoted;

/// The statements that install or alter a watch.
pub(in crate::changes) struct WatchChange {
    pub(in crate::changes) sql: String,
    /// What the statements do, in words.
    pub(in crate::changes) step: String,
    /// The tables that they alter.
    pub(in crate::changes) locks: TableLocks,
}

/// The present and the wanted state of a watch.
pub(in crate::changes) struct WatchScript<'a> {
    pub(in crate::changes) options: &'a ChangesOptions,
    pub(in crate::changes) postgis: &'a str,
    pub(in crate::changes) number: i32,
    pub(in crate::changes) watch: &'a PlannedWatch,
    /// The watch as installed; `None` if it is new.
    pub(in crate::changes) before: Option<&'a WatchFacts>,
}

/// Turns off compression in a log of an earlier version. Compressing shapes takes a writer more time than everything else.
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
    pub(in crate::changes) fn write(&self) -> Option<WatchChange> {
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
    pub(in crate::changes) fn forget(schema: &str, number: i32) -> String {
        format!(
            "DROP FUNCTION IF EXISTS {}() CASCADE;\nDELETE FROM {}.watch WHERE id = {number};\n",
            TriggerFunction::name(schema, number),
            quoted(schema)
        )
    }
}

/// The statements that record what a layer needs; `None` if the log has the same record.
pub(in crate::changes) fn add_needs(
    schema: &str,
    layer: TrackedLayer<'_>,
    wanted: &[(i32, Vec<String>)],
    facts: Option<&Facts>,
) -> Option<String> {
    let definition = layer.definition();
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
    let (schema, definition, name) = (quoted(schema), literal(&definition), literal(layer.layer.name()));
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

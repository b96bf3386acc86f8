//! The trigger function of a watch.
//!
//! The function delays every writer, so it only compares columns and extracts positions from geometries. It evaluates no expression of a
//! configuration, and nothing that raises an error on unusual values. It runs with its owner's rights, not the writer's, and with its own search
//! path.
//!
//! Functions of the owner of a column's type would run with these rights, too, so the trigger function calls none. It converts values to texts by the
//! output function of their type, which only a superuser can create, never by a cast. It compares values as bytes (`*<>`), or by operators that
//! certainly belong to PostgreSQL, PostGIS or an extension.

mod shape;
mod statements;

use std::collections::BTreeSet;

use md5::{Digest as _, Md5};

use crate::changes::log::{WATCHER_LOCK, literal};
use crate::changes::relations::{Table, WatchSource};
use crate::postgis::{DRAWN_TEXTS, LOGGED_TEXTS, TextSetting, quoted};
use statements::{MAX_ROWS_PER_LOG_ENTRY, MAX_ROWS_WITH_SHAPES, StatementSize};

/// The trigger function of a watch.
pub(in crate::changes) struct TriggerFunction<'a> {
    /// The schema of the log.
    pub(in crate::changes) schema: &'a str,
    /// The schema of PostGIS.
    pub(in crate::changes) postgis: &'a str,
    /// The id of the watch.
    pub(in crate::changes) watch: i32,
    /// The table.
    pub(in crate::changes) table: &'a Table,
    /// Where positions come from.
    pub(in crate::changes) source: &'a WatchSource,
    /// The columns whose changes are logged, including those of the source and the key.
    pub(in crate::changes) columns: &'a [String],
}

impl TriggerFunction<'_> {
    /// The function's name, quoted, with its schema.
    pub(in crate::changes) fn name(schema: &str, watch: i32) -> String {
        format!("{}.{}", quoted(schema), quoted(&format!("note_{watch}")))
    }

    /// MD5 of the function's text, the same as `md5(prosrc)`.
    pub(in crate::changes) fn hash(&self) -> String {
        Md5::digest(self.body()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The statement that creates the function. With `replaces`, it replaces one that is known to be ours.
    pub(in crate::changes) fn statement(&self, replaces: bool) -> String {
        // The settings that decide the text form of values, if values are logged or compared as texts. Those who read the log fix the same ones.
        let texts = match (self.source, self.table.key.is_empty()) {
            (WatchSource::Column(_), false) => String::new(),
            _ => format!("\n   {}", fixed_texts().collect::<String>()),
        };
        format!(
            "CREATE {}FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_mergejoin = off -- old and new rows come in no order: sorting both costs more than hashing one
    SET jit = off{texts}
AS {};",
            if replaces { "OR REPLACE " } else { "" },
            TriggerFunction::name(self.schema, self.watch),
            in_dollars(&self.body()),
        )
    }

    fn body(&self) -> String {
        let (class, object) = WATCHER_LOCK;
        let (before, after) = self.one_side_statement(StatementSize::Many);
        let (before_few, after_few) = self.one_side_statement(StatementSize::Few);
        let (before_shapes, after_shapes) = self.one_side_statement(StatementSize::Shapes);
        // A branch for statements that are logged with shapes.
        let with_shapes = |rows: &str, statement: &str| {
            if self.logs_shapes() {
                format!(
                    "
        ELSIF NOT EXISTS (SELECT FROM {rows} OFFSET {MAX_ROWS_WITH_SHAPES}) THEN
        {statement};"
                )
            } else {
                String::new()
            }
        };
        let log = quoted(self.schema);
        format!(
            "
#variable_conflict use_column
DECLARE
    this_table text;
    most int8;
    found int8;
    noted int8;
BEGIN
    -- On a copy of the table, in a copy of the database that was made without rights, writers go on. No reader trusts such a copy.
    IF TG_RELID <> ALL ({tables}) AND {lacks_rights} THEN
        RETURN NULL;
    END IF;
    IF {missing} THEN
        -- A column is gone or has another type: writers go on, and whoever reads the log is told.
        INSERT INTO {log}.change (watch, rows, everything) VALUES ({watch}, 0, true);
    ELSIF TG_OP = 'UPDATE' THEN
        IF EXISTS (SELECT FROM oar_tiles_new OFFSET {MAX_ROWS_PER_LOG_ENTRY}) THEN
        {update_many};{update_shapes}
        ELSE
        {update_few};
        END IF;
    ELSIF TG_OP = 'INSERT' THEN
        IF EXISTS (SELECT FROM oar_tiles_new OFFSET {MAX_ROWS_PER_LOG_ENTRY}) THEN
        {before}oar_tiles_new{after};{insert_shapes}
        ELSE
        {before_few}oar_tiles_new{after_few};
        END IF;
    ELSIF TG_OP = 'DELETE' THEN
        IF EXISTS (SELECT FROM oar_tiles_old OFFSET {MAX_ROWS_PER_LOG_ENTRY}) THEN
        {before}oar_tiles_old{after};{delete_shapes}
        ELSE
        {before_few}oar_tiles_old{after_few};
        END IF;
    ELSE
        -- TRUNCATE takes rows that only a snapshot of this moment shows, and rows that the owner of this function may not see.
        IF current_setting('transaction_isolation') = 'read committed' AND has_schema_privilege(TG_TABLE_SCHEMA, 'USAGE')
            AND has_table_privilege(TG_RELID, 'SELECT') AND NOT row_security_active(TG_RELID)
        THEN
            this_table := quote_ident(TG_TABLE_SCHEMA) || '.' || quote_ident(TG_TABLE_NAME);
            most := (SELECT w.truncate_rows FROM {log}.watch AS w WHERE w.id = {watch});
            EXECUTE 'SELECT count(*) FROM (SELECT FROM ONLY ' || this_table || ' LIMIT $1) AS r' INTO found USING most + 1;
        END IF;
        IF found <= most THEN
            EXECUTE {truncate_before} || this_table || {truncate_after};
        ELSE
            INSERT INTO {log}.change (watch, rows, everything) VALUES ({watch}, 0, true);
        END IF;
    END IF;
    GET DIAGNOSTICS noted = ROW_COUNT;
    -- A notice makes commits wait for each other, so it is only given while somebody watches: whoever does shares this lock.
    -- Taken and given back within one expression, it cannot be left behind. A transaction with a notice cannot be prepared:
    -- where that may be wanted, watchers look by themselves.
    IF noted > 0 AND current_setting('max_prepared_transactions') = '0'
        AND (CASE WHEN pg_try_advisory_lock({class}, {object}) THEN NOT pg_advisory_unlock({class}, {object}) ELSE true END)
    THEN
        PERFORM pg_notify({channel}, '');
    END IF;
    RETURN NULL;
END
",
            tables = self.tables(),
            lacks_rights = self.lacks_rights(),
            missing = self.lacks_a_column(),
            watch = self.watch,
            update_many = self.both_sides_statement(StatementSize::Many),
            update_shapes = with_shapes("oar_tiles_new", &self.both_sides_statement(StatementSize::Shapes)),
            insert_shapes = with_shapes("oar_tiles_new", &format!("{before_shapes}oar_tiles_new{after_shapes}")),
            delete_shapes = with_shapes("oar_tiles_old", &format!("{before_shapes}oar_tiles_old{after_shapes}")),
            update_few = self.both_sides_statement(StatementSize::Few),
            truncate_before = literal(&format!("{before}ONLY ")),
            truncate_after = literal(&after),
            channel = literal(self.schema),
        )
    }

    /// SQL for the OIDs of the tables that have the triggers.
    fn tables(&self) -> String {
        let oids: BTreeSet<u32> = self.table.relatives.iter().map(|relative| relative.oid).collect();
        let oids: Vec<String> = oids.iter().map(u32::to_string).collect();
        format!("ARRAY[{}]::oid[]", oids.join(", "))
    }

    /// An SQL condition that is true if the owner of this function may not append to the log. The schema is checked first, because a name in a schema
    /// that a role may not use is an error.
    fn lacks_rights(&self) -> String {
        let schema = literal(self.schema);
        let change = literal(&format!("{}.change", quoted(self.schema)));
        format!(
            "(CASE WHEN has_schema_privilege({schema}, 'USAGE') THEN NOT has_any_column_privilege({change}, 'INSERT') ELSE true END)"
        )
    }

    /// An SQL condition that is true if the changed table lacks a watched column, or has one with another type where the type matters.
    fn lacks_a_column(&self) -> String {
        let names: Vec<String> = self.columns.iter().map(|name| literal(name)).collect();
        let geometry = match self.source {
            WatchSource::Column(name) => Some(name),
            WatchSource::Query { .. } => None,
        };
        let cases = self.columns.iter().chain(geometry).filter_map(|name| {
            let column = self.table.column(name)?;
            // The statements depend on the shape and the reference system that the column declares.
            let modifier = match geometry {
                Some(geometry) if geometry == name => format!(" AND a.atttypmod = {}", column.type_modifier),
                _ => String::new(),
            };
            Some(format!("WHEN {} THEN a.atttypid = {}{modifier} ", literal(name), column.type_oid))
        });
        let cases: String = cases.collect();
        let types = if cases.is_empty() { cases } else { format!(" AND CASE a.attname {cases}ELSE true END") };
        // Compared as texts, the names need one index scan instead of one for each, and half the time.
        format!(
            "(SELECT count(*) FROM pg_attribute AS a WHERE a.attrelid = TG_RELID AND a.attnum > 0 AND NOT a.attisdropped
            AND a.attname::text = ANY (ARRAY[{}]::text[]){types}) <> {}",
            names.join(", "),
            names.len()
        )
    }
}

/// The clauses that fix how values are written as texts.
fn fixed_texts() -> impl Iterator<Item = String> {
    DRAWN_TEXTS.iter().chain(&LOGGED_TEXTS).map(|TextSetting { name, value }| format!(" SET {name} = '{value}'"))
}

/// A text in dollar quotes (PostgreSQL documentation, section 4.1.2.4), which are easier to read than a literal.
fn in_dollars(text: &str) -> String {
    let mut tag = "$oar_tiles$".to_owned();
    while text.contains(&tag) {
        tag.insert(1, '_');
    }
    format!("{tag}{text}{tag}")
}

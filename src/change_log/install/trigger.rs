//! The trigger function of a watch.
//!
//! The function delays every writer, so it only compares columns and extracts positions from geometries. It evaluates
//! no expression of a configuration, and nothing that raises an error on unusual values. It runs with its owner's
//! rights, not the writer's, and with its own search path.
//!
//! Functions of the owner of a column's type would run with these rights, too, so the trigger function calls none. It
//! converts values to texts by the output function of their type, which only a superuser can create, never by a cast.
//! It compares values as bytes (`*<>`), or by operators that certainly belong to PostgreSQL, PostGIS or an extension.

use std::collections::BTreeSet;

use md5::{Digest as _, Md5};

use crate::change_log::log::{WATCHER_LOCK, literal};
use crate::change_log::relations::{Table, TableColumn, TableKeyColumn, WatchSource};
use crate::hex::hex;
use crate::postgis::{DRAWN_TEXTS, LOGGED_TEXTS, TextSetting, quoted};
use crate::tile::HALF_WORLD_METRES;

pub(crate) struct TriggerFunction<'a> {
    pub(crate) schema: &'a str,
    pub(crate) postgis: &'a str,
    pub(crate) watch: i32,
    pub(crate) table: &'a Table,
    /// Where positions come from.
    pub(crate) source: &'a WatchSource,
    /// The columns whose changes are logged, including those of the source and the key.
    pub(crate) columns: &'a [String],
}

impl TriggerFunction<'_> {
    /// The function's name, quoted, with its schema.
    pub(crate) fn name(schema: &str, watch: i32) -> String {
        format!("{}.{}", quoted(schema), quoted(&format!("note_{watch}")))
    }

    /// MD5 of the function's text, the same as `md5(prosrc)`.
    pub(crate) fn hash(&self) -> String {
        hex(Md5::digest(self.body()))
    }

    /// The statement that creates the function. With `replaces`, it replaces one that is known to be ours.
    pub(crate) fn statement(&self, replaces: bool) -> String {
        // The settings that decide the text form of values, if values are logged or compared as texts. Those who read
        // the log fix the same ones.
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

    /// An SQL condition that is true if the owner of this function may not append to the log. The schema is checked
    /// first, because a name in a schema that a role may not use is an error.
    fn lacks_rights(&self) -> String {
        let schema = literal(self.schema);
        let change = literal(&format!("{}.change", quoted(self.schema)));
        format!(
            "(CASE WHEN has_schema_privilege({schema}, 'USAGE') THEN NOT has_any_column_privilege({change}, 'INSERT') ELSE true END)"
        )
    }

    /// An SQL condition that is true if the changed table lacks a watched column, or has one with another type where
    /// the type matters.
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

// What is logged for a line or polygon: its shape, a cover, or its box.

/// The most bytes of a geometry that is logged as it is. For a larger one, a cover is logged.
const MAX_SHAPE_BYTES: u32 = 32 << 10;

/// The most bytes of the shape in a cover. For a geometry that has no such cover, its box is logged.
const MAX_COVER_BYTES: u32 = 24 << 10;

/// A cover leaves out vertices whose distance from the previous vertex is at most the geometry's width or height
/// divided by the first number. The second number is applied if that leaves too many vertices.
const COVER_PARTS: [u32; 2] = [256, 64];

/// The greatest coordinate, in the units of any reference system, of a geometry that has a cover. A geometry beyond it
/// is never drawn (`MAX_COORDINATE` in `postgis/sql/edge.rs`).
const MAX_COVERED_COORDINATE: &str = "1e9";

/// An SQL condition that is true if a geometry is logged by a cover. The first size is known without reading the
/// geometry, but may be the size of compressed bytes.
fn is_large(postgis: &str, g: &str) -> String {
    format!("(pg_column_size({g}) > {MAX_SHAPE_BYTES} OR {postgis}.ST_MemSize({g}) > {MAX_SHAPE_BYTES})")
}

/// An SQL condition that is true if a geometry has straight edges and is neither a point nor a collection.
fn is_linear(postgis: &str, g: &str) -> String {
    format!("{postgis}.GeometryType({g}) IN ('LINESTRING', 'POLYGON', 'MULTILINESTRING', 'MULTIPOLYGON')")
}

/// SQL for what is logged for a geometry `g` in EPSG:4326 or 3857: the shape of a small line or polygon, the cover of a
/// large one, the box of any other. NULL if it is empty. Nothing here raises an error, even if the geometry is invalid.
pub(crate) fn shape_or_box(postgis: &str, g: &str) -> String {
    let (linear, large) = (is_linear(postgis, g), is_large(postgis, g));
    format!(
        "CASE WHEN {linear} AND {large} THEN {}
            WHEN {postgis}.ST_IsEmpty({g}) THEN NULL
            WHEN {linear} THEN {g}
            ELSE {postgis}.ST_Envelope({g}) END",
        CoverSql { postgis, g, alone: "box", within: &in_the_world(postgis) }.sql()
    )
}

/// SQL for what is logged for a geometry `g` in any other reference system: a small geometry itself; of a large one a
/// cover with a shape or, without `with_shapes`, only with its box. NULL if it is empty. Nothing is transformed here,
/// because nothing may raise an error.
///
/// What a box covers in EPSG:3857 depends on how its sides are bent there. So a box is logged as a cover, too, whose
/// shape is the box and whose `r` is 0. A collection of three geometries might look like a cover, so it is wrapped in
/// another collection.
pub(crate) fn whole_or_cover(postgis: &str, g: &str, with_shapes: bool) -> String {
    let alone = as_cover(postgis, "box", "0");
    let within = format!(
        "{postgis}.ST_XMin(box) >= -{MAX_COVERED_COORDINATE} AND {postgis}.ST_XMax(box) <= {MAX_COVERED_COORDINATE} AND {postgis}.ST_YMin(box) >= -{MAX_COVERED_COORDINATE} AND {postgis}.ST_YMax(box) <= {MAX_COVERED_COORDINATE} AND {}",
        is_linear(postgis, g)
    );
    let within = if with_shapes { within } else { "false".to_owned() };
    format!(
        "CASE WHEN {} THEN {}
            WHEN {postgis}.ST_IsEmpty({g}) THEN NULL
            WHEN {postgis}.GeometryType({g}) = 'GEOMETRYCOLLECTION' AND {postgis}.ST_NumGeometries({g}) = 3 THEN {postgis}.ST_Collect(ARRAY[{g}])
            ELSE {g} END",
        is_large(postgis, g),
        CoverSql { postgis, g, alone: &alone, within: &within }.sql()
    )
}

/// An SQL condition that is true if `box` lies inside the world of EPSG:4326 or 3857. A geometry that reaches beyond
/// has no cover, because its vertices are moved before it is drawn.
fn in_the_world(postgis: &str) -> String {
    let within = |low: &str, high: &str, degrees: u8| {
        let limit = format!("CASE {postgis}.ST_SRID(box) WHEN 3857 THEN {HALF_WORLD_METRES:?} ELSE {degrees} END");
        format!("{postgis}.ST_{low}(box) >= -({limit}) AND {postgis}.ST_{high}(box) <= {limit}")
    };
    format!("{} AND {}", within("XMin", "XMax", 180), within("YMin", "YMax", 85))
}

/// SQL for a cover: a collection of a shape with fewer vertices, a line `0 0, r 0`, and `box`, the box of the geometry.
fn as_cover(postgis: &str, shape: &str, far: &str) -> String {
    format!(
        "{postgis}.ST_Collect(ARRAY[{postgis}.ST_Force2D({shape}), {postgis}.ST_SetSRID({postgis}.ST_MakeLine({postgis}.ST_MakePoint(0, 0), {postgis}.ST_MakePoint({far}, 0)), {postgis}.ST_SRID(box)), box])"
    )
}

/// The cover of a large geometry.
struct CoverSql<'a> {
    /// The schema of PostGIS, quoted.
    postgis: &'a str,
    g: &'a str,
    /// SQL over `box` for what is logged if there is no shape.
    alone: &'a str,
    /// An SQL condition over `box` that is true if there may be a shape. It is false for coordinates that are not
    /// finite.
    within: &'a str,
}

impl CoverSql<'_> {
    /// SQL for the cover of a large line or polygon. No position of the geometry is farther from the shape than `r`;
    /// `postgis/sql/survey.rs` depends on that. Each large value is read twice.
    ///
    /// `ST_RemoveRepeatedPoints` (`ptarray_remove_repeated_points_in_place`) leaves out a vertex that lies within a
    /// distance of the last one that it kept. It may also leave out that last one in favour of the end of the line. So
    /// each vertex lies within twice the distance of the vertex that represents it, and each edge within twice the
    /// distance of the edge between the representatives. The same holds for the area that is inside of one of the two
    /// rings only. No ring is left out.
    fn sql(&self) -> String {
        let [fine, coarse] = COVER_PARTS;
        let CoverSql { postgis, g, alone, within } = self;
        let side = |end: &str| format!("{postgis}.ST_{end}(box)");
        // The size is computed only for coordinates that were compared with the limits, because the difference of
        // others may overflow, which is an error.
        format!(
            "(SELECT CASE
                WHEN {postgis}.ST_IsEmpty(box) THEN NULL
                WHEN {within} THEN coalesce((
                    SELECT CASE WHEN {postgis}.ST_MemSize(fine) <= {MAX_COVER_BYTES} THEN {finely} ELSE (
                        SELECT CASE WHEN {postgis}.ST_MemSize(coarse) <= {MAX_COVER_BYTES} THEN {coarsely} END
                        FROM (SELECT {postgis}.ST_RemoveRepeatedPoints(fine, size / {coarse}) AS coarse OFFSET 0) AS reduced) END
                    FROM (SELECT size, {postgis}.ST_RemoveRepeatedPoints({g}, size / {fine}) AS fine
                        FROM (SELECT greatest({} - {}, {} - {}) AS size OFFSET 0) AS sized OFFSET 0) AS reduced), {alone})
                ELSE {alone} END
            FROM (SELECT {postgis}.ST_Envelope({g}) AS box OFFSET 0) AS boxed)",
            side("XMax"),
            side("XMin"),
            side("YMax"),
            side("YMin"),
            finely = as_cover(postgis, "fine", &format!("2 * size / {fine}")),
            coarsely = as_cover(postgis, "coarse", &format!("2 * size / {fine} + 2 * size / {coarse}")),
        )
    }
}

// The statements of a trigger function that log positions.
//
// They take about a microsecond for each changed row, most of it to pair old rows with their new versions. Two things
// save time: whole rows are not compared where an operator is as exact (saves a third), and rows are not numbered if
// one entry of the log holds all of them (saves a quarter).

/// The most rows that a statement may change to be logged in one entry.
pub(crate) const MAX_ROWS_PER_LOG_ENTRY: u32 = 10_000;

/// The number of changed rows in one entry if a statement changed more than [`MAX_ROWS_PER_LOG_ENTRY`]. An updated row
/// has at most two positions.
const ROWS_PER_ENTRY_OF_MANY: u32 = 1000;

/// The most lines or polygons that a statement may change to be logged with their shapes; otherwise they are logged
/// with their boxes. So an entry with shapes takes less than 10 MB. In other reference systems than EPSG:4326 and 3857,
/// only large geometries are logged with their boxes. There, an entry of at most 10,000 rows takes less than 700 MB,
/// and an array may take 1 GB.
pub(crate) const MAX_ROWS_WITH_SHAPES: u32 = 100;

/// The number of rows that a statement changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatementSize {
    /// Up to [`MAX_ROWS_WITH_SHAPES`] rows.
    Shapes,
    /// Up to [`MAX_ROWS_PER_LOG_ENTRY`] rows.
    Few,
    Many,
}

/// A column of the log that holds positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LogColumn {
    X,
    Y,
    /// Geometries that are not points, or have their own reference system.
    Shape,
    /// The columns that a query refers to.
    Keys,
}

impl LogColumn {
    fn target(self) -> &'static str {
        match self {
            LogColumn::X => "x",
            LogColumn::Y => "y",
            LogColumn::Shape => "places",
            LogColumn::Keys => "keys",
        }
    }
}

struct WatchedGeometry<'a> {
    column: &'a str,
    /// The geometry type that it declares; "Geometry" for any.
    shape: &'a str,
    srid: i32,
    geography: bool,
}

/// The pieces of the join that pairs old rows with their new versions.
struct Pairing {
    /// The old rows, as an item of a FROM list.
    old: String,
    new: String,
    /// The condition of the join.
    on: String,
    /// The condition that a pair has an old row.
    old_here: String,
    /// The condition that a pair has a new row.
    new_here: String,
    /// The condition that the rows of a pair differ.
    changed: String,
}

impl TriggerFunction<'_> {
    /// True if the positions of this watch are computed after old and new rows were paired, so that the geometries of
    /// new rows that did not move are not read for their shapes.
    fn shapes_after_pairing(&self, amount: StatementSize) -> bool {
        amount == StatementSize::Shapes && self.logs_shapes()
    }

    /// The statement that logs one position for each row of a table: the text before the table's name, and the text
    /// after it.
    pub(crate) fn one_side_statement(&self, amount: StatementSize) -> (String, String) {
        let held = self.held();
        let inner: Vec<String> =
            held.iter().map(|held| format!("{} AS old_{}", self.of(*held, "r", amount), held.target())).collect();
        let (before, after) = self.statement_around(&["old"], amount);
        (
            format!("{before}\n        FROM (SELECT {}{} FROM ", inner.join(", "), part(amount)),
            format!(" AS r) AS changed{after}"),
        )
    }

    /// The statement that logs the old position of each updated row, and the new one if it differs.
    pub(crate) fn both_sides_statement(&self, amount: StatementSize) -> String {
        let Pairing { old, new, on, old_here, new_here, changed } = self.pairing();
        let held = self.held();
        let sides = |held: &LogColumn| {
            let (target, old, new) = (held.target(), self.of(*held, "o", amount), self.of(*held, "n", amount));
            if *held == LogColumn::Keys {
                return format!(
                    "CASE WHEN {old_here} THEN {old} END AS old_{target}, CASE WHEN {new_here} THEN {new} END AS new_{target}"
                );
            }
            // The position of a missing row is NULL by itself.
            format!("{old} AS old_{target}, {new} AS new_{target}")
        };
        let after = self.shapes_after_pairing(amount);
        let geometry = quoted(self.geometry().column);
        let inner: Vec<String> = if after {
            vec![format!("o.{geometry} AS old_geometry, n.{geometry} AS new_geometry")]
        } else {
            held.iter().map(sides).collect()
        };
        // A point moved if its coordinates differ; for other geometries the bytes are compared.
        let moved = match (self.source, held) {
            (_, [LogColumn::X, LogColumn::Y]) => {
                "old_x IS DISTINCT FROM new_x OR old_y IS DISTINCT FROM new_y".to_owned()
            }
            (WatchSource::Column(name), _) => differs(std::slice::from_ref(name)),
            (WatchSource::Query { logged, .. }, _) => format!("NOT ({old_here}) OR {}", differs(logged)),
        };
        let (inner, moved) = if held == [LogColumn::X, LogColumn::Y] {
            (inner.join(", "), moved)
        } else {
            (format!("{}, {moved} AS moved", inner.join(", ")), "moved".to_owned())
        };
        let outer: Vec<String> = held
            .iter()
            .map(|held| {
                let target = held.target();
                if after {
                    let [old, new] = ["old_geometry", "new_geometry"].map(|value| self.position(*held, value, amount));
                    return format!("{old} AS old_{target}, CASE WHEN {moved} THEN {new} END AS new_{target}");
                }
                format!("old_{target}, CASE WHEN {moved} THEN new_{target} END AS new_{target}")
            })
            .collect();
        let (before, after) = self.statement_around(&["old", "new"], amount);
        // OFFSET 0 keeps the planner from computing positions again at every use.
        format!(
            "{before}
        FROM (SELECT {}{} FROM (
            SELECT {inner}
            FROM {old} FULL JOIN {new} ON {on}
            WHERE {changed}
            OFFSET 0) AS pair OFFSET 0) AS changed{after}",
            outer.join(", "),
            part(amount),
        )
    }

    /// True if shapes are logged for few changed rows, and boxes for many.
    pub(crate) fn logs_shapes(&self) -> bool {
        self.held().contains(&LogColumn::Shape)
    }

    /// The columns of the log that hold the positions of this watch.
    fn held(&self) -> &'static [LogColumn] {
        match (self.source, self.geometry()) {
            (WatchSource::Query { .. }, _) => &[LogColumn::Keys],
            // If the column declares no reference system, each geometry has its own.
            (_, WatchedGeometry { srid: 0, .. }) => &[LogColumn::Shape],
            (_, WatchedGeometry { shape: "Point", .. }) => &[LogColumn::X, LogColumn::Y],
            (_, WatchedGeometry { shape: "Geometry", .. }) => &[LogColumn::X, LogColumn::Y, LogColumn::Shape],
            _ => &[LogColumn::Shape],
        }
    }

    /// SQL for the value of a column of the log for a row; NULL if the row has no position.
    fn of(&self, held: LogColumn, row: &str, amount: StatementSize) -> String {
        if let WatchSource::Query { logged, .. } = self.source {
            let names: Vec<String> = logged.iter().map(|name| literal(name)).collect();
            let values: Vec<String> = logged
                .iter()
                .map(|name| format!("CASE WHEN {} THEN {} END", is_set(row, name), text(row, name)))
                .collect();
            return format!("jsonb_object(ARRAY[{}]::text[], ARRAY[{}]::text[])", names.join(", "), values.join(", "));
        }
        self.position(held, &format!("{row}.{}", quoted(self.geometry().column)), amount)
    }

    /// SQL for the value of a column of the log, computed from the value of the geometry column; NULL if it has no
    /// position.
    fn position(&self, held: LogColumn, value: &str, amount: StatementSize) -> String {
        let postgis = quoted(self.postgis);
        let WatchedGeometry { shape, srid, geography, .. } = self.geometry();
        let cast = if geography { format!("::{postgis}.geometry") } else { String::new() };
        let g = format!("{value}{cast}");
        let is_point = format!("{postgis}.GeometryType({g}) = 'POINT'");
        let coordinate = |function: &str| match shape {
            // NULL for an empty point.
            "Point" => format!("{postgis}.{function}({g})"),
            _ => format!("CASE WHEN {is_point} THEN {postgis}.{function}({g}) END"),
        };
        let bounded = match amount {
            StatementSize::Shapes => shape_or_box(&postgis, &g),
            // The axes of 4326 and 3857 are monotone functions of each other, so the box of the projected geometry is
            // the projection of its box.
            StatementSize::Few | StatementSize::Many => format!("{postgis}.ST_Envelope({g})"),
        };
        let other = || whole_or_cover(&postgis, &g, amount == StatementSize::Shapes);
        let place = match srid {
            4326 | 3857 => bounded,
            0 => format!("CASE WHEN {postgis}.ST_SRID({g}) IN (4326, 3857) THEN {bounded} ELSE {} END", other()),
            _ => other(),
        };
        match held {
            LogColumn::X => coordinate("ST_X"),
            LogColumn::Y => coordinate("ST_Y"),
            // The value is NULL for an empty geometry already; a check here would read a large one once more.
            _ if self.shapes_after_pairing(amount) && srid != 0 => {
                if shape == "Geometry" {
                    format!("CASE WHEN NOT {is_point} THEN {place} END")
                } else {
                    place
                }
            }
            _ if srid != 0 && shape == "Geometry" => {
                format!("CASE WHEN NOT {is_point} AND NOT {postgis}.ST_IsEmpty({g}) THEN {place} END")
            }
            _ => format!("CASE WHEN NOT {postgis}.ST_IsEmpty({g}) THEN {place} END"),
        }
    }

    fn geometry(&self) -> WatchedGeometry<'_> {
        let column = match self.source {
            WatchSource::Column(name) => self.table.column(name),
            WatchSource::Query { .. } => None,
        };
        column.map_or(WatchedGeometry { column: "", shape: "", srid: 0, geography: false }, |column| WatchedGeometry {
            column: &column.name,
            shape: column.shape.trim_end_matches(['Z', 'M']),
            srid: column.srid,
            geography: column.kind == "geography",
        })
    }

    /// How old rows are paired with their new versions.
    fn pairing(&self) -> Pairing {
        if let Some(first) = self.table.key.first() {
            let pair = |key: &TableKeyColumn| {
                let name = quoted(&key.name);
                match &key.equals {
                    Some(equals) => format!("o.{name} {equals} n.{name}"),
                    None => format!("{} COLLATE \"C\" = {} COLLATE \"C\"", text("o", &key.name), text("n", &key.name)),
                }
            };
            return Pairing {
                old: "oar_tiles_old AS o".to_owned(),
                new: "oar_tiles_new AS n".to_owned(),
                on: self.table.key.iter().map(pair).collect::<Vec<_>>().join(" AND "),
                old_here: row_exists("o", first),
                new_here: row_exists("n", first),
                changed: self.changed(),
            };
        }
        // Without a key, the nth of equal old rows is paired with the nth of equal new rows. A row without a partner
        // has changed.
        let (image, nth) = (self.free_name("oar_tiles_image"), self.free_name("oar_tiles_nth"));
        let columns: Vec<String> = self.columns.iter().map(|name| format!("r.{}", quoted(name))).collect();
        let numbered = |table: &str, row: &str| {
            format!(
                "(SELECT *, row_number() OVER (PARTITION BY {image}) AS {nth}
            FROM (SELECT {}, concat({}) COLLATE \"C\" AS {image} FROM {table} AS r) AS r) AS {row}",
                columns.join(", "),
                record("r", self.columns)
            )
        };
        Pairing {
            old: numbered("oar_tiles_old", "o"),
            new: numbered("oar_tiles_new", "n"),
            on: format!("o.{image} = n.{image} AND o.{nth} = n.{nth}"),
            old_here: format!("o.{nth} IS NOT NULL"),
            new_here: format!("n.{nth} IS NOT NULL"),
            changed: format!("o.{nth} IS NULL OR n.{nth} IS NULL"),
        }
    }

    /// `name`, with underscores appended until no watched column has the same name.
    fn free_name(&self, name: &str) -> String {
        let mut name = name.to_owned();
        while self.columns.contains(&name) {
            name.push('_');
        }
        name
    }

    /// An SQL condition that is true if an old row and its new version differ in any byte of a watched column. Records
    /// of any types can be compared in this way. But building a record costs more than everything else, so only types
    /// whose "=" ignores some differences are compared as records.
    fn changed(&self) -> String {
        let (mut exact, mut shapes, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for name in self.columns {
            let (o, n) = (format!("o.{}", quoted(name)), format!("n.{}", quoted(name)));
            match self.table.column(name) {
                Some(TableColumn { is_exact: true, is_collated: true, .. }) => {
                    exact.push(format!("{o} COLLATE \"C\" IS DISTINCT FROM {n} COLLATE \"C\""));
                }
                Some(TableColumn { is_exact: true, .. }) => exact.push(format!("{o} IS DISTINCT FROM {n}")),
                // PostGIS documentation, "=": equal in all respects, with the same coordinates in the same order.
                Some(TableColumn { is_geometry: true, .. }) => shapes.push(format!(
                    "({o} IS NULL) <> ({n} IS NULL) OR NOT ({o} OPERATOR({}.=) {n})",
                    quoted(self.postgis)
                )),
                _ => others.push(name.clone()),
            }
        }
        exact.append(&mut shapes);
        if !others.is_empty() {
            exact.push(differs(&others));
        }
        exact.join("\n                OR ")
    }

    /// The statement around the query that returns the positions of one or both sides: the text before the query, and
    /// the text after it.
    fn statement_around(&self, sides: &[&str], amount: StatementSize) -> (String, String) {
        let targets: Vec<&str> = self.held().iter().map(|held| held.target()).collect();
        let places = targets.iter().filter(|target| **target != "y");
        let places = places.flat_map(|target| sides.iter().map(move |side| format!("{side}_{target} IS NOT NULL")));
        let seen = format!("count(*) FILTER (WHERE {})", places.collect::<Vec<_>>().join(" OR "));
        let arrays = targets.iter().map(|target| {
            let array = |side: &&str| format!("array_agg({side}_{target}) FILTER (WHERE {side}_{target} IS NOT NULL)");
            sides.iter().map(array).collect::<Vec<_>>().join(" || ")
        });
        let group = match amount {
            StatementSize::Shapes | StatementSize::Few => "",
            StatementSize::Many => " GROUP BY part",
        };
        (
            format!(
                "INSERT INTO {}.change (watch, rows, {})
        SELECT {}, ({seen})::int4,
            {}",
                quoted(self.schema),
                targets.join(", "),
                self.watch,
                arrays.collect::<Vec<_>>().join(",\n            ")
            ),
            format!("\n       {group} HAVING {seen} > 0"),
        )
    }
}

/// A further column with the number of the log entry to which a changed row is written.
fn part(amount: StatementSize) -> String {
    match amount {
        StatementSize::Shapes | StatementSize::Few => String::new(),
        StatementSize::Many => format!(", (row_number() OVER () - 1) / {ROWS_PER_ENTRY_OF_MANY} AS part"),
    }
}

/// SQL for a column of a row as text, by the output function of its type; an empty text for NULL. `::text` could run a
/// cast of the type's owner.
fn text(row: &str, name: &str) -> String {
    format!("concat({row}.{})", quoted(name))
}

/// An SQL condition that is true if a column of a row is not NULL. `IS NOT NULL` would be false for a composite value
/// with a NULL field.
fn is_set(row: &str, name: &str) -> String {
    format!("num_nulls({row}.{}) = 0", quoted(name))
}

/// An SQL condition that is true if there is a row, judged by the first column of its key. A composite column of a key
/// has no `equals`.
fn row_exists(row: &str, first: &TableKeyColumn) -> String {
    match first.equals {
        Some(_) => format!("{row}.{} IS NOT NULL", quoted(&first.name)),
        None => is_set(row, &first.name),
    }
}

/// SQL for some columns of a row as one value. Without the cast, PostgreSQL would compare column by column.
fn record(row: &str, names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("{row}.{}", quoted(name))).collect();
    format!("ROW({})::record", names.join(", "))
}

/// An SQL condition that is true if some columns of an old row and its new version differ in any byte (PostgreSQL
/// documentation, section 9.24.6).
fn differs(names: &[String]) -> String {
    format!("{} *<> {}", record("o", names), record("n", names))
}

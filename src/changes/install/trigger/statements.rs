//! The statements of a trigger function that log positions.
//!
//! They take about a microsecond for each changed row, most of it to pair old rows with their new versions. Two things save time: whole rows are not
//! compared where an operator is as exact (saves a third), and rows are not numbered if one entry of the log holds all of them (saves a quarter).

use super::TriggerFunction;
use super::shape::{shape_or_box, whole_or_cover};
use crate::changes::log::literal;
use crate::changes::relations::{TableColumn, TableKeyColumn, WatchSource};
use crate::postgis::quoted;

/// The most rows that a statement may change to be logged in one entry.
pub(in crate::changes) const MAX_ROWS_PER_LOG_ENTRY: u32 = 10_000;

/// The number of changed rows in one entry if a statement changed more than [`MAX_ROWS_PER_LOG_ENTRY`]. An updated row has at most two positions.
const ROWS_PER_ENTRY_OF_MANY: u32 = 1000;

/// The most lines or polygons that a statement may change to be logged with their shapes; otherwise they are logged with their boxes. So an entry
/// with shapes takes less than 10 MB. In other reference systems than EPSG:4326 and 3857, only large geometries are logged with their boxes. There,
/// an entry of at most 10,000 rows takes less than 700 MB, and an array may take 1 GB.
pub(in crate::changes) const MAX_ROWS_WITH_SHAPES: u32 = 100;

/// The number of rows that a statement changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::changes) enum StatementSize {
    /// Up to [`MAX_ROWS_WITH_SHAPES`] rows.
    Shapes,
    /// Up to [`MAX_ROWS_PER_LOG_ENTRY`] rows.
    Few,
    /// More.
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

/// The watched geometry column.
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
    /// The new rows.
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
    /// True if the positions of this watch are computed after old and new rows were paired, so that the geometries of new rows that did not move are
    /// not read for their shapes.
    fn shapes_after_pairing(&self, amount: StatementSize) -> bool {
        amount == StatementSize::Shapes && self.logs_shapes()
    }

    /// The statement that logs one position for each row of a table: the text before the table's name, and the text after it.
    pub(in crate::changes) fn one_side_statement(&self, amount: StatementSize) -> (String, String) {
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
    pub(in crate::changes) fn both_sides_statement(&self, amount: StatementSize) -> String {
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
    pub(in crate::changes) fn logs_shapes(&self) -> bool {
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

    /// SQL for the value of a column of the log, computed from the value of the geometry column; NULL if it has no position.
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
            // The axes of 4326 and 3857 are monotone functions of each other, so the box of the projected geometry is the projection of its box.
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
        // Without a key, the nth of equal old rows is paired with the nth of equal new rows. A row without a partner has changed.
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

    /// An SQL condition that is true if an old row and its new version differ in any byte of a watched column. Records of any types can be compared
    /// in this way. But building a record costs more than everything else, so only types whose "=" ignores some differences are compared as records.
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

    /// The statement around the query that returns the positions of one or both sides: the text before the query, and the text after it.
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

/// SQL for a column of a row as text, by the output function of its type; an empty text for NULL. `::text` could run a cast of the type's owner.
fn text(row: &str, name: &str) -> String {
    format!("concat({row}.{})", quoted(name))
}

/// An SQL condition that is true if a column of a row is not NULL. `IS NOT NULL` would be false for a composite value with a NULL field.
fn is_set(row: &str, name: &str) -> String {
    format!("num_nulls({row}.{}) = 0", quoted(name))
}

/// An SQL condition that is true if there is a row, judged by the first column of its key. A composite column of a key has no `equals`.
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

/// An SQL condition that is true if some columns of an old row and its new version differ in any byte (PostgreSQL documentation, section 9.24.6).
fn differs(names: &[String]) -> String {
    format!("{} *<> {}", record("o", names), record("n", names))
}

//! The tables and columns that a layer reads, and what the catalog says about these tables.

use std::collections::BTreeSet;

use serde::Deserialize;
use tokio_postgres::types::Type;

use super::decoding::{Decoding, decoding_expression};
use super::error::ChangeLogError;
use super::facts::WatchFacts;
use super::log::{QUALIFIED_NAME, at_postgis, literal};
use crate::postgis;
use crate::postgis::{Layer, RelationName, Session, TrackSection, look_up, quoted, without_bounds};
use crate::suggested::SEED;

// Finds the tables and columns that a layer reads. PostgreSQL records them for a view, so the layer is created as a
// view in a transaction that is rolled back.

/// The watches that a layer needs.
#[derive(Debug, Default)]
pub(crate) struct LayerReads {
    pub(crate) requests: Vec<WatchRequest>,
    pub(crate) warnings: Vec<String>,
}

/// A stored table that a view depends on, and the columns that the view reads.
struct Dependency {
    oid: u32,
    name: String,
    kind: String,
    columns: Vec<String>,
}

/// A relation, by OID and kind (`pg_class.relkind`).
struct CatalogRelation {
    oid: u32,
    kind: String,
}

const CONTEXT: &str = "asking what a layer reads";

/// Finds what a layer reads. Leaves a temporary view in the session's transaction.
pub(crate) async fn layer_reads(session: &Session, layer: &Layer) -> Result<LayerReads, ChangeLogError> {
    let reader = DependencyReader { session, layer, may_make_views: may_make_views(session).await? };
    if let Some(function) = layer.function().filter(|_| layer.section.track.is_empty()) {
        return Err(reader.not_trackable(
            format!("PostgreSQL does not record what a function reads, so nobody can tell which changes show in what {} gives", function.signature()),
            &format!("Declare each table that it reads in [[layer.track]], with table and geometry, or run {SEED} each time"),
        ));
    }
    let own = reader.own_relation().await?;
    // A view that each run refreshes changes with the tables beneath it.
    let is_refreshed = own.kind == "m" && layer.section.refresh() && !layer.section.track.is_empty();
    if !is_refreshed {
        reader.check_trackable(&layer.relation, &own.kind)?;
    }
    let mut reads = LayerReads::default();
    let mut depends = reader.layer_dependencies(&own, &mut reads.warnings).await?;
    if is_refreshed {
        depends.extend(reader.dependencies(&layer.relation).await?);
    }
    let mut declared = BTreeSet::from([own.oid]);
    if own.kind != "v" && !is_refreshed {
        let geometry = unquoted(&layer.geometry);
        let columns = depends.iter().find(|dependency| dependency.oid == own.oid);
        reads.requests.push(WatchRequest {
            layer: layer.name().to_owned(),
            relation: own.oid,
            name: layer.relation.clone(),
            source: WatchSource::Column(geometry.clone()),
            columns: columns.map(|own| own.columns.iter().cloned().chain([geometry]).collect()),
        });
    }
    for track in &layer.section.track {
        // Any column of a table that a function reads may affect the function's result.
        let known = if layer.function().is_some() { &[][..] } else { &depends };
        let request = reader.declared_watch(track, known).await?;
        declared.insert(request.relation);
        reads.requests.push(request);
    }
    let undeclared = depends.iter().filter(|dependency| !declared.contains(&dependency.oid));
    reads.warnings.extend(undeclared.map(|dependency| reader.undeclared_warning(dependency)));
    Ok(reads)
}

/// A condition for the rows of a layer, over values that each request gives.
#[derive(Debug, Clone)]
pub(crate) struct RequestCondition {
    pub(crate) sql: String,
    pub(crate) values: Vec<RequestValues>,
    /// True if the configuration says that the log can hold all that decides about a row.
    pub(crate) is_tracked: bool,
}

/// What stands for values in a condition.
#[derive(Debug, Clone)]
pub(crate) struct RequestValues {
    /// An expression that depends on no row.
    pub(crate) sql: String,
    pub(crate) kind: &'static str,
}

/// True if a condition depends on nothing but the row and the values: it reads no other row, and calls only immutable
/// functions. False if the role cannot find out. Leaves nothing in the session's transaction.
///
/// PostgreSQL makes an index only with such a condition, so an empty copy of the table is given one. Columns hold the
/// values, because a function of a constant NULL might be folded away.
pub(crate) async fn depends_on_row_alone(
    session: &Session,
    layer: &Layer,
    condition: &RequestCondition,
) -> Result<bool, postgis::Error> {
    let Some((_, table)) = layer.relation.rsplit_once("\".\"").filter(|_| !layer.is_query()) else { return Ok(false) };
    let table = format!("pg_temp.\"{table}");
    let (mut columns, mut sql) = (String::new(), condition.sql.clone());
    for (number, values) in condition.values.iter().enumerate() {
        let column = format!("oar_tiles_values{number}");
        sql = sql.replace(&values.sql, &column);
        columns += &format!(", {column} {}", values.kind);
    }
    let sql = format!(
        "CREATE TEMPORARY TABLE {name} (LIKE {relation}{columns});
         CREATE INDEX ON {table} (oar_tiles_values0) WHERE ({sql}\n)",
        name = table.trim_start_matches("pg_temp."),
        relation = layer.relation,
    );
    session.set_savepoint().await?;
    let made = session.script(CONTEXT, &sql).await;
    let made = session.at_savepoint(made).await?;
    session.return_to_savepoint().await?;
    Ok(made.is_ok())
}

/// True if the role may create temporary views.
async fn may_make_views(session: &Session) -> Result<bool, ChangeLogError> {
    let sql = "SELECT has_database_privilege(current_database(), 'TEMPORARY')";
    Ok(session.one(CONTEXT, sql, &[]).await?.get(0))
}

/// Finds the dependencies of one layer.
struct DependencyReader<'a> {
    session: &'a Session,
    layer: &'a Layer,
    may_make_views: bool,
}

impl DependencyReader<'_> {
    async fn relation(&self, name: &str) -> Result<CatalogRelation, ChangeLogError> {
        let sql = "SELECT oid, relkind::text FROM pg_class WHERE oid = $1::text::regclass";
        let row = self.session.one(CONTEXT, sql, &[(&name, Type::TEXT)]).await?;
        Ok(CatalogRelation { oid: row.get(0), kind: row.get(1) })
    }

    /// The layer's relation. A query counts as a view without a name.
    async fn own_relation(&self) -> Result<CatalogRelation, ChangeLogError> {
        if self.layer.is_query() {
            return Ok(CatalogRelation { oid: 0, kind: "v".to_owned() });
        }
        self.relation(&self.layer.relation).await
    }

    fn not_trackable(&self, what: String, next: &str) -> ChangeLogError {
        ChangeLogError::NotTrackable { layer: self.layer.name().to_owned(), what, next: next.to_owned() }
    }

    /// Returns an error if changes of a relation fire no trigger.
    fn check_trackable(&self, name: &str, kind: &str) -> Result<(), ChangeLogError> {
        match kind {
            "m" => Err(self.not_trackable(
                format!("{name} is a materialized view, and REFRESH fires no trigger: its changes cannot be noted"),
                &format!("Set refresh = true and declare the tables beneath it with [[layer.track]], draw the layer from these tables, or run {SEED} after each REFRESH"),
            )),
            "f" => Err(self.not_trackable(
                format!("{name} is a foreign table: it is changed elsewhere, and its changes cannot be noted"),
                &format!("Draw the layer from a table of this database, or run {SEED} each time"),
            )),
            _ => Ok(()),
        }
    }

    /// The tables on which the layer depends: its relation, and the tables to which its properties, key, feature id and
    /// filter refer.
    async fn layer_dependencies(
        &self,
        own: &CatalogRelation,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Dependency>, ChangeLogError> {
        let layer = self.layer;
        if !self.may_make_views {
            warnings.push(format!(
                "layer \"{}\": the role may not make temporary views, so PostgreSQL cannot be asked which columns the layer reads: every column of its tables is watched, and tables that its properties or where name are not known. Run GRANT TEMPORARY ON DATABASE … as its owner",
                layer.name()
            ));
            let is_view = own.kind == "v" && !layer.is_query();
            return if is_view { self.dependencies(&layer.relation).await } else { Ok(Vec::new()) };
        }
        let expressions = std::iter::once(layer.geometry.clone())
            .chain(layer.key.iter().map(|key| key.quoted.clone()))
            .chain(layer.row_sql().map(str::to_owned))
            .chain(layer.section.feature_id.iter().map(|column| quoted(column)))
            .chain(layer.filter.as_deref().into_iter().chain(layer.row_zooms.sql()).map(|sql| format!("({sql}\n)")));
        // As booleans, because a view cannot have columns of every type.
        let columns = expressions.enumerate().map(|(n, sql)| format!("({sql}) IS NULL AS c{n}"));
        let columns = columns.collect::<Vec<_>>().join(", ");
        // Aggregates need a separate query, because they do not refer to a single row.
        let aggregates: Vec<String> = layer
            .aggregates()
            .enumerate()
            .map(|(n, sql)| format!("({}\n) IS NULL AS a{n}", without_bounds(sql)))
            .collect();
        let beside = if aggregates.is_empty() {
            String::new()
        } else {
            format!(", (SELECT {} FROM {}) AS gathered", aggregates.join(", "), layer.relation)
        };
        self.make_view(&format!("SELECT * FROM (SELECT {columns} FROM {}) AS single{beside}", layer.relation)).await?;
        self.dependencies(VIEW).await
    }

    /// The watch for a table that is declared in `[[layer.track]]`.
    async fn declared_watch(
        &self,
        track: &TrackSection,
        depends: &[Dependency],
    ) -> Result<WatchRequest, ChangeLogError> {
        let name = self.layer.name();
        let wanted = RelationName {
            layer: name,
            schema: track.schema.as_deref(),
            table: &track.table,
            of: "its [[layer.track]]",
        };
        let table = look_up(self.session, wanted).await?.quoted();
        let relation = self.relation(&table).await?;
        self.check_trackable(&table, &relation.kind)?;
        if relation.kind == "v" {
            return Err(self.not_trackable(
                format!("[[layer.track]] names the view {table}, which has no rows of its own"),
                "Name the tables that it reads, each in a [[layer.track]] of its own",
            ));
        }
        let mut columns: Option<BTreeSet<String>> =
            depends.iter().find(|other| other.oid == relation.oid).map(|other| other.columns.iter().cloned().collect());
        let mut logged = Vec::new();
        if self.may_make_views {
            let sql = format!(
                "SELECT place.geometry FROM {table} AS changed CROSS JOIN LATERAL ({}\n) AS place (geometry)",
                track.geometry
            );
            let failed = |error| match error {
                source @ postgis::Error::Query { .. } => {
                    ChangeLogError::Query { layer: name.to_owned(), table: table.clone(), source }
                }
                other => other.into(),
            };
            self.make_view(&sql).await.map_err(failed)?;
            // A text would be cast to a geometry only when the log is read, and that would fail if it is not one.
            let sql = "SELECT t.typname::text FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
                WHERE a.attrelid = $1::text::regclass";
            let kind: String = self.session.one(CONTEXT, sql, &[(&VIEW, Type::TEXT)]).await?.get(0);
            if kind != "geometry" && kind != "geography" {
                return Err(self.not_trackable(
                    format!("the geometry of [[layer.track]] for {table} gives values of type {kind}"),
                    "Let its query give one column of type geometry or geography",
                ));
            }
            let query = self.dependencies(VIEW).await?;
            logged.extend(query.into_iter().filter(|other| other.oid == relation.oid).flat_map(|other| other.columns));
        } else {
            let sql = "SELECT attname::text FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
            let rows = self.session.all(CONTEXT, sql, &[(&relation.oid, Type::OID)]).await?;
            logged.extend(rows.iter().map(|row| row.get::<_, String>(0)));
        }
        if let Some(columns) = &mut columns {
            columns.extend(logged.iter().cloned());
        }
        Ok(WatchRequest {
            layer: name.to_owned(),
            relation: relation.oid,
            name: table,
            source: WatchSource::Query { sql: track.geometry.clone(), logged },
            columns,
        })
    }

    /// The warning for a table that the layer reads, but does not declare.
    fn undeclared_warning(&self, dependency: &Dependency) -> String {
        let (layer, table) = (self.layer.name(), &dependency.name);
        match dependency.kind.as_str() {
            "m" | "f" => format!(
                "layer \"{layer}\" reads {table}, whose changes no trigger can note: it is a {} table. Run {SEED} after it changes",
                if dependency.kind == "m" { "materialized" } else { "foreign" }
            ),
            _ => format!(
                "layer \"{layer}\" reads {table}, whose changes are not noted: nobody has said where they are seen. Declare it in the layer: [[layer.track]] with table = {:?} and geometry = an SQL query over the changed row that gives the places, such as \"SELECT changed.location\"",
                table.replace("\".\"", ".").trim_matches('"')
            ),
        }
    }

    /// Creates the view, and replaces an earlier one.
    async fn make_view(&self, select: &str) -> Result<(), postgis::Error> {
        let sql = format!("DROP VIEW IF EXISTS {VIEW}; CREATE TEMPORARY VIEW oar_tiles_reads AS {select}");
        self.session.script(CONTEXT, &sql).await.map(drop)
    }

    /// The tables that a view depends on.
    async fn dependencies(&self, view: &str) -> Result<Vec<Dependency>, ChangeLogError> {
        let sql = include_str!("sql/view_reads.sql").replace("{called}", QUALIFIED_NAME);
        let rows = self.session.all(CONTEXT, &sql, &[(&view, Type::TEXT)]).await?;
        let dependency = |row: &tokio_postgres::Row| Dependency {
            oid: row.get(0),
            name: row.get(1),
            kind: row.get(2),
            columns: row.get(3),
        };
        Ok(rows.iter().map(dependency).collect())
    }
}

const VIEW: &str = "pg_temp.oar_tiles_reads";

/// An identifier without its quotes.
fn unquoted(identifier: &str) -> String {
    let inner = identifier.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.map_or_else(|| identifier.to_owned(), |inner| inner.replace("\"\"", "\""))
}

// What the catalog says about a table that will be watched.

/// What an install must know about a table. The fields are those of the JSON of `sql/table.sql`.
#[derive(Debug, Deserialize)]
pub(crate) struct Table {
    pub(crate) owner: String,
    /// True if the owner is a superuser.
    pub(crate) is_of_superuser: bool,
    /// True if this role has the owner's rights.
    pub(crate) is_ours: bool,
    /// The table itself, then its partitions, children and parents.
    pub(crate) relatives: Vec<TableRelative>,
    pub(crate) columns: Vec<TableColumn>,
    /// The columns of a unique index over all rows; empty if there is none.
    pub(crate) key: Vec<TableKeyColumn>,
}

/// A table through which rows of the watched table can be changed: the table itself, a partition, a child or a parent.
#[derive(Debug, Deserialize)]
pub(crate) struct TableRelative {
    pub(crate) oid: u32,
    /// Schema and name, quoted.
    pub(crate) name: String,
    /// `pg_class.relkind`.
    pub(crate) kind: String,
    /// `pg_class.relpersistence`.
    pub(crate) persistence: String,
    pub(crate) columns: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct TableColumn {
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    /// The modifier of its type (`pg_attribute.atttypmod`); for a geometry, this is its shape, reference system and
    /// dimensions.
    pub(crate) type_modifier: i32,
    /// The name of its type.
    pub(crate) kind: String,
    /// The geometry type that it declares, such as "Point"; "Geometry" for any.
    pub(crate) shape: String,
    /// The reference system that it declares; 0 for none.
    pub(crate) srid: i32,
    /// True if values that are equal by the operator `=` of `pg_catalog` (for collated types, with the collation "C")
    /// have the same bytes.
    pub(crate) is_exact: bool,
    /// True if its type has a collation.
    pub(crate) is_collated: bool,
    /// True if it is of PostGIS's type geometry.
    pub(crate) is_geometry: bool,
    /// True if it is of PostGIS's type geometry or geography, not of another type with that name.
    pub(crate) is_spatial: bool,
    /// Its type, as SQL names it.
    pub(crate) type_text: String,
    /// How its values are read from the log.
    pub(crate) decoding: Decoding,
}

#[derive(Debug, Deserialize)]
pub(crate) struct TableKeyColumn {
    pub(crate) name: String,
    /// The equality operator of the index, such as `OPERATOR(pg_catalog.=)`; `None` if its name could mean another
    /// operator.
    pub(crate) equals: Option<String>,
}

impl Table {
    /// Reads the facts from the catalog.
    pub(crate) async fn look_up(
        session: &Session,
        postgis: &str,
        oid: u32,
        context: &str,
    ) -> Result<Table, ChangeLogError> {
        let sql = at_postgis(include_str!("sql/table.sql"), postgis)
            .replace("{postgis_name}", &literal(&quoted(postgis)))
            .replace("{decoding}", &decoding_expression("a.atttypid", "a.atttypmod"))
            .replace("{called}", QUALIFIED_NAME);
        let text: String = session.one(context, &sql, &[(&oid, Type::OID)]).await?.get(0);
        serde_json::from_str(&text)
            .map_err(|source| ChangeLogError::Unreadable { what: "the catalog's answer", source })
    }

    pub(crate) fn column(&self, name: &str) -> Option<&TableColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}

// What must be logged about one table, for one layer or several.

/// Where the positions of a row come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WatchSource {
    /// A column of type geometry or geography.
    Column(String),
    /// A query over the row. It is evaluated when the log is read; the log holds the columns to which it refers.
    Query { sql: String, logged: Vec<String> },
}

/// What one layer needs to be logged about one table.
#[derive(Debug, Clone)]
pub(crate) struct WatchRequest {
    /// The layer's name.
    pub(crate) layer: String,
    /// The OID of the table.
    pub(crate) relation: u32,
    /// Schema and table, quoted.
    pub(crate) name: String,
    pub(crate) source: WatchSource,
    /// The columns whose changes are visible on the map; `None` for all columns.
    pub(crate) columns: Option<BTreeSet<String>>,
}

/// A watch that an install makes or keeps: the first request for it, and the columns of all requests.
pub(crate) struct PlannedWatch {
    pub(crate) request: WatchRequest,
    pub(crate) table: Table,
    pub(crate) columns: BTreeSet<String>,
}

impl PlannedWatch {
    pub(crate) fn is_installed_as(&self, known: &WatchFacts) -> bool {
        let (geometry, query) = self.source();
        known.relation == self.request.relation
            && known.geometry.as_deref() == geometry
            && known.query.as_deref() == query
    }

    /// The geometry column or the query that returns the positions; the other one is `None`.
    pub(crate) fn source(&self) -> (Option<&str>, Option<&str>) {
        match &self.request.source {
            WatchSource::Column(name) => (Some(name), None),
            WatchSource::Query { sql, .. } => (None, Some(sql)),
        }
    }

    /// The columns whose changes matter to the layer of `request`.
    pub(crate) fn needed_columns(&self, request: &WatchRequest) -> Vec<String> {
        match &request.columns {
            Some(columns) => columns.iter().cloned().collect(),
            None => self.table.columns.iter().map(|column| column.name.clone()).collect(),
        }
    }

    /// Fails with [`ChangeLogError::NotTrackable`] if the triggers would miss changes of the table.
    pub(crate) fn check(&self) -> Result<(), ChangeLogError> {
        let refused = |what: String, next: &str| {
            Err(ChangeLogError::NotTrackable { layer: self.request.layer.clone(), what, next: next.to_owned() })
        };
        let table = &self.request.name;
        let logged = match &self.request.source {
            WatchSource::Column(name) => {
                if let Some(column) = self.table.column(name).filter(|column| !column.is_spatial) {
                    let (name, kind) = (quoted(name), &column.type_text);
                    if !matches!(column.kind.as_str(), "geometry" | "geography") {
                        return refused(
                            format!("{name} of {table} is of the domain {kind}, whose changes no trigger logs"),
                            "Give the column the type beneath the domain (ALTER TABLE … ALTER COLUMN … TYPE geometry), or run seed each time",
                        );
                    }
                    return refused(
                        format!(
                            "{name} of {table} is of type {kind}, which is called as a type of PostGIS, and is none"
                        ),
                        "Name a column of PostGIS's type geometry or geography",
                    );
                }
                &[][..]
            }
            WatchSource::Query { logged, .. } => logged,
        };
        let columns = logged.iter().filter_map(|name| self.table.column(name));
        if let Some(column) = columns.into_iter().find(|column| column.decoding.method.is_none()) {
            let (name, kind) = (quoted(&column.name), &column.type_text);
            return refused(
                format!(
                    "the geometry of [[layer.track]] for {table} refers to {name} of type {kind}, and a value of that type cannot be read back from the change log without running functions of the type's owner"
                ),
                "Write the query without that column. Columns of enums, domains and types of extensions can be referred to",
            );
        }
        for relative in &self.table.relatives {
            let name = &relative.name;
            if relative.kind == "f" {
                return refused(
                    format!(
                        "{table} has the foreign table {name} as a partition or child, whose changes cannot be noted"
                    ),
                    &format!("Take it out, or run {SEED} each time"),
                );
            }
            if relative.persistence == "u" {
                return refused(
                    format!("{name} is unlogged: a crash empties it, and nothing notes that"),
                    &format!("Run ALTER TABLE {name} SET LOGGED, or run {SEED} each time"),
                );
            }
            let missing = self.columns.iter().find(|column| !relative.columns.contains(column));
            if let Some(column) = missing {
                return refused(
                    format!(
                        "rows of {table} are also changed through its parent {name}, which does not have the column {}",
                        quoted(column)
                    ),
                    &format!("Draw the layer from {name}, or add the column there"),
                );
            }
        }
        Ok(())
    }
}

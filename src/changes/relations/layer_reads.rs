//! Finds the tables and columns that a layer reads. PostgreSQL records them for a view, so the layer is created as a view in a transaction that is
//! rolled back.

use std::collections::BTreeSet;

use tokio_postgres::types::Type;

use super::watched::{WatchRequest, WatchSource};
use crate::changes::error::ChangeLogError;
use crate::changes::log::QUALIFIED_NAME;
use crate::changes::options::{TrackOptions, TrackedLayer};
use crate::postgis::{self, RelationName, Session, look_up, quoted, without_bounds};
use crate::suggested::SEED;

/// The watches that a layer needs.
#[derive(Debug, Default)]
pub(in crate::changes) struct LayerReads {
    pub(in crate::changes) requests: Vec<WatchRequest>,
    /// Warnings for the user.
    pub(in crate::changes) warnings: Vec<String>,
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
pub(in crate::changes) async fn layer_reads(
    session: &Session,
    layer: TrackedLayer<'_>,
) -> Result<LayerReads, ChangeLogError> {
    let reader = DependencyReader { session, layer, may_make_views: may_make_views(session).await? };
    if let Some(function) = layer.layer.function().filter(|_| layer.track.is_empty()) {
        return Err(reader.not_trackable(
            format!("PostgreSQL does not record what a function reads, so nobody can tell which changes show in what {} gives", function.signature()),
            &format!("Declare each table that it reads in [[layer.track]], with table and geometry, or run {SEED} each time"),
        ));
    }
    let own = reader.own_relation().await?;
    // A view that each run refreshes changes with the tables beneath it.
    let is_refreshed = own.kind == "m" && layer.refreshes && !layer.track.is_empty();
    if !is_refreshed {
        reader.check_trackable(&layer.layer.relation, &own.kind)?;
    }
    let mut reads = LayerReads::default();
    let mut depends = reader.layer_dependencies(&own, &mut reads.warnings).await?;
    if is_refreshed {
        depends.extend(reader.dependencies(&layer.layer.relation).await?);
    }
    let mut declared = BTreeSet::from([own.oid]);
    if own.kind != "v" && !is_refreshed {
        let geometry = unquoted(&layer.layer.geometry);
        let columns = depends.iter().find(|dependency| dependency.oid == own.oid);
        reads.requests.push(WatchRequest {
            layer: layer.layer.name().to_owned(),
            relation: own.oid,
            name: layer.layer.relation.clone(),
            source: WatchSource::Column(geometry.clone()),
            columns: columns.map(|own| own.columns.iter().cloned().chain([geometry]).collect()),
        });
    }
    for track in layer.track {
        // Any column of a table that a function reads may affect the function's result.
        let known = if layer.layer.function().is_some() { &[][..] } else { &depends };
        let request = reader.declared_watch(track, known).await?;
        declared.insert(request.relation);
        reads.requests.push(request);
    }
    let undeclared = depends.iter().filter(|dependency| !declared.contains(&dependency.oid));
    reads.warnings.extend(undeclared.map(|dependency| reader.undeclared_warning(dependency)));
    Ok(reads)
}

/// True if the role may create temporary views.
async fn may_make_views(session: &Session) -> Result<bool, ChangeLogError> {
    let sql = "SELECT has_database_privilege(current_database(), 'TEMPORARY')";
    Ok(session.one(CONTEXT, sql, &[]).await?.get(0))
}

/// Finds the dependencies of one layer.
struct DependencyReader<'a> {
    session: &'a Session,
    layer: TrackedLayer<'a>,
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
        if self.layer.layer.is_query() {
            return Ok(CatalogRelation { oid: 0, kind: "v".to_owned() });
        }
        self.relation(&self.layer.layer.relation).await
    }

    fn not_trackable(&self, what: String, next: &str) -> ChangeLogError {
        ChangeLogError::NotTrackable { layer: self.layer.layer.name().to_owned(), what, next: next.to_owned() }
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

    /// The tables on which the layer depends: its relation, and the tables to which its properties, key, feature id and filter refer.
    async fn layer_dependencies(
        &self,
        own: &CatalogRelation,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Dependency>, ChangeLogError> {
        let layer = self.layer.layer;
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
            .chain(layer.feature_id.iter().map(|column| quoted(column)))
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
        track: &TrackOptions,
        depends: &[Dependency],
    ) -> Result<WatchRequest, ChangeLogError> {
        let name = self.layer.layer.name();
        let wanted = RelationName {
            layer: name,
            schema: track.schema.as_deref(),
            table: &track.table,
            of: "its [[layer.track]]",
            is_sample: false,
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
        let (layer, table) = (self.layer.layer.name(), &dependency.name);
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
        let sql = include_str!("sql/reads.sql").replace("{called}", QUALIFIED_NAME);
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

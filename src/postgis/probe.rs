//! Asking the database, before the first tile, whether everything that the configuration names is there and fits.

use tokio_postgres::error::SqlState;

use super::budget;
use super::described::described;
use super::error::Error;
use super::layer::{BoundProperty, KeyColumn, Layer, LayerOptions, Of, Property, PropertySource, Rows, Shape, quoted};
use super::point_key::{is_plain, suits_patches};
use super::query::Query;
use super::reads::{Reads, reads};
use super::relation::{Column, Relation, RelationKind, Wanted, look_up, nearest};
use super::server::{Server, server};
use super::session::Session;
use super::snapshot::Snapshot;
use super::sql;
use super::superuser::superuser;

/// What was found.
#[derive(Debug)]
pub struct Probed {
    /// The server and database.
    pub server: Server,
    /// The layers, in the order of the configuration.
    pub layers: Vec<Layer>,
    /// The tables and views that they read.
    pub reads: Reads,
    /// What the user should know, though the run can go on.
    pub warnings: Vec<String>,
    /// The first of these, if the role is a superuser and others could make use of that.
    pub superuser: Option<String>,
}

/// Looks at the server and at every layer.
///
/// # Errors
/// If PostGIS is missing or too old, or a layer names something that is not there, may not be read or does not fit.
pub async fn probe(snapshot: &Snapshot, layers: &[LayerOptions]) -> Result<Probed, Error> {
    let session = &snapshot.keeper;
    let server = server(session).await?;
    // Before the layers are planned: that alone runs functions.
    let superuser = superuser(session).await?;
    let (mut found, mut warnings) = (Vec::new(), Vec::from_iter(superuser.clone()));
    for options in layers {
        found.push(LayerProbe { session, options, warnings: &mut warnings }.probe().await?);
    }
    let reads = reads(session, &found).await?;
    Ok(Probed { server, layers: found, reads, warnings, superuser })
}

/// The probing of one layer.
pub(super) struct LayerProbe<'a> {
    pub(super) session: &'a Session,
    options: &'a LayerOptions,
    warnings: &'a mut Vec<String>,
}

impl LayerProbe<'_> {
    async fn probe(mut self) -> Result<Layer, Error> {
        let options = self.options;
        let relation = match &options.rows {
            Rows::Relation { schema, table } => {
                let wanted = Wanted { layer: &options.name, schema: schema.as_deref(), table, of: "the layer" };
                look_up(self.session, wanted).await?
            }
            Rows::Query(query) => described(self.session, &options.name, query).await?,
        };
        if !relation.schema_usable {
            let (schema, role) = (quoted(&relation.schema), quoted(&relation.role));
            return Err(self.error(
                format!("the role {role} may not use the schema {schema}"),
                format!("Run GRANT USAGE ON SCHEMA {schema} TO {role} as its owner"),
            ));
        }
        if !relation.readable {
            return Err(self.no_right(&relation));
        }
        let geometry = self.geometry_column(&relation)?;
        let key = self.key(&relation)?;
        let properties = self.properties(&relation)?;
        if let Some(column) = &options.feature_id {
            let kind = &self.column(&relation, column, "feature_id")?.kind;
            if !matches!(kind.as_str(), "int2" | "int4" | "int8") {
                return Err(self.error(
                    format!("feature_id names the column {}, which is of type {kind}", quoted(column)),
                    "Feature ids are integers: name a smallint, integer or bigint column, or leave feature_id out"
                        .to_owned(),
                ));
            }
        }
        let query = match &options.rows {
            Rows::Relation { .. } => None,
            Rows::Query(query) => Some(query.clone()),
        };
        let mut layer = Layer {
            name: options.name.clone(),
            id: options.id,
            relation: query.as_ref().map_or_else(|| relation.quoted(), |query| query.neutral(&options.name)),
            called: relation.quoted(),
            query,
            geometry: quoted(&geometry.name),
            shape: Shape::of_any(geometry.srid, geometry.kind == "geography"),
            suits_patches: suits_patches(&relation, geometry, &key),
            has_plain_values: true,
            key,
            properties,
            feature_id: options.feature_id.clone(),
            filter: options.filter.clone(),
            zooms: options.zooms.clone(),
            margin: options.margin,
            cells: options.cells.clone(),
            budget: options.budget.clone(),
            rank: None,
            on_tile_error: options.on_tile_error,
            beyond: options.beyond,
            reaches_beyond: false,
            folds: None,
            counted: None,
            stock: None,
            columns: relation
                .columns
                .iter()
                .filter(|column| column.readable)
                .map(|column| quoted(&column.name))
                .collect(),
        };
        self.types(&mut layer, &relation).await?;
        if let Some(rank) = options.budget.rank.as_ref().filter(|_| layer.cells.is_none()) {
            let names = (&*layer.name, &*layer.relation, &*list(&relation.columns));
            layer.rank = Some(budget::rank(self.session, names, &layer.geometry, rank).await?);
        }
        layer.shape = self.shape(&layer, geometry, &relation).await?;
        if layer.cells.as_ref().is_some_and(|cells| cells.keeps_lone) && !layer.shape.points {
            return Err(self.error(
                format!(
                    "the geometries in {} of {} are not all points, and only points are clustered",
                    layer.geometry, layer.called
                ),
                "Leave the others out with where, or draw the layer in cells with [layer.aggregate]".to_owned(),
            ));
        }
        self.unique_key(&layer, &relation).await?;
        self.warnings.extend(layer.look_beyond(self.session).await?);
        if let Some(limit) = layer.query.as_ref().filter(|query| query.asks_box()).and_then(Query::limit) {
            self.warnings.push(format!(
                "layer \"{}\": its query has !bbox! and {limit}. Tiles are planned by what the query gives for the whole world, so features beyond the {limit} are in no tile. Leave it out, or write a condition such as !zoom! >= 8 OR rank < 1000",
                options.name
            ));
        }
        if relation.kind == RelationKind::Stored && !relation.spatial_indexes.contains(&geometry.name) {
            self.warnings.push(format!(
                "layer \"{}\": {} has no spatial index, so every batch reads the whole table. Run CREATE INDEX ON {} USING gist ({})",
                options.name, layer.relation, layer.relation, layer.geometry
            ));
        }
        Ok(layer)
    }

    pub(super) fn error(&self, what: String, next: String) -> Error {
        Error::Layer { layer: self.options.name.clone(), what, next, source: None }
    }

    fn no_right(&self, relation: &Relation) -> Error {
        let (table, role) = (relation.quoted(), quoted(&relation.role));
        self.error(
            format!("the role {role} may not read {table}"),
            format!("Run GRANT SELECT ON {table} TO {role} as its owner"),
        )
    }

    fn column<'r>(&self, relation: &'r Relation, name: &str, setting: &str) -> Result<&'r Column, Error> {
        relation.column(name).ok_or_else(|| {
            let nearest = nearest(name, relation.columns.iter().map(|column| column.name.as_str()));
            self.error(
                format!("{setting} names the column {}, which {} does not have", quoted(name), relation.quoted()),
                match nearest {
                    Some(nearest) => format!("Did you mean {}?", quoted(nearest)),
                    None => format!("It has {}", list(&relation.columns)),
                },
            )
        })
    }

    fn geometry_column<'r>(&self, relation: &'r Relation) -> Result<&'r Column, Error> {
        if let Some(name) = &self.options.geometry {
            let column = self.column(relation, name, "geometry")?;
            if column.is_spatial() {
                return Ok(column);
            }
            let next = if relation.kind == RelationKind::Query && column.kind == "bytea" {
                "Give the geometry itself: leave ST_AsBinary(…) out".to_owned()
            } else {
                "Name a column of type geometry or geography".to_owned()
            };
            return Err(self
                .error(format!("geometry names the column {}, which is of type {}", quoted(name), column.kind), next));
        }
        let spatial: Vec<&Column> = relation.columns.iter().filter(|column| column.is_spatial()).collect();
        match spatial[..] {
            [column] => Ok(column),
            [] if relation.kind == RelationKind::Query => Err(self.error(
                format!("{} gives no column of type geometry or geography", relation.quoted()),
                format!(
                    "Let it give one (not packed by ST_AsBinary), beside what it gives now: {}",
                    list_with_types(&relation.columns)
                ),
            )),
            [] => Err(self.error(
                format!("{} has no column of type geometry or geography", relation.quoted()),
                "Choose another table, or a view that makes one (ST_SetSRID(ST_MakePoint(lon, lat), 4326))".to_owned(),
            )),
            _ => Err(self.error(
                format!("{} has several geometry columns", relation.quoted()),
                format!("Set geometry to one of {}", list(spatial)),
            )),
        }
    }

    fn key(&self, relation: &Relation) -> Result<Vec<KeyColumn>, Error> {
        let primary = relation.unique.iter().find(|index| index.primary).map(|index| &index.columns);
        let names = if self.options.key.is_empty() {
            primary.ok_or_else(|| {
                let next = "Set key to the column or columns that tell its rows apart, such as key = [\"id\"]";
                let gives = format!(". It gives {}", list(&relation.columns));
                let gives = if relation.kind == RelationKind::Query { &gives } else { "" };
                self.error(format!("{} has no primary key", relation.quoted()), format!("{next}{gives}"))
            })?
        } else {
            &self.options.key
        };
        names
            .iter()
            .map(|name| {
                let column = self.column(relation, name, "key")?;
                Ok(KeyColumn { quoted: quoted(name), collated: column.collated })
            })
            .collect()
    }

    fn properties(&self, relation: &Relation) -> Result<Vec<BoundProperty>, Error> {
        let fits = |column: &&Column| !column.is_spatial() && self.options.feature_id.as_ref() != Some(&column.name);
        let every = || {
            let column = |column: &Column| Property {
                name: column.name.clone(),
                source: PropertySource::Column(column.name.clone()),
            };
            relation.columns.iter().filter(fits).map(column).collect()
        };
        let wanted: Vec<Property> = self.options.properties.clone().unwrap_or_else(every);
        wanted
            .iter()
            .map(|property| {
                let of = match &property.source {
                    PropertySource::Column(_) | PropertySource::Expression(_) => Of::Row,
                    PropertySource::Aggregate(_) => Of::Cell,
                    PropertySource::Tile(part) => Of::Tile(*part),
                };
                let sql = match &property.source {
                    PropertySource::Column(name) => {
                        if self.column(relation, name, "properties")?.is_spatial() {
                            return Err(self.error(
                                format!("properties names the geometry column {}", quoted(name)),
                                "Leave it out, or write an expression such as ST_AsText(…)".to_owned(),
                            ));
                        }
                        quoted(name)
                    }
                    PropertySource::Expression(sql) | PropertySource::Aggregate(sql) => format!("({sql}\n)"),
                    PropertySource::Tile(_) => "NULL::int4".to_owned(),
                };
                Ok(BoundProperty { name: property.name.clone(), of, sql, kind: "String" })
            })
            .collect()
    }

    /// Has the server look at every expression, on no row, and takes the types.
    async fn types(&self, layer: &mut Layer, relation: &Relation) -> Result<(), Error> {
        let of_rows = self.row_types(layer, relation).await?;
        let of_cells = self.aggregate_types(layer, relation).await?;
        let (mut of_rows, mut of_cells) = (of_rows.into_iter(), of_cells.into_iter());
        for property in &mut layer.properties {
            let kind = match property.of {
                Of::Row => of_rows.next(),
                Of::Cell => of_cells.next(),
                Of::Tile(_) => Some("integer".to_owned()),
            };
            layer.has_plain_values &= kind.as_deref().is_some_and(is_plain);
            property.kind = match kind.as_deref() {
                Some("boolean") => "Boolean",
                Some("smallint" | "integer" | "bigint" | "real" | "double precision") => "Number",
                _ => "String",
            };
        }
        Ok(())
    }

    /// The types of the aggregates, asked over no row.
    async fn aggregate_types(&self, layer: &Layer, relation: &Relation) -> Result<Vec<String>, Error> {
        let aggregates: Vec<String> = layer.aggregates().map(sql::without_bounds).collect();
        if aggregates.is_empty() {
            return Ok(Vec::new());
        }
        let select: Vec<String> = aggregates.iter().enumerate().map(|(i, sql)| format!("({sql}\n) AS p{i}")).collect();
        let types: Vec<String> = (0..aggregates.len()).map(|i| sql::type_of(&format!("p{i}"))).collect();
        // HAVING takes no window function and nothing that gives several rows. Nothing is worked out: there is no group.
        let alone: String = aggregates.iter().map(|sql| format!(" AND ({sql}\n) IS NULL")).collect();
        let having = layer.cells.as_ref().and_then(|cells| cells.having.as_deref()).map(sql::without_bounds);
        let having = having.map(|having| format!(" AND ({having}\n)")).unwrap_or_default();
        let sql = format!(
            "SELECT ARRAY[{}]::text[] FROM (SELECT) AS one LEFT JOIN (
                SELECT {} FROM (SELECT {}, 1 AS oar_tiles_cell FROM {} WHERE false) AS sorted
                GROUP BY oar_tiles_cell HAVING false{alone}{having}) AS none ON true",
            types.join(", "),
            select.join(", "),
            if layer.columns.is_empty() { layer.geometry.clone() } else { layer.columns.join(", ") },
            layer.relation
        );
        let row = self.session.one(&format!("layer \"{}\"", layer.name), &sql, &[]).await;
        let row = row.map_err(|error| match error {
            Error::Query { source, .. } if source.code == Some(SqlState::INSUFFICIENT_PRIVILEGE) => {
                self.no_right(relation)
            }
            Error::Query { source, .. } => {
                let what = if source.code == Some(SqlState::GROUPING_ERROR) {
                    "a property of its cells is no aggregate: a cell has many rows"
                } else if looks_at_others(source.code.as_ref()) {
                    "a property of its cells, or having, looks at other cells or gives several values"
                } else {
                    "the database does not understand the properties of its cells, or having"
                };
                Error::Layer {
                    layer: layer.name.clone(),
                    what: what.to_owned(),
                    next: format!(
                        "Write SQL aggregates such as count(*), sum(…) or max(…) over the columns of {}: {}",
                        layer.called,
                        list(&relation.columns)
                    ),
                    source: Some(source),
                }
            }
            other => other,
        })?;
        Ok(row.get(0))
    }

    /// The types of the properties of rows.
    async fn row_types(&self, layer: &Layer, relation: &Relation) -> Result<Vec<String>, Error> {
        let place = format!("layer \"{}\"", layer.name);
        let properties: Vec<&BoundProperty> = layer.row_properties().collect();
        let select: Vec<String> =
            properties.iter().enumerate().map(|(i, property)| format!("{} AS p{i}", property.sql)).collect();
        let types: Vec<String> = (0..properties.len()).map(|i| sql::type_of(&format!("p{i}"))).collect();
        // Under other names: a column may be called p0.
        let key = layer.key.iter().enumerate().map(|(i, key)| format!("{} AS k{i}", key.quoted));
        let geometry = format!("{} AS g", layer.geometry);
        let select: Vec<String> = select.into_iter().chain(key).chain([geometry]).collect();
        let filter = layer.filter.as_ref().map(|filter| format!("AND ({filter}\n)")).unwrap_or_default();
        // WHERE takes no window function, no aggregate and nothing that gives several rows: each would see what a batch has read.
        let alone: String = properties.iter().map(|property| format!(" AND ({}\n) IS NULL", property.sql)).collect();
        let sql = format!(
            "SELECT ARRAY[{}]::text[] FROM (SELECT) AS one LEFT JOIN (SELECT {} FROM {} WHERE false {filter}{alone}) AS none ON true",
            types.join(", "),
            select.join(", "),
            layer.relation
        );
        let row = self.session.one(&place, &sql, &[]).await.map_err(|error| match error {
            Error::Query { source, .. } if source.code == Some(SqlState::INSUFFICIENT_PRIVILEGE) => {
                self.no_right(relation)
            }
            Error::Query { source, .. } => {
                let columns = list(&relation.columns);
                let (what, next) = if looks_at_others(source.code.as_ref()) {
                    let what = "a property looks at other rows or gives several values";
                    (what, "Work it out in a query of your own, and draw the layer from that: sql = …".to_owned())
                } else {
                    let what = "the database does not understand properties or where";
                    (what, format!("They are SQL over the columns of {}: {columns}", layer.called))
                };
                Error::Layer { layer: layer.name.clone(), what: what.to_owned(), next, source: Some(source) }
            }
            other => other,
        })?;
        Ok(row.get(0))
    }
}

/// Whether an expression was refused because it is no value of one row or one group: it has a window function, an aggregate, or
/// gives several rows.
fn looks_at_others(code: Option<&SqlState>) -> bool {
    [SqlState::WINDOWING_ERROR, SqlState::GROUPING_ERROR, SqlState::FEATURE_NOT_SUPPORTED]
        .iter()
        .any(|other| code == Some(other))
}

pub(super) fn list<'a>(columns: impl IntoIterator<Item = &'a Column>) -> String {
    columns.into_iter().map(|column| quoted(&column.name)).collect::<Vec<_>>().join(", ")
}

fn list_with_types(columns: &[Column]) -> String {
    columns.iter().map(|column| format!("{} {}", quoted(&column.name), column.kind)).collect::<Vec<_>>().join(", ")
}

//! Probes one layer: checks that its relation, columns, key and expressions exist and fit.

use std::sync::Arc;

use super::relation::{Column, Relation, RelationKind, RelationName, look_up, nearest, query_relation};
use crate::postgis::layer::{
    BoundProperty, ComputedFrom, Facet, KeyColumn, KeyType, Layer, LayerKind, LayerOptions, Property, PropertyNames,
    PropertySource, Query, Rows, Shape,
};
use crate::postgis::session::{Error, Session, quoted};

#[derive(Clone, Copy)]
pub(crate) struct LayerProbe<'a> {
    pub(crate) session: &'a Session,
    pub(crate) options: &'a LayerOptions,
}

/// A layer whose names, columns and expressions are checked. None of its rows was read yet.
pub(crate) struct NamedLayer<'a> {
    probe: LayerProbe<'a>,
    relation: Relation,
    geometry: String,
    /// The layer, without what only its rows show: the reference system, whether geometries are points, whether rows
    /// reach beyond ±180°.
    layer: Layer,
    /// The first property whose texts may hold other characters than ASCII.
    letters: Option<String>,
}

impl<'a> LayerProbe<'a> {
    /// The relation of the layer, which the role may read.
    async fn relation(&self) -> Result<Relation, Error> {
        let options = self.options;
        let relation = match &options.rows {
            Rows::Relation { schema, table } => {
                let wanted = RelationName { layer: &options.name, schema: schema.as_deref(), table, of: "the layer" };
                look_up(self.session, wanted).await?
            }
            Rows::Query(query) => query_relation(self.session, &options.name, query).await?,
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
        Ok(relation)
    }

    /// An error for every column that the layer names and that is missing or unsuitable.
    pub(crate) async fn wrong_columns(&self) -> Result<Vec<Error>, Error> {
        let relation = self.relation().await?;
        let mut wrong: Vec<Error> = self.geometry_column(&relation).err().into_iter().collect();
        wrong.extend(self.key(&relation).err());
        wrong.extend(self.options.key.iter().filter_map(|name| self.column(&relation, name, "key").err()));
        wrong.extend(self.options.properties.iter().flatten().filter_map(|property| match &property.source {
            PropertySource::Column(name) => self.column(&relation, name, "properties").err(),
            PropertySource::Expression(_) | PropertySource::Aggregate(_) | PropertySource::Tile(_) => None,
        }));
        wrong.extend(self.check_feature_id(&relation).err());
        wrong.extend(self.options.section.facets.iter().filter_map(|name| self.facet(&relation, name).err()));
        Ok(wrong)
    }

    /// A column whose values requests choose. Its values must be equal only if their bytes are.
    fn facet(&self, relation: &Relation, name: &str) -> Result<Facet, Error> {
        let column = self.column(relation, name, "facets")?;
        if !column.readable {
            let (table, role) = (relation.quoted(), quoted(&relation.role));
            return Err(self.error(
                format!("the role {role} may not read the column {} of {table}, which facets names", quoted(name)),
                format!("Run GRANT SELECT ON {table} TO {role} as its owner, or leave the column out"),
            ));
        }
        let facet = Facet::of_type(name, &column.kind).filter(|_| column.kind_schema == "pg_catalog");
        let Some(facet) = facet else {
            return Err(self.error(
                format!("facets names the column {}, which is of type {}", quoted(name), column.kind),
                "Facets are columns of text, varchar, smallint, integer, bigint or boolean, or arrays of these: leave it out, and give the parameter a where".to_owned(),
            ));
        };
        if column.is_nondeterministic {
            return Err(self.error(
                format!("facets names the column {}, whose collation takes different texts for equal", quoted(name)),
                "Give the column a deterministic collation; or leave it out, and give the parameter a where".to_owned(),
            ));
        }
        Ok(facet)
    }

    fn check_feature_id(&self, relation: &Relation) -> Result<(), Error> {
        if let Some(column) = &self.options.section.feature_id {
            let kind = &self.column(relation, column, "feature_id")?.kind;
            if !matches!(kind.as_str(), "int2" | "int4" | "int8") {
                return Err(self.error(
                    format!("feature_id names the column {}, which is of type {kind}", quoted(column)),
                    "Feature ids are integers: name a smallint, integer or bigint column, or leave feature_id out"
                        .to_owned(),
                ));
            }
        }
        Ok(())
    }

    /// Looks up the names of the layer in the catalog, and lets the server check its expressions with statements that
    /// read no row.
    pub(crate) async fn names(self) -> Result<NamedLayer<'a>, Error> {
        let options = self.options;
        let relation = self.relation().await?;
        let geometry = self.geometry_column(&relation)?;
        let key = self.key(&relation)?;
        let properties = self.properties(&relation)?;
        self.check_feature_id(&relation)?;
        let facets = options.section.facets.iter().map(|name| self.facet(&relation, name)).collect::<Result<_, _>>()?;
        let query = match &options.rows {
            Rows::Relation { .. } => None,
            Rows::Query(query) => Some(query.clone()),
        };
        let function = match &options.kind {
            LayerKind::Function(function) => Some(self.function(function).await?),
            LayerKind::Rows | LayerKind::Cells(_) => None,
        };
        let mut layer = Layer {
            section: Arc::clone(&options.section),
            name: options.name.clone(),
            id: options.id,
            relation: query
                .as_ref()
                .map_or_else(|| relation.quoted(), |query| query.sql_item_without_values(&options.name)),
            display_name: relation.quoted(),
            query,
            geometry: quoted(&geometry.name),
            shape: Shape::of_any(geometry.srid, geometry.kind == "geography"),
            has_spatial_index: relation.spatial_indexes.contains(&geometry.name),
            suits_patches: suits_patches(&relation, geometry, &key),
            names: PropertyNames::Own,
            key,
            properties,
            filter: options.filter.clone(),
            row_zooms: options.row_zooms.clone(),
            zooms: options.zooms.clone(),
            margin: options.margin,
            kind: options.kind.clone(),
            function,
            simplify: options.simplify.clone(),
            budget: options.budget.clone(),
            rank: None,
            on_tile_error: options.on_tile_error,
            beyond: options.beyond,
            reaches_beyond: false,
            repair: options.repair,
            columns: relation
                .columns
                .iter()
                .filter(|column| column.readable)
                .map(|column| quoted(&column.name))
                .collect(),
            facets,
        };
        self.row_zooms(&layer, &relation).await?;
        let letters = self.types(&mut layer, &relation).await?;
        if let Some(rank) = options.budget.rank.as_ref().filter(|_| layer.cells().is_none()) {
            layer.rank = Some(self.rank(&layer, &relation, rank).await?);
        }
        let geometry = geometry.name.clone();
        Ok(NamedLayer { probe: self, relation, geometry, layer, letters })
    }

    pub(crate) fn error(&self, what: String, next: String) -> Error {
        Error::Layer { layer: self.options.name.clone(), what, next, source: None }
    }

    pub(crate) fn no_right(&self, relation: &Relation) -> Error {
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
        if let Some(name) = &self.options.section.geometry {
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
                let kind = KeyType::of(&column.kind_schema, &column.kind);
                Ok(KeyColumn { quoted: quoted(name), collated: column.collated, kind })
            })
            .collect()
    }

    fn properties(&self, relation: &Relation) -> Result<Vec<BoundProperty>, Error> {
        let fits =
            |column: &&Column| !column.is_spatial() && self.options.section.feature_id.as_ref() != Some(&column.name);
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
                    PropertySource::Column(_) | PropertySource::Expression(_) => ComputedFrom::Row,
                    PropertySource::Aggregate(_) => ComputedFrom::Cell,
                    PropertySource::Tile(part) => ComputedFrom::Tile(*part),
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
}

impl NamedLayer<'_> {
    /// The layer as far as it is known without its rows.
    pub(crate) fn layer(&self) -> &Layer {
        &self.layer
    }

    /// Completes the layer from its rows. `encoding` is that of the database. Returns an error if the layer's key is
    /// not unique.
    pub(crate) async fn rows(self, encoding: &str, warnings: &mut Vec<String>) -> Result<Layer, Error> {
        warnings.extend(self.check_encoding(encoding)?);
        let NamedLayer { probe, relation, geometry, mut layer, .. } = self;
        for column in &mut layer.key {
            column.kind = column.kind.take().filter(|kind| kind.is_known_in(encoding));
        }
        let column = probe.column(&relation, &geometry, "geometry")?;
        layer.shape = probe.shape(&mut layer, column, &relation).await?;
        let is_of_points = matches!(column.geometry_type.trim_end_matches(['Z', 'M']), "Point" | "MultiPoint");
        if layer.repair && is_of_points {
            return Err(probe.error(
                format!(
                    "repair is for lines and polygons, and {} of {} is a column of points",
                    layer.geometry, layer.display_name
                ),
                "Leave repair out".to_owned(),
            ));
        }
        if layer.cells().is_some_and(|cells| cells.keeps_lone) && !layer.shape.points {
            return Err(probe.error(
                format!(
                    "the geometries in {} of {} are not all points, and only points are clustered",
                    layer.geometry, layer.display_name
                ),
                "Leave the others out with where, or draw the layer in cells with [layer.aggregate]".to_owned(),
            ));
        }
        if let Some(function) = layer.function() {
            warnings.extend(probe.volatile(function).await?);
        } else {
            probe.unique_key(&layer, &relation).await?;
        }
        warnings.extend(layer.probe_beyond(probe.session).await?);
        if let Some(limit) = layer.query.as_ref().filter(|query| query.asks_box()).and_then(Query::limit) {
            warnings.push(format!(
                "layer \"{}\": its query has !bbox! and {limit}. Tiles are planned by what the query gives for the whole world, so features beyond the {limit} are in no tile. Leave it out, or write a condition such as !zoom! >= 8 OR rank < 1000",
                layer.name
            ));
        }
        if relation.kind == RelationKind::Stored && !relation.spatial_indexes.contains(&geometry) {
            warnings.push(format!(
                "layer \"{}\": {} has no spatial index, so every batch reads the whole table. Run CREATE INDEX ON {} USING gist ({})",
                layer.name, layer.relation, layer.relation, layer.geometry
            ));
        }
        Ok(layer)
    }
}

/// The names of columns, quoted, for messages.
pub(crate) fn list<'a>(columns: impl IntoIterator<Item = &'a Column>) -> String {
    columns.into_iter().map(|column| quoted(&column.name)).collect::<Vec<_>>().join(", ")
}

fn list_with_types(columns: &[Column]) -> String {
    columns.iter().map(|column| format!("{} {}", quoted(&column.name), column.kind)).collect::<Vec<_>>().join(", ")
}

// The check that texts come into tiles as UTF-8 (Mapbox Vector Tile Specification 2.1, sections 4.1 and 4.4).
// `ST_AsMVT` writes names and texts in the encoding of the database, without converting them.

/// True if texts of a type, as the server writes them, may hold other characters than ASCII.
pub(crate) fn may_hold_letters(kind: &str) -> bool {
    !is_ascii_type(kind)
}

/// True if the values of a type are written as numbers, truth values or ASCII.
fn is_ascii_type(kind: &str) -> bool {
    matches!(
        kind,
        "smallint"
            | "integer"
            | "bigint"
            | "real"
            | "double precision"
            | "boolean"
            | "numeric"
            | "date"
            | "uuid"
            | "timestamp with time zone"
            | "timestamp without time zone"
            | "time with time zone"
            | "time without time zone"
            | "interval"
            | "bytea"
            | "oid"
            | "inet"
            | "cidr"
            | "macaddr"
            | "macaddr8"
            | "bit"
            | "bit varying"
    )
}

impl NamedLayer<'_> {
    /// Checks whether the texts of the layer come into tiles as UTF-8 from a database with this encoding. Returns a
    /// warning if only the rows could tell.
    pub(crate) fn check_encoding(&self, encoding: &str) -> Result<Option<String>, Error> {
        let layer = &self.layer;
        if encoding == "UTF8" {
            return Ok(None);
        }
        let name = &layer.name;
        if layer.function().is_some() {
            return Ok(Some(format!(
                "layer \"{name}\": the encoding of the database is {encoding}, and texts in tiles have to be UTF-8. ST_AsMVT does not convert texts, so the function has to, or may write only ASCII"
            )));
        }
        let mut names = layer.properties.iter().map(|property| &property.name);
        let what = match (&self.letters, names.find(|name| !name.is_ascii())) {
            (Some(property), _) => format!("the property \"{property}\""),
            (None, Some(property)) => format!("the name of the property \"{property}\""),
            (None, None) if !name.is_ascii() => "the name of the layer".to_owned(),
            (None, None) => return Ok(None),
        };
        if encoding == "SQL_ASCII" {
            return Ok(Some(format!(
                "layer \"{name}\": the encoding of the database is SQL_ASCII, so nothing has checked the bytes of its texts, and ST_AsMVT writes them into tiles as they are. They have to be UTF-8, or map clients show other characters or refuse the tiles: look at {what}"
            )));
        }
        Err(self.probe.error(
            format!("the encoding of the database is {encoding}, and texts in tiles have to be UTF-8. ST_AsMVT does not convert texts, so {what} would be damaged"),
            "Draw from a copy in a database with the encoding UTF8 (createdb -T template0 -E UTF8 NAME, then pg_dump | psql), or use only numbers, dates and ASCII names".to_owned(),
        ))
    }
}

// The check that the rows of a relation can be patched in a tile, where they are identified and ordered by their keys.

/// True if a spatial index finds rows of a relation by their position, and the database sorts their keys in the same
/// way as this program sorts them in a tile: texts by their bytes (`COLLATE "C"`), numbers as numbers. A uuid sorts
/// like its text, which has only one form.
pub(crate) fn suits_patches(relation: &Relation, geometry: &Column, key: &[KeyColumn]) -> bool {
    let is_key = |column: &&Column| key.iter().any(|key| key.quoted == quoted(&column.name));
    let is_sorted_alike = |column: &Column| {
        column.kind_schema == "pg_catalog"
            && matches!(column.kind.as_str(), "text" | "varchar" | "int2" | "int4" | "int8" | "uuid")
    };
    relation.spatial_indexes.contains(&geometry.name) && relation.columns.iter().filter(is_key).all(is_sorted_alike)
}

impl PropertyNames {
    /// The names with those of a further property, by its index and type.
    ///
    /// `ST_AsMVT` writes a value under the name of its column: as a number, a truth value, or the text of the type's
    /// output function. For a jsonb object, it writes each member under the member's own name (`mvt.c`, `parse_jsonb`);
    /// a domain may be one of jsonb.
    pub(crate) fn and(self, property: usize, kind: Option<&str>) -> PropertyNames {
        let is_text = |kind| matches!(kind, "text" | "character varying" | "character" | "name" | "json");
        match (self, kind) {
            (_, Some(kind)) if is_text(kind) || is_ascii_type(kind) || kind.ends_with("[]") => self,
            (PropertyNames::Own, Some("jsonb")) => PropertyNames::Members { of: property },
            _ => PropertyNames::Other,
        }
    }
}

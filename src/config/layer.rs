//! The layers of the tileset. A layer that is drawn in several ways, such as cells at some zooms or fewer properties,
//! becomes several layers with the same [`LayerId`], each for its own zooms.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::by_zoom::{ZoomValue, ZoomValues};
use super::error::{ConfigError, nearest};
use super::file::{ConfigFile, LayerDefaults};
use super::settings::{Check, first_repeated};
use crate::postgis::{
    Budget, LayerKind, LayerOptions, LayerSection, Limit, OnLargeTile, Properties, Property, PropertySource, Query,
    ROW_NUMBER, RowCondition, RowZooms, Rows, Simplify, TileFunction, TilePart, placeholder_in,
};
use crate::target::is_own_name;
use crate::tile::{HALF_WORLD_METRES, LayerId, Margin, Zoom, ZoomLimits, ZoomList};

/// The most layers in one tile.
const MAX_LAYERS: usize = 255;

/// What a layer draws at some of its zooms.
#[derive(Debug, Clone, PartialEq)]
struct Band {
    properties: Option<Vec<Property>>,
    kind: LayerKind,
    filter: Option<String>,
    simplify: Option<Simplify>,
    /// Whether shapes are repaired before they are drawn.
    repair: bool,
}

impl Check<'_> {
    pub(crate) fn layers(&self, given: &ConfigFile, only: &[String]) -> Result<Vec<LayerOptions>, ConfigError> {
        let layers = &given.layer;
        if layers.is_empty() || layers.len() > MAX_LAYERS {
            return Err(self.wrong("layer", format!("there are {} layers: write 1 to {MAX_LAYERS}", layers.len())));
        }
        let mut names: Vec<&str> = Vec::new();
        for layer in layers {
            if names.contains(&layer.name.as_str()) {
                return Err(
                    self.wrong("layer", format!("two layers are named \"{}\": give each its own name", layer.name))
                );
            }
            if is_own_name(&layer.name) {
                let what = format!(
                    "a layer is named \"{}\", as what the program keeps beside the tiles (.oar-tiles…, metadata.json, latest.json, tiles.json, ….tiles.json): give it another name",
                    layer.name
                );
                return Err(self.wrong("layer", what));
            }
            self.describes_properties(layer)?;
            names.push(&layer.name);
        }
        if let Some(wanted) = only.iter().find(|wanted| !names.contains(&wanted.as_str())) {
            let hint = nearest(wanted, names.iter().copied());
            let hint = hint.unwrap_or_else(|| format!(": there is {}", names.join(", ")));
            return Err(ConfigError::UnknownLayer { wanted: wanted.clone(), hint });
        }
        let mut settings = Vec::new();
        let chosen = layers.iter().filter(|layer| only.is_empty() || only.contains(&layer.name));
        for (number, layer) in (0..).zip(chosen) {
            settings.append(&mut self.layer(LayerId(number), layer, &given.layer_defaults)?);
        }
        Ok(settings)
    }

    /// The layers that one layer of the configuration becomes.
    fn layer(
        &self,
        id: LayerId,
        layer: &LayerSection,
        defaults: &LayerDefaults,
    ) -> Result<Vec<LayerOptions>, ConfigError> {
        let key = |field: &str| format!("layer[{}].{field}", layer.name);
        let margin = self.margin(layer, defaults)?;
        let function = self.function(layer)?;
        let (rows, columns) = match &function {
            Some(_) => (self.occupied(layer)?, vec![ROW_NUMBER.to_owned()]),
            None => (self.rows(layer)?, layer.key.clone().unwrap_or_default()),
        };
        if let Some(twice) = first_repeated(columns.iter()) {
            return Err(self.wrong(&key("key"), format!("names the column \"{twice}\" twice: name each column once")));
        }
        self.facets(layer)?;
        let zooms = layer.zoom.as_ref().unwrap_or(&defaults.zoom).clone();
        let mut budget = self.budget(layer, defaults)?;
        if function.is_some() {
            budget = budget.of_whole_tiles();
        }
        let row_zooms = RowZooms { min: layer.min_zoom.clone(), max: layer.max_zoom.clone() };
        if layer.refresh() && matches!(rows, Rows::Query(_)) {
            let what = "is for a layer that names a materialized view with table: leave it out".to_owned();
            return Err(self.wrong(&key("refresh"), what));
        }
        let limit = fewest_features(layer, &zooms, &budget);
        let bands = match function {
            Some(function) => {
                let (properties, kind) = (Some(Vec::new()), LayerKind::Function(function));
                vec![(zooms, Band { properties, kind, filter: None, simplify: None, repair: false })]
            }
            None => self.bands(layer, &zooms, limit, margin)?,
        };
        if layer.rank.is_some() && bands.iter().all(|(_, band)| band.kind != LayerKind::Rows) {
            let what = "ranks single rows, and the layer is put together in cells at all its zooms, of which those with the most rows stay: leave it out";
            return Err(self.wrong(&key("rank"), what.to_owned()));
        }
        let section = Arc::new(layer.clone());
        let bands = bands.into_iter().map(|(zooms, band)| LayerOptions {
            section: Arc::clone(&section),
            name: layer.name.clone(),
            id,
            rows: rows.clone(),
            key: columns.clone(),
            properties: band.properties,
            filter: band.filter,
            row_zooms: row_zooms.clone(),
            zooms,
            margin: Margin { moved: band.simplify.as_ref().map_or(0.0, Simplify::moved), ..margin },
            kind: band.kind,
            simplify: band.simplify,
            budget: budget.clone(),
            on_tile_error: layer.on_tile_error.unwrap_or(defaults.on_tile_error),
            beyond: layer.beyond.unwrap_or(defaults.beyond),
            repair: band.repair,
        });
        Ok(bands.collect())
    }

    /// Refuses facets that are no columns of a table, or are named twice.
    fn facets(&self, layer: &LayerSection) -> Result<(), ConfigError> {
        let key = format!("layer[{}].facets", layer.name);
        if let Some(twice) = first_repeated(layer.facets.iter()) {
            return Err(self.wrong(&key, format!("names the column \"{twice}\" twice: name each column once")));
        }
        if !layer.facets.is_empty() && layer.table.is_none() {
            let what = "names columns of a table, and the layer has none: leave it out, and give each [[tileset.parameter]] a where; or draw the layer from a view with table".to_owned();
            return Err(self.wrong(&key, what));
        }
        Ok(())
    }

    /// Refuses descriptions of properties that the layer does not have.
    fn describes_properties(&self, layer: &LayerSection) -> Result<(), ConfigError> {
        // Only the database knows the columns of a table, and clusters have properties of their own.
        let own = layer.properties.as_ref().filter(|_| layer.aggregate.is_none() && layer.cluster.is_none());
        let Some(known) = own.map(Properties::names) else { return Ok(()) };
        let mut described = layer.property_descriptions.iter().flat_map(|texts| texts.keys());
        match described.find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(unknown) => {
                let key = format!("layer[{}].property_descriptions", layer.name);
                Err(self.wrong(&key, format!("describes \"{unknown}\", which is no property of the layer")))
            }
        }
    }

    /// The ways in which the layer is drawn, each with its zooms, ordered by the first zoom. Together they cover all
    /// zooms of the layer.
    fn bands(
        &self,
        layer: &LayerSection,
        zooms: &ZoomList,
        limit: Option<NonZeroU64>,
        margin: Margin,
    ) -> Result<Vec<(ZoomList, Band)>, ConfigError> {
        let key = |field: &str| format!("layer[{}].{field}", layer.name);
        let own =
            layer.properties.as_ref().map(|properties| self.properties(&key("properties"), properties)).transpose()?;
        self.no_placeholders(layer, own.as_deref())?;
        let gathered = match (&layer.aggregate, &layer.cluster) {
            (None, None) => None,
            (Some(_), Some(_)) => {
                let what = "stands beside [layer.aggregate]: a layer has one or the other".to_owned();
                return Err(self.wrong(&key("cluster"), what));
            }
            (Some(aggregate), None) => {
                let (cells, properties) = self.aggregate(&key("aggregate"), aggregate, limit)?;
                let within = aggregate.zoom.clone();
                Some((LayerKind::Cells(cells), properties, within))
            }
            (None, Some(cluster)) => {
                let (cells, properties) = self.cluster(&key("cluster"), cluster, own.as_deref(), limit)?;
                Some((LayerKind::Cells(cells), properties, cluster.zoom.clone()))
            }
        };
        if let Some(column) = layer.feature_id.as_ref().filter(|_| gathered.is_some()) {
            let what = format!("names the column \"{column}\", and a cell is no row: leave feature_id out");
            return Err(self.wrong(&key("feature_id"), what));
        }
        let property_zooms = self.property_zooms(&key("property_zooms"), layer, own.as_deref())?;
        let (conditions, simplify) = (self.conditions(layer)?, self.simplify(layer, margin)?);
        let mut bands: Vec<(Vec<Zoom>, Band)> = Vec::new();
        for zoom in zooms.iter() {
            let is_shown = |property: &&Property| {
                let list = property_zooms.iter().find(|(name, _)| *name == property.name);
                matches!(property.source, PropertySource::Aggregate(_))
                    || list.is_none_or(|(_, zooms)| zooms.contains(zoom))
            };
            let (kind, properties) = match &gathered {
                Some((kind, properties, within)) if within.as_ref().is_none_or(|within| within.contains(zoom)) => {
                    (kind.clone(), Some(properties))
                }
                _ => (LayerKind::Rows, own.as_ref()),
            };
            let properties = properties.map(|all| all.iter().filter(is_shown).cloned().collect());
            let simplify = simplify.at(zoom).filter(|_| kind == LayerKind::Rows);
            let repair = layer.repair == Some(true) && kind == LayerKind::Rows;
            let band = Band { properties, kind, filter: conditions.at(zoom), simplify, repair };
            match bands.iter_mut().find(|(_, other)| *other == band) {
                Some((zooms, _)) => zooms.push(zoom),
                None => bands.push((vec![zoom], band)),
            }
        }
        self.simplifies_some(layer, bands.iter().any(|(_, band)| band.simplify.is_some()))?;
        if layer.repair == Some(true) && !bands.iter().any(|(_, band)| band.repair) {
            let what = "does nothing: the layer draws no single rows at these zooms, and only lines and polygons are repaired. Leave it out";
            return Err(self.wrong(&key("repair"), what.to_owned()));
        }
        let plain = bands.iter().any(|(_, band)| band.kind == LayerKind::Rows);
        if layer.aggregate.is_some() && own.is_some() && !plain {
            let what = "are those of single rows, and the layer is aggregated at all its zooms: write them into [layer.aggregate], or give that a zoom of its own";
            return Err(self.wrong(&key("properties"), what.to_owned()));
        }
        Ok(bands.into_iter().filter_map(|(zooms, band)| Some((ZoomList::of(zooms)?, band))).collect())
    }

    /// Refuses placeholders (`!name!`) that have no value here.
    pub(crate) fn placeholders(&self, key: &str, sql: &str, known: &[&str]) -> Result<(), ConfigError> {
        match placeholders(sql).find(|name| !known.contains(name)) {
            Some(name) => {
                let known: Vec<String> = known.iter().map(|name| format!("!{name}!")).collect();
                let what = format!("!{name}! is no placeholder here: there is {}", known.join(", "));
                Err(self.wrong(key, what))
            }
            None => Ok(()),
        }
    }

    pub(crate) fn properties(&self, key: &str, properties: &Properties) -> Result<Vec<Property>, ConfigError> {
        let properties: Vec<Property> = match properties {
            Properties::Columns(names) => names
                .iter()
                .map(|name| Property { name: name.clone(), source: PropertySource::Column(name.clone()) })
                .collect(),
            Properties::Expressions(table) => table
                .iter()
                .map(|(name, sql)| match sql {
                    toml::Value::String(sql) => Ok(Property { name: name.clone(), source: expression(sql) }),
                    _ => Err(self
                        .wrong(key, format!("the value of \"{name}\" is no text: write an SQL expression in quotes"))),
                })
                .collect::<Result<_, _>>()?,
        };
        if let Some(twice) = first_repeated(properties.iter().map(|property| &property.name)) {
            return Err(self.wrong(key, format!("names \"{twice}\" twice: name each property once")));
        }
        // PostgreSQL truncates longer names, so two might become the same.
        if let Some(long) = properties.iter().find(|property| property.name.len() > 63) {
            return Err(self.wrong(key, format!("the name \"{}\" is longer than 63 bytes: shorten it", long.name)));
        }
        Ok(properties)
    }
}

/// The address of the tile, or SQL.
fn expression(sql: &str) -> PropertySource {
    match sql.trim() {
        "!x!" => PropertySource::Tile(TilePart::X),
        "!y!" => PropertySource::Tile(TilePart::Y),
        "!zoom!" => PropertySource::Tile(TilePart::Zoom),
        _ => PropertySource::Expression(sql.to_owned()),
    }
}

/// The names between exclamation marks.
fn placeholders(sql: &str) -> impl Iterator<Item = &str> {
    let is_name = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    // The first and the last part are outside of the marks.
    let parts: Vec<&str> = sql.split('!').collect();
    let inner = parts.len().saturating_sub(2);
    parts.into_iter().skip(1).take(inner).filter(is_name)
}

// The source of a layer's rows: a table or a query.

impl Check<'_> {
    /// The source of the layer's rows.
    fn rows(&self, layer: &LayerSection) -> Result<Rows, ConfigError> {
        let key = |field: &str| format!("layer[{}].{field}", layer.name);
        let sql = match (&layer.table, &layer.sql) {
            (Some(table), None) => return Ok(Rows::Relation { schema: layer.schema.clone(), table: table.clone() }),
            (None, Some(sql)) => sql,
            (None, None) => {
                let what = "is missing, and there is no sql and no function: write table = \"…\", sql = \"\"\"SELECT …\"\"\" or function = \"…\"";
                return Err(self.wrong(&key("table"), what.to_owned()));
            }
            (Some(_), Some(_)) => {
                return Err(self.wrong(&key("sql"), "stands beside table: a layer has one or the other".to_owned()));
            }
        };
        if layer.schema.is_some() {
            let what = "stands beside sql, and belongs to table: name the schema in the query".to_owned();
            return Err(self.wrong(&key("schema"), what));
        }
        let query = Query::new(sql).map_err(|error| self.wrong(&key("sql"), error.to_string()))?;
        let gathers =
            if layer.aggregate.is_some() { Some("aggregate") } else { layer.cluster.as_ref().map(|_| "cluster") };
        if let Some(gathers) = gathers.filter(|_| query.asks_box()) {
            let what = format!(
                "has !bbox! beside [layer.{gathers}]: a cell needs all of its members, wherever tiles end. Leave the condition with !bbox! out: the index is used all the same"
            );
            return Err(self.wrong(&key("sql"), what));
        }
        Ok(Rows::Query(query))
    }
}

// The budget of a layer: how many features and bytes it may have in a tile, and what happens to tiles that exceed it.

impl Check<'_> {
    fn budget(&self, layer: &LayerSection, defaults: &LayerDefaults) -> Result<Budget, ConfigError> {
        let limits = |field: &str, own: Option<&Limit>, default: &Limit| match own {
            Some(own) => self.limits(&format!("layer[{}].{field}", layer.name), own),
            None => self.limits(&format!("layer_defaults.{field}"), default),
        };
        let on_large_tile = layer.on_large_tile.unwrap_or(defaults.on_large_tile);
        if layer.rank.is_some() && on_large_tile != OnLargeTile::Thin {
            let what = "does nothing, for no feature is left out: write on_large_tile = \"thin\" beside it".to_owned();
            return Err(self.wrong(&format!("layer[{}].rank", layer.name), what));
        }
        Ok(Budget {
            features: limits("max_tile_features", layer.max_tile_features.as_ref(), &defaults.max_tile_features)?,
            bytes: limits("max_tile_bytes", layer.max_tile_bytes.as_ref(), &defaults.max_tile_bytes)?,
            on_large_tile,
            rank: layer.rank.clone(),
        })
    }

    fn limits(&self, key: &str, given: &Limit) -> Result<ZoomLimits, ConfigError> {
        let table = match given {
            Limit::All(limit) => return Ok(ZoomLimits::everywhere(NonZeroU64::new(*limit))),
            Limit::ByZoom(table) => table,
        };
        let values = ZoomValues { misfit: "no number: write how many, or 0 for no limit", noun: "limit" };
        let number = |value: &toml::Value| value.as_integer().and_then(|limit| u64::try_from(limit).ok());
        let mut limits = ZoomLimits::default();
        for ZoomValue { zooms, value } in self.by_zoom(key, table, number, &values)? {
            limits.set(&zooms, NonZeroU64::new(value));
        }
        Ok(limits)
    }
}

/// The smallest `max_tile_features` at zooms where the layer is drawn as cells; `None` if there is none.
fn fewest_features(layer: &LayerSection, zooms: &ZoomList, budget: &Budget) -> Option<NonZeroU64> {
    if budget.thins() {
        return None;
    }
    let within = match (&layer.aggregate, &layer.cluster) {
        (Some(aggregate), _) => aggregate.zoom.as_ref(),
        (None, Some(cluster)) => cluster.zoom.as_ref(),
        (None, None) => None,
    };
    let in_cells = zooms.iter().filter(|zoom| within.is_none_or(|within| within.contains(*zoom)));
    in_cells.filter_map(|zoom| budget.features.at(zoom)).min()
}

// Refuses placeholders such as `!zoom!` where they have no value. The message says where they have one.

impl Check<'_> {
    /// Refuses placeholders in SQL that is read once for all zooms and tiles of a layer: `where`, `min_zoom`,
    /// `max_zoom`, `rank`, properties that are expressions, and the queries of `[[layer.track]]`.
    fn no_placeholders(&self, layer: &LayerSection, own: Option<&[Property]>) -> Result<(), ConfigError> {
        let wrong = |field: &str, what: String| Err(self.wrong(&format!("layer[{}].{field}", layer.name), what));
        let mut conditions = layer.filter.iter().flat_map(RowCondition::texts);
        if let Some((filter, found)) = conditions.find_map(|filter| Some((filter, placeholder_in(filter)?))) {
            let next = match &layer.table {
                Some(table) => {
                    let query = format!("sql = \"\"\"SELECT * FROM {table} WHERE {}\"\"\"", filter.trim());
                    format!("Write {query} and a key instead of table and where")
                }
                None => "Move the condition into the query".to_owned(),
            };
            let whole = if is_zoom(&found) { "; for whole zooms, zoom = \"5-22\" or the like is enough" } else { "" };
            return wrong("where", format!("has {found}, but placeholders have values only in sql. {next}{whole}"));
        }
        for (key, sql) in [("min_zoom", &layer.min_zoom), ("max_zoom", &layer.max_zoom)] {
            if let Some(found) = sql.as_deref().and_then(placeholder_in) {
                let next = "let it give a zoom for each row";
                return wrong(key, format!("has {found}, but placeholders have values only in sql: {next}"));
            }
        }
        if let Some(found) = layer.rank.as_deref().and_then(placeholder_in) {
            let next = "let the query give a column to rank by";
            return wrong("rank", format!("has {found}, but placeholders have values only in sql: {next}"));
        }
        for property in own.unwrap_or_default() {
            let PropertySource::Expression(sql) = &property.source else { continue };
            if let Some(found) = placeholder_in(sql) {
                let name = &property.name;
                return wrong(
                    "properties",
                    format!(
                        "\"{name}\" has {found} inside of an expression: \"!x!\", \"!y!\" and \"!zoom!\" are properties each by itself, and other placeholders have values only in sql. Write sql = \"\"\"SELECT …\"\"\" that gives {name} as a column"
                    ),
                );
            }
        }
        for track in &layer.track {
            if let Some(found) = placeholder_in(&track.geometry) {
                let what = format!(
                    "for {} has {found}: the query is asked for a changed row, at no zoom and in no box. Leave the placeholder out",
                    track.table
                );
                return wrong("track.geometry", what);
            }
        }
        Ok(())
    }
}

fn is_zoom(found: &str) -> bool {
    matches!(found.to_lowercase().trim_matches('!'), "zoom" | "z")
}

// Layers whose whole tiles come from a function of the database.

impl Check<'_> {
    /// The layer's function, if it has one.
    fn function(&self, layer: &LayerSection) -> Result<Option<TileFunction>, ConfigError> {
        let key = |field: &str| format!("layer[{}].{field}", layer.name);
        let Some(name) = &layer.function else {
            let beside = [("query", layer.query.is_some()), ("occupied", layer.occupied.is_some())];
            return match beside.into_iter().find(|(_, is_set)| *is_set) {
                None => Ok(None),
                Some((field, _)) => {
                    let what =
                        "belongs to function, and there is none: write function = \"schema.name\", or leave it out";
                    Err(self.wrong(&key(field), what.to_owned()))
                }
            };
        };
        if name.trim().is_empty() {
            return Err(self.wrong(&key("function"), "is empty: write \"schema.name\"".to_owned()));
        }
        let of_rows = [
            ("table", layer.table.is_some()),
            ("schema", layer.schema.is_some()),
            ("sql", layer.sql.is_some()),
            ("key", layer.key.is_some()),
            ("properties", layer.properties.is_some()),
            ("property_zooms", layer.property_zooms.is_some()),
            ("feature_id", layer.feature_id.is_some()),
            ("where", layer.filter.is_some()),
            ("min_zoom", layer.min_zoom.is_some()),
            ("max_zoom", layer.max_zoom.is_some()),
            ("aggregate", layer.aggregate.is_some()),
            ("cluster", layer.cluster.is_some()),
            ("simplify", layer.simplify.is_some()),
            ("repair", layer.repair == Some(true)),
            ("rank", layer.rank.is_some()),
            ("facets", !layer.facets.is_empty()),
            ("candidates", layer.candidates.is_some()),
            ("max_tile_features", layer.max_tile_features.is_some()),
        ];
        if let Some((field, _)) = of_rows.into_iter().find(|(_, is_set)| *is_set) {
            let what =
                "stands beside function, which gives whole tiles: it has no meaning there; leave it out".to_owned();
            return Err(self.wrong(&key(field), what));
        }
        if layer.on_large_tile == Some(OnLargeTile::Thin) {
            let what = "is \"thin\" beside function, whose tiles are stored as they are: write \"warn\" or \"fail\""
                .to_owned();
            return Err(self.wrong(&key("on_large_tile"), what));
        }
        let query = layer.query.as_ref().map(|query| json_of(&toml::Value::Table(query.clone())).to_string());
        Ok(Some(TileFunction { name: name.clone(), query, is_bounded: layer.occupied.is_some() }))
    }

    /// The rows of such a layer. They tell where tiles may be.
    fn occupied(&self, layer: &LayerSection) -> Result<Rows, ConfigError> {
        let key = format!("layer[{}].occupied", layer.name);
        let world = format!(
            "SELECT ST_MakeEnvelope(-{HALF_WORLD_METRES:?}, -{HALF_WORLD_METRES:?}, {HALF_WORLD_METRES:?}, {HALF_WORLD_METRES:?}, 3857) AS world"
        );
        let text = layer.occupied.as_ref().unwrap_or(&world);
        let query = Query::new(text).map_err(|error| self.wrong(&key, error.to_string()))?;
        if query.asks_box() {
            let what = "has !bbox!, and is read once, before there are tiles: leave the condition out".to_owned();
            return Err(self.wrong(&key, what));
        }
        Ok(Rows::Query(query.numbered()))
    }
}

/// A value as JSON. Dates and times become texts.
fn json_of(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => text.clone().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(truth) => (*truth).into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => values.iter().map(json_of).collect(),
        toml::Value::Table(table) => {
            table.iter().map(|(name, value)| (name.clone(), json_of(value))).collect::<serde_json::Map<_, _>>().into()
        }
    }
}
